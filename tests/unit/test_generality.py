"""The transfer ratio and its interval: what it is by hand, what always holds, and whether it covers the truth."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.evidence.generality import Gains, generality, told

scores = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60)


def gains(before: list[float], after: list[float], families: list[object] | None = None) -> Gains:
    return Gains.of(before, after, families)


def test_a_procedure_a_template_and_half_of_each() -> None:
    zero, one = [0.0] * 40, [1.0] * 40
    whole = generality(gains(zero, one), gains(zero, one))
    assert (whole.tau, whole.did, whole.note) == (1.0, 0.0, "")
    assert whole.tau_low is not None and whole.tau_low > 0.8
    none = generality(gains(zero, one), gains(zero, zero))
    assert (none.tau, none.did) == (0.0, 1.0)
    # No variant changed: a percentile bootstrap would claim [0, 0]. 40 variants cannot rule out a few points.
    assert none.tau_low is not None and none.tau_high is not None
    assert -0.12 < none.tau_low < 0 < none.tau_high < 0.12
    assert none.did_low > 0.75
    half = generality(gains(zero, one), gains(zero, [1.0, 0.0] * 20))
    assert half.tau == 0.5
    assert half.tau_low is not None and half.tau_high is not None
    assert half.tau_low < 0.4 and half.tau_high > 0.6
    worse = generality(gains(zero, one), gains(one, [1.0, 0.0] * 20))
    assert worse.tau == -0.5
    assert "transfer ratio 0.50 [" in told(half)


@pytest.mark.parametrize(
    ("inside", "variants", "note", "tau"),
    [
        (([0.0] * 30, [1.0] * 30), 7, "7 families of variants", None),
        (([1.0] * 30, [1.0] * 30), 20, "nothing was gained", None),
        (([1.0] * 30, [0.0] * 30), 20, "nothing was gained", None),
        (([0.0] * 30, [1.0] + [0.0] * 29), 20, "may be zero", 0.0),
    ],
)
def test_what_has_no_denominator_is_not_measurable(
    inside: tuple[list[float], list[float]], variants: int, note: str, tau: float | None
) -> None:
    found = generality(gains(*inside), gains([0.0] * variants, [0.0] * variants))
    assert (found.tau, found.tau_low, found.tau_high) == (tau, None, None)
    assert found.note.startswith("not measurable")
    assert note in found.note
    assert found.note in told(found)


def test_members_of_one_family_are_not_independent_examples() -> None:
    inside = gains([0.0] * 60, [1.0, 0.0] * 30)
    before, after = [0.0] * 60, [1.0] * 30 + [0.0] * 30
    alone = generality(inside, gains(before, after))
    together = generality(inside, gains(before, after, [f"p{i // 5}" for i in range(60)]))
    assert (together.families, together.variants, together.tau) == (12, 60, alone.tau)
    assert together.tau_low is not None and alone.tau_low is not None
    assert together.tau_low < alone.tau_low - 0.1, "12 families say less than 60 examples"


def test_a_gain_that_is_shared_by_families_makes_their_difference_sharper() -> None:
    before, after = [0.0] * 40, [1.0, 0.0] * 20
    names: list[object] = [f"p{i}" for i in range(40)]
    paired = generality(gains(before, after, names), gains(before, after, names))
    apart = generality(gains(before, after, names), gains(before, after))
    assert paired.did == apart.did == 0.0
    assert paired.did_high < apart.did_high / 2


@given(scores, scores)
def test_what_always_holds(inside: list[tuple[float, float]], outside: list[tuple[float, float]]) -> None:
    a, b = gains(*map(list, zip(*inside, strict=True))), gains(*map(list, zip(*outside, strict=True)))
    found = generality(a, b)
    assert found.did == pytest.approx(found.gain - found.variant_gain)
    assert -2 <= found.did_low <= found.did + 1e-12 and found.did - 1e-12 <= found.did_high <= 2
    if found.tau_low is not None and found.tau_high is not None and found.tau is not None:
        assert found.tau_low <= found.tau <= found.tau_high
        assert found.gain_low > 0
        assert found.tau == pytest.approx(found.variant_gain / found.gain)
    assert (found.tau_low is None) == bool(found.note)


@given(scores, scores, st.randoms(use_true_random=False))
def test_the_order_of_examples_and_the_names_of_families_say_nothing(
    inside: list[tuple[float, float]], outside: list[tuple[float, float]], shuffle: random.Random
) -> None:
    names = [i // 2 for i in range(len(outside))]

    def found(rows: list[tuple[tuple[float, float], int]], name: str) -> object:
        before, after = [r[0][0] for r in rows], [r[0][1] for r in rows]
        b = gains(before, after, [f"{name}{r[1]}" for r in rows])
        return generality(gains(*map(list, zip(*inside, strict=True))), b)

    rows = list(zip(outside, names, strict=True))
    first = found(rows, "p")
    shuffle.shuffle(rows)
    assert found(rows, "q") == first


def covered(tau: float, gain: float, members: int, runs: int = 150) -> float:
    """Share of simulated intervals that hold the true ratio: 80 examples, 24 families of `members` alike variants."""
    rng, hits = random.Random(f"{tau} {gain} {members}"), 0
    for run in range(runs):
        a = [1.0 if rng.random() < gain else 0.0 for _ in range(80)]
        b, names = [], []
        for family in range(24):
            easy = rng.random() < tau * gain  # the family's own luck, which its members mostly share
            for _ in range(members):
                own = easy if rng.random() < 0.7 else rng.random() < tau * gain
                b.append(float(own))
                names.append(family)
        found = generality(gains([0.0] * 80, a), gains([0.0] * len(b), b, names), seed=run)
        assert found.tau_low is not None and found.tau_high is not None
        hits += found.tau_low <= tau <= found.tau_high
    return hits / runs


@pytest.mark.parametrize(("tau", "gain", "members"), [(0.8, 0.6, 1), (0.3, 0.6, 1), (0.0, 0.5, 1), (0.6, 0.7, 3)])
def test_the_interval_covers_the_true_ratio(tau: float, gain: float, members: int) -> None:
    # 150 runs of a 95 % interval: below .90 would happen by chance about once in 150 times.
    assert covered(tau, gain, members) >= 0.90


def test_a_pair_that_was_not_judged_is_left_out() -> None:
    nan = float("nan")
    found = gains([0.0, 0.0, nan, 0.0], [1.0, nan, 1.0, 0.0], ["a", "b", "c", "d"])
    assert (found.differences, found.families) == ((1.0, 0.0), ("a", "d"))
