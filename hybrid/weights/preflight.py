"""Will a training fit, and in how large passes? Asked once the base is in memory, before anything is trained.

    session = foresee(session, [(prompt_ids, answer_tokens) for every row])

Where `weights.rows_per_device` is left out and the whole step does not fit, passes are made smaller: the optimiser sees
the same rows. What was chosen is kept beside the checkpoints, so that a resumed training cuts its steps as it did before,
whatever is free then. Does not: compute anything on the model (see `rehearsal`), or touch random numbers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid.backends.memory import (
    ITEM,
    AdapterSize,
    Architecture,
    PeakMeter,
    Work,
    adapter_size,
    architecture,
    free_bytes,
    mib,
    most_rows,
    predict,
)
from hybrid.errors import TrainingError
from hybrid.store.atomic import write_json
from hybrid.weights.base import TrainJob
from hybrid.weights.batches import BatchPlan, plan_batches
from hybrid.weights.checkpoints import read_sealed, seal

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel
    from hybrid.weights.driver import Session

PLAN = "PLAN.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """What one optimiser step is expected to take.

    `prompt` are the ids of the longest row's prompt and `answer` the tokens after it. `above_base` are bytes beside the
    base, None for a model whose dimensions are not known. `generated` are the rows of one generation, 0 for none.
    """

    prompt: tuple[int, ...]
    answer: int
    rows: int
    generated: int
    above_base: int | None
    meter: PeakMeter

    def measured(self) -> dict[str, float]:
        """For the log of a step: the prediction, and the peak so far, in bytes; what is not known is left out."""
        told = {"rows_per_device": self.rows, "predicted_memory": self.above_base, "peak_memory": self.meter.above()}
        return {name: float(value) for name, value in told.items() if value is not None}


def foresee(session: Session, rows: Sequence[tuple[tuple[int, ...], int]]) -> Session:
    """The session with the plan to train by and what a step should take.

    `rows` are prompt ids and answer tokens of the job's examples; those in its stages count. Raises TrainingError, on every
    process alike, when the training cannot fit.
    """
    job, loaded, plan = session.job, session.loaded, session.plan
    used = sorted({row for stage in job.stages for row in stage})
    prompt, answer = max((rows[row] for row in used), key=lambda pair: len(pair[0]) + pair[1])
    dimensions = architecture(loaded.model.config.get_text_config().to_dict())
    work = _work(job, loaded, plan, len(prompt), answer, dimensions)
    if dimensions is not None and job.weights.memory.preflight != "off":
        plan = _fitting(job, loaded, plan, dimensions, work)
    work = dataclasses.replace(work, rows=plan.per_device)
    above = None if dimensions is None else predict(dimensions, work).above_base
    forecast = Forecast(prompt, answer, plan.per_device, work.generated, above, PeakMeter(loaded.info.device))
    return dataclasses.replace(session, plan=plan, forecast=forecast)


def _work(
    job: TrainJob, loaded: LoadedModel, plan: BatchPlan, prompt: int, answer: int, a: Architecture | None
) -> Work:
    info = loaded.info
    weights = job.weights.model_copy(update={"method": job.method})
    size = AdapterSize(0, 0, weights.lora.rank) if a is None else adapter_size(a, weights, ITEM[info.dtype])
    return Work(
        prompt=prompt,
        answer=answer,
        rows=plan.per_device,
        # A tree's waves are cut into passes of as many rows as are trained at once, which take more each.
        generated=plan.per_device * plan.accumulation if job.reinforces and job.method != "tree" else 0,
        weight_bytes=sum(p.numel() * p.element_size() for p in loaded.model.parameters()),
        adapter=size.trained + size.directions,
        item=ITEM[info.dtype],
        rank=size.rank,
        packed=job.model.quantization is not None,
        recompute=info.parameters >= RECOMPUTED,
        full_logits=job.method == "distill" and job.weights.distill.targets == "logits",
        cuda=info.device.startswith("cuda"),
    )


RECOMPUTED = 2_000_000_000
"""Parameters from which activations are computed again in the backward pass instead of kept."""


def _fitting(job: TrainJob, loaded: LoadedModel, plan: BatchPlan, a: Architecture, work: Work) -> BatchPlan:
    """The plan with passes of as many rows as fit. A choice that was made before stands."""
    settings = job.weights
    kept = read_sealed(job.out / PLAN)
    if settings.rows_per_device is None and not isinstance(kept, str):
        return plan_batches(job.rows_per_step, plan.processes, int(kept["rows_per_device"]))
    limit = settings.memory.limit_mib
    free = limit * 2**20 if limit is not None else free_bytes(loaded.info.device)
    fitting = work.rows if free is None else most_rows(a, work, free)
    fitting = _least(fitting, plan.processes)
    wanted = plan.per_device if settings.rows_per_device is not None else max(1, fitting)
    if fitting < wanted:
        _say(job, _too_large(job, a, work, free, fitting))
    elif wanted < plan.per_device:
        _log.warning("%s: passes of %d rows, since the whole step would not fit", job.out, wanted)
    if settings.rows_per_device is not None:
        return plan
    chosen = plan_batches(job.rows_per_step, plan.processes, wanted)
    body = {"schema": 1, "rows_per_device": chosen.per_device}
    write_json(job.out / PLAN, seal(body))  # by every process: the same bytes, replaced in one move
    return chosen


def _least(fitting: int, processes: int) -> int:
    """The least over all processes, which train in equal passes. Without a group of processes, the number itself."""
    if processes == 1:
        return fitting
    from torch import distributed

    if not distributed.is_initialized():
        return fitting
    found: list[Any] = [None] * processes
    distributed.all_gather_object(found, fitting)
    return int(min(found))


def _say(job: TrainJob, message: str) -> None:
    if job.weights.memory.preflight == "refuse":
        raise TrainingError(message)
    _log.warning("%s", message)


def _too_large(job: TrainJob, a: Architecture, work: Work, free: int | None, fitting: int) -> str:
    """What it needs, what is there, and the knob that helps most."""
    needs, has = mib(predict(a, work).above_base), mib(free or 0)
    rows = f"{work.rows} rows of {work.prompt + work.answer} tokens"
    what = f"{rows} take about {needs:,} MiB beside the base, and {has:,} are free"
    if fitting:
        return f"{job.capability}: {what}; set weights.rows_per_device to {fitting} or leave it out"
    one = predict(a, dataclasses.replace(work, rows=1))
    if one.generating > one.activations + one.logits:
        return (
            f"{job.capability}: {what}; lower weights.grpo.prompts_per_step or generations: they are generated together"
        )
    fix = "shorten the skill or the prompts, lower decoding.max_new_tokens"
    quantise = "" if work.packed else ", set model.quantization"
    return f"{job.capability}: not even one row fits: {what}; {fix}{quantise}, or use a smaller model"
