"""Calibration numbers against hand calculations and scipy, with intervals that stay honest at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as oracle

from hybrid.evidence.calibration import auroc, brier, ece


def simulated(n: int, seed: int, shift: float = 0.0) -> list[tuple[float, bool]]:
    rng = np.random.default_rng(seed)
    stated = rng.integers(0, 11, n) / 10
    right = rng.random(n) < np.clip(stated - shift, 0, 1)
    return list(zip(stated.tolist(), right.tolist(), strict=True))


def test_brier_by_hand():
    found = brier([(0.9, True), (0.2, False), (1.0, False)])
    assert found is not None
    assert found.mean == pytest.approx((0.01 + 0.04 + 1.0) / 3)
    assert found.n == 3 and found.low <= found.mean <= found.high


def test_ece_by_hand_with_a_confidence_of_one_in_the_last_bin():
    pairs = [(0.95, True)] * 4 + [(1.0, False)] * 2 + [(0.1, False)] * 3 + [(0.15, True)]
    # Last bin: mean confidence (3.8 + 2) / 6, accuracy 4/6; second bin: (0.3 + 0.15) / 4 against 1/4.
    expected = 0.6 * abs(5.8 / 6 - 4 / 6) + 0.4 * abs(0.45 / 4 - 0.25)
    found = ece(pairs)
    assert found is not None
    assert found.mean == pytest.approx(expected)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_auroc_is_the_mann_whitney_statistic_with_ties():
    pairs = simulated(80, 3)
    right, wrong = [c for c, a in pairs if a], [c for c, a in pairs if not a]
    expected = oracle.mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong))
    found = auroc(pairs)
    assert found is not None and found.mean == pytest.approx(expected) and found.n == 80


def test_auroc_interval_keeps_its_width_at_the_ends_and_mirrors():
    perfect = auroc([(0.9, True)] * 5 + [(0.1, False)] * 5)
    reversed_ = auroc([(0.1, True)] * 5 + [(0.9, False)] * 5)
    assert perfect is not None and reversed_ is not None
    assert perfect.mean == 1.0 and perfect.high == 1.0 and 0.4 < perfect.low < 0.95
    assert (reversed_.low, reversed_.high) == pytest.approx((1 - perfect.high, 1 - perfect.low))


def test_auroc_interval_covers():
    rng, inside = np.random.default_rng(1), 0
    truth = 0.5 * (1 + math.erf(0.5))  # normal scores one standard deviation apart: Phi(1 / sqrt 2)
    for _ in range(1000):
        right = oracle.norm.cdf(rng.normal(1.0, 1.0, 20))
        wrong = oracle.norm.cdf(rng.normal(0.0, 1.0, 25))
        found = auroc([(c, True) for c in right.tolist()] + [(c, False) for c in wrong.tolist()])
        assert found is not None
        inside += found.low <= truth <= found.high
    assert 0.93 <= inside / 1000 <= 0.98


def test_ece_interval_covers_a_miscalibrated_model():
    inside = 0
    for seed in range(150):
        found = ece(simulated(300, seed, shift=0.2), seed=seed)
        assert found is not None
        # The stated tenths 0..1 are off by min(stated, 0.2) on average: (0 + 0.1 + 9 * 0.2) / 11.
        inside += found.low <= 1.9 / 11 <= found.high
    assert inside / 150 >= 0.9


def test_one_answer_for_everything_keeps_a_finite_interval():
    found = ece([(1.0, True)] * 20)
    assert found is not None
    assert found.mean == 0.0 and found.low == 0.0 and 0.05 < found.high < 0.5


def test_what_cannot_be_measured_is_none():
    assert brier([]) is None
    assert ece([(0.5, True)] * 9) is None
    assert auroc([(0.5, True), (0.7, True)]) is None
    assert auroc([]) is None


def test_order_does_not_matter():
    pairs = simulated(60, 4)
    assert ece(pairs) == ece(pairs[::-1])
    assert brier(pairs) == brier(pairs[::-1])
    assert auroc(pairs) == auroc(pairs[::-1])


@pytest.mark.parametrize("bad", [float("nan"), 1.2, -0.1])
def test_impossible_confidences_are_refused(bad):
    for measure in (brier, ece, auroc):
        with pytest.raises(ValueError, match="confidences"):
            measure([(bad, True)] * 12)
