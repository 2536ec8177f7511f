"""What is kept of a run, as JSON: its scores on the sealed test, which no method has seen, and what it let in.

The test is asked by the benchmark alone, after the run; those rollouts are nobody's.
Does not: put runs together (`results`).
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from hybrid.evidence.stats import paired_interval
from hybrid.store.atomic import write_text
from text_bench.pool import Proposals
from text_bench.run import Method, Run
from text_bench.target import Count, Target, shown
from text_bench.world import PoolEdit, World


def record(name: str, method: Method, world: World, target: Target, most: int) -> dict[str, Any]:
    """Run a method and judge what it left. `most` caps its rollouts."""
    edits = world.pool
    run = Run(world, target, Count(most), Proposals(edits))
    began = time.monotonic()
    method(run)
    seconds = time.monotonic() - began
    test = world.splits["test"]
    start = target.scores(world.start, test)
    given = run.final if run.ships else world.start
    delta = paired_interval([b - a for a, b in zip(start, target.scores(given, test), strict=True)])
    return {
        "method": name,
        "seed": world.seed,
        "null": world.null,
        "rollouts": run.count.spent,
        "by": run.count.by,
        "ship_rollouts": run.ship_rollouts,
        "proposals": run.proposals.drawn,
        "ended": run.ended,
        "seconds": round(seconds, 1),
        "start": mean(start),
        "right": mean(target.scores(world.right, test)),
        "handed": [[spent, mean(target.scores(document, test))] for spent, document in run.handed],
        "final": mean(target.scores(run.final, test)),
        "given": {"test": mean(target.scores(given, test)), "delta": list(delta), "tokens": target.tokens(given)},
        "changed": shown(run.final) != shown(world.start),
        "ships": run.ships,
        "accepted": truths(edits, let_in(edits, [document for _, document in run.handed])),
        "kept": truths(edits, let_in(edits, [world.start, run.final])),
    }


def let_in(edits: tuple[PoolEdit, ...], documents: list[str]) -> set[PoolEdit]:
    """Edits whose line stands in a document and did not stand in the one before it."""
    lines = [set(shown(document).split("\n")) for document in documents]
    new = [after - before for before, after in pairwise(lines)]
    return {edit for edit in edits if any(edit.content in more for more in new)}


def truths(edits: tuple[PoolEdit, ...], chosen: set[PoolEdit]) -> dict[str, int]:
    """How many of the chosen ones are of which kind."""
    return {truth: sum(e.truth == truth for e in chosen) for truth in sorted({e.truth for e in edits})}


def mean(values: list[float]) -> float:
    """Rounded, as it is kept."""
    return round(sum(values) / len(values), 6)


class Folder:
    """Records on disk, one file per run. A file that is there is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, seed: int, null: bool) -> Path:
        """Where a run's record lies."""
        slug = "".join(c if c.isalnum() else "-" for c in name).replace("--", "-")
        return self.path / ("null" if null else "main") / f"seed-{seed:02d}" / f"{slug}.json"

    def has(self, name: str, seed: int, null: bool) -> bool:
        """Whether a run is done."""
        return self.file(name, seed, null).exists()

    def put(self, found: dict[str, Any]) -> None:
        """Keep a record, whole or not at all."""
        write_text(self.file(found["method"], found["seed"], found["null"]), json.dumps(found, indent=1) + "\n")

    def load(self, names: list[str], seeds: list[int], null: bool) -> dict[str, list[dict[str, Any]]]:
        """The records of every method that are there, by seed."""
        out: dict[str, list[dict[str, Any]]] = {}
        for name in names:
            files = [self.file(name, seed, null) for seed in seeds]
            out[name] = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.exists()]
        return {name: records for name, records in out.items() if records}
