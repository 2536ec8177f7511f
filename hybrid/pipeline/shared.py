"""One adapter for several capabilities: choose an order, train in it and, beside it, mixed; the better one goes on.

Both trainings take the same steps, a task as many as a training of its own. Which one is kept is judged by the lenient rule
of the search gate on `search`, every task counting the same; whether it ships is asked of the ship gate per capability, as
for every other arm. A capability for which the kept adapter does not beat its start on `search` builds no arm.

Does not: open `confirm` or `test`, or build text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hybrid.backends.base import Adapter
from hybrid.errors import AdapterError, ConfigError, Problem, TrainingError
from hybrid.evidence.gate import paired_differences
from hybrid.evidence.gate import verdict as verdict_of
from hybrid.evidence.intervals import judged
from hybrid.evidence.stats import paired_interval, paired_test
from hybrid.evidence.strata import stratified
from hybrid.evidence.types import Interval, Measurement, Verdict
from hybrid.pipeline.arms import Built
from hybrid.pipeline.improve import Improved, Improver
from hybrid.pipeline.session import Session
from hybrid.pipeline.shared_job import SHARED
from hybrid.pipeline.shared_matrix import Member, Pairs, entropies, on_search, train_pairs, train_shared
from hybrid.pipeline.training import search_values, tell
from hybrid.router.place import ArmName
from hybrid.store.faults import faultpoint
from hybrid.weights.base import Task, TrainResult
from hybrid.weights.monitors import unshared_reward
from hybrid.weights.schedule import Stages
from hybrid.weights.task_order import MOST_TASKS, asymmetric, best_order, checkpoint_every, in_order, mixed

Kind = Literal["ordered", "joint"]
By = Literal["structured", "transfer", "given"]


@dataclass(frozen=True)
class Asked:
    """What one capability wants trained, once its text is done: (arm, text that the adapter reads)."""

    improver: Improver
    into: Improved
    arms: Sequence[tuple[ArmName, str]]


@dataclass(frozen=True)
class Chosen:
    """An order of tasks by name, by what it was chosen, and why in a sentence. `replay` is a share of rows."""

    order: tuple[str, ...]
    by: By
    why: str
    replay: float
    pairs: Pairs | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One adapter of a shared training with every task's measurement on `search`, and what it is compared by per example."""

    step: int
    adapter: Adapter
    scores: Mapping[str, Measurement]
    values: Mapping[str, Sequence[float]]

    @property
    def mean(self) -> float:
        """Mean over tasks, each counting the same."""
        return _mean([_mean(values) for values in self.values.values()])


@dataclass(frozen=True)
class Training:
    """A finished shared training. `checkpoints` are in step order, `best` is the one selected, the earliest of equals."""

    result: TrainResult
    checkpoints: tuple[Checkpoint, ...]
    best: Checkpoint


@dataclass(frozen=True)
class Point:
    """Entropies and `search` measurements of every task at one point of a training (`after` None: before it)."""

    after: str | None
    step: int
    entropy: Mapping[str, Interval]
    scores: Mapping[str, Measurement]


@dataclass(frozen=True)
class Shared:
    """One shared training as the report tells it."""

    arm: str
    steps: int
    chosen: Chosen
    points: tuple[Point, ...]
    joint: Point | None
    ordered_end: Mapping[str, Measurement] | None
    verdict: Verdict | None
    """Ordered against mixed; None where either left no adapter."""
    kept: Kind | None
    reason: str


def share(session: Session, asked: Sequence[Asked]) -> tuple[Shared, ...]:
    """Train the adapters that capabilities want together: the first of each in one training, then the second of each.

    A capability that is alone in wanting one has it trained by itself.
    """
    found = []
    for number in range(max((len(a.arms) for a in asked), default=0)):
        wanting = [a for a in asked if number < len(a.arms)]
        if len(wanting) == 1:
            (a,) = wanting
            arm, skill = a.arms[number]
            a.improver.weight_arm(a.into, arm, skill, a.improver.search(skill))
        else:
            _require_rows(wanting)
            members = [
                Member(a.improver, a.into, *a.arms[number], a.improver.search(a.arms[number][1])) for a in wanting
            ]
            found.append(_together(session, members, f"{number}-"))
        faultpoint("stage.improve")
    return tuple(found)


def _require_rows(wanting: Sequence[Asked]) -> None:
    empty = [c.name for c in (a.improver.capability for a in wanting) if not c.splits["train"]]
    if empty:
        problem = Problem("config", 0, "capabilities", f"{empty[0]} has no training rows", "add a train split")
        raise ConfigError([problem])


