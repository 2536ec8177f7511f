"""How well stated confidences match what is right: Brier score, calibration error and AUROC, with n and interval.

    brier([(0.9, True), (0.2, False)])        # Interval(mean=0.025, ..., n=2)

Each takes (confidence in [0, 1], correct) pairs and gives None where the data cannot say. Does not: read confidences
out of completions, or accept anything: a better calibration bought by answering worse is no gain (compare accuracy
first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from hybrid.evidence.intervals import RESAMPLES, FloatArray, mean_interval, normal_quantile, wilson
from hybrid.evidence.stats import average_ranks
from hybrid.evidence.types import Interval

BINS = 10
Pairs = Sequence[tuple[float, bool]]
_CELLS = 1_000_000


def brier(pairs: Pairs, level: float = 0.95, seed: int = 0) -> Interval | None:
    """Mean of (confidence - correct)^2 (Brier 1950); lower is better. None without data."""
    confidence, correct = _split(pairs)
    return mean_interval(((confidence - correct) ** 2).tolist(), level, seed) if len(confidence) else None


def ece(pairs: Pairs, level: float = 0.95, seed: int = 0) -> Interval | None:
    """Expected calibration error over 10 equal bins: sum over bins of (n_b / n) |mean confidence - accuracy|.

    Guo et al. 2017 (arXiv 1706.04599). Bootstrap with bias-corrected percentiles (Efron 1987), because the plug-in
    value is biased upwards, the more so the fewer examples a bin holds. Where every answer is right or every one
    wrong the bootstrap sees no variation: the interval then allows for the accuracy's Wilson interval. None below 10
    examples.
    """
    confidence, correct = _split(pairs)
    n = len(confidence)
    if n < BINS:
        return None
    order = np.lexsort((correct, confidence))
    gaps = (confidence - correct)[order]
    bins = np.minimum((confidence[order] * BINS).astype(np.int64), BINS - 1)
    value = float(_bin_error(gaps[None, :], bins[None, :])[0])
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS // n)
    draws = [rng.integers(0, n, (min(chunk, RESAMPLES - done), n)) for done in range(0, RESAMPLES, chunk)]
    low, high = _bias_corrected(np.concatenate([_bin_error(gaps[d], bins[d]) for d in draws]), value, level)
    if correct.min() == correct.max():
        accuracy = wilson(float(correct.sum()), n, level)
        low, high = min(low, value - (accuracy.high - accuracy.low)), max(high, value + (accuracy.high - accuracy.low))
    return Interval(mean=value, low=max(0.0, min(low, value)), high=min(1.0, max(high, value)), n=n, level=level)


def auroc(pairs: Pairs, level: float = 0.95) -> Interval | None:
    """Chance that a right answer carries more confidence than a wrong one, ties counting half (Mann-Whitney).

    Score interval of Newcombe 2006 (Statistics in Medicine 25:559, method 5), which stays honest at 0 and 1, where a
    bootstrap has no width; conservative with many ties. None unless there are both right and wrong answers.
    """
    confidence, correct = _split(pairs)
    right, wrong = int(correct.sum()), int(len(correct) - correct.sum())
    if right == 0 or wrong == 0:
        return None
    rank_sum = float(average_ranks(confidence.tolist())[correct == 1.0].sum())
    value = min(1.0, max(0.0, (rank_sum - right * (right + 1) / 2.0) / (right * wrong)))
    high = _auroc_high(value, right, wrong, level)
    low = 1.0 - _auroc_high(1.0 - value, wrong, right, level)
    return Interval(mean=value, low=low, high=high, n=right + wrong, level=level)


def _split(pairs: Pairs) -> tuple[FloatArray, FloatArray]:
    confidence = np.array([c for c, _ in pairs], dtype=np.float64)
    if len(confidence) and not (np.isfinite(confidence).all() and confidence.min() >= 0.0 and confidence.max() <= 1.0):
        raise ValueError("confidences must be finite and lie in [0, 1]")
    return confidence, np.array([float(bool(a)) for _, a in pairs], dtype=np.float64)


def _bin_error(gaps: FloatArray, bins: npt.NDArray[np.int64]) -> FloatArray:
    """The error of every row: the sum of absolute gap sums per bin, over n."""
    rows, n = gaps.shape
    place = bins + BINS * np.arange(rows)[:, None]
    sums = np.bincount(place.ravel(), weights=gaps.ravel(), minlength=rows * BINS).reshape(rows, BINS)
    result: FloatArray = np.abs(sums).sum(axis=1) / n
    return result


def _bias_corrected(resampled: FloatArray, value: float, level: float) -> tuple[float, float]:
    below = float(np.mean(resampled < value) + np.mean(resampled == value) / 2.0)
    normal, z = NormalDist(), normal_quantile(level)
    shift = 2.0 * normal.inv_cdf(min(max(below, 1.0 / (len(resampled) + 1)), len(resampled) / (len(resampled) + 1)))
    low, high = np.quantile(resampled, [normal.cdf(shift - z), normal.cdf(shift + z)])
    return float(low), float(high)


def _auroc_high(value: float, right: int, wrong: int, level: float) -> float:
    """Upper end by bisection: the largest area whose own standard error still reaches down to `value`."""
    z, inner = normal_quantile(level), (right + wrong) / 2.0 - 1.0
    below, above = value, 1.0
    for _ in range(60):
        area = (below + above) / 2.0
        spread = 1.0 + inner * ((1.0 - area) / (2.0 - area) + area / (1.0 + area))
        error = math.sqrt(area * (1.0 - area) * spread / (right * wrong))
        below, above = (area, above) if area - value <= z * error else (below, area)
    return above
