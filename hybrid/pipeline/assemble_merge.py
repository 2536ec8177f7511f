"""The report's account of a merge of adapters. Does not: measure or decide (see `merge`)."""

from __future__ import annotations

from hybrid.evidence.stats import mean_interval
from hybrid.evidence.types import Measurement, Verdict
from hybrid.pipeline.merge import Merge, Settled
from hybrid.report.parts import Effect, Estimate
from hybrid.report.parts_merge import MergeMember, Merger, MergeTried


def merger_of(settled: Settled | None, seed: int) -> Merger | None:
    """What was tried, what each capability says, and the decision; None where nothing was offered."""
    if settled is None:
        return None
    offered = settled.offered

    def estimate(measured: Measurement) -> Estimate:
        i = mean_interval(measured.values, 0.95, seed)
        return Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)

    def tried(merge: Merge) -> MergeTried:
        search = {name: estimate(m) for name, m in merge.search.items()}
        return MergeTried(scale=merge.scale, rank=merge.rank, search=search)

    return Merger(
        tried=tuple(tried(merge) for merge in offered.tried),
        chosen=offered.best.scale,
        members={
            name: MergeMember(
                own=estimate(offered.own[name]),
                against_base=_effect(case.against_base),
                against_own=_effect(case.against_own),
                placed=case.placed,
                refused=case.refused,
            )
            for name, case in settled.cases.items()
        },
        merged=settled.decision.merged,
        why=settled.decision.why,
    )


def _effect(v: Verdict) -> Effect:
    return Effect(delta=v.delta, low=v.low, high=v.high, n=v.n)
