"""Exact power of the sign test against brute force, and its inverses."""

from __future__ import annotations

import pytest
from scipy import stats as oracle

from hybrid.evidence.power import examples_needed, minimum_detectable_effect, power


def brute_force(n: int, effect: float, alpha: float, noise: float) -> float:
    """The mixture summed term by term with scipy's binomials."""
    discordant, chance = effect + 2 * noise, 0.0
    for m in range(1, n + 1):
        k = next((k for k in range(m + 1) if oracle.binom.sf(k - 1, m, 0.5) <= alpha), None)
        if k is not None:
            won = oracle.binom.sf(k - 1, m, (effect + noise) / discordant)
            chance += oracle.binom.pmf(m, n, discordant) * won
    return float(chance)


@pytest.mark.parametrize("n", [1, 5, 6, 20, 61])
@pytest.mark.parametrize(("effect", "noise"), [(0.1, 0.05), (0.9, 0.05), (0.3, 0.0), (0.0, 0.1), (1.0, 0.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.03125, 0.004])
def test_power_is_the_binomial_mixture(n, effect, noise, alpha):
    assert power(n, effect, alpha, noise) == pytest.approx(brute_force(n, effect, alpha, noise), abs=1e-9)


def test_without_an_effect_power_is_at_most_alpha():
    for n in (5, 20, 100, 1000):
        assert power(n, 0.0, 0.05) <= 0.05


@pytest.mark.parametrize(("effect", "alpha", "target"), [(0.5, 0.05, 0.8), (0.1, 0.05, 0.8), (0.05, 0.0125, 0.9)])
def test_examples_needed_is_the_first_size_that_suffices(effect, alpha, target):
    n = examples_needed(effect, alpha, target)
    assert power(n, effect, alpha) >= target
    assert all(power(smaller, effect, alpha) < target for smaller in range(max(1, n - 30), n))


def test_tiny_effects_are_planned_without_a_long_wait():
    n = examples_needed(0.0005, 0.05, 0.8)
    assert n > 1_000_000
    assert examples_needed(0.002, 0.05, 0.8) < 200_000


@pytest.mark.parametrize("n", [20, 60, 100, 400])
def test_minimum_detectable_effect_is_the_edge(n):
    effect = minimum_detectable_effect(n, 0.05, 0.8)
    assert effect is not None
    assert power(n, effect, 0.05) >= 0.8
    assert power(n, effect - 0.001, 0.05) < 0.8


def test_too_few_examples_detect_nothing():
    assert minimum_detectable_effect(4, 0.05, 0.8) is None
    assert minimum_detectable_effect(0, 0.05, 0.8) is None
    assert power(4, 0.9, 0.05) == 0.0


def test_smaller_alpha_needs_a_larger_effect():
    alone, corrected = minimum_detectable_effect(100, 0.05, 0.8), minimum_detectable_effect(100, 0.005, 0.8)
    assert alone is not None and corrected is not None and corrected > alone


@pytest.mark.parametrize(("effect", "noise"), [(0.95, 0.05), (-0.1, 0.05), (0.1, -0.01)])
def test_impossible_shares_are_refused(effect, noise):
    with pytest.raises(ValueError, match="do not fit"):
        power(10, effect, 0.05, noise)


def test_an_effect_of_zero_needs_no_answer():
    with pytest.raises(ValueError, match="effect of 0"):
        examples_needed(0.0, 0.05, 0.8)
