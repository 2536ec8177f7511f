"""Training an arm's adapter: the job from the configuration, all ranks in it together, checkpoints selected on `search`.

Does not: know how a trainer works (see `hybrid.weights`), or decide whether an adapter ships.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.backends.base import Adapter
from hybrid.capability.graders.abstain import unknown_row
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.config.schema import Config, ModelConfig, WeightsConfig
from hybrid.errors import AdapterError, TrainingError
from hybrid.evidence.ledger import Cost
from hybrid.evidence.stated import Reader, brier_loss, told
from hybrid.evidence.stats import mean_interval
from hybrid.evidence.types import Measurement
from hybrid.pipeline import workers
from hybrid.pipeline.fork import training_folder
from hybrid.pipeline.known import Rows
from hybrid.pipeline.lessons import Lessons
from hybrid.pipeline.lineage import read_lineage
from hybrid.pipeline.proxy_identity import same_model_there
from hybrid.pipeline.session import Session
from hybrid.weights.base import Method, TrainJob, TrainResult
from hybrid.weights.fork import prepare
from hybrid.weights.monitors import Alarm, unshared_reward
from hybrid.weights.results import read_result
from hybrid.weights.schedule import Stages, plain, structured_first

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


@dataclass(frozen=True)
class Climbed:
    """A training that ended at a rung: the name of its folder, and what it gave."""

    name: str
    result: TrainResult


def make_job(loaded: LoadedConfig, capability: Capability, run_folder: Path, order: dict[str, Any]) -> TrainJob:
    """The training job that an order names. The same order gives every rank the same job."""
    config = loaded.config
    settings = next(c for c in config.capabilities if c.name == capability.name)
    weights = config.weights_of(capability.name)
    method: Method = order.get("method", weights.job_method)
    variants = capability.splits.get("variant", ())
    examples = (*capability.splits["train"], *(variants[i] for i in order.get("variants", ())))
    if "abstained" in order and settings.abstain is not None:
        unknown = set(order["abstained"])
        answer = settings.abstain.answer
        examples = tuple(unknown_row(e, answer) if i in unknown else e for i, e in enumerate(examples))
    if "lessons" in order:
        examples = tuple(examples[row].model_copy(update={"gold": text}) for row, text in order["lessons"])
    if "rung" in order:
        weights = first_steps(weights, order["rung"])
    return TrainJob(
        capability=capability.name,
        examples=examples,
        skill=order["skill"],
        stages=tuple(tuple(stage) for stage in order["stages"]),
        grader=capability.grader,
        model=order_model(config, order),
        weights=_weights_by(weights, method),
        max_new_tokens=settings.decoding.max_new_tokens,
        seed=config.seed,
        out=run_folder / "checkpoints" / f"{capability.name}-{order['arm']}",
        method=method,
        teacher=order.get("teacher", ""),
    )


def order_model(config: Config, order: dict[str, Any]) -> ModelConfig:
    """The model that an order trains: the base, or the small model of proxy-tuning."""
    return config.small or config.model if order.get("small") else config.model


def first_steps(weights: WeightsConfig, steps: int) -> WeightsConfig:
    """The same training, ended after `steps` optimiser steps, with a checkpoint there."""
    grpo = weights.grpo.model_copy(update={"steps": steps})
    return weights.model_copy(update={"grpo": grpo, "checkpoint_every": min(weights.checkpoint_every, steps)})


def _weights_by(weights: WeightsConfig, method: Method) -> WeightsConfig:
    """The same settings for another method than the configured one, which may have no warm start."""
    if method == weights.job_method:
        return weights if method == weights.method else weights.model_copy(update={"method": method})
    return weights.model_copy(update={"method": method, "warm_start": None})


def how(session: Session, job: TrainJob, order: dict[str, Any]) -> dict[str, Any]:
    """The part of an order that says how this attempt at a run trains, and which training it goes on from: that of a lower
    rung of the same run, where evidence was bought, else that of the run that this one was forked from."""
    rung = order.get("after")
    fork = session.folder.path / rung if rung else training_folder(session.parent, _inside(session, job))
    gone_back = None if session.lineage is None else session.lineage.capabilities.get(job.capability)
    if gone_back is not None and not rung and (gone_back.changed or session.before(job.capability) is not None):
        fork = None  # other rows, or another task: what was trained for the old ones is not gone on from
    if fork is not None and not rung and _promoted_there(session, job):
        fork = (
            None  # a promotion distilled there, whatever the configuration said: that is no beginning of this training
        )
    small = session.steering.get("small") if order.get("small") else None
    if session.parent is not None and not rung and not same_model_there(session.parent, job.capability, small):
        fork = None
    return {"strict": session.strict, "fork": None if fork is None else str(fork)}


def _promoted_there(session: Session, job: TrainJob) -> bool:
    """Whether the run that this one was forked from distilled this capability because a review said so, and this one does not."""
    if session.parent is None or job.method == "distill":
        return False
    lineage = read_lineage(Path(session.parent["folder"]))
    before = None if lineage is None else lineage.before(job.capability)
    return before is not None and before.action == "promote"


def _inside(session: Session, job: TrainJob) -> Path:
    return job.out.relative_to(session.folder.path)


def under(job: TrainJob, order: dict[str, Any]) -> TrainJob:
    """The job as its order says that it is trained."""
    return replace(job, strict=order["strict"], fork=Path(order["fork"]) if order["fork"] else None)


def run_job(loaded: LoadedConfig, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
    """Train on this rank. Returns at once when the job's result is already on disk."""
    from hybrid.backends.loading import load_base
    from hybrid.weights.build import build_trainer

    def load() -> LoadedModel:
        return load_base(job.model, loaded.resolve, cache)

    return build_trainer(job.method).train(job, load, on_progress)


