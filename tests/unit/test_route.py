"""Routing is a pure function of a profile: every rule, every reason, and a confidence that grows with the evidence."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid.config.schema import RouterConfig
from hybrid.probe.base import ProbeResult, Profile, absent
from hybrid.router.kinds import side_probability
from hybrid.router.route import LEAST_EXAMPLES, Route, route

POLICY = RouterConfig()
NAMES = ("base", "format", "pass_at_k", "sampling_gain", "signal_rate", "unknown", "text_score", "context_gain")


def probe(value: float, half: float = 0.05, n: int = 64) -> ProbeResult:
    return ProbeResult(value=value, low=value - half, high=value + half, n=n)


def profile(half: float = 0.05, n: int = 64, **values: float | None) -> Profile:
    """A profile in which everything that is not named is 0."""
    full = {**dict.fromkeys(NAMES, 0.0), **values}
    return {name: absent("no") if v is None else probe(v, half, n) for name, v in full.items()}


TEXT = {"context_gain": 0.5, "text_score": 0.6}
GRADIENTS = {"sampling_gain": 0.3, "signal_rate": 0.5}
UNDER_TEXT = {"text_sampling_gain": 0.3, "text_signal_rate": 0.5}
TABLE: list[tuple[str, dict[str, float | None], str, str | None]] = [
    ("the base does it", {"base": 0.95, **TEXT, **GRADIENTS}, "keep", None),
    ("exactly at the threshold", {"base": 0.9}, "keep", None),
    ("just below it", {"base": 0.89}, "neither", None),
    ("a text does all", {"base": 0.1, "context_gain": 0.8, "text_score": 0.95}, "skill", None),
    ("a text does all, samples vary without it", {"context_gain": 0.8, "text_score": 0.95, **GRADIENTS}, "skill", "weights"),
    ("a text does all, samples vary under it", {"context_gain": 0.8, "text_score": 0.95, **UNDER_TEXT}, "skill", None),
    ("a text helps, samples under it vary", {**TEXT, **UNDER_TEXT}, "both", None),
    ("a text helps, samples vary everywhere", {**TEXT, **UNDER_TEXT, **GRADIENTS}, "both", None),
    ("a text helps, its samples agree", TEXT, "skill", None),
    ("a text helps, its samples agree, plain ones vary", {**TEXT, **GRADIENTS}, "skill", "weights"),
    ("under the text too few groups vary", {**TEXT, **UNDER_TEXT, "text_signal_rate": 0.1}, "skill", None),
    ("under the text too little to gain", {**TEXT, **UNDER_TEXT, "text_sampling_gain": 0.05}, "skill", None),
    ("samples vary", GRADIENTS, "weights", None),
    ("failures break rules that the document has", {"lapse_share": 0.7}, "weights", None),
    ("lapses are not shown to be most", {"lapse_share": 0.52}, "neither", None),
    ("a text helps, and lapses recur under the old one", {**TEXT, "lapse_share": 0.7}, "skill", "weights"),
    ("samples vary, too few groups", {"sampling_gain": 0.3, "signal_rate": 0.1}, "neither", None),
    ("groups vary, too little to gain", {"sampling_gain": 0.05, "signal_rate": 0.5}, "neither", None),
    ("nothing helps", {}, "neither", None),
    ("no text to try", {"context_gain": None, "text_score": None, **GRADIENTS}, "weights", None),
    ("a text that barely helps", {"context_gain": 0.09, **GRADIENTS}, "weights", None),
]  # fmt: skip


@pytest.mark.parametrize(("what", "values", "placement", "fallback"), TABLE, ids=[row[0] for row in TABLE])
def test_rules(what: str, values: dict[str, float | None], placement: str, fallback: str | None) -> None:
    found = route(profile(**values), POLICY)
    assert (found.placement, found.fallback) == (placement, fallback), found.reasons
    assert found.reasons
    assert 0.5 <= found.confidence <= 1.0


def test_too_few_examples_decide_nothing() -> None:
    small = route(profile(n=LEAST_EXAMPLES - 1, base=0.99), POLICY)
    assert (small.placement, small.confidence) == ("undecided", 0.5)
    assert small.reasons == ("only 15 examples in `search`: not measurable at this size",)
    assert route(profile(n=LEAST_EXAMPLES, base=0.99), POLICY).placement == "keep"
    assert route({**profile(), "base": absent("no examples in `search`")}, POLICY).placement == "undecided"


def test_a_gain_whose_interval_holds_zero_is_not_acted_on() -> None:
    """The best guess is above the threshold, but the text is not shown to help: no skill, said so, and no false calm."""
    wide = {**profile(), "context_gain": probe(0.4, half=0.45, n=16)}
    found = route(wide, POLICY)
    assert found.placement == "neither"
    assert "context gain is not shown: its interval reaches down to zero" in found.reasons
    assert found.confidence == 0.5


@pytest.mark.parametrize("forced", ["keep", "skill", "weights", "both", "neither"])
def test_force_overrides_the_rules_and_says_so(forced: str) -> None:
    free = route(profile(**TEXT, **GRADIENTS), POLICY)
    found = route(profile(**TEXT, **GRADIENTS), POLICY, forced)  # type: ignore[arg-type]
    assert (found.placement, found.fallback) == (forced, None)
    assert found.reasons[:-1] == free.reasons
    assert found.reasons[-1] == f"forced by router.force: {forced} (the probes alone said skill)"
    assert (found.kind, found.confidence) == (free.kind, free.confidence)


def test_every_number_looked_at_leaves_its_interval_and_n() -> None:
    found = route(profile(**TEXT, **UNDER_TEXT, n=40), POLICY)
    told = "\n".join(found.reasons)
    for name in ("base score", "context gain", "sampling gain", "score with the best text"):
        assert name in told
    assert "context gain 0.50 [0.45, 0.55], n=40 is at least 0.10" in found.reasons


def test_the_confidence_is_the_weakest_link() -> None:
    sure = route(profile(base=0.2, context_gain=0.8, text_score=0.99, half=0.02), POLICY)
    close = {**profile(base=0.2, context_gain=0.8, half=0.02), "text_score": probe(0.92, half=0.1)}
    assert sure.confidence > 0.99
    assert route(close, POLICY).confidence == round(side_probability(close["text_score"], 0.9), 4)


def test_what_sampling_does_without_a_text_does_not_cloud_a_text() -> None:
    """A plain sampling gain right at its threshold is a coin toss, and irrelevant where a text does the work."""
    coin = route(profile(base=0.1, context_gain=0.8, text_score=0.99, sampling_gain=0.1, signal_rate=0.9), POLICY)
    assert coin.placement == "skill"
    assert coin.confidence > 0.95


shares = st.floats(0, 1)


@given(values=st.fixed_dictionaries(dict.fromkeys((*NAMES, "text_sampling_gain", "text_signal_rate"), shares)))
def test_more_examples_never_lower_the_confidence_of_the_same_decision(values: dict[str, float]) -> None:
    found: list[Route] = []
    for n in (16, 32, 64, 256, 1024):
        found.append(route(profile(half=0.6 / n**0.5, n=n, **values), POLICY))
    for before, after in pairwise(found):
        shown = "its interval reaches down to zero"
        if before.placement == after.placement and not any(shown in r for r in (*before.reasons, *after.reasons)):
            assert after.confidence >= before.confidence - 1e-4


@given(value=shares, threshold=shares, n=st.integers(1, 1000), more=st.integers(1, 1000))
def test_side_probability_is_monotone_in_n(value: float, threshold: float, n: int, more: int) -> None:
    fewer, greater = (side_probability(probe(value, half=0.5 / k**0.5), threshold) for k in (n, n + more))
    assert 0.5 <= fewer <= greater <= 1.0


@given(value=shares, near=shares, far=shares, half=st.floats(0.001, 0.5))
def test_side_probability_grows_with_the_distance(value: float, near: float, far: float, half: float) -> None:
    assume(abs(value - near) <= abs(value - far))
    assert side_probability(probe(value, half), near) <= side_probability(probe(value, half), far)


def test_side_probability_of_what_is_unknown_is_a_coin_toss() -> None:
    assert side_probability(absent("no"), 0.5) == 0.5
    assert side_probability(ProbeResult(value=1.0), 0.5) == 0.5
    assert side_probability(probe(0.5), 0.5) == 0.5
    assert side_probability(probe(0.6, half=0.1), 0.5) == pytest.approx(0.975, abs=1e-3)


@given(values=st.fixed_dictionaries(dict.fromkeys(NAMES, shares)), forced=st.sampled_from([None, "skill", "neither"]))
def test_routing_is_pure(values: dict[str, float], forced: str | None) -> None:
    one = route(profile(**values), POLICY, forced)  # type: ignore[arg-type]
    other = route(dict(reversed(profile(**values).items())), POLICY, forced)  # type: ignore[arg-type]
    assert one == other


@given(values=st.fixed_dictionaries(dict.fromkeys(NAMES, shares)))
def test_raising_the_bar_for_keeping_never_makes_it_keep(values: dict[str, float]) -> None:
    strict, lax = RouterConfig(keep_above=0.95), RouterConfig(keep_above=0.5)
    if route(profile(**values), strict).placement == "keep":
        assert route(profile(**values), lax).placement == "keep"


def test_a_kind_that_is_not_likely_is_not_acted_on() -> None:
    assert Route("skill", (), 1.0, kind="factual", kind_confidence=0.81).sure_kind == "factual"
    assert Route("skill", (), 1.0, kind="factual", kind_confidence=0.44).sure_kind == "unclear"
