"""Drawing a merge of adapters for all forms of the report. Cells are plain text; each form escapes for itself."""

from __future__ import annotations

from hybrid.report.lifecycle_text import Table
from hybrid.report.parts import Effect, Estimate
from hybrid.report.parts_merge import Merger
from hybrid.report.text import interval, line, num, signed


def merger_head(found: Merger) -> str:
    """One or two sentences: what was offered, and what became of it."""
    names = ", ".join(line(name, 80) for name in found.members)
    rank = next(t.rank for t in found.tried if t.scale == found.chosen)
    size = f" of rank {rank}" if rank else ""
    shipped = "ships in the place of their own" if found.merged else "does not ship; each keeps its own"
    return (
        f"One adapter{size} for {names}: the sum of their adapters times {found.chosen:g}, the best of "
        f"{len(found.tried)} on the search split. It {shipped}: {'; '.join(line(w, 500) for w in found.why)}."
    )


def tried_table(found: Merger) -> Table:
    """A row per scale, and the own adapters, on `search`."""
    names = list(found.members)
    own = ("own adapters", *(_estimate(found.members[n].own) for n in names))
    rows = [(f"sum x {t.scale:g}", *(_estimate(t.search[n]) for n in names)) for t in found.tried]
    return ("search split", *(line(n, 80) for n in names)), [own, *rows]


def members_table(found: Merger) -> Table:
    """A row per capability: the merge against the base and against the own adapter."""
    head = ("capability", "merge against base, confirm", "merge against own adapter, confirm", "against it")
    rows: list[tuple[str, ...]] = [
        (line(n, 80), _effect(m.against_base), _effect(m.against_own), _against(m.placed, m.refused))
        for n, m in found.members.items()
    ]
    return head, rows


def _against(placed: bool, refused: str) -> str:
    return "its own adapter does not ship" if not placed else line(refused, 300) or "nothing"


def _estimate(e: Estimate) -> str:
    return f"{num(e.mean)} {interval(e)}"


def _effect(e: Effect) -> str:
    return f"{signed(e.delta)} {interval(e, sign=True)} n={e.n}"
