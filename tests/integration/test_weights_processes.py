"""Two processes, gloo on a CPU: a step shared, one set of files, one result, resumed to the same bytes."""

import json
from pathlib import Path

import pytest
from two_processes import launch
from weights_tiny import hashes, make_job, save_tiny, train, without_seconds

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from accelerate import PartialState
from hybrid.config.schema import WarmStartConfig
from weights_tiny import hashes, make_job, train, without_seconds
rank, folder, out = int(os.environ["RANK"]), Path(sys.argv[2]), Path(sys.argv[3])
answers = {}
for method in ("grpo", "sft", "distill", "warm"):
    def job(name):
        sections = {"grpo": {"steps": 4}, "sft": {"steps": 4}, "distill": {"steps": 4, "targets": "logits"}}
        if method == "warm":
            sections["weights"] = {"warm_start": WarmStartConfig(steps=2, batch=4)}
        return make_job(folder, out / name, "grpo" if method == "warm" else method, teacher="bcd: ", **sections)
    fresh = job(method)
    whole = train(fresh)
    (out / f"rows-{method}-{rank}.json").write_text(json.dumps(fresh.grader.rows))
    if rank == 0:  # what a run leaves that was killed after its first checkpoint
        shutil.copytree(out / method / "checkpoint-2", out / (method + "-again") / "checkpoint-2")
    PartialState().wait_for_everyone()
    again = train(job(method + "-again"))
    answers[method] = {
        "hashes": hashes(whole),
        "again": hashes(again),
        "history": without_seconds(whole),
        "tokens": [whole.tokens_in, whole.tokens_out, whole.completions],
    }
(out / f"rank-{rank}.json").write_text(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict]]:
    out = tmp_path_factory.mktemp("processes")
    folder = save_tiny(out / "tiny")
    return folder, out, launch(SCRIPT, folder, out)


@pytest.mark.slow
def test_both_processes_return_the_same_result(launched):
    _, out, (first, second) = launched
    assert first == second
    for method in ("grpo", "sft", "distill", "warm"):
        assert sorted(path.name for path in (out / method).iterdir()) == [
            "PLAN.json",
            "RESULT.json",
            "adapters",
            "checkpoint-2",
            "checkpoint-4",
            *(["warm-start"] if method == "warm" else []),
        ]
        assert (out / method / "checkpoint-4" / "rng_state_1.pth").exists()


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bytes(launched):
    for method in ("grpo", "sft", "distill", "warm"):
        answer = launched[2][0][method]
        assert answer["again"] == answer["hashes"]
        assert [step for step, _ in answer["hashes"]] == [*([0] if method == "warm" else []), 2, 4]


@pytest.mark.slow
def test_two_processes_share_one_step_of_the_configured_size(launched, tmp_path):
    """Supervised training draws nothing, so one process must see the same rows and, up to rounding, the same loss."""
    folder, _, (answers, _) = launched
    alone = train(make_job(folder, tmp_path / "sft", "sft", sft={"steps": 4}))
    taught = {"distill": {"steps": 4, "targets": "logits"}, "teacher": "bcd: "}
    student = train(make_job(folder, tmp_path / "distill", "distill", **taught))
    for result, method in ((alone, "sft"), (student, "distill")):
        for ours, theirs in zip(without_seconds(result), answers[method]["history"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2)
    assert answers["sft"]["tokens"] == [alone.tokens_in, 0, 0]
    assert answers["grpo"]["tokens"][2] == 4 * 8  # not 4 * 8 per process


@pytest.mark.slow
def test_two_processes_train_on_the_rows_of_one_in_its_order(launched, tmp_path):
    """Each process holds its half of every step's rows; side by side they are the step of one process."""
    folder, out, _ = launched
    alone = make_job(folder, tmp_path / "grpo", "grpo", grpo={"steps": 4})
    train(alone)
    halves = [json.loads((out / f"rows-grpo-{rank}.json").read_text()) for rank in range(2)]
    assert len(set(alone.grader.rows)) > 4
    assert [row for s in range(4) for half in halves for row in half[4 * s : 4 * s + 4]] == alone.grader.rows


@pytest.mark.slow
def test_a_finished_job_is_read_by_one_process_as_it_was_written_by_two(launched):
    folder, out, (answers, _) = launched
    found = train(make_job(folder, out / "grpo", "grpo", grpo={"steps": 4}))
    assert [[step, sha] for step, sha in hashes(found)] == answers["grpo"]["hashes"]
