"""The textual learning rate: how many edits a step may make.

Source: SkillOpt (arXiv 2605.23904), with t = step / total, steps counted from 0, L+ the maximum and L- the minimum:
linear = round(L+ + (L- - L+) t); cosine = round(L- + (L+ - L-) (1 + cos(pi t)) / 2); constant = L+.
Halves round to the even neighbour, as Python's `round` does. Does not: choose edits.
"""

from __future__ import annotations

import math

from hybrid.config.schema import EditBudgetConfig


def edit_budget(step: int, total: int, config: EditBudgetConfig) -> int | None:
    """Edits allowed at `step` (0 to `total` - 1) of `total`; None where the proposer chooses. Raises ValueError for a step
    outside."""
    if not 0 <= step < total:
        raise ValueError(f"step {step} is not one of {total}")
    if config.schedule == "autonomous":
        return None
    high, low, t = config.maximum, config.minimum, step / total
    if config.schedule == "linear":
        return round(high + (low - high) * t)
    if config.schedule == "cosine":
        return round(low + (high - low) * (1 + math.cos(math.pi * t)) / 2)
    return high
