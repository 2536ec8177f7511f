"""Where the variance of scores lies: between prompts, or between samples of one prompt.

One-way analysis of variance over k samples of each prompt: the between-prompt share is the intraclass correlation
ICC(1) = (MSB - MSW) / (MSB + (k - 1) MSW) (Shrout and Fleiss 1979), cut at 0. Near 1 the model has some prompts and
lacks others: groups of samples agree, and a gradient finds nothing in them. Near 0 every prompt is luck, which is
what sampling can sharpen (compare p1, arXiv 2604.08801).
Control: samples drawn without regard to the prompt have an expected ICC of 0, and the cut estimate does not fall
below it.
Interval: percentile bootstrap over prompts, seeded. Cost: none beyond the samples of the sampling probe. Not
measurable where every sample has the same score: there is no variance to divide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.evidence.intervals import FloatArray
from hybrid.probe.base import ProbeResult, absent

_RESAMPLES = 1000


def variance_probe(scores: Sequence[Sequence[float]], seed: int) -> ProbeResult:
    """`between_share` from the scores of k samples per prompt, the same k >= 2 for all."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        return absent("fewer than two prompts with samples")
    value = _icc(table[None])[0]
    if np.isnan(value):
        return absent(f"all {table.size} samples have the same score: there is no variance to divide")
    rng = np.random.default_rng(seed)
    ordered = table[np.lexsort(table.T)]  # the interval must not depend on the order of the prompts
    drawn = _icc(ordered[rng.integers(0, len(table), (_RESAMPLES, len(table)))])
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    means = table.mean(axis=1)
    return ProbeResult(
        value=float(value),
        low=float(min(low, value)),
        high=float(max(high, value)),
        n=len(table),
        note="share of the variance of scores that lies between prompts",
        details={"between": float(means.var()), "within": float(table.var(axis=1).mean())},
    )


def _icc(tables: FloatArray) -> FloatArray:
    """ICC(1) of every table (b, prompts, samples), cut to [0, 1]; NaN without variance."""
    _, n, k = tables.shape
    means = tables.mean(axis=2)
    between = k * ((means - means.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / (n - 1)
    within = ((tables - means[:, :, None]) ** 2).sum(axis=(1, 2)) / (n * (k - 1))
    whole = between + (k - 1) * within
    result: FloatArray = np.where(
        whole > 1e-12, np.clip((between - within) / np.where(whole > 1e-12, whole, 1.0), 0, 1), np.nan
    )
    return result
