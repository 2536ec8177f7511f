"""Measured before tasks share an adapter: how open their answers are, and what training on one does to another.

Everything goes through the meter and the trainings' records, so that a resumed run pays for nothing twice.
Does not: choose an order (see `shared`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.backends.base import Adapter
from hybrid.capability.types import Capability
from hybrid.evidence.stats import Delta, mean_interval
from hybrid.evidence.types import Interval, Measurement
from hybrid.pipeline.improve import Improved, Improver
from hybrid.pipeline.session import Session
from hybrid.pipeline.shared_job import SHARED, make_shared_job, shared_order
from hybrid.pipeline.training import train_order
from hybrid.router.place import ArmName
from hybrid.store.faults import faultpoint
from hybrid.weights.base import TrainResult
from hybrid.weights.schedule import Stages, plain
from hybrid.weights.task_order import backward_transfer


@dataclass(frozen=True)
class Member:
    """One task of a shared training: whose it is, the text that its prompts begin with, and what it has to beat."""

    improver: Improver
    into: Improved
    arm: ArmName
    skill: str
    start: Measurement

    @property
    def name(self) -> str:
        """The capability's name."""
        return self.improver.capability.name

    @property
    def capability(self) -> Capability:
        """The capability."""
        return self.improver.capability


@dataclass(frozen=True)
class Pairs:
    """Scores per example of `search`: `own[i]` after training on i, `after[i, j]` of i after training on i, then on j."""

    steps: int
    own: dict[str, list[float]] = field(default_factory=dict)
    after: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    @property
    def matrix(self) -> dict[str, dict[str, Delta]]:
        """Backward transfer with intervals."""
        return backward_transfer(self.own, self.after)


def answer_entropy(session: Session, member: Member, adapter: Adapter | None) -> Interval:
    """Mean entropy (nats) of the answers to training rows, each estimated from `probe.samples` samples at
    `probe.temperature`. Counts as they are: at most the logarithm of the number of samples, and below the truth."""
    config, capability = session.loaded.config, member.capability
    base = session.candidate(capability, member.skill, adapter)
    sampling = base.sampling.model_copy(update={"temperature": config.probe.temperature, "top_p": 1.0})
    candidate = type(base)(base.model_fingerprint, base.skill, base.adapter, sampling)
    rows = capability.splits["train"][: config.weights.schedule.entropy_rows]
    count = config.probe.samples
    measured = session.meter.measure(candidate, capability, "train", rows, samples=count, stage="order")
    most = math.log(count)
    shares = [min(1.0, _entropy([r.text for r in row]) / most) for row in measured.rollouts]
    found = mean_interval(shares, 0.95, config.seed)
    return found.model_copy(update={key: getattr(found, key) * most for key in ("mean", "low", "high")})


def _entropy(texts: Sequence[str]) -> float:
    total = len(texts)
    return -math.fsum(n / total * math.log(n / total) for n in Counter(texts).values()) + 0.0


def on_search(session: Session, member: Member, adapter: Adapter | None) -> Measurement:
    """A task's `search` examples under its text and an adapter. Raises AdapterError for one that cannot be used."""
    candidate = session.candidate(member.capability, member.skill, adapter)
    return session.meter.measure(
        candidate, member.capability, "search", member.capability.splits["search"], stage="select"
    )


def train_shared(
    session: Session,
    name: str,
    members: Sequence[Member],
    stages: Stages,
    steps: Sequence[int],
    *,
    every: int | None = None,
    start: Adapter | None = None,
) -> TrainResult:
    """Train one adapter on all ranks. Raises TrainingError and BudgetExhausted as `train_order` does."""
    by_name = {member.name: member.capability for member in members}
    order = shared_order(
        name,
        [(member.capability, member.skill) for member in members],
        stages,
        steps,
        every=every or session.loaded.config.weights.checkpoint_every,
        phase=session.loaded.config.weights.phase,
        run_folder=session.folder.path,
        start=start,
    )
    job = make_shared_job(session.loaded, by_name, session.folder.path, order)
    result = train_order(session, order, job, SHARED, name)
    faultpoint("stage.shared-training")
    return result


def train_pairs(session: Session, members: Sequence[Member], steps: int, prefix: str) -> Pairs:
    """Train every task by itself, and from there every other one, `steps` each: T + T(T-1) trainings of T tasks.

    Where a training leaves no adapter, because no gradient flowed, what it began with stands for it. Raises TrainingError.
    """
    found = Pairs(steps)
    alone = {m.name: _short(session, m, f"{prefix}{m.name}", steps, None) for m in members}
    for first in members:
        began = alone[first.name]
        found.own[first.name] = on_search(session, first, began).values
        for then in members:
            if then is first:
                continue
            name = f"{prefix}{first.name}+{then.name}"
            # Without a first adapter, the second training begins at the base, and that one is done already.
            ended = _short(session, then, name, steps, began) if began is not None else alone[then.name]
            found.after[first.name, then.name] = on_search(session, first, ended).values
    return found


def _short(session: Session, member: Member, name: str, steps: int, start: Adapter | None) -> Adapter | None:
    """The last adapter of a training on one task; `start` where no gradient flowed."""
    rows = len(member.capability.splits["train"])
    result = train_shared(session, name, [member], plain(rows), [steps], every=steps, start=start)
    return result.checkpoints[-1][1] if result.checkpoints else start


def entropies(session: Session, members: Sequence[Member], adapter: Adapter | None) -> Mapping[str, Interval]:
    """Every task's answer entropy under one adapter."""
    return {member.name: answer_entropy(session, member, adapter) for member in members}
