"""Confidence intervals for means of scores and of paired differences, honest at small n.

Every interval is finite, inside its range ([0, 1] for scores, [-1, 1] for differences), the same for the same seed, and
independent of the order of the data. Array suffixes: g groups (clusters), b bootstrap resamples.

    mean_interval([1, 0, 1, 1])              # a Wilson interval
    paired_interval([1, 0, -1, 0.5], 0.9)    # (mean, low, high)

Does not: test hypotheses (`stats`) or decide anything (`gate`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hybrid.evidence.types import Interval

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 2000
_CELLS = 1_000_000
_FAR = 1e18
_MOVING = 8
"""Fewest clusters off the commonest value from which the bootstrap is believed: with fewer, unseen values decide."""


class Delta(NamedTuple):
    """A mean paired difference with its two-sided interval."""

    mean: float
    low: float
    high: float


def normal_quantile(level: float) -> float:
    """The z of a two-sided interval at `level`, which must lie strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return NormalDist().inv_cdf((1.0 + level) / 2.0)


def wilson(passes: float, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209).

    `passes` may be fractional: among all scores in [0, 1] with a given mean, yes-or-no scores vary most, so the
    interval is conservative for graded scores. With n = 0 nothing is known: mean 0, interval [0, 1].
    """
    if not 0 <= passes <= n:
        raise ValueError(f"passes must lie in [0, n], not {passes} of {n}")
    z = normal_quantile(level)
    if n == 0:
        return Interval(mean=0.0, low=0.0, high=1.0, n=0, level=level)
    mean = passes / n
    shrink = 1.0 + z * z / n
    centre = (mean + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(mean * (1.0 - mean) / n + z * z / (4.0 * n * n))
    low = 0.0 if passes == 0 else min(mean, max(0.0, centre - half))
    high = 1.0 if passes == n else max(mean, min(1.0, centre + half))
    return Interval(mean=mean, low=low, high=high, n=n, level=level)


def judged(
    values: Sequence[float], groups: Sequence[Hashable] | None = None
) -> tuple[Sequence[float], Sequence[Hashable] | None]:
    """Values, and their groups, without NaN, which stands for an answer that a judge gave no verdict on."""
    if not any(math.isnan(v) for v in values):
        return values, groups
    kept = [i for i, v in enumerate(values) if not math.isnan(v)]
    return [values[i] for i in kept], None if groups is None else [groups[i] for i in kept]


def mean_interval(
    values: Sequence[float],
    level: float = 0.95,
    seed: int = 0,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of the mean of scores in [0, 1].

    Yes-or-no scores: Wilson. Graded scores: the studentised bootstrap (Efron and Tibshirani 1993, ch. 12.5) cut to the
    Wilson interval of the same mean, which is the answer where the bootstrap has none (constant or nearly constant
    data, and fewer than 8 values off the commonest one). `groups` names each value's cluster (say, the parent of a
    variant): whole clusters are resampled, and `n` of the result counts clusters. NaN is an answer that was not judged: it
    is left out. Raises ValueError for scores outside [0, 1].
    """
    values, groups = judged(values, groups)
    data = np.asarray(values, dtype=np.float64)
    if data.size and not (np.isfinite(data).all() and data.min() >= 0.0 and data.max() <= 1.0):
        raise ValueError("scores must be finite and lie in [0, 1]")
    totals, sizes = _clusters(data, groups)
    count = len(totals)
    if count == 0:
        return wilson(0, 0, level)
    mean = min(1.0, max(0.0, math.fsum(totals) / math.fsum(sizes)))
    outer = wilson(min(float(count), mean * count), count, level)
    if count == len(data) and np.isin(data, (0.0, 1.0)).all():
        return outer
    low, high = _studentized(totals, sizes, level, seed, resamples)
    return Interval(
        mean=mean, low=min(mean, max(low, outer.low)), high=max(mean, min(high, outer.high)), n=count, level=level
    )


