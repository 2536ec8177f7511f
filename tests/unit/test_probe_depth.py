"""The depth probe: the slope that was put in comes out, its interval covers it, and hostile metadata change nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from fakes import FINGERPRINT, FakeBackend, capability, meter
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.backends.base import Sampling
from hybrid.capability.types import Capability, Example
from hybrid.config.schema import ProbeConfig
from hybrid.probe.base import ProbeContext
from hybrid.probe.depth import depth_of, fit_depth, probe_depth
from hybrid.probe.profile import profile_capability


def drawn(rng: random.Random, intercept: float, slope: float, n: int) -> list[tuple[int, bool]]:
    depths = [1 + i % 8 for i in range(n)]
    return [(d, rng.random() < 1 / (1 + math.exp(slope * d - intercept))) for d in depths]


def test_the_slope_that_was_put_in_comes_out() -> None:
    fit = fit_depth(drawn(random.Random(5), 3.0, 0.8, 4000))
    assert fit is not None
    assert fit.slope == pytest.approx(0.8, abs=0.06)
    assert fit.intercept == pytest.approx(3.0, abs=0.25)
    assert fit.at(1) == pytest.approx(1 / (1 + math.exp(-2.2)), abs=0.03)


def test_the_interval_covers_the_slope_as_often_as_it_says() -> None:
    """64 rows, as many as a probe has: 20 draws, of which about 19 are to be covered."""
    rng = random.Random(11)
    fits = [fit_depth(drawn(rng, 3.0, 0.8, 64)) for _ in range(20)]
    covered = sum(fit is not None and fit.low <= 0.8 <= fit.high for fit in fits)
    assert 15 <= covered <= 20


def test_separated_answers_have_a_finite_steep_slope_and_a_shown_lower_end() -> None:
    fit = fit_depth([(d, d < 3) for d in range(1, 9) for _ in range(8)])
    assert fit is not None
    assert 1.0 < fit.low < fit.slope < fit.high < 60
    assert fit.at(1) > 0.99
    assert fit.at(8) < 0.01


@pytest.mark.parametrize("right", [True, False])
def test_answers_that_are_all_alike_have_no_slope(right: bool) -> None:
    fit = fit_depth([(d, right) for d in range(1, 9) for _ in range(8)])
    assert fit is not None
    assert fit.slope == pytest.approx(0.0, abs=1e-5)
    assert fit.low < 0 < fit.high, "64 answers that are all alike show no slope"


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=16, max_size=40), st.randoms())
def test_order_does_not_matter_and_the_slope_lies_in_its_interval(
    rows: list[tuple[int, bool]], rng: random.Random
) -> None:
    fit = fit_depth(rows)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert fit_depth(shuffled) == fit
    if fit is not None:
        assert fit.low <= fit.slope <= fit.high
        assert all(math.isfinite(v) for v in (fit.intercept, fit.slope, fit.low, fit.high))


def test_turning_answers_round_turns_the_slope_round() -> None:
    rows = drawn(random.Random(3), 2.0, 0.5, 120)
    there, back = fit_depth(rows), fit_depth([(d, not ok) for d, ok in rows])
    assert there is not None
    assert back is not None
    assert back.slope == pytest.approx(-there.slope, abs=1e-6)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-6)


def test_too_few_depths_or_rows_are_not_measurable() -> None:
    assert fit_depth([(d, True) for d in (1, 2) for _ in range(50)]) is None
    assert fit_depth([(d, True) for d in (1, 2, 3) for _ in range(5)]) is None


@pytest.mark.parametrize("found", [None, "3", 2.0, True, -1, 10**9, [3], {"d": 1}])
def test_metadata_that_are_no_depth_are_no_depth(found: object) -> None:
    assert depth_of(Example(id="a", prompt="b", reference="c", metadata={"depth": found})) is None


def with_depths(units: Capability) -> Capability:
    rows = tuple(e.model_copy(update={"metadata": {"depth": 1 + i % 4}}) for i, e in enumerate(units.splits["search"]))
    return Capability(units.name, {**units.splits, "search": rows}, units.grader)


def context(folder: Path, units: Capability) -> tuple[ProbeContext, FakeBackend]:
    """A model that answers up to two steps by itself and any number when the text says `step`."""

    def answer(prompt: str, seed: int, adapter: object) -> str:
        number = int(prompt.rpartition("q")[2].rstrip("?"))
        return f"a{number}" if 1 + number % 4 <= 2 or "step" in prompt else "no"

    backend = FakeBackend(answer)
    settings = ProbeConfig(examples=40, samples=2, variants=8)
    return ProbeContext(meter(folder, backend), units, settings, FINGERPRINT, Sampling(), 0), backend


def test_both_slopes_come_from_answers_that_were_paid_for_already(tmp_path: Path) -> None:
    c, backend = context(tmp_path, with_depths(capability(search=40)))
    base = c.measure()
    c.measure("step by step")
    asked = len(backend.asked)
    found = probe_depth(c, base, "step by step")
    assert len(backend.asked) == asked
    bare, text = found["depth_slope"], found["depth_slope_text"]
    assert bare.low is not None
    assert bare.low > 1.0
    assert [bare.details[f"accuracy_{d}"] for d in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 0.0]
    assert text.value == pytest.approx(0.0, abs=1e-5)
    assert text.details["accuracy_4"] == 1.0
    assert text.details["at_deepest"] > 0.9  # type: ignore[operator]


def test_where_nothing_can_be_fitted_it_says_why(tmp_path: Path) -> None:
    deep, _ = context(tmp_path / "deep", with_depths(capability(search=40)))
    assert probe_depth(deep, deep.measure(), " ")["depth_slope_text"].note == "no text to try"
    few, _ = context(tmp_path / "few", with_depths(capability(search=12)))
    found = probe_depth(few, few.measure(), "step")
    assert found["depth_slope"].value is None
    assert "12 examples of 4 depths" in found["depth_slope"].note
    assert found["depth_slope_text"].note == found["depth_slope"].note


def test_rows_without_depths_are_not_spoken_of(tmp_path: Path) -> None:
    c, _ = context(tmp_path, capability(search=40))
    assert probe_depth(c, c.measure(), "step") == {}


def test_a_profile_holds_both(tmp_path: Path) -> None:
    c, _ = context(tmp_path, with_depths(capability(search=40)))
    profile = profile_capability(c, {"seed": "step by step"}, "").profile
    assert profile["depth_slope"].n == profile["depth_slope_text"].n == 40
