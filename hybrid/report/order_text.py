"""Task order drawn as sentences and tables of plain text, for every form of the report. Whoever prints them escapes them.

Does not: decide, or know Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hybrid.report.order_parts import OrderPoint, Schedule, TaskForecast
from hybrid.report.parts import Estimate
from hybrid.report.text import ABSENT, delta_line, interval, num, signed

_BY = {
    "structured": "by ascending answer entropy",
    "transfer": "by backward transfer",
    "given": "as configured",
    None: "",
}


@dataclass(frozen=True)
class Table:
    """A table of plain text; the first cell of a row names it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def trainings(schedule: Schedule | None) -> tuple[Schedule, ...]:
    """All shared trainings of a run, the first one first; none where every adapter is its own."""
    return (schedule, *schedule.others) if schedule is not None else ()


def sentences(s: Schedule) -> Iterator[str]:
    """The order, why it, what it was predicted to give and gave, and whether it helped."""
    kind = ", ".join(part for part in (f"the arm {s.arm}" if s.arm else "", _BY[s.by]) if part)
    yield f"Training order{f' ({kind})' if kind else ''}: {' → '.join(s.order)}."
    if s.why:
        yield f"{_begun(s.why)}."
    if s.steps:
        replay = f", {s.replay:.0%} of a stage's rows from earlier tasks" if s.replay else ""
        yield f"Ordered and mixed training took {s.steps} steps each{replay}."
    yield f"Mean score at the end of the ordered training: predicted {_shown(s.predicted)}, actual {_shown(s.actual)}."
    if s.helped is not None:
        yield f"Ordered minus mixed, each at its selected checkpoint: {delta_line(s.helped)}, n={s.helped.n}."
    if s.chosen:
        yield f"Kept: the {'mixed' if s.chosen == 'joint' else 'ordered'} training. {_begun(s.reason)}."


def tables(s: Schedule) -> Iterator[Table]:
    """The matrix, the points of the ordered training, and each task's scores; none for what was not measured."""

    def place(task: tuple[str, TaskForecast]) -> tuple[int, str]:
        return (s.order.index(task[0]) if task[0] in s.order else len(s.order), task[0])

    matrix = tuple(
        (first, then, f"{signed(e.delta)} {interval(e, sign=True)}", str(e.n))
        for first, row in sorted(s.backward_transfer.items())
        for then, e in sorted(row.items())
    )
    if matrix:
        steps = f" ({s.pair_steps} steps each)" if s.pair_steps else ""
        title = f"Backward transfer: what training on another task afterwards does to a task{steps}"
        yield Table(title, ("task", "then training on", "delta", "n"), matrix)
    if s.points:
        head = ("task", *(_point(p) for p in s.points), *(("mixed, at its end",) if s.joint else ()))
        points = [*s.points, *([s.joint] if s.joint else [])]
        yield Table("Answer entropy in nats", head, _over(s.order, [p.entropy for p in points]))
        yield Table("Score on search", head, _over(s.order, [p.accuracy for p in points]))
    if s.tasks:
        rows = tuple(
            (name, _shown(t.predicted), _shown(t.actual), _shown(t.joint))
            for name, t in sorted(s.tasks.items(), key=place)
        )
        yield Table("Predicted and actual", ("task", "predicted", "ordered, at its end", "mixed, at its end"), rows)


def explained(schedule: Schedule | None, name: str) -> list[str]:
    """What a capability's explanation says of the order; nothing where its adapter is its own."""
    return [line for s in trainings(schedule) if name in s.order for line in sentences(s)]


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def _point(p: OrderPoint) -> str:
    return f"after {p.after} (step {p.step})" if p.after is not None else "before"


def _over(order: tuple[str, ...], points: list[Mapping[str, Estimate]]) -> tuple[tuple[str, ...], ...]:
    return tuple((name, *(_shown(p.get(name)) for p in points)) for name in order)


def _shown(estimate: Estimate | None) -> str:
    return f"{num(estimate.mean)} {interval(estimate)} n={estimate.n}" if estimate else ABSENT