def train_adapter(
    session: Session,
    capability: Capability,
    skill: str,
    arm: str,
    lessons: Lessons | None = None,
    rows: Rows | None = None,
    *,
    rung: int | None = None,
    after: Climbed | None = None,
) -> TrainResult:
    """Train on all ranks, with the cost in the ledger. Raises BudgetExhausted before starting when nothing is left.

    `lessons` are what a distillation teaches; `rows` says what is left out, relabelled or added. `arm` names the training
    and its folder. `rung` ends the training after so many steps; `after` is a lower rung of the same training, from whose
    last checkpoint this one goes on, and whose cost is not entered again. Raises TrainingError when no row is left.
    """
    order: dict[str, Any] = {"kind": "train", "capability": capability.name, "arm": arm, "skill": skill}
    if rung is not None:
        order["rung"] = rung
    if after is not None:
        order["after"] = f"checkpoints/{capability.name}-{after.name}"
    stages = _stages(session, capability, skill)
    if rows is not None:
        stages = _changed(stages, rows, len(capability.splits["train"]))
        order |= {
            key: list(value) for key, value in (("abstained", rows.abstained), ("variants", rows.variants)) if value
        }
    method = session.method(capability.name)
    if method == "proxy":
        order |= {"small": True, "method": session.loaded.config.weights.proxy.train}
    elif method != session.loaded.config.weights.method:
        order["method"] = method
    if lessons is not None:
        stages = lessons.staged(stages)
        order |= {"teacher": lessons.document, "lessons": [list(pair) for pair in lessons.answers]}
    if not stages:
        raise TrainingError("no training row is left: what is taught and what is left out are the same rows")
    order["stages"] = [list(stage) for stage in stages]
    return train_order(
        session,
        order,
        make_job(session.loaded, capability, session.folder.path, order),
        capability.name,
        arm,
        paid=None if after is None else after.result,
    )


