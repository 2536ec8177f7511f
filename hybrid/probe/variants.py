"""Variant gap: how much the base loses on out-of-distribution twins (same structure, one element changed).

variant gap = base score on `search` - base score on `variant`, as a difference of independent means with a normal
interval. A gap before any training is a property of the task, not of an improver; it is what later transfer ratios are
compared with. Where variants lost one element (`hybrid.capability.variants`), `variant_active` and
`variant_inactive` are the scores of those whose answer changed with it and of those whose answer did not: a model that reads and
cannot solve fails the active ones alone. Cost: one completion per variant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.capability.types import Example
from hybrid.capability.variants import marks_of
from hybrid.evidence.intervals import judged, mean_interval
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval


def _variance_of_mean(values: Sequence[float]) -> float:
    n = len(values)
    mean = sum(values) / n
    smoothed = (sum((v - mean) ** 2 for v in values) + 0.5) / (n + 1)  # half an observation of spread: never exactly 0
    return smoothed / n


def probe_variants(context: ProbeContext, base: Measurement) -> dict[str, ProbeResult]:
    """`variant_gap` of the base model."""
    examples = context.capability.splits.get("variant", ())[: context.config.variants]
    if not examples or not base.rollouts:
        return {"variant_gap": absent("no variants")}
    varied = context.measure(split="variant", examples=examples)
    gap = base.mean - varied.mean
    half = 1.96 * math.sqrt(_variance_of_mean(judged(base.values)[0]) + _variance_of_mean(judged(varied.values)[0]))
    return {
        "variant_gap": ProbeResult(
            value=gap,
            low=max(-1.0, gap - half),
            high=min(1.0, gap + half),
            n=len(judged(varied.values)[0]),
            note="base on `search` minus base on `variant`",
            details={"variant_score": varied.mean},
        ),
        **_by_removal(examples, varied),
    }


def _by_removal(examples: Sequence[Example], varied: Measurement) -> dict[str, ProbeResult]:
    """The score of active and of inactive removals; empty where no variant says that it lost an element."""
    found: dict[str, ProbeResult] = {}
    for mark in ("active", "inactive"):
        values = [v for e, v in zip(examples, varied.values, strict=True) if marks_of(e) == mark and not math.isnan(v)]
        if values:
            note = f"base on variants without one element, {mark} removals"
            found[f"variant_{mark}"] = from_interval(mean_interval(values), note)
    return found
