"""A better calibration ships only jointly with an accuracy that is not worse, and only where it can be measured."""

from __future__ import annotations

import random

import pytest

from hybrid.config.schema import CalibrationGateConfig, ShipGateConfig
from hybrid.evidence.gate import ship_gate
from hybrid.evidence.joint_gate import Told, joint_gate

POLICY = ShipGateConfig(calibration=CalibrationGateConfig())
N = 160


def scores(right: int) -> list[float]:
    return [1.0] * right + [0.0] * (N - right)


def told(right: int, sure: float, unsure: float) -> Told:
    """Says `sure` where it is right and `unsure` where it is wrong."""
    return [(sure if i < right else unsure, i < right) for i in range(N)]


def test_a_calibration_ships_at_equal_accuracy():
    verdict = joint_gate(scores(80), scores(80), told(80, 0.9, 0.9), told(80, 0.9, 0.2), POLICY)
    assert (verdict.decision, verdict.basis, verdict.delta) == ("accept", "calibration", 0.0)
    assert verdict.p <= POLICY.alpha
    assert "Brier loss falls by +0.385" in verdict.reason


def test_without_the_knob_only_the_score_is_asked():
    before, after = told(80, 0.9, 0.9), told(80, 0.9, 0.2)
    plain = ShipGateConfig()
    assert joint_gate(scores(80), scores(80), before, after, plain) == ship_gate(scores(80), scores(80), plain)


def test_wrong_on_purpose_with_confidence_zero_is_refused_however_good_its_calibration():
    """What a Brier reward above the weight of accuracy teaches: everything wrong, and said so."""
    before, after = told(80, 0.9, 0.9), told(40, 1.0, 0.0)
    verdict = joint_gate(scores(80), scores(40), before, after, POLICY)
    assert verdict.decision == "reject"
    assert "accuracy may be worse" in verdict.reason


def test_an_accuracy_that_may_be_worse_by_more_than_the_margin_does_not_ship():
    verdict = joint_gate(scores(80), scores(74), told(80, 0.9, 0.9), told(74, 0.9, 0.2), POLICY)
    assert verdict.delta > -0.05  # the mean is within the margin, its interval is not
    assert verdict.decision != "accept"


def test_too_few_states_are_not_measurable():
    before: Told = [(0.9, i < 80) if i % 8 == 0 else None for i in range(N)]
    verdict = joint_gate(scores(80), scores(80), before, told(80, 0.9, 0.1), POLICY)
    assert verdict.decision != "accept"
    assert "not measurable: 20 answers of the incumbent" in verdict.reason


def test_silence_where_it_would_be_wrong_buys_nothing():
    """The challenger keeps the base's confidences and says nothing where it is wrong."""
    before = told(80, 0.9, 0.9)
    silent: Told = [pair if i < 80 else None for i, pair in enumerate(before)]
    verdict = joint_gate(scores(80), scores(80), before, silent, POLICY)
    assert verdict.decision != "accept"
    assert "falls by -0." in verdict.reason


def test_a_gain_in_score_still_ships_on_the_score_at_half_of_alpha():
    verdict = joint_gate(scores(80), scores(120), told(80, 0.5, 0.5), told(120, 0.5, 0.5), POLICY)
    assert (verdict.decision, verdict.basis) == ("accept", "score")
    weak_before, weak_after = scores(80), scores(85)  # 5 of 5 pairs: p = 0.031, above 0.025
    assert ship_gate(weak_before, weak_after, ShipGateConfig()).decision == "accept"
    same = told(80, 0.5, 0.5)
    assert joint_gate(weak_before, weak_after, same, same, POLICY).decision != "accept"


def test_a_regressing_slice_vetoes_a_calibration():
    after = [0.0] * 20 + [1.0] * 60 + [1.0] * 20 + [0.0] * 60
    pairs: Told = [(1.0 if value else 0.0, value == 1.0) for value in after]
    slices = {"first": list(range(20))}
    verdict = joint_gate(scores(80), after, told(80, 0.6, 0.6), pairs, POLICY, slices=slices)
    assert verdict.decision == "reject"
    assert "a slice regresses" in verdict.reason


def test_unpaired_confidences_are_an_error():
    with pytest.raises(ValueError, match="paired"):
        joint_gate(scores(80), scores(80), told(80, 0.9, 0.9)[:-1], told(80, 0.9, 0.9), POLICY)


def test_two_equal_arms_are_accepted_no_more_often_than_alpha():
    """Base and arm state independent noise around the same truth: the level holds for both questions together."""
    rng, accepted, policy = random.Random(0), 0, POLICY.model_copy(update={"minimum_effect": 0.001})
    policy = policy.model_copy(update={"calibration": CalibrationGateConfig(minimum_effect=0.001, margin=0.3)})
    runs = 200
    for _ in range(runs):
        arms = []
        for _ in range(2):
            right = [rng.random() < 0.5 for _ in range(64)]
            arms.append(([float(r) for r in right], [(rng.choice((0.3, 0.5, 0.7)), r) for r in right]))
        (before, before_told), (after, after_told) = arms
        accepted += joint_gate(before, after, before_told, after_told, policy).decision == "accept"
    assert accepted / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5
