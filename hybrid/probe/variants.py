"""Variant gap: how much the base loses on out-of-distribution twins (same structure, one element changed).

variant gap = base score on `search` - base score on `variant`, as a difference of independent means with a normal
interval. A gap before any training is a property of the task, not of an improver; it is what later transfer ratios are
compared with. Cost: one completion per variant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.evidence.intervals import judged
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent


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
        )
    }
