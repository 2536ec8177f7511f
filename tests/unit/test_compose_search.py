"""Searches over mixture coefficients and races between mixtures, on landscapes whose best point is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from hybrid.config.schema import SwarmConfig
from hybrid.weights.compose.race import MixtureRace
from hybrid.weights.compose.search import CoefficientSearch, Generation, ModelSwarms, Point, build_search, rounded

EXPERTS, ROWS = 5, 200
BEST = np.array([0.9, -0.4, 0.6, 0.0, 0.3])
Kind = Literal["cma", "swarms", "random"]


class Landscape:
    """Answers are right with a chance that falls with the distance from `BEST`; the same row is as hard for every mixture."""

    def __init__(self, seed: int) -> None:
        self.luck = np.random.default_rng(seed).random(ROWS)
        self.answers = 0

    def chance(self, point: Point) -> float:
        return float(0.9 * np.exp(-np.sum((np.array(point) - BEST) ** 2)))

    def scores(self, points: Sequence[Point], rows: Sequence[int]) -> list[list[float]]:
        self.answers += len(points) * len(rows)
        return [[float(self.luck[r] < self.chance(p)) for r in rows] for p in points]


def searched(kind: Kind, seed: int, **changes: object) -> tuple[CoefficientSearch, MixtureRace, Landscape]:
    settings = SwarmConfig(**{"search": kind, "evaluations": 160, "regularise": 0.0, **changes})  # type: ignore[arg-type]
    landscape = Landscape(seed)
    race = MixtureRace(landscape.scores, ROWS, settings, seed)
    search = build_search(settings, EXPERTS, seed)
    while (generation := search.ask()).points:
        search.tell(race.run(generation))
    return search, race, landscape


def test_learning_beats_drawing_at_the_same_budget() -> None:
    found = {
        kind: np.mean([Landscape(s).chance(searched(kind, s)[0].answer()) for s in range(5)])
        for kind in ("cma", "swarms", "random")
    }
    assert found["cma"] > found["random"] + 0.1
    assert found["cma"] > 0.75


@pytest.mark.parametrize("kind", ["cma", "swarms", "random"])
def test_a_search_is_its_seed_and_leaves_numpy_alone(kind: Kind) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    one = searched(kind, 1)[0].answer()
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]
    np.random.seed(4)
    assert searched(kind, 1)[0].answer() == one != searched(kind, 2)[0].answer()


@pytest.mark.parametrize("kind", ["cma", "swarms", "random"])
def test_no_more_mixtures_than_the_budget(kind: Kind) -> None:
    settings = SwarmConfig(search=kind, evaluations=37)
    search, asked = build_search(settings, EXPERTS, 0), 0
    while points := search.ask().points:
        asked += len(points)
        search.tell([-float(np.sum((np.array(p) - BEST) ** 2)) for p in points])
    assert 37 - settings.population < asked <= 37


def test_a_swarm_stays_in_the_span_of_its_experts() -> None:
    search = ModelSwarms(SwarmConfig(search="swarms", evaluations=400, patience=100), EXPERTS, 0)
    outside = 0
    while points := search.ask().points:
        for point in points:
            assert sum(point) == pytest.approx(1.0, abs=0.03), "every particle is an affine combination"
        outside += sum(any(c < 0 or c > 1 for c in p) for p in points)
        search.tell([-float(np.sum((np.array(p) - BEST) ** 2)) for p in points])
    assert outside > 0, "affine, not convex: the repelling term leaves the simplex"
    assert sum(search.answer()) == pytest.approx(1.0, abs=0.05)


def test_a_swarm_ends_when_nothing_better_comes() -> None:
    search = ModelSwarms(SwarmConfig(search="swarms", evaluations=10_000, patience=4), EXPERTS, 0)
    generations = 0
    while points := search.ask().points:
        generations += 1
        search.tell([0.0] * len(points))
    assert generations == 5, "the first one is a new best, then four without"


def test_a_particle_that_finds_nothing_goes_back_to_its_best() -> None:
    search = ModelSwarms(SwarmConfig(search="swarms", evaluations=10_000, patience=8, population=5), 5, 0)
    search.ask()
    search.tell([1.0] * 5)
    for _ in range(4):
        search.ask()
        search.tell([0.0] * 5)
    still = [p.x.copy() for p in search._particles]
    search.ask()
    bests = [np.array(p.best.point) for p in search._particles]
    assert any(not np.allclose(x, b) for x, b in zip(still, bests, strict=True))
    assert all(p.since == 0 for p in search._particles)


def test_one_expert_alone_is_searched_for_its_strength() -> None:
    search = build_search(SwarmConfig(), 1, 0)
    while points := search.ask().points:
        search.tell([-((p[0] - 0.4) ** 2) for p in points])
    assert search.answer()[0] == pytest.approx(0.4, abs=0.1)


def test_racing_spares_answers_and_finds_the_same_winner() -> None:
    points = tuple(rounded(BEST + shift) for shift in (0.0, 0.3, 0.6, 0.9, 1.2))
    generation = Generation(points, (None,) * 5, 1)
    for seed in range(20):
        whole, raced = Landscape(seed), Landscape(seed)
        full = MixtureRace(whole.scores, ROWS, SwarmConfig(drop_p=0.0), seed)
        race = MixtureRace(raced.scores, ROWS, SwarmConfig(), seed)
        plain, values = full.run(generation), race.run(generation)
        assert np.argmax(plain) == np.argmax(values) == 0
        assert values[0] == plain[0], "a survivor is measured in full"
        assert full.saved == 0 and full.asked == whole.answers == 5 * ROWS
        assert race.saved > 0 and race.asked == raced.answers == 5 * ROWS - race.saved


def test_a_dropped_mixture_is_worth_less_than_what_it_lost_to() -> None:
    generation = Generation(tuple(rounded(BEST + s) for s in (0.0, 0.1, 0.2, 0.8, 1.0, 1.1)), (None,) * 6, 3)
    for seed in range(20):
        race = MixtureRace(Landscape(seed).scores, ROWS, SwarmConfig(), seed)
        values = race.run(generation)
        survivors = [v for p, v in zip(generation.points, values, strict=True) if len(race.scores(p)) == ROWS]
        assert len(survivors) >= 3
        dropped = [v for p, v in zip(generation.points, values, strict=True) if len(race.scores(p)) < ROWS]
        assert all(v < min(survivors) for v in dropped)


def test_a_rival_drops_what_is_behind_it_and_nothing_else() -> None:
    good, bad, twin = rounded(BEST), rounded(BEST + 0.9), rounded(BEST + 0.001)
    race = MixtureRace(Landscape(0).scores, ROWS, SwarmConfig(), 0)
    (value,) = race.run(Generation((good,), (None,), 1))
    values = race.run(Generation((bad, twin), (good, good), 2))
    assert values[0] < value and len(race.scores(bad)) < ROWS
    assert len(race.scores(twin)) == ROWS


def test_what_was_measured_is_not_asked_again() -> None:
    landscape = Landscape(0)
    race = MixtureRace(landscape.scores, ROWS, SwarmConfig(), 0)
    generation = Generation((rounded(BEST), rounded(BEST + 1.0)), (None, None), 1)
    first, paid = race.run(generation), landscape.answers
    assert race.run(generation) == first
    assert landscape.answers == paid == race.asked


def test_unjudged_answers_speak_for_neither() -> None:
    def scores(points: Sequence[Point], rows: Sequence[int]) -> list[list[float]]:
        return [[float("nan") if r % 2 else p[0] for r in rows] for p in points]

    race = MixtureRace(scores, 80, SwarmConfig(regularise=0.0), 0)
    assert race.run(Generation(((0.25,), (0.75,)), (None, None), 2)) == [0.25, 0.75]


def test_large_coefficients_cost() -> None:
    race = MixtureRace(lambda points, rows: [[0.5] * len(rows) for _ in points], 40, SwarmConfig(regularise=0.1), 0)
    assert race.run(Generation(((1.0, -1.0), (0.0, 0.0)), (None, None), 2)) == [0.4, 0.5]
