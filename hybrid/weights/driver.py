"""The frame around every trainer: finished? resumable? train, record. The same steps on every process.

Does not: import torch before there is something to train. `fit` is the part that trains (see `trl_grpo`, `trl_sft`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid.backends.base import Adapter
from hybrid.errors import RunFolderError, TrainingError
from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.batches import BatchPlan, plan_batches, resumable
from hybrid.weights.checkpoints import Checkpoint, Skipped, find_newest, refuse_other
from hybrid.weights.fork import prepare
from hybrid.weights.jobs import check_job, job_identity, machine_identity, packing_identity, processes
from hybrid.weights.remarks import keep_remarks
from hybrid.weights.results import finish, is_finished, read_result, require_last

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel
    from hybrid.weights.preflight import Forecast

_log = logging.getLogger(__name__)
_WAIT_S = 1800.0


@dataclass(frozen=True)
class Session:
    """What the training part needs: the job, the base, where to go on, and how a step is cut (smaller where it does not fit).

    `start` is the adapter that a fresh training begins with; None is one that adds nothing. `forecast` is what a
    step will take, once the training part has asked (`preflight.foresee`).
    """

    job: TrainJob
    loaded: LoadedModel
    resume: Checkpoint | None
    plan: BatchPlan
    identity: Mapping[str, Any]
    on_progress: Progress
    start: Adapter | None = None
    forecast: Forecast | None = None
    other_settings: bool = False
    """The checkpoint was made under other settings (a fork): those it holds, such as the learning rate, do not count."""

    @property
    def base(self) -> dict[str, str]:
        """The base as a checkpoint records it."""
        return {"fingerprint": self.loaded.info.fingerprint, "device": self.loaded.info.device}


Fit = Callable[[Session], None]


def run(
    job: TrainJob,
    load: Callable[[], LoadedModel],
    on_progress: Progress,
    fit: Fit,
    warm: TrainResult | None = None,
) -> TrainResult:
    """Train `job` with `fit`, or return what an earlier call finished. See `WeightTrainer.train` for the errors.

    `warm` is the finished warm start whose last adapter the job begins with; its checkpoints belong to that adapter.
    """
    check_job(job)
    rank, count = processes()
    forked = prepare(job, count, rank)
    finished = read_result(job)
    if finished is not None:
        return finished
    plan = plan_batches(job.rows_per_step, count, job.weights.rows_per_device)
    start = warm.checkpoints[-1][1] if warm is not None else job.start
    begun = {"start": start.sha256} if start is not None else {}
    added = dict(forked.identity) if forked is not None else {}
    identity = {**job_identity(job), **machine_identity(count), **packing_identity(job), **begun, **added}
    newest, skipped = find_newest(job.out, identity, count, lambda found: _unusable(job, found))
    _tell(job, skipped, newest)
    if rank == 0:
        keep_remarks(job.out, [f"skipped {s}" for s in skipped if s.committed])
    if not is_finished(job, newest):
        loaded = load()
        other = forked is not None and newest is not None and newest.step == forked.step and forked.changed
        session = Session(job, loaded, newest, plan, identity, on_progress, start, other_settings=other)
        if newest is not None:
            refuse_other(newest.path, _named(newest.base), _named(session.base))
        fit(session)
        newest, _ = find_newest(job.out, identity, count)
    last = require_last(job, newest)
    if rank == 0:
        return finish(job, last, identity, count, warm, forked)
    return _await_result(job)


def _unusable(job: TrainJob, found: Checkpoint) -> str:
    """Why training may not go on from a valid checkpoint; empty when it may, or when nothing is left to train."""
    if is_finished(job, found) or resumable(found.step, job.iterations):
        return ""
    return f"it lies within a generation phase of {job.iterations} steps, whose completions are not saved"


def _tell(job: TrainJob, skipped: tuple[Skipped, ...], newest: Checkpoint | None) -> None:
    """Name what was skipped, in the log; with `strict`, refuse to go on."""
    if not skipped:
        return
    names = ", ".join(map(str, skipped))
    if job.strict:
        raise RunFolderError(
            f"{job.out}: skipped {names}, and --strict makes that an error. Look at the disk; then remove what is named, or "
            "give the command without --strict"
        )
    _log.warning("%s: skipped %s; going on from %s", job.out, names, f"step {newest.step}" if newest else "the start")


def _named(base: Mapping[str, str]) -> dict[str, str]:
    return {f"base.{key}": value for key, value in base.items()}


def _await_result(job: TrainJob) -> TrainResult:
    """The result that the first process records."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        found = read_result(job)
        if found is not None:
            return found
        time.sleep(0.05)
    raise TrainingError(f"{job.out}: the first process recorded no result within {_WAIT_S:.0f} s; resume the run")
