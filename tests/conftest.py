"""Fixtures that several folders of tests share, and their order. What fixtures build lives in `scripted_world` and `fakes`.

Everything is made for one file at most, so that workers (`make test`: pytest-xdist, whole files) share nothing but the
machine. `pytest` alone, without xdist, runs the same tests in one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_world import World, make_world

os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by workers and by every process that a test starts

LONGEST = (
    "test_quickstart.py",
    "test_minimal_loop.py",
    "test_processes_run.py",
    "test_kill_reference.py",
    "test_weights_tree.py",
    "test_kill_endpoint.py",
    "test_weights_processes.py",
    "test_weights_engine.py",
    "test_sharded.py",
    "test_kill_training.py",
)
"""Files that take longest, first: where files are shared among workers, no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others, and the tests of a file, keep their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A small run over the scripted backend with known placements: its configuration and data, nothing run yet."""
    return make_world(tmp_path / "world")


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process nothing waits for a disk: no test can cut the power, and the kernel keeps what a killed child wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _no_faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test inherits fault points or a launcher's ranks from the shell that started the suite."""
    for name in ("HYBRID_FAULT", "HYBRID_FAULT_LOG", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield
