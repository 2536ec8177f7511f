"""How much a paired comparison of n examples can show: exact power of the one-sided sign test, before anything is paid.

The convention: a candidate with true gain `effect` turns a share `effect + noise` of the examples from wrong to right
and a share `noise` from right to wrong; the rest stay. Noise defaults to 0.05 each way. The power is a binomial
mixture over the number of pairs that differ, each with the exact critical value of the sign test, so it is what
`gate.ship_gate` achieves on yes-or-no scores when its interval and slices do not object.

    power(200, 0.10, 0.05)                       # 0.93
    minimum_detectable_effect(100, 0.05, 0.8)    # 0.121
    examples_needed(0.05, 0.05, 0.8)             # 398

Does not: cover graded scores (which have at least about this power when sizes and signs agree) or clusters.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from hybrid.evidence.intervals import FloatArray

NOISE = 0.05
LARGEST_EXACT = 1_000_000
_TAIL_SD = 9.0


def power(n: int, effect: float, alpha: float, noise: float = NOISE) -> float:
    """Chance that n pairs give p <= alpha. Raises ValueError unless 0 <= effect and effect + 2 noise <= 1."""
    _check(effect, alpha, noise)
    discordant = effect + 2.0 * noise
    if n < 1 or discordant == 0.0:
        return 0.0
    spread = _TAIL_SD * math.sqrt(n * discordant * (1.0 - discordant)) + 10.0
    first, last = max(0, math.floor(n * discordant - spread)), min(n, math.ceil(n * discordant + spread))
    conditional = _conditional_power(_ceiling(last), (effect + noise) / discordant, alpha)
    weights = _binomial(n, discordant, first, last)
    return min(1.0, float(weights @ conditional[first : last + 1]))


def minimum_detectable_effect(n: int, alpha: float, target: float, noise: float = NOISE) -> float | None:
    """Smallest effect that n pairs detect with power `target`, to 0.0001; None when not even the largest would be."""
    largest = 1.0 - 2.0 * noise
    if power(n, largest, alpha, noise) < target:
        return None
    below, above = 0.0, float(largest)
    while above - below > 1e-4:
        middle = (below + above) / 2.0
        below, above = (below, middle) if power(n, middle, alpha, noise) >= target else (middle, above)
    return above


def examples_needed(effect: float, alpha: float, target: float, noise: float = NOISE) -> int:
    """Smallest n whose power for `effect` reaches `target`.

    Power climbs with a fine sawtooth in n; the first n of its final climb within 32 is meant. Above a million
    examples the normal approximation (Connor 1987, Biometrics 43:207) stands in. Raises ValueError for an effect of
    0.
    """
    _check(effect, alpha, noise)
    if effect <= 0.0:
        raise ValueError("no number of examples shows an effect of 0")
    above = min(LARGEST_EXACT, _approximate(effect, alpha, target, noise))
    while above < LARGEST_EXACT and power(above, effect, alpha, noise) < target:
        above = min(LARGEST_EXACT, 2 * above)
    if power(above, effect, alpha, noise) < target:
        return max(LARGEST_EXACT, _approximate(effect, alpha, target, noise))
    below = 0
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if power(middle, effect, alpha, noise) >= target else (middle, above)
    return next(n for n in range(max(1, above - 32), above + 1) if power(n, effect, alpha, noise) >= target)


def _check(effect: float, alpha: float, noise: float) -> None:
    if not (effect >= 0.0 and noise >= 0.0 and effect + 2.0 * noise <= 1.0 + 1e-12):
        raise ValueError(f"effect {effect} and noise {noise} each way do not fit into the shares of one whole")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")


def _approximate(effect: float, alpha: float, target: float, noise: float) -> int:
    discordant, z = effect + 2.0 * noise, NormalDist().inv_cdf
    root = z(1.0 - alpha) * math.sqrt(discordant) + z(target) * math.sqrt(max(0.0, discordant - effect**2))
    return max(1, math.ceil((root / effect) ** 2))


def _ceiling(m: int) -> int:
    """Next power of two, so that neighbouring questions share one table."""
    return 1 << max(4, m.bit_length())


@lru_cache(maxsize=32)
def _conditional_power(largest: int, win: float, alpha: float) -> FloatArray:
    """P(sign test of m discordant pairs has p <= alpha) for m = 0..largest, each pair won with chance `win`.

    One pass: with tail(m, k) = P(Binomial(m, q) >= k), tail(m + 1, k) = tail(m, k) + q pmf(m, k - 1), and the critical
    value k grows by 0 or 1 when m does.
    """
    result = np.zeros(largest + 1)
    k, null, true = 1, 0.0, 0.0
    for m in range(1, largest + 1):
        null += 0.5 * _pmf(m - 1, k - 1, 0.5)
        true += win * _pmf(m - 1, k - 1, win)
        if null > alpha * (1.0 + 1e-9):
            null -= _pmf(m, k, 0.5)
            true -= _pmf(m, k, win)
            k += 1
        result[m] = min(1.0, max(0.0, true))
    result.flags.writeable = False
    return result


def _pmf(m: int, k: int, q: float) -> float:
    if not 0 <= k <= m:
        return 0.0
    if q >= 1.0:
        return float(k == m)
    log = math.lgamma(m + 1) - math.lgamma(k + 1) - math.lgamma(m - k + 1) + k * math.log(q) + (m - k) * math.log1p(-q)
    return math.exp(log)


def _binomial(n: int, q: float, first: int, last: int) -> FloatArray:
    """Binomial weights of first..last."""
    if q >= 1.0:
        return np.array([float(m == n) for m in range(first, last + 1)])
    m = np.arange(first + 1, last + 1, dtype=np.float64)
    steps = np.log(n - m + 1.0) - np.log(m) + math.log(q) - math.log1p(-q)
    start = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    start += first * math.log(q) + (n - first) * math.log1p(-q)
    weights: FloatArray = np.exp(start + np.concatenate([[0.0], np.cumsum(steps)]))
    return weights
