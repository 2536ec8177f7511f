"""A calibration in words: the figures of the placed arm with their intervals, and the base's beside them.

Does not: draw (see `markdown`).
"""

from __future__ import annotations

from hybrid.report.schema import Calibration, Estimate
from hybrid.report.text import num

HEAD = ("calibration on the sealed test", "placed", "base")
ABSENT = "not measurable"


def headline(c: Calibration) -> str:
    """One line of figures."""
    silent = f"; {c.unstated} more state no confidence" if c.unstated else ""
    return f"Calibration (n={c.n}{silent}): Brier {num(c.brier)}, ECE {num(c.ece)}, AUROC {num(c.auroc)}."


def figure_rows(c: Calibration) -> list[tuple[str, str, str]]:
    """(figure, placed arm, base) under `HEAD`; empty where there are no intervals."""
    names = (("brier", "Brier (lower is better)"), ("ece", "ECE (lower is better)"), ("auroc", "AUROC"))
    return [(label, _shown(c.intervals.get(key)), _shown(c.base.get(key))) for key, label in names if c.intervals]


def _shown(e: Estimate | None) -> str:
    return ABSENT if e is None else f"{num(e.mean)} [{num(e.low)}, {num(e.high)}], n={e.n}"
