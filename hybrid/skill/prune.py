"""The deletion pass at the end of an optimisation: a shorter document that scores the same is the better one.

A line goes when the mean score on `search` does not fall without it, and neither does the mean on training rows:
`search` alone would drop a true line about something that it happens not to ask. Each check stops at the first part at
which the shorter body is behind, so a line that is needed costs few rollouts.
Does not: reorder or rewrite lines, or touch protected sections.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid.capability.types import Example
from hybrid.skill.relevance import about
from hybrid.skill.text import editable, join, lines_of

Scores = Callable[[str, Sequence[Example]], Sequence[float]]
"""(body, rows) -> one score per row, in order."""


@dataclass(frozen=True)
class Check:
    """Rows on which a shorter body must not score less, in parts of `part` rows in a seeded order."""

    rows: tuple[Example, ...]
    scores: Scores
    part: int


def prune(body: str, checks: Sequence[Check] | None, seed: int) -> tuple[str, tuple[str, ...]]:
    """`body` without the lines that no check needs, and those lines. Lines are tried from the last to the first.

    Without checks (None) nothing is known about any line, and the body stays as it is.
    """
    if checks is None:
        return body, ()
    dropped: list[str] = []
    for index, line in reversed(editable(body)):
        lines = lines_of(body)
        shorter = join([*lines[:index], *lines[index + 1 :]])
        if all(_holds(body, shorter, check, seed, line) for check in checks):
            body = shorter
            dropped.append(line)
    return body, tuple(dropped)


def _holds(body: str, shorter: str, check: Check, seed: int, line: str) -> bool:
    """Whether the running mean of the shorter body is never behind at the end of a part.

    Rows that the line is about come first: a needed line then costs few rollouts, and every row is asked before one goes.
    """
    rows = list(check.rows)
    random.Random(seed).shuffle(rows)
    relevant = about(line, rows)
    rows = [rows[i] for i in (*relevant, *(i for i in range(len(rows)) if i not in set(relevant)))]
    difference = 0.0
    for start in range(0, len(rows), check.part):
        part = rows[start : start + check.part]
        difference += sum(check.scores(shorter, part)) - sum(check.scores(body, part))
        if difference < -1e-9:
            return False
    return True
