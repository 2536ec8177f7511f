"""Searches over mixture coefficients: ask for mixtures, tell what they are worth, take the answer.

    search = build_search(settings, experts=8, seed=0)
    while points := (generation := search.ask()).points:
        search.tell(values_of(generation))                     # higher is better, one for each point
    search.answer()

Does not: measure a mixture, know what an expert is, or touch numpy's global random state.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hybrid.config.swarm import SwarmConfig
from hybrid.errors import UsageError

Point = tuple[float, ...]
"""Coefficients, one for each expert, rounded to `DIGITS` decimals: equal points are equal mixtures."""
DIGITS = 3
_DECAY, _FLOOR, _RESTART = 0.95, 0.1, 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """Mixtures to measure together; none means that the search is over.

    `rivals` has for each point the one that it must beat to change anything, where there is one that was told before.
    Where only the best `keep` of a generation change anything, the others need not be known exactly.
    """

    points: tuple[Point, ...]
    rivals: tuple[Point | None, ...]
    keep: int


class CoefficientSearch(Protocol):
    """Proposes mixtures. Deterministic given its settings, its seed and what it is told.

    `ask` and `tell` take turns. A value told for a point that lost to its rival, or was not among the best `keep`, may be
    anything below those. `answer` is the mixture that the search stands for, at any time after the first `tell`.
    """

    def ask(self) -> Generation:
        """The next mixtures to measure."""
        ...

    def tell(self, values: Sequence[float]) -> None:
        """What they are worth, in order; higher is better."""
        ...

    def answer(self) -> Point:
        """The mixture found."""
        ...


OVER = Generation((), (), 0)


def build_search(settings: SwarmConfig, experts: int, seed: int) -> CoefficientSearch:
    """The search that `weights.swarm.search` names, over `experts` coefficients (at least 1)."""
    if experts < 1:
        raise ValueError("there is nothing to mix")
    if settings.search == "swarms":
        return ModelSwarms(settings, experts, seed)
    return CmaSearch(settings, experts, seed) if settings.search == "cma" else RandomSearch(settings, experts, seed)


def starts(experts: int) -> tuple[Point, ...]:
    """Every expert alone, and their average."""
    alone = [tuple(float(i == j) for j in range(experts)) for i in range(experts)]
    average = rounded([1.0 / experts] * experts)
    return (*alone, average) if experts > 1 else tuple(alone)


def rounded(values: Iterable[float]) -> Point:
    """A point of these coefficients; -0.0 is 0.0, so that equal mixtures are equal."""
    return tuple(round(float(v), DIGITS) + 0.0 for v in values)


@dataclass
class _Best:
    """The best point told so far, the first of equals."""

    point: Point = ()
    value: float = -math.inf

    def see(self, point: Point, value: float) -> None:
        if value > self.value or not self.point:
            self.point, self.value = point, value


class _FromStarts(ABC):
    """Measures every start first; then `_next` proposes, from the best of them, until the evaluations are spent."""

    def __init__(self, settings: SwarmConfig, experts: int, seed: int) -> None:
        self._settings, self._left = settings, settings.evaluations
        self._rng = np.random.default_rng([seed, experts])
        self._best = _Best()
        self._asked: tuple[Point, ...] = ()
        self._first = starts(experts)

    def ask(self) -> Generation:
        """See `CoefficientSearch`."""
        began = bool(self._best.point)
        points = (self._next() if began else self._first)[: self._left]
        self._asked = points
        if not points:
            return OVER
        return Generation(points, self._rivals(points), self._keep(len(points)) if began else 1)

    def tell(self, values: Sequence[float]) -> None:
        """See `CoefficientSearch`."""
        began = bool(self._best.point)
        for point, value in zip(self._asked, values, strict=True):
            self._best.see(point, value)
        self._left -= len(self._asked)
        if began:
            self._learn(values)

    def answer(self) -> Point:
        """The best mixture told."""
        return self._best.point

    @abstractmethod
    def _next(self) -> tuple[Point, ...]:
        """The points after the starts; none ends the search."""

    def _rivals(self, points: tuple[Point, ...]) -> tuple[Point | None, ...]:
        return (None,) * len(points)

    def _keep(self, count: int) -> int:
        return count

    @abstractmethod
    def _learn(self, values: Sequence[float]) -> None:
        """What a generation after the starts teaches."""


class RandomSearch(_FromStarts):
    """Gaussian draws around the best start, with `sigma` in every coefficient: CMA-ES that learns nothing. A control."""

    _start: Point = ()

    def _next(self) -> tuple[Point, ...]:
        self._start = self._start or self._best.point  # of the starts: later draws do not move it
        draws = self._rng.standard_normal((self._settings.population, len(self._start)))
        return tuple(rounded(np.asarray(self._start) + self._settings.sigma * row) for row in draws)

    def _rivals(self, points: tuple[Point, ...]) -> tuple[Point | None, ...]:
        return (self._best.point or None,) * len(points)

    def _keep(self, count: int) -> int:
        return 1

    def _learn(self, values: Sequence[float]) -> None:
        """Nothing: that is what it is a control for."""


class CmaSearch(_FromStarts):
    """CMA-ES (Hansen and Ostermeier 2001) of the package `cma`, begun at the best start.

    The answer is the mean of its distribution, not the best sample: that one is the luckiest of many on the same examples.
    Where the distribution has collapsed before the evaluations are spent, it begins again from its mean. Raises
    UsageError without the package.
    """

    def __init__(self, settings: SwarmConfig, experts: int, seed: int) -> None:
        super().__init__(settings, experts, seed)
        self._strategy: Any = None
        self._drawn: list[Any] = []
        if experts == 1:
            self._left = min(self._left, 1 + settings.population * 4)  # one strength to find: a short search

    def answer(self) -> Point:
        """The mean; before the first generation was told, the best start."""
        if self._strategy is None or not self._strategy.countiter:
            return self._best.point
        return rounded(self._strategy.result.xfavorite)

    def _begin(self, at: Sequence[float]) -> Any:
        try:
            import cma
        except ImportError as error:
            raise UsageError(
                "weights.swarm.search: cma needs the package cma; install hybrid-placement[train], or use swarms"
            ) from error
        options = {
            "popsize": self._settings.population,
            "verbose": -9,
            "seed": math.nan,  # the draws below are the only ones
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "tolfun": 0,
            "tolfunhist": 0,
            "tolflatfitness": math.inf,
            "tolstagnation": math.inf,
            "tolx": 1e-3,
        }
        # One coefficient alone is no case for a covariance; a second one that nothing reads keeps `cma` happy.
        at = list(at) if len(at) > 1 else [*at, 0.0]
        return cma.CMAEvolutionStrategy(at, self._settings.sigma, options)

    def _next(self) -> tuple[Point, ...]:
        if self._strategy is None:
            self._strategy = self._begin(self._best.point)
        elif self._strategy.stop():
            _log.info("the distribution has collapsed; beginning again from its mean")
            self._strategy = self._begin(self._strategy.result.xfavorite)
        if self._left < self._settings.population:
            return ()  # a part of a generation teaches nothing
        self._drawn = self._strategy.ask()
        return tuple(rounded(x[: len(self._best.point)]) for x in self._drawn)

    def _keep(self, count: int) -> int:
        return int(self._strategy.sp.weights.mu)

    def _learn(self, values: Sequence[float]) -> None:
        self._strategy.tell(self._drawn, [-float(v) for v in values])


@dataclass
class _Particle:
    """A particle: where it is, how it moves, its own best, and how long ago that was found."""

    x: np.ndarray
    v: np.ndarray
    best: _Best = field(default_factory=_Best)
    since: int = 0


class ModelSwarms:
    """Model Swarms (Feng et al. 2024, arXiv 2410.11163, algorithm 1) on coefficients instead of copies of adapters.

    A swarm of adapters never leaves the affine span of those it starts from, so its particles are points there: the
    coefficients of every particle sum to 1. Start: every expert, and crossovers t x_a + (1 - t) x_b, t ~ U(0, 1); each moves
    towards another one first. A generation moves each particle x by v, where

        v <- (1/C) [r_v f_v v + r_p f_p (p - x) + r_g f_g (g - x) + r_w f_w (x - g_w)],    x <- x + step v

    with one r ~ U(0, 1) per term and particle (not per coordinate), C the sum of the four r f, p its own best, g and g_w the
    best and the worst that any particle has seen. The step shrinks by .95 a generation, to at least .1. A particle without a
    new best of its own for half of `patience` generations goes back to it and stands still.
    """

    def __init__(self, settings: SwarmConfig, experts: int, seed: int) -> None:
        self._settings, self._left = settings, settings.evaluations
        self._rng = np.random.default_rng([seed, experts])
        self._step, self._idle, self._began = settings.step, 0, False
        self._best, self._worst = _Best(), _Best()
        alone = np.eye(experts)
        places = [*alone, *(self._crossed(alone) for _ in range(settings.population - experts))]
        others = [int(self._rng.integers(len(places))) for _ in places]
        self._particles = [_Particle(x, places[j] - x) for x, j in zip(places, others, strict=True)]
        self._asked: tuple[Point, ...] = ()

    def ask(self) -> Generation:
        """See `CoefficientSearch`."""
        if self._began:
            if self._idle >= self._settings.patience:
                return OVER
            for particle in self._particles:
                self._move(particle)
            self._step = max(self._step * _DECAY, _FLOOR)
        self._asked = tuple(rounded(p.x) for p in self._particles)[: self._left]
        if not self._asked:
            return OVER
        rivals = tuple(p.best.point or None for p in self._particles[: len(self._asked)])
        return Generation(self._asked, rivals, len(self._asked))

    def tell(self, values: Sequence[float]) -> None:
        """See `CoefficientSearch`."""
        before = self._best.value
        for particle, point, value in zip(self._particles, self._asked, values, strict=False):
            particle.since = 0 if value > particle.best.value else particle.since + 1
            particle.best.see(point, value)
            self._best.see(point, value)
            self._worst.see(point, -value)
        self._left -= len(self._asked)
        self._idle = 0 if self._best.value > before else self._idle + 1
        self._began = True

    def answer(self) -> Point:
        """The best that any particle has seen."""
        return self._best.point

    def _crossed(self, places: np.ndarray) -> np.ndarray:
        a, b = self._rng.integers(len(places), size=2)
        t = self._rng.random()
        crossed: np.ndarray = t * places[a] + (1.0 - t) * places[b]
        return crossed

    def _move(self, particle: _Particle) -> None:
        s, x = self._settings, particle.x
        if particle.since >= max(1.0, _RESTART * s.patience):
            particle.x, particle.v, particle.since = np.asarray(particle.best.point), np.zeros_like(x), 0
            x = particle.x
        weights = self._rng.random(4) * (s.inertia, s.personal, s.social, s.repel)
        total = float(weights.sum())
        if total <= 0.0:
            return
        best, worst, own = (np.asarray(p) for p in (self._best.point, self._worst.point, particle.best.point))
        ways = (particle.v, own - x, best - x, x - worst)
        particle.v = sum((w * way for w, way in zip(weights, ways, strict=True)), np.zeros_like(x)) / total
        particle.x = x + self._step * particle.v
