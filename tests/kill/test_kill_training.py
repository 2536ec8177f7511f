"""kill -9 at every fault point of a training, twice in a row, and a clean stop by signal: the same bytes in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from train_zygote import job_of, save_tiny

from hybrid.weights.results import read_result

ROOT = Path(__file__).resolve().parents[2]
DEAD = -signal.SIGKILL
pytestmark = pytest.mark.slow
DOUBLE = 6
"""Seeded pairs of a kill and a kill of the recovery."""


class Trainings:
    """The process that starts every training of this module, and the whole training that all must end like."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.model = save_tiny(folder / "tiny")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("train_zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        log = folder / "points"
        assert self.run(folder / "whole", HYBRID_FAULT_LOG=str(log)) == 0
        self.points = log.read_text(encoding="utf-8").splitlines()
        self.trained = self.points.index("adapter.before-export")
        """Points up to the end of training; after them a child writes adapters and the record, and needs no model."""
        self.whole = left_by(folder / "whole")

    def ask(self, out: Path, *, strict: bool = False, **env: str) -> dict[str, Any]:
        """Exit code of a training into `out`, and what it raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(self.model), "out": str(out), "env": env, "strict": strict}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def run(self, out: Path, **env: str) -> int:
        """Exit code alone."""
        return int(self.ask(out, **env)["code"])

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def left_by(out: Path) -> dict[str, Any]:
    """What kills must not change: candidates, the record without seconds and memory, and the state that a checkpoint holds."""
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.name.startswith(".tmp-")]
    kept = ("adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "hybrid_manifest.json", "adapter_config.json")
    record = json.loads((out / "RESULT.json").read_text(encoding="utf-8"))
    history = [{k: v for k, v in line.items() if k != "seconds"} for line in record["history"]]
    return {
        "files": {str(p.relative_to(out)): p.read_bytes() for p in files if p.name in kept},
        "record": {**{k: v for k, v in record.items() if k not in ("seal", "seconds", "memory")}, "history": history},
    }


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    started = Trainings(tmp_path_factory.mktemp("trainings"))
    yield started
    started.close()


def test_the_fault_points_cover_every_write(trainings: Trainings) -> None:
    """The plan, each step, each file of a checkpoint, the manifest, each exported file, the record."""
    names = trainings.points
    assert names.count("training.step") == 2
    for name in ("before", "after-adapter", "before-optimizer", "after-optimizer", "after-streams"):
        assert names.count(f"checkpoint.{name}") == 2
    assert names.count("checkpoint.before-manifest") == names.count("checkpoint.after-manifest") == 2
    assert names.count("adapter.before-export") == names.count("adapter.after-export") == 2
    assert names.count("atomic.before-replace") == 1 + 2 + 2 * 3 + 1
    assert names.count("result.before") == names.count("result.after") == 1


def test_killed_at_every_fault_point_the_same_command_ends_with_the_same_bytes(
    trainings: Trainings, tmp_path: Path
) -> None:
    out, done = tmp_path / "job", tmp_path / "done"
    for number, name in enumerate(trainings.points[: trainings.trained + 1], start=1):
        assert trainings.run(out, HYBRID_FAULT=f"*:{number}") == DEAD, (number, name)
        if number == trainings.trained + 1:
            shutil.copytree(out, done)
        assert trainings.run(out) == 0, (number, name)
        assert left_by(out) == trainings.whole, (number, name)
        shutil.rmtree(out)
    for number, name in enumerate(trainings.points[trainings.trained :], start=1):
        shutil.copytree(done, out)
        assert trainings.run(out, HYBRID_FAULT=f"*:{number}") == DEAD, (number, name)
        assert trainings.run(out) == 0, (number, name)
        assert left_by(out) == trainings.whole, (number, name)
        shutil.rmtree(out)


def test_a_recovery_that_is_killed_recovers(trainings: Trainings, tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(DOUBLE):
        first, second = draw.randint(2, trainings.trained), draw.randint(1, 12)
        out = tmp_path / "job"
        assert trainings.run(out, HYBRID_FAULT=f"*:{first}") == DEAD
        assert trainings.run(out, HYBRID_FAULT=f"*:{second}") in (0, DEAD)
        assert trainings.run(out) == 0
        assert left_by(out) == trainings.whole, (first, second)
        shutil.rmtree(out)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_with_a_checkpoint_and_changes_nothing(trainings: Trainings, tmp_path: Path, name: str) -> None:
    out = tmp_path / "job"
    assert trainings.run(out, HYBRID_FAULT="training.step:1", HYBRID_FAULT_SIGNAL=name) == 130
    assert (out / "checkpoint-1" / "MANIFEST.json").exists(), "the step that was done is kept"
    log = tmp_path / "points"
    assert trainings.run(out, HYBRID_FAULT_LOG=str(log)) == 0
    assert log.read_text(encoding="utf-8").splitlines().count("training.step") == 1, "no step is done twice"
    assert left_by(out) == trainings.whole


def test_strict_names_what_a_kill_left_and_changes_nothing(trainings: Trainings, tmp_path: Path) -> None:
    out = tmp_path / "job"
    assert trainings.run(out, HYBRID_FAULT="checkpoint.before-manifest") == DEAD
    answer = trainings.ask(out, strict=True)
    assert answer["code"] == 1
    assert "skipped checkpoint-1: MANIFEST.json is missing, and --strict makes that an error" in answer["said"]
    shutil.rmtree(out / "checkpoint-1")
    assert trainings.ask(out, strict=True)["code"] == 0
    result = read_result(job_of(trainings.model, out))
    assert result is not None
    assert result.remarks == ()