def train_order(
    session: Session, order: dict[str, Any], job: TrainJob, owner: str, arm: str, paid: TrainResult | None = None
) -> TrainResult:
    """Train the job of an order on all ranks, with its cost in the ledger under `owner` and its alarms on the report.

    `paid` is the training that it goes on from, which is in the ledger already. Raises BudgetExhausted before starting when
    nothing is left.
    """
    order = order | how(session, job, order)
    job = under(job, order)
    prepare(job, workers.world_size())
    if read_result(job) is None:  # a finished training costs nothing more, so a spent budget does not bar the replay
        session.ledger.check(0.0, training=True)
    workers.broadcast(order)
    if job.method == "svf" and job.trainer == "sft":
        session.warn(
            f"{owner}: {arm}: singular values are trained by sft: experts this small are reported to fail under it and to "
            "work under grpo (weights.svf.train)"
        )
    window = job.weights.monitors.window
    if job.reinforces and job.steps < 2 * window and "rung" not in order:
        session.warn(
            f"{owner}: {arm}: training was not monitored: {job.steps} steps are fewer than two windows of "
            f"{window} (weights.monitors.window)"
        )

    def on_progress(step: int, steps: int, metrics: dict[str, float]) -> None:
        data = {"capability": owner, "stage": arm, "done": step, "total": steps, "unit": "steps", **metrics}
        session.on_event("progress", data)

    with workers.together():
        result = run_job(session.loaded, job, cache_folder(session.folder.path), on_progress)
    session.ledger.pay_training(owner, f"train-{arm}", _cost(result, paid))
    for remark in result.remarks if paid is None else ():
        session.warn(f"{owner}: {arm}: training: {remark}")
    if job.reinforces and job.weights.rewards.brier_weight > 0 and not _states(result):
        session.warn(
            f"{owner}: {arm}: no completion of the training stated a confidence that could be read, so the Brier "
            "reward paid nothing (weights.rewards.confidence_pattern, confidence_scale)"
        )
    for alarm in result.alarms:
        tell(session, owner, arm, alarm)
    _tell_memory(session, f"{owner}: {arm}", job, result)
    return result


def _cost(result: TrainResult, paid: TrainResult | None) -> Cost:
    """What a training cost beyond what was paid for the one that it goes on from."""
    whole = Cost(result.completions, result.tokens_in, result.tokens_out, 0.0, result.seconds)
    if paid is None:
        return whole
    return Cost(
        max(0, whole.calls - paid.completions),
        max(0, whole.tokens_in - paid.tokens_in),
        max(0, whole.tokens_out - paid.tokens_out),
        0.0,
        max(0.0, whole.train_seconds - paid.seconds),
    )


def _states(result: TrainResult) -> bool:
    """Whether any completion stated a confidence; without steps nothing is known against it."""
    paid = [line["brier"] for line in result.history if "brier" in line]
    return not paid or max(paid) > 0.0


def _tell_memory(session: Session, head: str, job: TrainJob, result: TrainResult) -> None:
    """Warn of passes that were made smaller than the step, of less than was predicted to be needed, and of a wrong prediction."""
    found = result.memory
    if found is None:
        return
    share = job.rows_per_step // workers.world_size()
    if job.weights.rows_per_device is None and found.rows_per_device < share:
        session.warn(
            f"{head}: a whole step of {share} rows did not fit, so passes of {found.rows_per_device} were trained; "
            "weights.rows_per_device sets them"
        )
    if found.surprise:
        session.warn(f"{head}: {found.surprise}")


def tell(session: Session, capability: str, arm: str, alarm: Alarm) -> None:
    """Put an alarm on the report as a warning, and among the run's events once however often the run is resumed."""
    session.warn(f"{capability}: {arm}: alarm {alarm.monitor} ({alarm.action}): {alarm.message}")
    data = {"capability": capability, "arm": arm, **alarm.as_json()}
    if session.folder.events.last("training.alarm", **data) is None:
        session.folder.events.append("training.alarm", **data)


def cache_folder(run_folder: Path) -> Path:
    """Where converted base weights are kept: beside the run folders, so that runs share them."""
    return run_folder.parent / ".cache"


def _stages(session: Session, capability: Capability, skill: str) -> tuple[tuple[int, ...], ...]:
    examples = capability.splits["train"]
    schedule = session.loaded.config.weights.schedule
    if schedule.stages == "none":
        return plain(len(examples))
    return structured_first(_answer_spread(session, capability, skill), schedule.count)


def _changed(stages: Stages, rows: Rows, train: int) -> Stages:
    """Stages without the dropped rows; added variants come last, behind the `train` rows and in the last stage."""
    dropped = set(rows.dropped)
    kept = [tuple(i for i in stage if i not in dropped) for stage in stages]
    kept[-1] += tuple(range(train, train + len(rows.variants)))
    return tuple(stage for stage in kept if stage)


