"""Is every edit what its label says? Measured on the sealed test, under the start document and under the right one.

Does not: change a label. A label is a matter of construction; this shows what it means for the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.evidence.stats import paired_interval
from text_bench.results import table, told
from text_bench.target import Target
from text_bench.world import World

KINDS = ("helpful", "harmful", "neutral")


def truth_table(worlds: Sequence[tuple[World, Target]]) -> str:
    """Effects by kind of edit, and the documents that bound them."""
    effects: dict[tuple[str, str], list[float]] = {}
    clear: dict[tuple[str, str], list[int]] = {}
    ends: dict[str, list[float]] = {"nothing": [], "start": [], "right": [], "right and all neutral edits": []}
    for world, target in worlds:
        rows = world.splits["test"]
        every = "".join(f"{edit.content}\n" for edit in world.pool if edit.truth == "neutral")
        documents = {"nothing": "", "start": world.start, "right": world.right}
        documents["right and all neutral edits"] = world.right + every
        for name, document in documents.items():
            scores = target.scores(document, rows)
            ends[name].append(sum(scores) / len(scores))
        for under in ("start",) if world.null else ("start", "right"):
            document = documents[under]
            before = target.scores(document, rows)
            for edit in world.pool:
                if not edit.fits(document.split("\n")):
                    continue
                after = target.scores(edit.apply(document), rows)
                found = paired_interval([b - a for a, b in zip(before, after, strict=True)])
                effects.setdefault((edit.truth, under), []).append(found.mean)
                clear.setdefault((edit.truth, under), []).append((found.low > 0) - (found.high < 0))
    lines = [
        [kind, under, str(len(v)), told(v, 3), f"{min(v):+.3f} to {max(v):+.3f}", _clear(clear[kind, under])]
        for kind in KINDS
        for under in ("start", "right")
        if (v := effects.get((kind, under)))
    ]
    head = ["edit", "under", "edits", "mean effect", "range", "clearly better / worse"]
    bounds = table(["document", "score"], [[name, told(values)] for name, values in ends.items()])
    return f"{bounds}\n\n{table(head, lines)}"


def _clear(signs: Sequence[int]) -> str:
    return f"{signs.count(1)} / {signs.count(-1)}"
