"""Base score and valid-format rate: what the model does now, greedily, without any text.

base = mean score over examples; format = share of completions that the grader could read. Cost: one completion each.
"""

from __future__ import annotations

from hybrid.evidence.stats import mean_interval, wilson
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval


def probe_score(context: ProbeContext) -> tuple[dict[str, ProbeResult], Measurement]:
    """`base` and `format`, and the measurement that later probes pair with."""
    measured = context.measure()
    rows = [row[0] for row in measured.rollouts]
    if not rows:
        return {"base": absent("no examples in `search`"), "format": absent("no examples in `search`")}, measured
    readable = [r.facets["format"] >= 1.0 for r in rows if "format" in r.facets]
    shape = (
        from_interval(wilson(sum(readable), len(readable), 0.95), "share of completions that the grader could read")
        if readable
        else absent("the grader reports no format")
    )
    base = from_interval(mean_interval(measured.values, 0.95, context.seed), "greedy, no text, on `search`")
    return {"base": base, "format": shape}, measured
