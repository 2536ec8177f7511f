"""Racing the mixtures of a generation over parts of the examples: what is clearly behind is not measured to the end.

    race = MixtureRace(measure, examples=200, settings, seed=0)
    search.tell(race.run(search.ask()))
    race.asked, race.saved                       # answers asked for, and answers that racing spared

`measure(points, rows)` gives each point's scores on the examples `rows` (positions), in order; NaN where an answer was not
judged. All points of a generation see the same parts in one seeded order, so comparisons are paired. A point that comes back
is measured on what it has not seen. Does not: know what a point is, generate, or control an error rate: a search may lose a
good mixture now and then, and what ships is judged elsewhere, on other examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hybrid.config.swarm import SwarmConfig
from hybrid.evidence.stats import sign_tail
from hybrid.weights.compose.search import Generation, Point

Measure = Callable[[Sequence[Point], Sequence[int]], list[list[float]]]
_BELOW = 1e-9


class MixtureRace:
    """Fitness of mixtures: mean score - `regularise` * mean |coefficient|, raced as `SwarmConfig` says.

    After each part but the last a point is dropped when it is clearly behind its rival on the examples that both have seen, or,
    where only the best `keep` of a generation matter, clearly behind the `keep`-th best of those left. Clearly: its running
    fitness is lower and the one-sided sign test of the pairs that differ has p < `drop_p`. The value of a dropped point is
    what was seen of it, below what it lost to.
    """

    def __init__(self, measure: Measure, examples: int, settings: SwarmConfig, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(examples).tolist()
        size = settings.block
        self._parts = [order[i : i + size] for i in range(0, examples, size)]
        if len(self._parts) > 1 and 2 * len(self._parts[-1]) < size:
            self._parts[-2:] = [self._parts[-2] + self._parts[-1]]
        self._measure, self._settings, self._examples = measure, settings, examples
        self._seen: dict[Point, list[float]] = {}
        self.asked = 0
        """Answers that were asked for."""

    @property
    def saved(self) -> int:
        """Answers that racing spared: what is left to measure of all points that were asked about."""
        return sum(self._examples - len(scores) for scores in self._seen.values())

    def run(self, generation: Generation) -> list[float]:
        """The value of every point, in order."""
        alive = list(dict.fromkeys(generation.points))
        rivals = dict(zip(generation.points, generation.rivals, strict=True))
        below: dict[Point, Point | None] = {}
        seen = 0
        for i, part in enumerate(self._parts):
            self._extend(alive, part, seen)
            seen += len(part)
            if i + 1 < len(self._parts):
                lost = self._lost(alive, rivals, generation.keep)
                below |= lost
                alive = [point for point in alive if point not in lost]
        values = {point: self.fitness(point) for point in alive}
        least = min(values.values(), default=math.inf)
        for point, rival in below.items():
            bar = least if rival is None else self.fitness(rival)
            values[point] = min(self.fitness(point), bar - _BELOW)
        return [values[point] for point in generation.points]

    def fitness(self, point: Point) -> float:
        """What is known of a measured point."""
        judged = [v for v in self._seen[point] if not math.isnan(v)]
        return (math.fsum(judged) / len(judged) if judged else 0.0) - self._cost(point)

    def scores(self, point: Point) -> list[float]:
        """Its scores so far, in the order in which the race asks."""
        return list(self._seen[point])

    @property
    def order(self) -> list[int]:
        """The examples in the order in which the race asks."""
        return [i for part in self._parts for i in part]

    def _cost(self, point: Point) -> float:
        return self._settings.regularise * math.fsum(abs(c) for c in point) / len(point)

    def _extend(self, points: Sequence[Point], part: Sequence[int], seen: int) -> None:
        owed = [point for point in points if len(self._seen.get(point, ())) == seen]
        if not owed:
            return
        for point, scores in zip(owed, self._measure(owed, part), strict=True):
            self._seen.setdefault(point, []).extend(scores)
        self.asked += len(owed) * len(part)

    def _lost(self, alive: Sequence[Point], rivals: dict[Point, Point | None], keep: int) -> dict[Point, Point | None]:
        """Those clearly behind, with the rival that they lost to; None where it was the better part of the generation."""
        if self._settings.drop_p <= 0.0:
            return {}
        lost: dict[Point, Point | None] = {}
        for point in alive:
            rival = rivals[point]
            if rival is not None and rival != point and rival in self._seen and self._behind(point, rival):
                lost[point] = rival
        ranked = sorted(alive, key=self.fitness, reverse=True)
        for point in ranked[keep:]:
            if point not in lost and self._behind(point, ranked[keep - 1]):
                lost[point] = None
        return lost

    def _behind(self, point: Point, other: Point) -> bool:
        both = min(len(self._seen[point]), len(self._seen[other]))
        pairs = zip(self._seen[point][:both], self._seen[other][:both], strict=True)
        differences = [d for a, b in pairs if not math.isnan(d := a - b)]
        wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        mean = math.fsum(differences) / max(len(differences), 1) - self._cost(point) + self._cost(other)
        return mean < 0 and sign_tail(losses, wins + losses) < self._settings.drop_p
