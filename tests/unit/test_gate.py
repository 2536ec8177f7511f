"""The ship gate: when it accepts, rejects and stays undecided, and what it can never do."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.config.schema import ShipGateConfig
from hybrid.evidence.gate import finalize, ship_gate, strictly_better
from hybrid.evidence.stats import sign_test
from hybrid.evidence.types import Verdict

POLICY = ShipGateConfig()
YES_NO = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), max_size=40)
GRADED = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), max_size=20)
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""


def pairs(better: int, worse: int, same: int) -> tuple[list[float], list[float]]:
    """Scores with so many pairs of each sort."""
    return [0.0] * better + [1.0] * worse + [1.0] * same, [1.0] * better + [0.0] * worse + [1.0] * same


def unzip(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in rows], [b for _, b in rows]


def test_a_clear_gain_is_accepted_with_its_numbers():
    found = ship_gate(*pairs(30, 5, 65), POLICY)
    assert found.decision == "accept"
    assert (found.improved, found.regressed, found.n, found.delta) == (30, 5, 100, 0.25)
    assert found.p == sign_test([1.0] * 30 + [-1.0] * 5) and found.p <= 0.05
    assert found.low < 0.25 < found.high
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize(
    ("better", "worse", "same", "decision", "why"),
    [
        (5, 0, 0, "accept", "better at alpha"),
        (4, 0, 0, "undecided", "not measurable at this size"),
        (0, 0, 0, "undecided", "not measurable at this size"),
        (0, 1, 0, "undecided", "not measurable at this size"),
        (0, 0, 40, "undecided", "no pair differs"),
        (0, 0, 200, "reject", "below the minimum effect"),
        (2, 2, 200, "reject", "below the minimum effect"),
        (5, 20, 75, "reject", "worse than the incumbent"),
        (8, 5, 87, "undecided", "holds both zero and the minimum effect"),
        (60, 40, 9_900, "reject", "below the minimum effect"),
    ],
)
def test_decisions(better, worse, same, decision, why):
    found = ship_gate(*pairs(better, worse, same), POLICY)
    assert (found.decision, why in found.reason) == (decision, True), found.reason


def test_a_real_but_negligible_gain_does_not_ship():
    found = ship_gate(*pairs(60, 20, 9_920), POLICY)
    assert found.p < 0.001 and found.high < POLICY.minimum_effect and found.decision == "reject"


def test_alpha_can_be_overridden():
    scores = pairs(12, 4, 34)
    assert ship_gate(*scores, POLICY).decision == "accept"
    assert ship_gate(*scores, POLICY, alpha=0.01).decision == "undecided"


def test_a_regression_hidden_in_the_mean_vetoes_and_is_named():
    incumbent = [0.0] * 60 + [1.0] * 20
    challenger = [1.0] * 40 + [0.0] * 20 + [1.0] * 8 + [0.0] * 12
    slices = {"topic=dates": list(range(60)), "topic=units": list(range(60, 80))}
    assert ship_gate(incumbent, challenger, POLICY).decision == "accept"
    found = ship_gate(incumbent, challenger, POLICY, slices=slices)
    assert found.decision == "reject" and "topic=units" in found.reason
    assert list(found.slices) == ["topic=units"]
    hurt = found.slices["topic=units"]
    assert hurt["delta"] == -0.6 and hurt["n"] == 20 and hurt["low"] < -0.6 < hurt["high"]


def test_chance_losses_in_one_of_many_slices_do_not_veto():
    incumbent, challenger = pairs(80, 0, 80)
    incumbent, challenger = incumbent + [1.0] * 5, challenger + [0.0] * 5
    slices = {f"s{i}": list(range(10 * i, 10 * i + 10)) for i in range(16)} | {"bad luck": list(range(160, 165))}
    # Alone, five losses of five have p = 0.031; as one of 17 slices they are not news.
    assert ship_gate(incumbent, challenger, POLICY, slices={"bad luck": slices["bad luck"]}).decision == "reject"
    assert ship_gate(incumbent, challenger, POLICY, slices=slices).decision == "accept"


def test_empty_slices_and_empty_data_are_legal():
    found = ship_gate([], [], POLICY, slices={"none": []})
    assert (found.decision, found.n, found.delta, found.low, found.high, found.p) == (
        "undecided",
        0,
        0.0,
        -1.0,
        1.0,
        1.0,
    )


def test_graded_scores_are_judged_by_size():
    incumbent = [0.5] * 40
    big_gains = [0.9] * 20 + [0.45] * 20
    found = ship_gate(incumbent, big_gains, POLICY)
    assert found.decision == "accept" and found.improved == found.regressed == 20


@pytest.mark.parametrize(("incumbent", "challenger"), [([1.0], []), ([0.0], [1.2]), ([float("inf")], [0.0])])
def test_unpaired_or_impossible_scores_are_refused(incumbent, challenger):
    with pytest.raises(ValueError, match="scores"):
        ship_gate(incumbent, challenger, POLICY)


@PATIENT
@given(st.lists(st.floats(0, 1), max_size=40))
def test_a_challenger_that_is_the_incumbent_is_never_accepted(scores):
    assert ship_gate(scores, scores, POLICY).decision != "accept"
    assert not strictly_better(scores, scores)


@PATIENT
@given(st.one_of(YES_NO, GRADED), st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(rows, rng):
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert ship_gate(*unzip(rows), POLICY) == ship_gate(*unzip(shuffled), POLICY)


@PATIENT
@given(st.one_of(YES_NO, GRADED))
def test_swapping_the_arms_mirrors_the_evidence_and_never_accepts_both(rows):
    incumbent, challenger = unzip(rows)
    forth, back = ship_gate(incumbent, challenger, POLICY), ship_gate(challenger, incumbent, POLICY)
    assert (back.delta, back.low, back.high) == pytest.approx((-forth.delta, -forth.high, -forth.low))
    assert (back.improved, back.regressed) == (forth.regressed, forth.improved)
    if forth.decision == "accept":
        assert back.decision == "reject" and forth.delta > 0


@PATIENT
@given(YES_NO, st.floats(0.001, 0.2))
def test_accept_always_means_a_small_enough_p(rows, alpha):
    found = ship_gate(*unzip(rows), POLICY, alpha=alpha)
    if found.decision == "accept":
        assert found.p <= alpha and found.high >= POLICY.minimum_effect
    if found.n and found.p > alpha:
        assert found.decision != "accept"


def accepted(p: float) -> Verdict:
    return Verdict(
        decision="accept", delta=0.1, low=0.01, high=0.2, p=p, n=100, improved=20, regressed=10, reason="better"
    )


def test_holm_turns_an_accept_that_does_not_survive_into_undecided():
    found = finalize({"a": accepted(0.01), "b": accepted(0.03), "c": accepted(0.04)}, POLICY)
    # Adjusted: 3 * .01 = .03, then max(.03, 2 * .03) = .06, then max(.06, .04) = .06.
    assert [found[k].decision for k in "abc"] == ["accept", "undecided", "undecided"]
    assert [found[k].p for k in "abc"] == [0.01, 0.03, 0.04]
    assert "0.06" in found["b"].reason and "0.03" in found["a"].reason


def test_holm_counts_every_test_that_was_made():
    rejected = accepted(0.5).model_copy(update={"decision": "reject"})
    assert finalize({"a": accepted(0.03)}, POLICY)["a"].decision == "accept"
    found = finalize({"a": accepted(0.03), "b": rejected}, POLICY)
    assert found["a"].decision == "undecided" and found["b"] == rejected


def test_without_correction_nothing_changes():
    verdicts = {"a": accepted(0.04), "b": accepted(0.045)}
    assert finalize(verdicts, ShipGateConfig(multiplicity="none")) == verdicts
    assert finalize({}, POLICY) == {}


def test_strictly_better_is_the_bare_mean():
    assert strictly_better([0.0, 1.0, 0.0], [1.0, 1.0, 0.0])
    assert not strictly_better([1.0, 0.0], [0.0, 1.0])


def test_a_pair_that_was_not_judged_is_in_no_count_and_in_no_slice():
    nan = float("nan")
    incumbent, challenger = [0.0] * 20 + [nan, 1.0], [1.0] * 20 + [1.0, nan]
    found = ship_gate(incumbent, challenger, POLICY, slices={"all": range(22)})
    assert found == ship_gate([0.0] * 20, [1.0] * 20, POLICY, slices={"all": range(20)})
    assert found.n == 20
