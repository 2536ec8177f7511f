"""A whole run in two processes under `accelerate launch` against one process, and after a kill -9 of one of them."""

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from backend_tiny import save_tiny
from scripted_world import TRUTH, make_world

from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu-2.yaml"]
SIZES = {"train": 8, "search": 12, "confirm": 12, "test": 12, "variant": 6}
CONFIG = """\
name: letters
model: {path: tiny, device: cpu, threads: 1}
backend: {type: transformers, batch_size: 4}
capabilities:
  - name: letters
    source: {type: jsonl, path: letters}
    grader: {type: exact}
    decoding: {max_new_tokens: 6}
probe: {examples: 8, samples: 2, variants: 4, worked_examples: 2}
router: {force: {letters: weights}}
skill: {proposer: {type: offline, vocabulary: vocabulary.yaml}}
weights:
  method: sft
  lora: {rank: 4, alpha: 8}
  sft: {steps: 30, batch: 8, learning_rate: 0.02}
  checkpoint_every: 15
gate: {ship: {minimum_effect: 0.1}}
report: {collateral_examples: 4}
"""
VICTIM = """
import os, sys, threading, time
from pathlib import Path
sys.path[:0] = [sys.argv.pop(1)]
marker = Path(sys.argv.pop(1))
def watch():
    while not marker.exists():
        time.sleep(0.002)
    os.kill(os.getpid(), 9)
if os.environ["RANK"] == "1":
    threading.Thread(target=watch, daemon=True).start()
from hybrid.__main__ import main
sys.exit(main())
"""


def write_world(folder: Path) -> Path:
    """A capability that the tiny model lacks and learns within thirty steps: always answer `ab`."""
    save_tiny(folder / "tiny")
    (folder / "letters").mkdir()
    for split, size in SIZES.items():
        rows = [
            {"id": f"{split}{i}", "prompt": f"{split[:2]}{'x' * (i % 5)}{i} =", "reference": "ab"} for i in range(size)
        ]
        (folder / "letters" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "vocabulary.yaml").write_text("rules: ['answer ab.']\n")
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


def launch(*command: str, expect: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400, cwd=ROOT)
    assert (done.returncode == 0) == (expect == 0), done.stderr[-4000:]
    return done.stderr


def report(out: Path) -> dict:
    """The report without what a clock wrote, or a meter of this process's memory."""
    measured = ("created", "seconds", "measured_mib")

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in measured and "_seconds" not in k}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return timeless(json.loads((out / "report" / "placement.json").read_text()))


def rollouts(out: Path) -> list[dict]:
    return [row for path in sorted((out / "rollouts").glob("*.jsonl")) for row in RecordLog(path).read()]


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("world")
    config, one, two, killed = write_world(folder), *(folder / name for name in ("one", "two", "killed"))
    launch(sys.executable, "-m", "hybrid", "run", str(config), "--out", str(one))
    launch(*LAUNCH, "-m", "hybrid", "run", str(config), "--out", str(two))
    (folder / "victim.py").write_text(VICTIM)
    marker = killed / "checkpoints" / "letters-weights" / "checkpoint-15" / "MANIFEST.json"
    arguments = [str(ROOT), str(marker), "run", str(config), "--out", str(killed)]
    launch(*LAUNCH, str(folder / "victim.py"), *arguments, expect=1)
    assert marker.exists() and not (killed / "report").exists()
    launch(*LAUNCH, "-m", "hybrid", "run", str(config), "--out", str(killed))
    return one, two, killed


@pytest.mark.slow
def test_two_processes_place_as_one_does(outs):
    one, two = report(outs[0]), report(outs[1])
    assert [c["placement"] for c in one["capabilities"]] == ["weights"]
    assert [c["placement"] for c in two["capabilities"]] == ["weights"]
    assert one["capabilities"][0]["profile"] == two["capabilities"][0]["profile"]
    assert one["ledger"]["calls"] == two["ledger"]["calls"]


@pytest.mark.slow
def test_two_processes_evaluate_nothing_twice_and_the_base_to_the_bit(outs):
    one, two = rollouts(outs[0]), rollouts(outs[1])
    assert max(Counter(row["key"] for row in two).values()) == 1
    assert len(one) == len(two) == report(outs[1])["ledger"]["calls"]

    def probed(rows):
        found = [r for r in rows if r["stage"] not in ("select", "weights", "ship", "verify")]
        return sorted(({k: v for k, v in r.items() if k != "seconds"} for r in found), key=lambda r: r["key"])

    assert len(probed(one)) > 30
    assert probed(one) == probed(two)
    events = [e for e in RecordLog(outs[1] / "events.jsonl").read() if e["kind"] == "run.shared"]
    shares = events[0]["data"]["completions"]
    assert sum(shares) == len(two)
    assert min(shares) >= len(two) // 4


@pytest.mark.slow
def test_a_run_that_lost_a_process_to_kill_9_resumes_to_the_same_report(outs):
    assert report(outs[2]) == report(outs[1])
    adapters = [out / "adapters" / "letters" / "adapter_model.safetensors" for out in outs[1:]]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    keys = Counter(row["key"] for row in rollouts(outs[2]))
    assert max(keys.values()) == 1


@pytest.mark.slow
def test_two_launchers_that_meet_at_an_address_are_one_run_that_asks_nothing_twice(tmp_path):
    """`multi-node.yaml` as on two machines, here both on this one: each launcher starts one process."""
    alone, world = make_world(tmp_path / "alone"), make_world(tmp_path / "two")
    launch(sys.executable, "-m", "hybrid", "run", str(alone.config), "--out", str(tmp_path / "one-out"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *LAUNCH[:-1],
        "configs/accelerate/multi-node.yaml",
        "--num_processes",
        "2",
        "--main_process_port",
        str(port),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = tmp_path / "two-out"
    launchers = [
        subprocess.Popen(
            [*command, "--machine_rank", str(rank), "-m", "hybrid", "run", str(world.config), "--out", str(out)],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [launcher.communicate(timeout=400)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], errors
    placed = {c["name"]: c["placement"] for c in report(out)["capabilities"]}
    assert placed == TRUTH
    assert report(out)["capabilities"] == report(tmp_path / "one-out")["capabilities"]
    assert world.paid() == alone.paid() == report(out)["ledger"]["calls"]
    shares = next(e for e in RecordLog(out / "events.jsonl").read() if e["kind"] == "run.shared")["data"]["completions"]
    assert sum(shares) == world.paid() and min(shares) > world.paid() // 3


@pytest.mark.slow
def test_what_ends_the_run_on_the_first_process_ends_it_on_all(tmp_path):
    world, out = make_world(tmp_path / "world"), tmp_path / "out"
    arguments = ["-m", "hybrid", "run", str(world.config), "--out", str(out), "--set", "budget.calls=40"]
    errors = launch(*LAUNCH, *arguments, expect=1)
    assert errors.count("budget.calls: all 40 completions are spent") == 1
    codes = set(re.findall(r"exitcode\s*: (-?\d+)", errors))
    # The launcher may be quicker than the second process's own exit; it must not have to kill it.
    assert "3" in codes and codes <= {"3", "-15"}
    assert world.paid() == 40
