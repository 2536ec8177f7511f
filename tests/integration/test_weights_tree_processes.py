"""Tree search on two processes, gloo on a CPU: every prompt is one process's, critics are everyone's, the result is one."""

from pathlib import Path

import pytest
from two_processes import launch
from weights_tiny import save_tiny

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from accelerate import PartialState
from test_weights_tree import tree_job
from weights_tiny import hashes, train, without_seconds
rank, folder, out = int(os.environ["RANK"]), Path(sys.argv[2]), Path(sys.argv[3])
answers = {}
for use in ("advantages", "best_leaf"):
    def job(name):
        return tree_job(folder, out / name, {"use": use}, grpo={"steps": 4}, sft={"steps": 4})
    whole = train(job(use))
    if rank == 0:  # what a run leaves that was killed after its first checkpoint
        shutil.copytree(out / use / "checkpoint-2", out / (use + "-again") / "checkpoint-2")
        if use == "best_leaf":
            shutil.copytree(out / use / "search", out / (use + "-again") / "search")
    PartialState().wait_for_everyone()
    again = train(job(use + "-again"))
    answers[use] = {
        "hashes": hashes(whole), "again": hashes(again), "history": without_seconds(whole),
        "counted": [whole.completions, whole.tokens_out],
    }
(out / f"rank-{rank}.json").write_text(json.dumps(answers))
"""


@pytest.mark.slow
def test_two_processes_grow_each_tree_once_and_resume_to_the_same_bytes(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    first, second = launch(SCRIPT, folder, tmp_path)
    assert first == second
    for use, leaves in (("advantages", 4 * 2 * 6), ("best_leaf", 8 * 6)):
        assert first[use]["hashes"] == first[use]["again"]
        assert first[use]["counted"][0] == leaves  # of both processes together, each counted once
        assert first[use]["history"][0]["tree/leaves"] > 0
