"""What the report has to say of a training besides its numbers, kept from attempt to attempt.

A damaged checkpoint that was passed over is overwritten later; that it was damaged must not be forgotten with it, also when
the process dies in between. Does not: record what a kill leaves, because that changes nothing and is no news.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid.store.atomic import write_json
from hybrid.weights.checkpoints import read_sealed, seal

REMARKS = "REMARKS.json"


def read_remarks(out: Path) -> tuple[str, ...]:
    """The remarks of a training's folder, in the order they came."""
    body = read_sealed(out / REMARKS)
    return () if isinstance(body, str) else tuple(map(str, body["remarks"]))


def keep_remarks(out: Path, remarks: Sequence[str]) -> None:
    """Add remarks durably, each once."""
    known = read_remarks(out)
    every = tuple(dict.fromkeys([*known, *remarks]))
    if every != known:
        write_json(out / REMARKS, seal({"schema": 1, "remarks": list(every)}))
