"""Several parents: documents that are each best on some example, kept as starting points instead of the one best mean.

Source: the candidate selection and the merge of GEPA (arXiv 2507.19457): for each example the documents with the best
score on it, dominated ones dropped, a parent drawn in proportion to the examples it wins; two parents merged line by
line. Scores are of a fixed seeded part of `search`, so that all parents are compared on the same examples.
Does not: decide whether a merged document stays (the gate does).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hybrid.skill.text import join, lines_of

FRONT_ROWS = 32
"""Examples of `search` on which parents are compared."""
Scores = Callable[[str], Sequence[float]]
"""Scores of a body on the front's rows, in their order; paid once by whoever passes it."""


class Front:
    """At most `most` parents, the seed body among them until it is dominated."""

    def __init__(self, seed_body: str, most: int, scores: Scores) -> None:
        self._most, self._scores = most, scores
        self._bodies = [seed_body]

    @property
    def bodies(self) -> tuple[str, ...]:
        """The parents, oldest first."""
        return tuple(self._bodies)

    def add(self, body: str) -> None:
        """Take a body in. Where there are too many, the one with the fewest examples won leaves, the oldest of equals."""
        if body in self._bodies:
            return
        self._bodies.append(body)
        if len(self._bodies) > self._most:
            wins = self.wins()
            self._bodies.remove(min(self._bodies, key=lambda b: (wins[b], self._mean(b))))

    def wins(self) -> dict[str, int]:
        """Examples on which each parent has the best score; a parent that another one dominates has none."""
        table = {body: tuple(self._scores(body)) for body in self._bodies}
        best = [max(column) for column in zip(*table.values(), strict=True)]
        alive = {b for b in table if not any(_dominates(table[o], table[b]) for o in table)}
        return {b: sum(v == top for v, top in zip(table[b], best, strict=True)) if b in alive else 0 for b in table}

    def choose(self, rng: random.Random) -> str:
        """A parent, drawn in proportion to the examples it wins."""
        wins = self.wins()
        weights = [wins[body] for body in self._bodies]
        return rng.choices(self._bodies, weights)[0] if any(weights) else self.best()

    def best(self) -> str:
        """The parent with the best mean, the newest of equals."""
        return max(reversed(self._bodies), key=self._mean)

    def merged(self) -> tuple[str, str] | None:
        """The best parent, and a body with the lines it lacks from the parent that wins most where the best one loses.

        None where there is no such parent.
        """
        best = self.best()
        mine = self._scores(best)
        gains = {
            body: sum(b > a for a, b in zip(mine, self._scores(body), strict=True))
            for body in self._bodies
            if body != best
        }
        if not gains or max(gains.values()) == 0:
            return None
        other = max(gains, key=lambda body: gains[body])
        lines = lines_of(best)
        lacking = [line for line in lines_of(other) if line.strip() and line not in lines]
        return (best, join([*lines, *lacking])) if lacking else None

    def _mean(self, body: str) -> float:
        scores = self._scores(body)
        return sum(scores) / len(scores) if scores else 0.0


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
