"""GRPO with a LoRA adapter through TRL. Importing this costs nothing: torch and TRL are loaded when training starts.

result = GrpoTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.config.schema import SftConfig
from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.driver import Fit, Session, run
from hybrid.weights.fork import prepare
from hybrid.weights.jobs import check_job, processes
from hybrid.weights.results import read_result
from hybrid.weights.sft import SftTrainer

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class GrpoTrainer:
    """The `WeightTrainer` of method `grpo` (Shao et al. 2024, 2402.03300): rewards sampled completions.

    Stops early, with a note and no candidates of its own, when no group of completions had reward variance in the
    first `checkpoint_every` steps.

    With `weights.warm_start` it begins where supervised fine-tuning on gold completions ended, with a fresh optimiser. That
    is a whole job in the folder `warm-start`, with checkpoints and a result of its own, so the switch lies on a checkpoint
    and resumes like any other. The KL of `grpo.beta` is still to the base.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        return train_after_warm_start(job, load, on_progress, _fit)


def train_after_warm_start(
    job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress, fit: Fit
) -> TrainResult:
    """`run` with the job's warm start, if it has one, before it."""
    first = warm_start(job)
    if first is None:
        return run(job, load, on_progress, fit)
    check_job(job)
    rank, count = processes()
    forked = prepare(job, count, rank)
    finished = read_result(job)
    if finished is not None:
        return finished
    before, steps = first.steps, first.steps + job.steps
    # A fork that goes on from a later step has its warm start behind it, whatever that was taught.
    warm = read_result(first, of_any_job=True) if forked is not None and forked.step else None
    if warm is None:
        warm = SftTrainer().train(first, load, lambda step, _, metrics: on_progress(step, steps, metrics))
    return run(job, load, lambda step, _, metrics: on_progress(before + step, steps, metrics), fit, warm)


def warm_start(job: TrainJob) -> TrainJob | None:
    """The supervised job that goes before `job`, or None when it begins at the base."""
    settings = job.weights.warm_start
    if settings is None:
        return None
    sft = SftConfig(steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate)
    weights = job.weights.model_copy(update={"sft": sft, "warm_start": None})
    return dataclasses.replace(job, method="sft", weights=weights, out=job.out / "warm-start", fork=None)


def _fit(session: Session) -> None:
    from hybrid.weights.trl_grpo import fit  # TRL takes seconds to import

    fit(session)
