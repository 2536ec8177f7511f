"""Fixtures that several folders of tests share. What they build lives in `scripted_world` and `fakes`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_world import World, make_world

os.environ.setdefault("OMP_NUM_THREADS", "1")


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
