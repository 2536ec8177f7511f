"""Tests, corrections and estimators against scipy, hand calculations and brute force."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from hybrid.evidence.stats import (
    group_signal_rate,
    holm,
    paired_test,
    pass_at_k,
    sign_flip_test,
    sign_test,
    spearman,
    wilson,
)

PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""
TERNARY = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=60)


@PATIENT
@given(TERNARY)
def test_sign_test_is_scipys_exact_binomial(differences):
    wins, losses = differences.count(1.0), differences.count(-1.0)
    expected = oracle.binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue if wins + losses else 1.0
    assert sign_test(differences) == pytest.approx(expected, rel=1e-12)


def test_sign_test_stays_exact_for_thousands_of_pairs():
    differences = [1.0] * 2_600 + [-1.0] * 2_400
    expected = oracle.binomtest(2_600, 5_000, 0.5, alternative="greater").pvalue
    assert sign_test(differences) == pytest.approx(expected, rel=1e-9)


@PATIENT
@given(TERNARY)
def test_sign_tails_of_both_directions_overlap_by_the_observed_outcome(differences):
    wins, losses = differences.count(1.0), differences.count(-1.0)
    observed = math.comb(wins + losses, wins) / 2 ** (wins + losses)
    assert sign_test(differences) + sign_test([-d for d in differences]) == pytest.approx(1 + observed)


@pytest.mark.parametrize("n", [3, 8, 12])
def test_sign_flips_are_enumerated_exactly_for_few_pairs(n):
    rng = random.Random(n)
    data = [rng.uniform(-1, 1) for _ in range(n)]
    observed = sum(data)
    flips = [sum(s * d for s, d in zip(signs, data, strict=True)) for signs in itertools.product((1, -1), repeat=n)]
    assert sign_flip_test(data) == pytest.approx(sum(f >= observed - 1e-12 for f in flips) / 2**n)


def test_sampled_sign_flips_agree_with_scipys_permutation_test():
    rng = random.Random(5)
    data = [rng.gauss(0.08, 0.25) for _ in range(40)]

    def mean(values):
        return sum(values) / len(values)

    result = oracle.permutation_test(
        (data,), mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=1
    )
    assert sign_flip_test(data, seed=3) == pytest.approx(result.pvalue, abs=0.01)


@PATIENT
@given(st.lists(st.floats(-1, 1), min_size=13, max_size=30), st.randoms(use_true_random=False))
def test_sign_flips_ignore_order_and_never_give_zero(data, rng):
    shuffled = list(data)
    rng.shuffle(shuffled)
    p = sign_flip_test(data, seed=1)
    assert p == sign_flip_test(shuffled, seed=1)
    assert 0 < p <= 1


def test_sampled_sign_flips_agree_with_the_sign_test_on_ternary_data():
    data = [1.0] * 18 + [-1.0] * 8 + [0.0] * 20
    assert sign_flip_test(data, seed=0) == pytest.approx(sign_test(data), abs=0.006)
    assert paired_test([d / 2 for d in data]) == sign_test(data)


def test_clusters_flip_together():
    data, groups = [1.0] * 12, [i // 4 for i in range(12)]
    assert sign_flip_test(data, groups=groups) == pytest.approx(1 / 8)
    assert sign_flip_test(data) == pytest.approx(1 / 4096)


def test_graded_test_sees_sizes_that_signs_do_not():
    data = [0.9] * 6 + [-0.05] * 6
    assert sign_test(data) > 0.5
    assert paired_test(data) < 0.05


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_sign_flips_refuse_what_is_not_a_number(bad):
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test([0.5, bad])


def test_holm_against_a_hand_computed_table():
    # Sorted: .005*5=.025, .011*4=.044, .02*3=.06, .04*2=.08, .13*1=.13; all increasing already.
    raw = {"d": 0.04, "a": 0.005, "e": 0.13, "b": 0.011, "c": 0.02}
    expected = {"a": 0.025, "b": 0.044, "c": 0.06, "d": 0.08, "e": 0.13}
    assert holm(raw) == pytest.approx(expected)
    assert list(holm(raw)) == list(raw)
    # Monotone: the second would be .015*2 = .03, below the first's .012*3 = .036; and nothing exceeds 1.
    assert holm({"x": 0.012, "y": 0.015, "z": 0.9}) == pytest.approx({"x": 0.036, "y": 0.036, "z": 0.9})
    assert holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}


@PATIENT
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_is_monotone_between_raw_and_bonferroni(raw):
    adjusted = holm(raw)
    for name, p in raw.items():
        assert p <= adjusted[name] <= min(1.0, len(raw) * p) or adjusted[name] == pytest.approx(p)
    ranked = sorted(raw, key=lambda k: raw[k])
    assert [adjusted[k] for k in ranked] == sorted(adjusted.values())


@pytest.mark.parametrize(("n", "c", "k"), [(8, 3, 1), (8, 3, 4), (8, 0, 8), (8, 8, 1), (6, 5, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(n, c, k):
    marks = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(marks, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_what_cannot_be_estimated(n, c, k):
    with pytest.raises(ValueError, match="cannot be estimated"):
        pass_at_k(n, c, k)


def test_group_signal_rate_is_the_share_of_mixed_subsets():
    counts = [(6, 2), (6, 6), (6, 0), (7, 3)]
    shares = []
    for n, c in counts:
        subsets = list(itertools.combinations([1] * c + [0] * (n - c), 4))
        shares.append(sum(0 < sum(s) < 4 for s in subsets) / len(subsets))
    assert group_signal_rate(counts, 4) == pytest.approx(sum(shares) / 4)


def test_group_signal_rate_is_unbiased():
    # E over c ~ Binomial(n, p) must be 1 - p^G - (1 - p)^G whatever n >= G.
    p, n, group = 0.3, 9, 5
    expected = sum(oracle.binom.pmf(c, n, p) * group_signal_rate([(n, c)], group) for c in range(n + 1))
    assert expected == pytest.approx(1 - p**group - (1 - p) ** group)


def test_group_signal_rate_says_when_it_cannot_be_measured():
    assert group_signal_rate([], 4) is None
    assert group_signal_rate([(8, 3), (3, 1)], 4) is None
    with pytest.raises(ValueError, match="passes"):
        group_signal_rate([(4, 5)], 2)


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_is_scipys_with_ties(pairs):
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(oracle.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_needs_three_pairs_of_equal_length():
    assert spearman([1.0, 2.0], [2.0, 1.0]) is None
    with pytest.raises(ValueError, match="against"):
        spearman([1.0], [1.0, 2.0])


@PATIENT
@given(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_wilson_is_scipys(counts, level):
    passes, n = counts
    expected = oracle.binomtest(passes, n).proportion_ci(level, method="wilson")
    found = wilson(passes, n, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.mean <= found.high