def _together(session: Session, members: Sequence[Member], prefix: str) -> Shared:
    steps = session.loaded.config.weights.steps
    with session.stage(SHARED, f"{prefix}order") as note:
        before = Point(None, 0, entropies(session, members, None), {m.name: m.start for m in members})
        chosen = choose(session, members, before, prefix)
        note["summary"] = f"{', '.join(chosen.order)}: {chosen.why}"
    # Rows lie in the order of tasks, so that the same order of the same tasks is the same job however it was found.
    by_name = {member.name: member for member in members}
    sorted_members = [by_name[name] for name in chosen.order]
    tasks = _tasks(sorted_members)
    each = [steps] * len(members)
    ordered = _train(session, f"{prefix}ordered", sorted_members, in_order(tasks, chosen.replay), each)
    joint = _train(session, f"{prefix}joint", sorted_members, mixed(tasks), [sum(each)])
    found = compare(ordered, joint, session.loaded.config.gate.search.margin)
    kept: Kind | None
    if found is not None:
        kept, reason = ("ordered" if found.decision == "accept" else "joint"), found.reason
    else:
        kept = "ordered" if ordered else "joint" if joint else None
        reason = "the other one left no adapter" if kept else "neither training left an adapter"
    _build(session, sorted_members, ordered if kept == "ordered" else joint, f"{kept or 'no'} training kept: {reason}")
    with session.stage(SHARED, f"{prefix}points"):
        ends = [_point(session, members, *end) for end in _stage_ends(chosen.order, steps, ordered)]
        last = _point(session, members, chosen.order[-1], joint.checkpoints[-1]) if joint else None
    return Shared(
        arm=" and ".join(sorted({m.arm for m in members})),
        steps=sum(each),
        chosen=chosen,
        points=(before, *ends),
        joint=last,
        ordered_end=ordered.checkpoints[-1].scores if ordered else None,
        verdict=found,
        kept=kept,
        reason=reason,
    )


def choose(session: Session, members: Sequence[Member], before: Point, prefix: str) -> Chosen:
    """The order of tasks, with what was measured for it. Tasks of equal entropy keep the order of the configuration."""
    schedule = session.loaded.config.weights.schedule
    names = [member.name for member in members]
    structured = tuple(sorted(names, key=lambda name: (before.entropy[name].mean, names.index(name))))
    if not isinstance(schedule.order, str):
        return Chosen(tuple(n for n in schedule.order if n in names), "given", "as configured", schedule.replay)
    fallback = Chosen(
        structured, "structured", "structured first: ascending answer entropy of the base", schedule.replay
    )
    if schedule.order == "structured":
        return fallback
    if len(names) > MOST_TASKS:
        session.warn(
            f"weights.schedule.order: {len(names)} tasks have too many pairs to measure; structured first instead"
        )
        return fallback
    steps = schedule.pair_steps or session.loaded.config.weights.steps
    try:
        pairs = train_pairs(session, members, steps, prefix)
    except (TrainingError, AdapterError) as error:
        session.warn(f"weights.schedule.order: backward transfer was not measured, structured first instead: {error}")
        return fallback
    matrix = pairs.matrix
    pair = asymmetric(matrix)
    if pair is None:
        why = "structured first: no pair's backward transfer differs by direction beyond two standard errors"
        return Chosen(structured, "structured", why, schedule.replay, pairs)
    first, then = pair
    there, back = matrix[first][then].mean, matrix[then][first].mean
    why = f"by backward transfer: {first} bears {then} after it ({there:+.3f}), {then} bears {first} less ({back:+.3f})"
    return Chosen(best_order(matrix, structured), "transfer", why, 0.0, pairs)


def _mean(values: Sequence[float]) -> float:
    """The mean of what was judged; 0 where nothing was."""
    known, _ = judged(values)
    return sum(known) / len(known) if known else 0.0


def _tasks(members: Sequence[Member]) -> tuple[Task, ...]:
    tasks: list[Task] = []
    for member in members:
        first = tasks[-1].first + tasks[-1].rows if tasks else 0
        tasks.append(Task(member.name, member.skill, first, len(member.capability.splits["train"])))
    return tuple(tasks)


