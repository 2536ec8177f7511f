"""The training jobs in which several capabilities share one adapter, from an order that every rank reads alike.

An order names the members and the text each reads, the stages over their rows, the steps of each stage, and the adapter to
go on from. Its job lies in `checkpoints/_shared/`, a name that no capability can have.

Does not: choose an order (see `shared`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.weights.base import TrainJob
from hybrid.weights.schedule import Stages
from hybrid.weights.task_order import checkpoint_every
from hybrid.weights.tasks import put_together

SHARED = "(shared)"
"""Under this name a shared training is in the ledger and the events; no capability can have it."""
FOLDER = "_shared"


def shared_order(
    name: str,
    members: Sequence[tuple[Capability, str]],
    stages: Stages,
    steps: Sequence[int],
    *,
    every: int,
    phase: int = 1,
    run_folder: Path,
    start: Adapter | None = None,
) -> dict[str, Any]:
    """An order for the training `name` over (capability, text), `steps` for each of `stages`, a checkpoint at least every
    `every` steps and at the end of each stage, on multiples of `phase`. `start` lies in the run folder."""
    return {
        "kind": "train",
        "members": [[capability.name, skill] for capability, skill in members],
        "stages": [list(stage) for stage in stages],
        "stage_steps": list(steps),
        "every": checkpoint_every(min(steps), every, phase),
        "name": name,
        "start": None if start is None else start.path.relative_to(run_folder).as_posix(),
    }


def make_shared_job(
    loaded: LoadedConfig, capabilities: Mapping[str, Capability], run_folder: Path, order: dict[str, Any]
) -> TrainJob:
    """The job that an order names. The same order gives every rank the same job. Raises AdapterError when the adapter to go
    on from is damaged."""
    config = loaded.config
    members = [(capabilities[name], skill) for name, skill in order["members"]]
    longest = {c.name: c.decoding.max_new_tokens for c in config.capabilities}
    examples, tasks, grader = put_together(members)
    return TrainJob(
        capability=", ".join(capability.name for capability, _ in members),
        examples=examples,
        skill="",
        stages=tuple(tuple(stage) for stage in order["stages"]),
        grader=grader,
        model=config.model,
        weights=config.weights.model_copy(update={"checkpoint_every": order["every"]}),
        max_new_tokens=max(longest[capability.name] for capability, _ in members),
        seed=config.seed,
        out=run_folder / "checkpoints" / FOLDER / order["name"],
        method=config.weights.job_method,
        tasks=tasks,
        stage_steps=tuple(order["stage_steps"]),
        start=inspect_adapter(run_folder / order["start"]) if order["start"] is not None else None,
    )
