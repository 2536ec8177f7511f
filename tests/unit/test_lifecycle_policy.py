"""The policy of a placement's life: total, deterministic, monotone in what it weighs; what settles after the gates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_example import bare_capability

from hybrid.evidence.types import Verdict
from hybrid.pipeline.review import apart
from hybrid.probe.base import Terms
from hybrid.report.parts import Collateral, Effect, Estimate
from hybrid.report.parts_lifecycle import Costs, HistoryEntry
from hybrid.report.schema import CapabilityReport
from hybrid.router.lifecycle import Bounds, Now, Policy, propose, settle, wanted
from hybrid.router.place import Arm, Transfer
from hybrid.router.route import Route
from hybrid.router.upkeep import break_even_days

POLICY = Policy(0.1, 30.0)
GAINS = Effect(delta=0.8, low=0.7, high=0.9, n=96)
SAME = Effect(delta=0.0, low=-0.06, high=0.06, n=96)
FELL = Effect(delta=-0.9, low=-0.95, high=-0.8, n=96)
NOTHING = Effect(delta=0.0, low=-0.04, high=0.04, n=96)
PLACES = ("keep", "skill", "weights", "both", "neither", "undecided")


def placed(placement: str, **collateral: Collateral) -> CapabilityReport:
    found = CapabilityReport.model_validate(bare_capability("x", placement))
    return found.model_copy(update={"collateral": collateral})


def costs(days: float | None = None, training: str = "estimated") -> Costs:
    return Costs(
        document_tokens=20.0,
        calls_per_day=1000.0,
        seconds_per_token=0.001,
        training_seconds=60.0,
        training=training,  # type: ignore[arg-type]
        break_even_days=days,
    )


def proposed(placement: str, now: Now, terms: Terms = Terms(), days: float | None = None, **collateral: Collateral):  # noqa: B008  # frozen
    found = propose(placed(placement, **collateral), terms, now, costs(days), POLICY)
    return found.action, found.target


STABLE = Now(False, GAINS, SAME)
CHANGED = Now(True, NOTHING, FELL)


@pytest.mark.parametrize(
    ("placement", "now", "terms", "days", "expected"),
    [
        ("skill", STABLE, Terms(), None, ("keep", "skill")),
        ("weights", STABLE, Terms(), None, ("keep", "weights")),
        ("neither", Now(True), Terms(calls_per_day=1e9), 0.1, ("keep", "neither")),
        ("weights", CHANGED, Terms(), None, ("demote", "skill")),
        ("both", CHANGED, Terms(), None, ("demote", "skill")),
        ("skill", CHANGED, Terms(), None, ("renew", "skill")),
        ("skill", Now(True, GAINS, SAME), Terms(), None, ("keep", "skill")),
        ("skill", Now(False, NOTHING, SAME), Terms(), None, ("retire", "neither")),
        ("weights", Now(False, NOTHING, SAME), Terms(), None, ("retire", "neither")),
        ("weights", STABLE, Terms(portable=True), None, ("demote", "skill")),
        ("weights", STABLE, Terms(volatility=30.0, calls_per_day=1.0), 2.0, ("demote", "skill")),
        ("weights", STABLE, Terms(volatility=30.0, calls_per_day=1.0), 0.5, ("keep", "weights")),
        ("skill", STABLE, Terms(calls_per_day=1000.0), 3.0, ("promote", "weights")),
        ("skill", STABLE, Terms(calls_per_day=1000.0), 31.0, ("keep", "skill")),
        ("skill", STABLE, Terms(calls_per_day=1000.0, volatility=15.0), 3.0, ("keep", "skill")),
        ("skill", STABLE, Terms(calls_per_day=1000.0, portable=True), 3.0, ("keep", "skill")),
        ("skill", STABLE, Terms(), 3.0, ("keep", "skill")),
        ("skill", STABLE, Terms(calls_per_day=1000.0), None, ("keep", "skill")),
    ],
)
def test_each_rule(placement: str, now: Now, terms: Terms, days: float | None, expected: tuple[str, str]) -> None:
    assert proposed(placement, now, terms, days) == expected


def test_what_changed_before_is_promoted_again_only_where_its_pace_is_declared() -> None:
    entry = {"when": "run-1", "was": "weights", "now": "skill", "why": "stale", "outcome": "carried out"}
    numbers = {"delta": None, "low": None, "high": None, "n": 0}
    past = HistoryEntry(action="demote", **entry, **numbers)  # type: ignore[arg-type]
    capability = placed("skill").model_copy(update={"history": (past,)})
    silent, declared = Terms(calls_per_day=1e6), Terms(calls_per_day=1e6, volatility=1.0)
    found = propose(capability, silent, STABLE, costs(0.1), POLICY)
    assert (found.action, "run-1" in found.why) == ("keep", True)
    assert propose(capability, declared, STABLE, costs(0.1), POLICY).action == "promote"


def test_a_promotion_that_was_refused_is_not_tried_again_on_the_same_data() -> None:
    entry = {"when": "run-1", "was": "skill", "now": "skill", "why": "hot", "outcome": "not carried out (skill)"}
    numbers = {"delta": None, "low": None, "high": None, "n": 0}
    past = HistoryEntry(action="promote", **entry, **numbers)  # type: ignore[arg-type]
    capability, hot = placed("skill").model_copy(update={"history": (past,)}), Terms(calls_per_day=1e6)
    found = propose(capability, hot, STABLE, costs(0.1), POLICY)
    assert (found.action, "tried by run run-1" in found.why) == ("keep", True)
    assert propose(capability, hot, Now(True, GAINS, SAME), costs(0.1), POLICY).action == "promote"


def test_harm_to_another_demotes_an_adapter_and_not_a_text() -> None:
    harm = Collateral(delta=-0.2, low=-0.3, high=-0.1, n=48)
    maybe = Collateral(delta=-0.2, low=-0.45, high=0.05, n=48)
    assert proposed("weights", STABLE, other=harm) == ("demote", "skill")
    assert proposed("both", STABLE, other=harm) == ("demote", "skill")
    assert proposed("weights", STABLE, other=maybe) == ("keep", "weights")
    assert proposed("skill", STABLE, other=harm) == ("keep", "skill")


def test_what_cannot_be_distilled_is_not_promoted_and_says_why() -> None:
    policy = Policy(0.1, 30.0, unpromotable="adapters are shared here")
    found = propose(placed("skill"), Terms(calls_per_day=1e6), STABLE, costs(0.1), policy)
    assert found.action == "keep"
    assert "adapters are shared here" in found.why


effects = st.tuples(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(1, 500)).map(
    lambda x: Effect(delta=x[0], low=x[0] - x[1], high=x[0] + x[2], n=x[3])
)
nows = st.builds(Now, st.booleans(), st.none() | effects, st.none() | effects)
terms_ = st.builds(Terms, st.none() | st.floats(0, 100), st.none() | st.floats(0, 1e9), st.booleans())


@given(st.sampled_from(PLACES), nows, terms_, st.none() | st.floats(0, 1e6))
def test_every_input_has_one_answer_with_a_reason(placement: str, now: Now, terms: Terms, days: float | None) -> None:
    first = propose(placed(placement), terms, now, costs(days), POLICY)
    assert first == propose(placed(placement), terms, now, costs(days), POLICY)
    assert first.why
    assert first.action in ("keep", "renew", "promote", "demote", "retire")
    if placement not in ("skill", "weights", "both"):
        assert first.action == "keep"
    if first.action == "keep":
        assert first.target == placement
    if first.action == "promote":
        assert placement == "skill"
        assert terms.calls_per_day is not None
        assert not terms.portable
    if first.action == "demote":
        assert placement in ("weights", "both")


@given(nows, terms_, st.floats(0.01, 1e3), st.floats(1, 100))
def test_a_text_read_more_often_is_never_promoted_less(now: Now, terms: Terms, days: float, more: float) -> None:
    hot = propose(placed("skill"), terms, now, costs(days / more), POLICY).action
    cold = propose(placed("skill"), terms, now, costs(days), POLICY).action
    assert not (cold == "promote" and hot != "promote")


@given(st.floats(1, 1e5), st.floats(1, 1e4), st.floats(1, 1e9), st.floats(1e-6, 1))
def test_break_even_is_where_both_cost_the_same(training: float, tokens: float, calls: float, each: float) -> None:
    days = break_even_days(training, tokens, calls, each)
    assert days is not None
    assert math.isclose(days * tokens * calls * each, training, rel_tol=1e-9)
    assert break_even_days(training, tokens, 0.0, each) is None
    assert break_even_days(None, tokens, calls, each) is None


def test_the_difference_of_two_independent_means_is_newcombes() -> None:
    """Newcombe 1998, method 10, his example (a): 56/70 against 48/80 gives 0.0524 to 0.3339."""
    one = Estimate(mean=0.8, low=0.6918, high=0.8770, n=70)
    two = Estimate(mean=0.6, low=0.4906, high=0.7004, n=80)
    found = apart(two, one)
    assert found.delta == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=2e-3), pytest.approx(0.3339, abs=2e-3))


# After the gates.

ROUTE = Route("weights", (), 1.0)
BOUNDS = Bounds(0.1, 0.5)


def verdict(decision: str, delta: float = 0.5, half: float = 0.05) -> Verdict:
    return Verdict(
        decision=decision,  # type: ignore[arg-type]
        delta=delta,
        low=delta - half,
        high=delta + half,
        p=0.001,
        n=100,
        improved=50,
        regressed=0,
        reason="told",
    )


def arm(name: str, decision: str, tau: float | None = None) -> Arm:
    return Arm(name, verdict(decision), Transfer(tau, None if tau is None else 0.1, 12))  # type: ignore[arg-type]


def settled(action: str, was: str, arms: dict[str, Arm], against: Verdict | None = None):
    found = settle(action, was, ROUTE, arms, lambda a, b: against or verdict("undecided", 0.0), BOUNDS)  # type: ignore[arg-type]
    return found.placement, [r.arm for r in found.refused]


def test_a_promoted_adapter_has_to_keep_what_its_document_does() -> None:
    both = {"skill": arm("skill", "accept"), "weights": arm("weights", "accept")}
    assert settled("promote", "skill", both) == ("weights", [])
    assert settled("promote", "skill", both, verdict("reject", -0.08, 0.05)) == ("skill", ["weights"])
    assert settled("promote", "skill", {**both, "weights": arm("weights", "accept", 0.1)}) == ("skill", ["weights"])
    assert settled("promote", "skill", {**both, "weights": arm("weights", "reject")}) == ("skill", ["weights"])


def test_a_demotion_falls_back_to_what_shipped_where_that_still_passes() -> None:
    ok, no = arm("skill", "accept"), arm("skill", "reject")
    old = arm("weights", "accept")
    assert settled("demote", "weights", {"skill": ok, "weights": old}) == ("skill", [])
    assert settled("demote", "weights", {"skill": no, "weights": old}) == ("weights", ["skill"])
    assert settled("demote", "weights", {"weights": arm("weights", "reject")}) == ("neither", ["weights"])
    assert settled("demote", "weights", {"skill": no, "weights": arm("weights", "undecided")})[0] == "undecided"


def test_a_retirement_is_taken_back_where_the_gate_still_accepts_it() -> None:
    assert settled("retire", "skill", {"skill": arm("skill", "accept")}) == ("skill", [])
    assert settled("retire", "skill", {"skill": arm("skill", "reject")}) == ("neither", ["skill"])
    assert settled("retire", "skill", {}) == ("neither", [])


@given(
    st.sampled_from(("promote", "demote", "renew", "retire")),
    st.sampled_from(("skill", "weights", "both")),
    st.dictionaries(st.sampled_from(("skill", "weights", "both")), st.sampled_from(("accept", "reject", "undecided"))),
)
def test_nothing_ships_that_a_gate_did_not_accept(action: str, was: str, decisions: dict[str, str]) -> None:
    arms = {name: arm(name, decision) for name, decision in decisions.items()}
    found, _ = settled(action, was, arms)
    if found in ("skill", "weights", "both"):
        assert decisions[found] == "accept"
        assert found in wanted(action, was)  # type: ignore[arg-type]
    else:
        assert not any(decisions.get(name) == "accept" for name in wanted(action, was))  # type: ignore[arg-type]
