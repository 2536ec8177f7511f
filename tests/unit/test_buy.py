"""Buying evidence as a pure policy: when, on which arms, which go on, and what follows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.config.router import BuyConfig, ConfidenceConfig, RouterConfig
from hybrid.probe.base import ProbeResult, Terms
from hybrid.router.advice import recommended, standing
from hybrid.router.arms import ARMS, ArmName
from hybrid.router.buy import Bid, best, bid, settle, survivors, wants
from hybrid.router.openness import open_arms
from hybrid.router.place import place
from hybrid.router.route import Route, calibrated, route
from hybrid.router.upkeep import break_even_days, judge, upkeep

POLICY = RouterConfig(buy_below=0.8)


def offer(arm: ArmName, low: float, gain: float = 0.5, high: float = 0.9) -> Bid:
    return Bid(arm, 0 if arm == "skill" else 8, gain, low, high, 64)


def bids(**lows: float) -> dict[ArmName, Bid]:
    return {arm: offer(arm, lows[arm]) for arm in ARMS if arm in lows}


def probe(value: float, half: float, n: int = 40) -> ProbeResult:
    return ProbeResult(value=value, low=value - half, high=value + half, n=n)


@pytest.mark.parametrize(
    ("lows", "chosen"),
    [
        ({"skill": 0.4, "both": 0.44}, "skill"),
        ({"skill": 0.4, "both": 0.46}, "both"),
        ({"skill": -0.1, "weights": 0.01}, "weights"),
        ({"weights": 0.3, "both": 0.3}, "weights"),
        ({"skill": 0.0, "weights": -0.2}, None),
        ({}, None),
    ],
)
def test_a_dearer_arm_has_to_be_ahead_by_the_margin(lows: dict[str, float], chosen: str | None) -> None:
    found = best(bids(**lows), BuyConfig(margin=0.05))
    assert (found.arm if found else None) == chosen


def test_nothing_is_bought_where_the_choice_is_clear_or_cannot_be_shown() -> None:
    open_both = Route("skill", (), 0.9, link=0.7, open=("skill", "both"))
    assert wants(open_both, POLICY, 64) == ("skill", "both")
    assert wants(open_both, RouterConfig(buy_below=0.7), 64) == (), "confident enough"
    assert wants(open_both, POLICY, POLICY.buy.examples - 1) == (), "too few to compare on"
    assert wants(Route("neither", (), 0.9, link=0.9, open=("skill",)), POLICY, 64) == ("skill",), "whatever the link"
    assert wants(Route("neither", (), 0.5, link=0.5, open=("skill",)), RouterConfig(buy_below=0.0), 64) == ()
    assert wants(Route("skill", (), 0.5, link=0.5, open=("skill",)), POLICY, 64) == (), "the text is built anyway"
    assert wants(Route("keep", (), 0.5, link=0.5), POLICY, 64) == ()
    assert wants(Route("weights", (), 0.5, link=0.5), POLICY, 64) == ("weights",), "is there really a signal"


def test_the_better_half_goes_on() -> None:
    assert survivors(bids(skill=0.9, weights=0.1, both=0.2)) == ("both",)
    assert survivors(bids(weights=0.2, both=0.2)) == ("weights",), "the cheaper of equals"
    assert survivors(bids(both=-0.5)) == ("both",), "the last one is judged by its bid, not dropped"


def test_an_open_gain_that_was_not_shown_is_undecided_and_a_closed_one_is_neither() -> None:
    def ends(high: float) -> str:
        found = settle(
            Route("neither", (), 0.5, open=("weights",)), {"weights": offer("weights", -0.1, 0.0, high)}, POLICY
        )
        assert found.bought
        return place(found, {}, lambda a, b: pytest.fail("no arm"), minimum_effect=0.1, transfer_floor=0.5).placement

    assert ends(POLICY.open_above) == "undecided"
    assert ends(POLICY.open_above - 0.01) == "neither"


unit = st.floats(-1, 1)
arms_st = st.dictionaries(st.sampled_from(ARMS), unit)


@given(lows=arms_st, arm=st.sampled_from(ARMS), more=st.floats(0, 1))
def test_settling_is_total_and_a_better_bid_never_loses_a_choice(
    lows: dict[ArmName, float], arm: ArmName, more: float
) -> None:
    before = settle(Route("weights", (), 0.5), bids(**lows), POLICY)
    assert before == settle(Route("weights", (), 0.5), bids(**lows), POLICY)
    assert before.placement in {*lows, "neither"}
    assert before.reasons
    if before.placement == arm:
        after = settle(Route("weights", (), 0.5), bids(**{**lows, arm: lows[arm] + more}), POLICY)
        assert after.placement == arm


@settings(deadline=None)  # the first call loads numpy
@given(pairs=st.lists(st.tuples(st.floats(0, 1), st.one_of(st.floats(0, 1), st.just(math.nan)))))
def test_a_bid_is_an_interval_around_the_judged_gain(pairs: list[tuple[float, float]]) -> None:
    found = bid("weights", 8, [a for a, _ in pairs], [b for _, b in pairs])
    judged = [b - a for a, b in pairs if not math.isnan(b)]
    assert found.n == len(judged)
    assert found.low <= found.gain <= found.high
    if judged:
        assert found.gain == pytest.approx(math.fsum(judged) / len(judged))


@given(a=st.floats(0, 1), b=st.floats(0, 1), intercept=st.floats(-3, 3), slope=st.floats(0, 5))
def test_stated_confidence_rises_with_the_weakest_link(a: float, b: float, intercept: float, slope: float) -> None:
    how = ConfidenceConfig(intercept=intercept, slope=slope)
    low, high = (calibrated(x, how) for x in sorted((a, b)))
    assert 0 <= low <= high <= 1
    assert calibrated(a, ConfidenceConfig()) == a


def test_what_is_open_is_neither_shown_nor_excluded() -> None:
    closed = {
        "base": probe(0.2, 0.1),
        "context_gain": probe(0.0, 0.09),
        "sampling_gain": probe(0.0, 0.07),
        "signal_rate": probe(0, 0.07),
    }
    assert open_arms(closed, POLICY) == ()
    assert open_arms({**closed, "context_gain": probe(0.1, 0.18)}, POLICY) == ("skill", "both"), (
        "unsampled under the text"
    )
    under = {"text_sampling_gain": probe(0.02, 0.02), "text_signal_rate": probe(0.1, 0.05)}
    assert open_arms({**closed, "context_gain": probe(0.1, 0.18), **under}, POLICY) == ("skill",)
    assert open_arms({**closed, "sampling_gain": probe(0.2, 0.1), "signal_rate": probe(0.15, 0.1)}, POLICY) == (
        "weights",
    )
    assert route({**closed, "context_gain": probe(0.1, 0.18)}, POLICY).open == ("skill", "both")


def test_a_small_sample_cannot_say_keep() -> None:
    few = ProbeResult(value=0.94, low=0.72, high=0.99, n=16)
    assert route({"base": few}, RouterConfig()).placement == "undecided"
    assert route({"base": few}, RouterConfig(open_above=0.2)).placement == "keep"


SLOPE = ProbeResult(value=1.2, low=0.7, high=1.9, n=64, details={"at_deepest": 0.04})


def test_a_tool_is_recommended_where_depth_stays_steep_under_the_text() -> None:
    shallow = {"base": probe(0.3, 0.1), "context_gain": probe(0.3, 0.1), "text_score": probe(0.6, 0.1)}
    assert recommended(shallow, POLICY) is None
    found = route({**shallow, "depth_slope_text": SLOPE}, POLICY)
    assert (found.placement, found.recommendation) == ("skill", "tool"), "advice places nothing"
    assert any(
        "recommended: a tool. depth slope under the best text 1.20 [0.70, 1.90], n=64" in r for r in found.reasons
    )
    assert recommended({"depth_slope_text": SLOPE.model_copy(update={"low": 0.4})}, POLICY) is None, "not shown"
    deep = SLOPE.model_copy(update={"details": {"at_deepest": 0.95}})
    assert recommended({"depth_slope_text": deep}, POLICY) is None, "deep answers are right all the same"


def declared(**terms: float) -> dict[str, ProbeResult]:
    return {name: ProbeResult(value=value) for name, value in terms.items()}


def test_declared_terms_break_ties() -> None:
    assert standing({}, POLICY, 200, 1e6).prefers == "text"
    assert standing(declared(calls_per_day=1000), POLICY, 200, 1e6).prefers == "weights"
    assert standing(declared(calls_per_day=100), POLICY, 200, 1e6).prefers == "text"
    assert standing(declared(calls_per_day=1000, volatility=2), POLICY, 200, 1e6).prefers == "weights", "5 of 15 days"
    assert standing(declared(calls_per_day=1000, volatility=10), POLICY, 200, 1e6).prefers == "text", "5 of 3 days"
    assert standing(declared(calls_per_day=1000, portable=1), POLICY, 200, 1e6).prefers == "text"
    assert standing(declared(calls_per_day=1000, portable=0), POLICY, 200, 1e6).prefers == "weights"


@given(calls=st.floats(0, 1e6), more=st.floats(0, 1e6), tokens=st.integers(0, 10_000), training=st.floats(0, 1e9))
def test_more_calls_never_turn_weights_into_text(calls: float, more: float, tokens: int, training: float) -> None:
    few, many = (standing(declared(calls_per_day=n), POLICY, tokens, training).prefers for n in (calls, calls + more))
    assert (few, many) != ("weights", "text")


def test_what_was_bought_says_why():
    weak = settle(Route("weights", (), 0.5, link=0.5), bids(weights=0.2), POLICY)
    assert "since the weakest link 0.50 is below 0.80" in weak.reasons[0]
    ended = settle(Route("neither", (), 0.97, link=0.97, open=("weights",)), bids(weights=0.2), POLICY)
    assert "since the rules end at neither with an arm open" in ended.reasons[0]


@given(
    calls=st.floats(0.1, 1e5), volatility=st.floats(0, 1e3), tokens=st.integers(1, 10_000), training=st.floats(1, 1e9)
)
def test_a_tie_and_a_review_weigh_the_same_costs_alike(calls, volatility, tokens, training):
    """A text that the router prefers is not proposed for promotion the next day, and an adapter not for demotion."""
    terms = Terms(volatility=volatility, calls_per_day=calls)
    routed = standing(declared(calls_per_day=calls, volatility=volatility), POLICY, tokens, training).prefers
    days = break_even_days(training * 0.01, tokens, calls, 0.01)
    reviewed = judge(days, terms, POLICY.horizon_days)
    assert reviewed.days == pytest.approx(upkeep(terms, training=training, document=tokens, horizon_days=30.0).days)
    assert (routed == "weights") == reviewed.pays or reviewed.days == pytest.approx(reviewed.limit_days)
