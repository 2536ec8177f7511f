"""A table of runs in which everything was built, so that any policy can be replayed on it. Data, and how it is read.

A row is one capability: its profile, which placements are right (known, or what every arm together says), the scores of
every arm by split, what a small budget had shown, and what each part cost. Rows lie in a folder as `*.json` (one row) or
`*.jsonl` (a row a line). `scripts/bench_router.py` writes such a table of seeded worlds.

Does not: decide (see `replay`) or fit (see `fit`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hybrid.config.schema import PlacementName
from hybrid.errors import UsageError
from hybrid.probe.base import ProbeResult
from hybrid.router.advice import token_cost
from hybrid.router.arms import ArmName


def _scores(value: Any) -> Any:
    """`"0110"` -> (0.0, 1.0, 1.0, 0.0)."""
    return tuple(float(c) for c in value) if isinstance(value, str) and set(value) <= {"0", "1"} else value


Scores = Annotated[tuple[float, ...], BeforeValidator(_scores)]
"""Scores in [0, 1], by example; a string of 0 and 1 is read as such."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArmScores(_Part):
    """One candidate on every split. `confirm` is empty where the candidate was never judged."""

    search: Scores
    confirm: Scores = ()
    test: Scores
    variant: Scores

    @cached_property
    def worth(self) -> float:
        """Half the sealed test and half the variants: what learnt a template is worth half of what learnt the thing."""
        parts = [sum(s) / len(s) for s in (self.test, self.variant) if s]
        return sum(parts) / len(parts)


class Look(_Part):
    """An adapter at a rung: its scores on `search`, and on the variants whose positions the row names."""

    search: Scores
    variant: Scores


class Spent(_Part):
    """What a part cost. `trained` counts tokens that went through a training step."""

    calls: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    trained: float = 0.0
    cpu: float = 0.0

    @cached_property
    def tokens(self) -> float:
        """In token equivalents: read, generated, and three times what was trained on."""
        return token_cost(self.tokens_in, self.tokens_out, self.trained)


class Row(_Part):
    """One capability with everything built. `costs` by part: probes, skill, weights, both, ship_base, ship_<arm>, ..."""

    name: str
    group: str = ""
    right: tuple[PlacementName, ...] = Field(min_length=1)
    minimum_effect: float
    steps: int
    """Optimiser steps of a whole training; a rung costs its share of it."""
    profile: dict[str, ProbeResult]
    arms: dict[str, ArmScores]
    """`base`, and every arm that was built."""
    looks: dict[ArmName, dict[int, Look]] = {}
    looked: tuple[int, ...] = ()
    """Positions among the variants that looks were taken on."""
    costs: dict[str, Spent]

    @cached_property
    def memory(self) -> dict[tuple[Any, ...], Any]:
        """Verdicts and bids that were worked out from this row: they do not change, and a fit asks for them again and again."""
        return {}

    def cost(self, *parts: str) -> Spent:
        """The sum of parts; one that is not there cost nothing."""
        found = [self.costs[p] for p in parts if p in self.costs]
        names = ("calls", "tokens_in", "tokens_out", "trained", "cpu")
        return Spent(**{n: sum(getattr(s, n) for s in found) for n in names})


def read_table(folder: Path) -> tuple[Row, ...]:
    """Every row of a folder, or of one file, by name. Raises UsageError, naming the file, for one that is no row."""
    paths = sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")]) if folder.is_dir() else [folder]
    rows: list[Row] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines() if path.suffix == ".jsonl" else [text]
            rows += [Row.model_validate(json.loads(line)) for line in lines if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
            raise UsageError(f"{path}: not a row of a router table: {said}") from None
    if not rows:
        raise UsageError(f"{folder}: holds no rows of a router table (*.json, *.jsonl)")
    return tuple(sorted(rows, key=lambda r: r.name))


def folds(rows: Sequence[Row], count: int) -> tuple[tuple[Row, ...], ...]:
    """Rows dealt into `count` parts, group by group, so that each part has its share of every group."""
    ordered = sorted(rows, key=lambda r: (r.group, r.name))
    return tuple(tuple(ordered[i::count]) for i in range(min(count, len(ordered))))
