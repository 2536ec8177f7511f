"""The race: parts in a seeded order, dropped when behind, accepted early when far ahead."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.config.schema import SearchGateConfig
from hybrid.evidence.race import Race
from hybrid.evidence.types import Verdict

PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""
POLICY = SearchGateConfig(part=10)


def finish(race: Race, incumbent: list[float], challenger: list[float]) -> tuple[Verdict, list[tuple[int, ...]]]:
    """Run a race over known scores; its verdict and the parts that it asked for."""
    parts = []
    while (part := race.next_part()) is not None:
        parts.append(part)
        race.observe([incumbent[i] for i in part], [challenger[i] for i in part])
    assert race.verdict is not None
    return race.verdict, parts


@PATIENT
@given(st.integers(1, 100), st.integers(4, 30), st.integers(0, 5))
def test_the_parts_cover_every_example_once(n, part, seed):
    incumbent, challenger = [0.0] * n, [float(i == 0) for i in range(n)]
    seen: list[int] = []
    race = Race(n, SearchGateConfig(part=part), seed)
    while (rows := race.next_part()) is not None:
        assert rows == race.next_part()
        assert len(rows) < 1.5 * part
        seen += rows
        race.observe([incumbent[i] for i in rows], [challenger[i] for i in rows])
    assert len(seen) == len(set(seen)) == race.seen
    assert set(seen) <= set(range(n))


def test_a_challenger_behind_after_a_part_is_dropped_there():
    found, parts = finish(Race(100, POLICY, 0), [1.0] * 100, [0.0] * 100)
    assert found.decision == "reject" and len(parts) == 1 and found.n == 10
    assert "behind" in found.reason


def test_level_with_differences_goes_on_and_is_rejected_at_the_end():
    order = [i for part in finish(Race(40, POLICY, 3), [0.0] * 40, [1.0] + [0.0] * 39)[1] for i in part]
    incumbent, challenger = [0.0] * 40, [0.0] * 40
    for position, index in enumerate(order):
        (challenger if position % 2 else incumbent)[index] = 1.0
    found, parts = finish(Race(40, POLICY, 3), incumbent, challenger)
    assert found.decision == "reject" and found.n == 40 and len(parts) == 4 and found.delta == 0.0


def test_an_identical_challenger_costs_half_the_examples():
    found, _ = finish(Race(100, POLICY, 0), [1.0, 0.0] * 50, [1.0, 0.0] * 50)
    assert found.decision == "reject" and found.n == 50 and "no pair differs" in found.reason


def test_a_large_effect_is_accepted_after_two_parts():
    found, parts = finish(Race(200, POLICY, 0), [0.0] * 200, [1.0] * 200)
    assert found.decision == "accept" and found.n == 20 and len(parts) == 2
    assert found.p < 0.001


def test_a_small_gain_is_accepted_only_at_the_end():
    found, _ = finish(Race(50, POLICY, 1), [0.0] * 50, [1.0] + [0.0] * 49)
    # The lone gain may come late: then half the examples without a difference end the race first.
    expected = "accept" if found.n == 50 else "reject"
    assert found.decision == expected
    always = Race(20, POLICY, 1)
    found, _ = finish(always, [0.0] * 20, [1.0 if i in (always.next_part() or ())[:1] else 0.0 for i in range(20)])
    assert found.decision == "accept" and found.n == 20 and found.p == 0.5


def test_the_margin_must_be_exceeded():
    first = Race(20, POLICY, 1).next_part() or ()
    challenger = [1.0 if i in first[:2] else 0.0 for i in range(20)]
    at, below = SearchGateConfig(part=10, margin=0.1), SearchGateConfig(part=10, margin=0.09)
    assert finish(Race(20, at, 1), [0.0] * 20, challenger)[0].decision == "reject"
    assert finish(Race(20, below, 1), [0.0] * 20, challenger)[0].decision == "accept"
    large = SearchGateConfig(part=10, margin=1.0)
    assert finish(Race(200, large, 0), [0.0] * 200, [1.0] * 200)[0].n == 200


def test_the_same_seed_gives_the_same_race_and_another_seed_another_order():
    assert Race(50, POLICY, 7).next_part() == Race(50, POLICY, 7).next_part()
    assert Race(50, POLICY, 7).next_part() != Race(50, POLICY, 8).next_part()


def test_a_race_over_nothing_is_decided():
    race = Race(0, POLICY, 0)
    assert race.next_part() is None and race.verdict is not None
    assert race.verdict.decision == "reject" and race.verdict.n == 0


def test_misuse_is_refused():
    race = Race(20, POLICY, 0)
    assert race.verdict is None
    with pytest.raises(ValueError, match="part of 10"):
        race.observe([1.0] * 9, [1.0] * 9)
    with pytest.raises(ValueError, match="pair them"):
        race.observe([1.0] * 10, [1.0] * 9)
    race.observe([1.0] * 10, [0.0] * 10)
    with pytest.raises(ValueError, match="decided"):
        race.observe([1.0] * 10, [0.0] * 10)
    with pytest.raises(ValueError, match="number of examples"):
        Race(-1, POLICY, 0)


def test_first_examples_are_asked_first_and_weigh_no_more_than_their_share():
    first = tuple(range(0, 100, 10))
    found, parts = finish(Race(100, POLICY, 0, first), [0.0] * 100, [float(i in first) for i in range(100)])
    assert set(parts[0]) == set(first) and found.decision == "accept" and found.n == 20
    assert found.delta == pytest.approx(0.1) and found.low <= 0.1 <= found.high
    assert sorted(i for part in parts for i in part) == sorted({i for part in parts for i in part})


def test_a_challenger_that_does_nothing_where_it_should_is_dropped_at_once():
    found, parts = finish(Race(100, POLICY, 0, range(8)), [0.0] * 100, [0.0] * 100)
    assert found.decision == "reject" and len(parts) == 1 and found.n == 8 and "about" in found.reason


def test_harm_elsewhere_forbids_an_early_acceptance():
    """Nine wins where it was looked first, one loss in ten elsewhere: the whole is worse, and the race finds out."""
    first = tuple(range(9))
    challenger = [1.0 if i in first else 0.0 for i in range(100)]
    incumbent = [float(i not in first and i % 5 == 0) for i in range(100)]
    found, _ = finish(Race(100, POLICY, 0, first), incumbent, challenger)
    assert found.decision == "reject"


@PATIENT
@given(st.integers(1, 60), st.sets(st.integers(0, 59)), st.integers(0, 3))
def test_whatever_comes_first_every_example_is_asked_at_most_once(n, first, seed):
    race, seen = Race(n, SearchGateConfig(part=8), seed, sorted(i for i in first if i < n)), []
    while (part := race.next_part()) is not None:
        seen += part
        race.observe([0.0] * len(part), [float(k % 2 == 0) for k in range(len(part))])
    assert len(seen) == len(set(seen)) and set(seen) <= set(range(n))