def _answer_spread(session: Session, capability: Capability, skill: str) -> list[float]:
    """How open each training row is: the share of different answers among the base's samples (0 is fully structured)."""
    config = session.loaded.config.probe
    candidate = session.candidate(capability, skill)
    sampled = candidate.sampling.model_copy(update={"temperature": config.temperature, "top_p": 1.0})
    measured = session.meter.measure(
        type(candidate)(candidate.model_fingerprint, skill, None, sampled),
        capability,
        "train",
        capability.splits["train"],
        samples=config.samples,
        stage="schedule",
    )
    return [(len({r.text for r in row}) - 1) / max(len(row) - 1, 1) for row in measured.rollouts]


Judged = tuple[int, Adapter, Measurement]
"""A checkpoint: its step, the candidate made of it, and that on `search`."""


def select_checkpoint(
    session: Session, capability: Capability, arm: str, result: TrainResult, skill: str, start: Measurement
) -> Judged | None:
    """The checkpoint with the best `search` score, the earliest of equals; None when none beats where it started.

    Training reward never chooses: it can rise while what is wanted falls. Where it does, an alarm says so, and with
    `rollback` the checkpoints from there on are not chosen.
    """
    best = best_of(session, judged_checkpoints(session, capability, arm, result, skill, start))
    return best if best is not None and beats(session, best[2], start) else None


def best_of(session: Session, found: Sequence[Judged]) -> Judged | None:
    """The first of those with the best `search` score; None among none."""
    worth = search_score(session.loaded.config)
    return max(found, key=lambda checkpoint: worth(checkpoint[2]), default=None)


def beats(session: Session, measured: Measurement, start: Measurement) -> bool:
    """Whether a candidate is better on `search` than where it started, by more than the margin."""
    worth = search_score(session.loaded.config)
    return worth(measured) > worth(start) + session.loaded.config.gate.search.margin


def judged_checkpoints(
    session: Session, capability: Capability, arm: str, result: TrainResult, skill: str, start: Measurement
) -> list[Judged]:
    """Every checkpoint on `search`, in step order, without those that the backend refuses and those that were taken back."""
    found: list[Judged] = []
    for step, adapter in result.checkpoints:
        candidate = session.candidate(capability, skill, adapter)
        examples = capability.splits["search"]
        try:
            measured = session.meter.measure(candidate, capability, "search", examples, stage="select")
        except AdapterError as error:
            session.warn(f"{capability.name}: the checkpoint of step {step} was refused: {error}")
            continue
        found.append((step, adapter, measured))
    monitors = session.loaded.config.weights.monitors
    worth = search_score(session.loaded.config)
    scores = [(step, worth(measured)) for step, _, measured in found]
    alarm = unshared_reward(monitors, result.history, scores, worth(start))
    if alarm is not None:
        tell(session, capability.name, arm, alarm)
        if alarm.action == "rollback":
            found = [checkpoint for checkpoint in found if checkpoint[0] < alarm.onset]
    return found


def search_score(config: Config) -> Callable[[Measurement], float]:
    """What checkpoints are compared by: the mean score; with `gate.ship.calibration`, its mean with 1 - the Brier loss.

    With equal weights, as in the reward, answering wrong on purpose never raises it.
    """
    reader = Reader.of(config.weights.rewards) if config.gate.ship.calibration is not None else None
    if reader is None:
        return lambda measured: measured.mean

    def joint(measured: Measurement) -> float:
        kept = [1.0 - brier_loss(pair) for pair in told(measured, reader)]
        return (measured.mean + sum(kept) / max(len(kept), 1)) / 2.0

    return joint


def search_values(config: Config) -> Callable[[Measurement], list[float]]:
    """`search_score` example by example, for paired comparisons; NaN where an answer was not judged."""
    reader = Reader.of(config.weights.rewards) if config.gate.ship.calibration is not None else None
    if reader is None:
        return lambda measured: measured.values
    return lambda measured: [
        (value + 1.0 - brier_loss(pair)) / 2.0
        for value, pair in zip(measured.values, told(measured, reader), strict=True)
    ]


def summary(result: TrainResult, chosen: Judged | None, start: Measurement) -> str:
    """One line for the display."""
    if chosen is None:
        return f"no checkpoint beats {start.mean:.2f} on search; {result.note}".rstrip("; ")
    interval = mean_interval(chosen[2].values, 0.95, 0)
    return (
        f"step {chosen[0]}: {start.mean:.2f} -> {interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}] on search"
    )
