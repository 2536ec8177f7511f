"""kill -9 at fault points of a whole run: the same command goes on, pays nothing twice and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_world import TRUTH, World, make_world

from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[2]
DEAD = -signal.SIGKILL
SINGLE, DOUBLE = 20, 20
"""Seeded sample sizes, on top of all stage points."""


class Zygote:
    """The process that starts every run of this module."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def run(self, world: World, **env: str) -> int:
        """Exit code of a run of `world` into its folder `run`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"config": str(world.config), "out": str(world.folder / "run"), "env": env}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run: what it left, what it paid, and the fault points that it passed in order."""

    world: World
    left: dict[str, Any]
    paid: int
    points: list[str]


def left_by(world: World) -> dict[str, Any]:
    """What must be equal after any kills: the report but for times, documents, rollouts, and the seals."""
    out = world.folder / "run"
    report = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
    del report["created"], report["ledger"]["wall_seconds"]
    rollouts = [r for path in sorted((out / "rollouts").iterdir()) for r in RecordLog(path).read()]
    assert len({r["key"] for r in rollouts}) == len(rollouts), "no rollout is stored twice"
    opened = Counter(
        (e["data"]["capability"], e["data"]["split"])
        for e in RecordLog(out / "events.jsonl").read()
        if e["kind"] == "split.opened"
    )
    assert set(opened.values()) == {1}
    skills = {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "skills").rglob("*.md"))}
    drawn = sorted(p.name for p in (out / "report").iterdir() if not p.name.startswith(".tmp-"))
    return {
        "report": report,
        "skills": skills,
        "rollouts": sorted(json.dumps(r, sort_keys=True) for r in rollouts),
        "opened": set(opened),
        "drawn": drawn,
    }


def stored(world: World) -> int:
    """Completions that are durable right now."""
    folder = world.folder / "run" / "rollouts"
    return sum(1 for path in folder.glob("*.jsonl") for _ in RecordLog(path).read())


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A folder in memory where there is one: killing does not lose what the kernel has, so no disk needs to be waited for."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hybrid-kill-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(base: Path, zygote: Zygote) -> Whole:
    world = make_world(base / "whole")
    log = base / "points"
    assert zygote.run(world, HYBRID_FAULT_LOG=str(log)) == 0
    return Whole(world, left_by(world), world.paid(), log.read_text(encoding="utf-8").splitlines())


@pytest.fixture
def fresh(base: Path) -> Iterator[World]:
    world = make_world(base / "killed")
    yield world
    shutil.rmtree(world.folder)


def chosen(points: list[str], count: int, seed: int) -> list[int]:
    """Numbers (from 1) of all stage points and of `count` others."""
    stages = [k for k, name in enumerate(points, start=1) if name.startswith("stage.")]
    others = [k for k in range(1, len(points) + 1) if k not in stages]
    return sorted([*stages, *random.Random(seed).sample(others, count)])


def test_the_uninterrupted_run_is_right_and_passes_every_kind_of_point(whole: Whole) -> None:
    assert {c["name"]: c["placement"] for c in whole.left["report"]["capabilities"]} == TRUTH
    assert whole.paid == len(whole.left["rollouts"]) == whole.left["report"]["ledger"]["calls"]
    assert {
        "append.jsonl.before", "append.jsonl.after", "atomic.before-replace", "atomic.after-replace",
        "stage.probe", "stage.skill-step", "stage.improve", "stage.ship", "stage.verify", "stage.report",
    } == set(whole.points)  # fmt: skip
    assert len(whole.points) > 100


def test_a_kill_at_any_point_changes_nothing_but_time(whole: Whole, zygote: Zygote, base: Path) -> None:
    points = chosen(whole.points, SINGLE, seed=0)
    assert len(points) >= 25
    hit: Counter[str] = Counter()
    for k in points:
        world = make_world(base / f"single-{k}")
        assert zygote.run(world, HYBRID_FAULT=f"*:{k}") == DEAD, whole.points[k - 1]
        lost = world.paid() - stored(world)
        assert lost == 0 or whole.points[k - 1] == "append.jsonl.before", (
            "paid answers are durable before they are used"
        )
        assert zygote.run(world) == 0
        assert left_by(world) == whole.left, f"killed at point {k}, {whole.points[k - 1]}"
        assert world.paid() == whole.paid + lost, f"killed at point {k}, {whole.points[k - 1]}"
        hit[whole.points[k - 1]] += 1
        shutil.rmtree(world.folder)
    assert set(hit) == set(whole.points)


def test_killing_the_recovery_too(whole: Whole, zygote: Zygote, base: Path) -> None:
    """A second kill at any point of the resumed attempt; the third attempt ends the same."""
    rng = random.Random(1)
    killed_twice = 0
    for number in range(DOUBLE):
        world = make_world(base / f"double-{number}")
        assert zygote.run(world, HYBRID_FAULT=f"*:{rng.randrange(1, len(whole.points) + 1)}") == DEAD
        second = zygote.run(world, HYBRID_FAULT=f"*:{rng.randrange(1, 40)}")
        assert second in (0, DEAD)
        killed_twice += second == DEAD
        lost = world.paid() - stored(world)
        assert zygote.run(world) == 0
        assert left_by(world) == whole.left
        assert world.paid() == whole.paid + lost
        shutil.rmtree(world.folder)
    assert killed_twice >= DOUBLE // 2


def test_kills_at_every_stage_in_one_folder(whole: Whole, zygote: Zygote, fresh: World) -> None:
    """An unlucky run: killed after every stage it reaches, it still arrives and pays once."""
    for point in ("stage.probe:2", "stage.improve:2", "stage.ship", "stage.verify:3", "stage.report"):
        assert zygote.run(fresh, HYBRID_FAULT=point) == DEAD, point
        assert not (fresh.folder / "run" / "report").exists()
    assert zygote.run(fresh) == 0
    assert left_by(fresh) == whole.left
    assert fresh.paid() == whole.paid


def test_the_command_line_goes_on_after_a_kill(whole: Whole, fresh: World) -> None:
    """Real processes of their own, as a user starts them."""
    command = [sys.executable, "-m", "hybrid", "run", str(fresh.config), "--out", str(fresh.folder / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env={**env, "HYBRID_FAULT": "stage.ship"}, capture_output=True, check=False)
    assert killed.returncode == DEAD
    assert (fresh.folder / "run" / "OWNER").exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left_by(fresh) == whole.left
    assert fresh.paid() == whole.paid
