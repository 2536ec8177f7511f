"""What shipped changes do to each other, and what a mixed adapter is made of, as plain cells and sentences.

Whoever prints them escapes them. Does not: measure, decide, or know Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.report.schema import CapabilityReport, Report
from hybrid.report.text import ABSENT, interval, num, placed_arm, signed

MATRIX = "What each change does to every capability"
READING = (
    "A row is a shipped change, a column a capability that is asked while it is active: its paired difference to the base with "
    "the interval, on search examples; on the diagonal the gain on its own sealed test. An interval below 0 is marked with !."
)


def matrix(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Every shipped change on every capability; None where no change was tried on another capability."""
    changes = [c for c in report.capabilities if placed_arm(c) != "base"]
    if not any(c.collateral for c in changes):
        return None
    names = [c.name for c in report.capabilities]
    return ("change", *names), [_row(c, names) for c in changes]


def _row(c: CapabilityReport, names: list[str]) -> tuple[str, ...]:
    cells = []
    for name in names:
        if name == c.name:
            cells.append(f"{signed(c.delta.mean)} {interval(c.delta, sign=True)}" if c.delta else ABSENT)
        elif name in c.collateral:
            touch = c.collateral[name]
            cells.append(f"{signed(touch.delta)} {interval(touch, sign=True)}{' !' if touch.high < 0 else ''}")
        else:
            cells.append(ABSENT)
    return (f"{c.name} ({c.placement})", *cells)


def composition(c: CapabilityReport) -> Iterator[str]:
    """Sentences about how the shipped adapter was mixed; none for one that was trained."""
    found = c.artifacts.composition
    if found is None:
        return
    parts = ", ".join(f"{signed(i.coefficient)} {i.name}" for i in found.ingredients if i.coefficient)
    yield (
        f"Mixed without gradients ({found.search}): {found.evaluations:,} mixtures of {len(found.ingredients)} experts, "
        f"{found.asked:,} answers asked for, {found.saved:,} spared by racing. Found: {parts or 'nothing but the base'}."
    )
    names = {"best expert": f"best expert ({found.best_expert})"}
    scores = ", ".join(
        f"{names.get(name, name)} {num(e.mean)} {interval(e)} n={e.n}" for name, e in found.fresh.items()
    )
    kept = "the mixture" if found.chosen == "mixture" else f"{found.best_expert} alone, which is as good"
    yield f"On examples that the search did not read: {scores}. Kept: {kept}."
    if found.error:
        yield f"Compressed to rank {found.rank}, which leaves out {num(found.error)} of the change's norm."
