"""kill -9 in every stage of a run of the reference model, one after the other in one folder, training included."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
name: kill
model: {{path: reference, device: cpu, threads: 1}}
capabilities:
{capabilities}
probe: {{examples: 32, samples: 4, variants: 16}}
skill: {{epochs: 1, batch: 24, proposer: {{type: offline, vocabulary: vocabulary.yaml}}}}
weights:
  lora: {{rank: 8, alpha: 16}}
  grpo: {{steps: 12, prompts_per_step: 8, generations: 8, learning_rate: 0.004}}
  checkpoint_every: 4
gate: {{ship: {{minimum_effect: 0.15}}}}
report: {{collateral_examples: 8}}
"""
CAPABILITY = """\
  - name: {name}
    source: {{type: jsonl, path: {name}}}
    grader: {{type: exact}}
    decoding: {{max_new_tokens: 14}}
    limit: {{train: 24, search: 32, confirm: 32, test: 32, variant: 16}}
"""
TRUTH = {"fact-table": "skill", "unnamed-operation": "weights"}
TRAINING = Path("checkpoints") / "unnamed-operation-weights"


def start(config: Path, out: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hybrid", "run", str(config), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(config: Path, out: Path, **env: str) -> int:
    process = start(config, out, **env)
    _, errors = process.communicate(timeout=400)
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode


def kill_after(config: Path, out: Path, marker: Path, seconds: float) -> None:
    """Start a run, wait for `marker` to appear and a moment more, and kill it wherever it is then."""
    process = start(config, out)
    deadline = time.monotonic() + 300
    while not marker.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def stages_done(out: Path) -> list[tuple[str, str]]:
    """(capability, stage) that the last attempt finished."""
    found: list[tuple[str, str]] = []
    for event in RecordLog(out / "events.jsonl").read():
        if event["kind"] == "attempt.started":
            found = []
        if event["kind"] == "stage.done":
            found.append((event["data"]["capability"], event["data"]["stage"]))
    return found


def sha256(paths: Sequence[Path], root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}


def left_by(out: Path) -> dict[str, Any]:
    """Everything that kills must not change."""
    report = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
    opened = [e["data"] for e in RecordLog(out / "events.jsonl").read() if e["kind"] == "split.opened"]
    return {
        "placements": {c["name"]: (c["placement"], c["arms"], c["delta"]) for c in report["capabilities"]},
        "calls": report["ledger"]["calls"],
        "skills": sha256([*(out / "skills").rglob("*.md")], out),
        "adapters": sha256([*(out / "adapters").rglob("*.safetensors")], out),
        "candidates": sha256([*(out / TRAINING / "adapters").rglob("*.safetensors")], out),
        "opened": sorted((o["capability"], o["split"], o["candidates"]) for o in opened),
    }


def keys(out: Path) -> list[str]:
    return [r["key"] for path in sorted((out / "rollouts").iterdir()) for r in RecordLog(path).read()]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make = [sys.executable, str(ROOT / "scripts" / "make_world.py"), "--seed", "0", "--out", str(folder)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    text = CONFIG.format(capabilities="".join(CAPABILITY.format(name=name) for name in TRUTH).rstrip())
    (folder / "kill.yaml").write_text(text, encoding="utf-8")
    return folder / "kill.yaml"


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_bytes(config: Path) -> None:
    whole, out = config.parent / "whole", config.parent / "killed"
    points = config.parent / "points"
    assert finish(config, whole, HYBRID_FAULT_LOG=str(points)) == 0
    probed = points.read_text(encoding="utf-8").splitlines().index("stage.probe") + 1
    expected = left_by(whole)
    assert {name: placed[0] for name, placed in expected["placements"].items()} == TRUTH
    assert len(expected["adapters"]) == 1
    assert len(expected["candidates"]) == 3

    dead = -signal.SIGKILL
    facts, marks = TRUTH
    assert finish(config, out, HYBRID_FAULT=f"*:{probed - 5}") == dead
    assert stages_done(out)[-1] == (marks, "draft"), "killed while the first capability was probed"
    assert finish(config, out, HYBRID_FAULT="atomic.before-replace:2") == dead
    assert stages_done(out)[-1] == (facts, "skill"), "killed while the document was saved"
    kill_after(config, out, out / TRAINING / "checkpoint-4" / "MANIFEST.json", 0.2)
    assert stages_done(out)[-1] == (facts, "skill"), "killed in the middle of training, after a checkpoint"
    assert not (out / TRAINING / "checkpoint-12" / "MANIFEST.json").exists()
    assert finish(config, out, HYBRID_FAULT="checkpoint.before-manifest") == dead
    assert finish(config, out, HYBRID_FAULT="adapter.after-export:2") == dead
    assert finish(config, out, HYBRID_FAULT="stage.verify") == dead
    assert stages_done(out)[-1] == (facts, "verify")
    assert finish(config, out, HYBRID_FAULT="stage.report") == dead
    assert not (out / "report").exists()
    assert finish(config, out) == 0

    assert left_by(out) == expected
    for folder in (whole, out):
        assert len(set(keys(folder))) == len(keys(folder)), "no rollout is stored twice"
    assert sorted(keys(out)) == sorted(keys(whole))

    before = (out / "report" / "placement.json").read_bytes()
    assert finish(config, out) == 0
    assert (out / "report" / "placement.json").read_bytes() == before
    assert left_by(out) == expected