def paired_interval(
    differences: Sequence[float],
    level: float = 0.95,
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Delta:
    """Interval of the mean of paired differences in [-1, 1] (challenger minus incumbent).

    Differences in {-1, 0, 1}: the score interval for matched pairs (Tango 1998, Statistics in Medicine 17:891), which
    inverts the same statistic as McNemar's test. Graded differences: the studentised bootstrap, cut to the score
    interval with fractional counts (the widest that differences with these positive and negative parts can need),
    which is also the answer where fewer than 8 differences leave the commonest value. `groups` as in `mean_interval`.
    Swapping the arms negates the interval exactly. No data: mean 0, interval [-1, 1]. NaN is a pair of which one side was
    not judged: it is left out. Raises ValueError for differences outside [-1, 1].
    """
    differences, groups = judged(differences, groups)
    if groups is None and differences and set(differences) <= {-1.0, 0.0, 1.0}:
        n, gains, losses = len(differences), float(differences.count(1.0)), float(differences.count(-1.0))
        return Delta((gains - losses) / n, -_tango_high(losses, gains, n, level), _tango_high(gains, losses, n, level))
    data = np.asarray(differences, dtype=np.float64)
    if data.size and not (np.isfinite(data).all() and np.abs(data).max() <= 1.0 + 1e-9):
        raise ValueError("differences must be finite and lie in [-1, 1]")
    totals, sizes = _clusters(data, groups)
    count = len(totals)
    if count == 0:
        return Delta(0.0, -1.0, 1.0)
    if sorted(data.tolist()) < sorted((-data).tolist()):
        # The bootstrap's random stream must not depend on which arm is called the challenger.
        mirrored = paired_interval([-d for d in differences], level, groups=groups, seed=seed, resamples=resamples)
        return Delta(-mirrored.mean, -mirrored.high, -mirrored.low)
    mean = math.fsum(totals) / math.fsum(sizes)
    scale = count / math.fsum(sizes)
    gains = math.fsum(np.maximum(data, 0.0)) * scale
    losses = math.fsum(np.maximum(-data, 0.0)) * scale
    outer = (-_tango_high(losses, gains, count, level), _tango_high(gains, losses, count, level))
    low, high = _studentized(totals, sizes, level, seed, resamples)
    return Delta(mean, min(mean, max(low, outer[0])), max(mean, min(high, outer[1])))


def _clusters(data: FloatArray, groups: Sequence[Hashable] | None) -> tuple[FloatArray, FloatArray]:
    """Sum and size of every cluster, in an order that depends on the data alone."""
    if groups is None:
        return np.sort(data), np.ones(len(data))
    if len(groups) != len(data):
        raise ValueError(f"{len(groups)} group names for {len(data)} values")
    members: dict[Hashable, list[float]] = {}
    for name, value in zip(groups, data.tolist(), strict=True):
        members.setdefault(name, []).append(value)
    pairs = sorted((math.fsum(v), len(v)) for v in members.values())
    return np.array([t for t, _ in pairs], dtype=np.float64), np.array([s for _, s in pairs], dtype=np.float64)


@lru_cache(maxsize=65_536)
def _tango_high(gains: float, losses: float, n: int, level: float) -> float:
    """Upper end of Tango's interval, by bisection on the score statistic, which falls as the difference grows."""
    z = normal_quantile(level)
    below, above = (gains - losses) / n, 1.0
    for _ in range(60):
        delta = (below + above) / 2.0
        linear = -gains - losses + (2.0 * n - gains + losses) * delta
        constant = -losses * delta * (1.0 - delta)
        share_lost = (math.sqrt(max(0.0, linear * linear - 8.0 * n * constant)) - linear) / (4.0 * n)
        variance = n * (2.0 * share_lost + delta * (1.0 - delta))
        if gains - losses - n * delta > -z * math.sqrt(max(variance, 1e-300)):
            below = delta
        else:
            above = delta
    return above


def _studentized(totals: FloatArray, sizes: FloatArray, level: float, seed: int, resamples: int) -> tuple[float, float]:
    """Bootstrap-t limits of sum(totals) / sum(sizes); farther than any bound where the data cannot tell."""
    count = len(totals)
    mean = math.fsum(totals) / math.fsum(sizes)
    residual_g = totals - mean * sizes
    spread = float((residual_g**2).sum())
    commonest = int(np.unique(np.round(residual_g, 12), return_counts=True)[1].max())
    if count - commonest < _MOVING or spread <= 1e-18 * count:
        return -_FAR, _FAR
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // count)
    parts = [
        _t_statistics(residual_g, sizes, rng.integers(0, count, (min(chunk, resamples - done), count)), spread)
        for done in range(0, resamples, chunk)
    ]
    t_low, t_high = np.quantile(np.concatenate(parts), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    error = math.sqrt(spread * count / (count - 1)) / float(sizes.sum())
    return mean - float(t_high) * error, mean - float(t_low) * error


def _t_statistics(
    residual_g: FloatArray, sizes: FloatArray, index_bg: npt.NDArray[np.int64], spread: float
) -> FloatArray:
    """(resampled mean - mean) / its own standard error, for every resample; far away where that error is zero."""
    count = len(residual_g)
    drawn_bg, size_bg = residual_g[index_bg], sizes[index_bg]
    weight_b = size_bg.sum(axis=1)
    shift_b = drawn_bg.sum(axis=1) / weight_b
    spread_b = ((drawn_bg - shift_b[:, None] * size_bg) ** 2).sum(axis=1)
    flat_b = spread_b <= 1e-12 * spread
    error_b = np.sqrt(np.where(flat_b, 1.0, spread_b) * count / (count - 1)) / weight_b
    far_b = np.where(np.abs(shift_b) * weight_b <= 1e-9 * math.sqrt(spread), 0.0, np.sign(shift_b) * _FAR)
    return np.where(flat_b, far_b, shift_b / error_b)