def _train(
    session: Session, name: str, members: Sequence[Member], stages: Stages, steps: Sequence[int]
) -> Training | None:
    """Train, and measure every checkpoint for every task; None where nothing came of it, with a warning."""
    with session.stage(SHARED, name) as note:
        weights = session.loaded.config.weights
        try:  # as many checkpoints to choose from whether the steps are one stage or several
            every = checkpoint_every(weights.steps, weights.checkpoint_every)
            result = train_shared(session, name, members, stages, steps, every=every)
        except TrainingError as error:
            note["summary"] = f"stopped: {error}"
            session.warn(f"{SHARED}: {name}: training stopped: {error}")
            return None
        for warning in result.warnings:
            session.warn(f"{SHARED}: {name}: {warning}")
        checkpoints: list[Checkpoint] = []
        worth = search_values(session.loaded.config)
        for step, adapter in result.checkpoints:
            try:
                scores = {member.name: on_search(session, member, adapter) for member in members}
            except AdapterError as error:
                session.warn(f"{SHARED}: {name}: the checkpoint of step {step} was refused: {error}")
                continue
            checkpoints.append(Checkpoint(step, adapter, scores, {name: worth(m) for name, m in scores.items()}))
        if len(stages) == 1:
            checkpoints = _rewarded(session, name, members, result, checkpoints)
        if not checkpoints:
            note["summary"] = f"no checkpoint; {result.note}".rstrip("; ")
            return None
        best = max(checkpoints, key=lambda c: c.mean)  # the first of equals
        note["summary"] = f"step {best.step}: " + ", ".join(f"{n} {m.mean:.2f}" for n, m in best.scores.items())
        return Training(result, tuple(checkpoints), best)


def _rewarded(
    session: Session, name: str, members: Sequence[Member], result: TrainResult, found: list[Checkpoint]
) -> list[Checkpoint]:
    """The checkpoints before an alarm that the reward rises and no score does. Not asked of an ordered training, whose
    reward is that of another task in every stage."""
    monitors = session.loaded.config.weights.monitors
    worth = search_values(session.loaded.config)
    start = _mean([_mean(worth(member.start)) for member in members])
    alarm = unshared_reward(monitors, result.history, [(c.step, c.mean) for c in found], start)
    if alarm is None:
        return found
    tell(session, SHARED, name, alarm)
    return [c for c in found if c.step < alarm.onset] if alarm.action == "rollback" else found


def compare(ordered: Training | None, joint: Training | None, margin: float) -> Verdict | None:
    """The ordered training against the mixed one by the search gate's rule: better by more than `margin` on average.

    Paired by example, every task counting the same; the interval is stratified by task, p pools all examples. Both only
    describe. None where either is missing.
    """
    if ordered is None or joint is None:
        return None
    parts = [
        paired_differences(joint.best.values[name], ordered.best.values[name]) for name in sorted(ordered.best.scores)
    ]
    delta, pooled = (
        stratified([paired_interval(part) for part in parts]),
        judged([d for part in parts for d in part])[0],
    )
    ahead = delta.mean > margin
    reason = (
        f"ordered (step {ordered.best.step}) against mixed (step {joint.best.step}) {delta.mean:+.3f} on search, "
        f"{'above' if ahead else 'not above'} the margin {margin:g}"
    )
    return verdict_of("accept" if ahead else "reject", reason, pooled, delta, paired_test(pooled), {})


def _build(session: Session, members: Sequence[Member], kept: Training | None, why: str) -> None:
    """Give every member the kept adapter as its arm where it beats the member's start on `search`."""
    margin = session.loaded.config.gate.search.margin
    names, worth = ", ".join(member.name for member in members), search_values(session.loaded.config)
    for member in members:
        into, arm = member.into, member.arm
        into.notes.append(f"{arm}: one adapter for {names}; {why}")
        if kept is None:
            continue
        into.trainings[arm] = kept.result
        into.notes += [f"{arm}: alarm {a.monitor} ({a.action}): {a.message}" for a in kept.result.alarms]
        score, start = _mean(kept.best.values[member.name]), _mean(worth(member.start))
        if score <= start + margin:
            text = f"{arm}: the shared adapter does not beat {start:.2f} on search ({score:.2f})"
            into.notes.append(f"{text}; {kept.result.note}".rstrip("; "))
            continue
        into.selected_steps[arm] = kept.best.step
        into.built[arm] = Built(skill=member.skill, adapter=kept.best.adapter)


def _stage_ends(order: Sequence[str], steps: int, ordered: Training | None) -> list[tuple[str, Checkpoint]]:
    """(task, checkpoint) at the end of every stage that the training reached."""
    by_step = {c.step: c for c in ordered.checkpoints} if ordered else {}
    ends = [(name, (k + 1) * steps) for k, name in enumerate(order)]
    return [(name, by_step[step]) for name, step in ends if step in by_step]


def _point(session: Session, members: Sequence[Member], after: str, checkpoint: Checkpoint) -> Point:
    return Point(after, checkpoint.step, entropies(session, members, checkpoint.adapter), checkpoint.scores)
