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
from hybrid.errors import TrainingError
from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.batches import BatchPlan, checkpoint_steps, plan_batches
from hybrid.weights.checkpoints import Checkpoint, find_newest, refuse_other
from hybrid.weights.jobs import check_job, job_identity, machine_identity, processes
from hybrid.weights.results import finish, is_finished, read_result, require_last

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel

_log = logging.getLogger(__name__)
_WAIT_S = 1800.0


@dataclass(frozen=True)
class Session:
    """What the training part needs: the job, the base, where to go on, and how a step is cut.

    `start` is the adapter that a fresh training begins with; None is one that adds nothing.
    """

    job: TrainJob
    loaded: LoadedModel
    resume: Checkpoint | None
    plan: BatchPlan
    identity: Mapping[str, Any]
    on_progress: Progress
    start: Adapter | None = None

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
    finished = read_result(job)
    if finished is not None:
        return finished
    rank, count = processes()
    plan = plan_batches(job.rows_per_step, count, job.weights.rows_per_device)
    checkpoint_steps(job.steps, job.weights.checkpoint_every, plan)
    start = warm.checkpoints[-1][1] if warm is not None else job.start
    begun = {"start": start.sha256} if start is not None else {}
    identity = {**job_identity(job), **machine_identity(count), **begun}
    newest, skipped = find_newest(job.out, identity, count)
    note = "skipped " + ", ".join(map(str, skipped)) if skipped else ""
    if note:
        _log.warning("%s: %s; going on from %s", job.out, note, f"step {newest.step}" if newest else "the start")
    if not is_finished(job, newest):
        loaded = load()
        session = Session(job, loaded, newest, plan, identity, on_progress, start)
        if newest is not None:
            refuse_other(newest.path, _named(newest.base), _named(session.base))
        fit(session)
        newest, _ = find_newest(job.out, identity, count)
    last = require_last(job, newest)
    if rank == 0:
        return finish(job, last, identity, count, note, warm)
    return _await_result(job)


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
