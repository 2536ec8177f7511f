"""From shared trainings to the report's `schedule`. Does not: measure, decide or draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.evidence.intervals import judged
from hybrid.evidence.stats import Delta, mean_interval
from hybrid.evidence.types import Interval, Measurement
from hybrid.pipeline.shared import Point, Shared
from hybrid.report import schema as r
from hybrid.weights.task_order import overall, predicted


def schedule_of(shared: Sequence[Shared]) -> r.Schedule | None:
    """The report's part; None where every adapter is its own."""
    if not shared:
        return None
    first, *others = [_schedule(s) for s in shared]
    return first.model_copy(update={"others": tuple(others)})


def _schedule(s: Shared) -> r.Schedule:
    chosen, pairs = s.chosen, s.chosen.pairs
    forecast = predicted(pairs.own, pairs.after, chosen.order) if pairs else {}
    sizes = {name: len(judged(m.values)[0]) for name, m in s.points[0].scores.items()}
    n = sum(sizes.values())
    joint = s.joint.scores if s.joint else None
    v = s.verdict
    return r.Schedule(
        order=chosen.order,
        backward_transfer={
            i: {j: r.Effect(delta=d.mean, low=d.low, high=d.high, n=sizes[i]) for j, d in row.items()}
            for i, row in (pairs.matrix if pairs else {}).items()
        },
        predicted=_of_delta(overall(list(forecast.values())), n) if forecast else None,
        actual=_mean(s.ordered_end, n),
        arm=s.arm,
        by=chosen.by,
        why=chosen.why,
        steps=s.steps,
        pair_steps=pairs.steps if pairs else None,
        replay=chosen.replay,
        points=tuple(_point(p) for p in s.points),
        joint=_point(s.joint) if s.joint else None,
        tasks={
            name: r.TaskForecast(
                predicted=_of_delta(forecast[name], sizes[name]) if name in forecast else None,
                actual=_score(s.ordered_end, name),
                joint=_score(joint, name),
            )
            for name in chosen.order
        },
        helped=r.Delta(mean=v.delta, low=v.low, high=v.high, p=v.p, n=v.n, improved=v.improved, regressed=v.regressed)
        if v
        else None,
        chosen=s.kept,
        reason=s.reason,
    )


def _point(p: Point) -> r.OrderPoint:
    return r.OrderPoint(
        after=p.after,
        step=p.step,
        entropy={name: _of_interval(i) for name, i in p.entropy.items()},
        accuracy={name: _of_interval(mean_interval(m.values)) for name, m in p.scores.items()},
    )


def _of_interval(i: Interval) -> r.Estimate:
    return r.Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)


def _of_delta(d: Delta, n: int) -> r.Estimate:
    return r.Estimate(mean=d.mean, low=d.low, high=d.high, n=n)


def _score(scores: Mapping[str, Measurement] | None, name: str) -> r.Estimate | None:
    return _of_interval(mean_interval(scores[name].values)) if scores else None


def _mean(scores: Mapping[str, Measurement] | None, n: int) -> r.Estimate | None:
    if not scores:
        return None
    parts = [mean_interval(m.values) for m in scores.values()]
    return _of_delta(overall([Delta(i.mean, i.low, i.high) for i in parts]), n)
