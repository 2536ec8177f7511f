"""Paired tests, corrections and estimators: numpy only, seeded, independent of the order of the data.

    sign_test([1, 1, 1, 0, -1])      # 0.3125, one-sided, exact

Intervals live in `intervals` and are offered here too. Does not: decide anything (`gate`) or plan sizes (`power`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from hybrid.evidence.intervals import Delta, FloatArray, judged, mean_interval, paired_interval, wilson

__all__ = [
    "Delta",
    "group_signal_rate",
    "holm",
    "mean_interval",
    "paired_interval",
    "paired_test",
    "pass_at_k",
    "sign_flip_test",
    "sign_test",
    "spearman",
    "wilson",
]

FLIPS = 9_999
_ENUMERATED = 12
_CELLS = 1_000_000


def sign_test(differences: Sequence[float]) -> float:
    """One-sided exact p of "the median difference is above 0": P(Binomial(m, 1/2) >= wins), m pairs that differ.

    For yes-or-no scores this is the exact McNemar test (McNemar 1947, Psychometrika 12:153). No pair differs: p = 1.
    """
    wins = sum(1 for d in differences if d > 0)
    return sign_tail(wins, wins + sum(1 for d in differences if d < 0))


@lru_cache(maxsize=65_536)
def sign_tail(wins: int, discordant: int) -> float:
    """P(Binomial(discordant, 1/2) >= wins), exact in integers before the last division."""
    term, total = math.comb(discordant, wins), 0
    for k in range(wins, discordant + 1):
        total += term
        term = term * (discordant - k) // (k + 1)
    return float(total / 2**discordant)


def sign_flip_test(differences: Sequence[float], seed: int = 0, *, groups: Sequence[Hashable] | None = None) -> float:
    """One-sided p of "the mean difference is above 0" for graded differences, by flipping the signs of pairs.

    Valid when swapping the arms within a pair changes nothing under the null (Fisher 1935, The Design of Experiments,
    section 21). All 2^m sign patterns where at most 12 pairs differ; otherwise 9,999 seeded ones with the
    (1 + b) / (1 + B) rule (Phipson and Smyth 2010), which never gives 0. `groups`: whole clusters flip together.
    """
    data = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError("differences must be finite")
    totals = np.sort(data) if groups is None else np.sort(_sums(data, groups))
    moving = totals[np.abs(totals) > 1e-12]
    if len(moving) == 0:
        return 1.0
    observed = math.fsum(moving) - 1e-9 * float(np.abs(moving).sum())
    if len(moving) <= _ENUMERATED:
        bits = (np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving))) & 1
        return float(np.mean((1.0 - 2.0 * bits) @ moving >= observed))
    rng = np.random.default_rng(seed)
    chunk, reached = max(1, _CELLS // len(moving)), 0
    for done in range(0, FLIPS, chunk):
        rows, width = min(chunk, FLIPS - done), -(-len(moving) // 8)
        coins = np.frombuffer(rng.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        kept = np.unpackbits(coins, axis=1, count=len(moving)).astype(np.float64)
        reached += int(np.count_nonzero(2.0 * (kept @ moving) - moving.sum() >= observed))
    return (1 + reached) / (1 + FLIPS)


def paired_test(differences: Sequence[float], seed: int = 0) -> float:
    """The exact sign test where all differing pairs differ by the same amount, the sign-flip test otherwise. NaN is left out."""
    differences, _ = judged(differences)
    sizes = [abs(d) for d in differences if d != 0]
    if not sizes or max(sizes) - min(sizes) <= 1e-12:
        return sign_test(differences)
    return sign_flip_test(differences, seed)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that control the family-wise error rate whatever the dependence (Holm 1979).

    Sorted ascending, adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). A claim holds at alpha when its
    adjusted p is at most alpha. Keys keep their order.
    """
    largest, adjusted = 0.0, {}
    for rank, name in enumerate(sorted(p, key=lambda k: (p[k], k))):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that at least one of k samples passes, from n samples of which c passed.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374). Raises ValueError unless 0 <= c <= n and 1 <= k <=
    n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {c} passes in {n} samples")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def group_signal_rate(counts: Sequence[tuple[int, int]], group: int) -> float | None:
    """Share of groups of `group` completions with both a pass and a failure: those from which GRPO learns anything.

    `counts` holds (samples, passes) of each example. Unbiased per example: 1 - (C(c, G) + C(n - c, G)) / C(n, G), the
    chance that a random subset of the samples is mixed; then the mean over examples. None when there is no example or
    one has fewer than `group` samples: not measurable at this size (a smaller `group` gives a lower bound).
    """
    if group < 1:
        raise ValueError("a group holds at least one completion")
    if any(not 0 <= c <= n for n, c in counts):
        raise ValueError("passes must lie between 0 and the number of samples")
    if not counts or min(n for n, _ in counts) < group:
        return None
    rates = [1.0 - (math.comb(c, group) + math.comb(n - c, group)) / math.comb(n, group) for n, c in counts]
    return math.fsum(rates) / len(rates)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation with average ranks for ties; None with fewer than 3 pairs or where either side is constant."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    if len(x) < 3:
        return None
    a, b = average_ranks(x), average_ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return max(-1.0, min(1.0, float((a * b).sum()) / scale)) if scale > 0 else None


def average_ranks(values: Sequence[float]) -> FloatArray:
    """Ranks from 1, ties sharing the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2.0)[inverse]
    return ranks


def _sums(data: FloatArray, groups: Sequence[Hashable]) -> FloatArray:
    if len(groups) != len(data):
        raise ValueError(f"{len(groups)} group names for {len(data)} values")
    sums: dict[Hashable, list[float]] = {}
    for name, value in zip(groups, data.tolist(), strict=True):
        sums.setdefault(name, []).append(value)
    return np.array([math.fsum(v) for v in sums.values()], dtype=np.float64)
