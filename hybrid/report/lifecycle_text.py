"""Drawing what reaches beyond one run: the moves of a new base, and every capability's history; for all forms of the report.

Cells are plain text with model output made visible; each form escapes for itself. Does not: decide or measure.
"""

from __future__ import annotations

from hybrid.report.parts import Effect, Estimate
from hybrid.report.parts_lifecycle import HistoryEntry, Move, Moves
from hybrid.report.schema import CapabilityReport, Report
from hybrid.report.text import ABSENT, interval, line, num, signed

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Head and rows."""
_MOVED = ("capability", "was", "is", "base, old and new", "base changed", "shipped, old and new", "shipped changed")
_HISTORY = ("run", "action", "was", "is", "shipped changed", "why", "outcome")


def _effect(e: Effect | None) -> str:
    return ABSENT if e is None else f"{signed(e.delta)} {interval(e, sign=True)} n={e.n}"


def _pair(before: Estimate | None, after: Estimate | None) -> str:
    shown = [ABSENT if e is None else f"{num(e.mean)} {interval(e)}" for e in (before, after)]
    return " to ".join(shown)


def moves_head(moves: Moves) -> str:
    """One sentence: what was replaced, and how many capabilities moved."""
    moved = [m for m in moves.capabilities if m.was != m.now]
    return (
        f"Run {line(moves.replaced_from, 80)} on {line(moves.model.path, 120)}, {moves.model.parameters:,} parameters, was done "
        f"again on this base: {len(moved)} of {len(moves.capabilities)} capabilities moved. Changes are paired over the sealed "
        "test rows that are the same in both runs."
    )


def moves_table(moves: Moves) -> Table:
    """A row per capability, those that moved first."""
    ordered = sorted(moves.capabilities, key=lambda m: m.was == m.now)
    return _MOVED, [
        (
            line(m.name, 80),
            m.was,
            m.now if m.was == m.now else f"{m.now} (moved)",
            _pair(m.base_was, m.base_now),
            _effect(m.base_change),
            _pair(m.shipped_was, m.shipped_now),
            _effect(m.shipped_change),
        )
        for m in ordered
    ]


def move_sentences(move: Move) -> list[str]:
    """What happened to one capability, in words: the placement, its reason, its document."""
    verb = "stays at" if move.was == move.now else f"moves from {move.was} to"
    said = [f"{line(move.name, 80)} {verb} {move.now}: {line(move.why, 1000)}"]
    if move.document is not None:
        d = move.document
        control = "" if d.over_control is None else f", over an irrelevant text {signed(d.over_control.mean)} "
        control += "" if d.over_control is None else interval(d.over_control, sign=True)
        ratio = "" if d.ratio is None else f"; {num(d.ratio.delta)} {interval(d.ratio)} of its gain on the old base"
        said.append(
            f"its document, unchanged, {line(d.verdict)}: {signed(d.gain.mean)} {interval(d.gain, sign=True)} over the new base, "
            f"n={d.gain.n}{control}{ratio}"
        )
    if move.note:
        said.append(f"its document: {line(move.note, 1000)}")
    if move.was in ("weights", "both"):
        said.append("its adapter belongs to the old base and was not carried over")
    return said


def profile_table(move: Move, now: CapabilityReport) -> Table | None:
    """The probes that both runs have, before and after; None where there are none."""
    names = [name for name in sorted(move.profile_was) if name in now.profile]
    rows = []
    for name in names:
        both = (move.profile_was[name], now.profile[name])
        shown = [f"{num(p.value)} {interval(p)} n={p.n}" if p.value is not None else ABSENT for p in both]
        rows.append((line(name, 60), *shown))
    return (("probe", "old base", "new base"), rows) if rows else None


def moves_text(report: Report) -> str:
    """The moves for a terminal; "" where no base was replaced."""
    if report.moves is None:
        return ""
    out = [moves_head(report.moves)]
    for m in sorted(report.moves.capabilities, key=lambda m: m.was == m.now):
        first, *rest = move_sentences(m)
        out += [first, f"  base {_pair(m.base_was, m.base_now)}: {_effect(m.base_change)}"]
        out += [f"  {text}" for text in rest]
    return "\n".join(out)


def history_table(history: tuple[HistoryEntry, ...]) -> Table | None:
    """A row per decision, oldest first; None where there is none."""
    rows: list[tuple[str, ...]] = [
        (
            line(h.when, 80),
            h.action,
            h.was,
            h.now,
            _change(h),
            line(h.why, 1000),
            line(h.outcome, 1000),
        )
        for h in history
    ]
    return (_HISTORY, rows) if rows else None


def _change(h: HistoryEntry) -> str:
    if h.delta is None or h.low is None or h.high is None:
        return ABSENT
    return _effect(Effect(delta=h.delta, low=h.low, high=h.high, n=h.n))


def history_sentences(history: tuple[HistoryEntry, ...]) -> list[str]:
    """One sentence per decision, oldest first."""
    return [
        f"{line(h.when, 80)}: {h.action}, {h.was} to {h.now}; {line(h.outcome, 1000)}. Why: {line(h.why, 1000)}. What ships "
        f"changed by {_change(h)} on the sealed test"
        for h in history
    ]


def history_text(report: Report) -> str:
    """What this run decided over placements of an earlier one, for a terminal."""
    lines = []
    for c in report.capabilities:
        mine = tuple(h for h in c.history if h.when == report.run_id)
        lines += [f"{line(c.name, 80)}: {text}" for text in history_sentences(mine)]
    return "\n".join(lines)
