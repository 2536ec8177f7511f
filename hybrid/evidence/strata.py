"""Means over strata that count the same whatever their sizes: tasks of a shared training, worlds of a benchmark.

    stratified([paired_interval(a), paired_interval(b)])

Does not: pool examples, or test anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.evidence.intervals import Delta


def stratified(parts: Sequence[Delta]) -> Delta:
    """The mean of independent strata's means, each with the same weight, and its interval at the level of theirs.

    The distances from the means to the limits are added in quadrature (MOVER: Zou and Donner 2008, Statistics in Medicine
    27:1693), so that what is honest at small n for a stratum stays so for their mean. Raises ValueError without strata.
    """
    if not parts:
        raise ValueError("no strata")
    count = len(parts)
    mean = math.fsum(p.mean for p in parts) / count
    below = math.sqrt(math.fsum((p.mean - p.low) ** 2 for p in parts)) / count
    above = math.sqrt(math.fsum((p.high - p.mean) ** 2 for p in parts)) / count
    return Delta(mean, mean - below, mean + above)
