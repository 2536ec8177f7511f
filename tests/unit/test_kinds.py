"""Measured kinds: signatures of constructed kind get their kind, and what is unknown lowers the confidence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import capability
from hypothesis import given
from hypothesis import strategies as st

from hybrid.pipeline.probing import kind_of, tell_kind
from hybrid.probe.base import ProbeResult, Profile, absent
from hybrid.report.kind_text import kind_evidence, kind_line
from hybrid.router.kinds import (
    FEATURES,
    SINGLES,
    disagreement,
    judge_kind,
    load_model,
    measured_kind,
    verdict_probabilities,
)

PLAIN = {
    "base": 0.0, "unknown": 1.0, "content_gain": 0.9, "format_gain": 0.0, "content_gap": 0.0, "supplied": 0.0,
    "from_prompt": 0.0, "style_shift": 0.1,
}  # fmt: skip
FACTS = {"supplied": 0.95, "style_shift": 0.65}
RULES = {"base": 0.08, "unknown": 0.5, "from_prompt": 0.4, "style_shift": 0.05}
STYLE = {"content_gain": 0.0, "content_gap": 0.97, "format_gain": 0.95, "from_prompt": 0.45, "style_shift": 0.13}


def profile(half: float = 0.04, n: int = 64, **values: float | None) -> Profile:
    full: dict[str, float | None] = {**PLAIN, **values}
    return {
        name: absent("no") if v is None else ProbeResult(value=v, low=v - half, high=v + half, n=n)
        for name, v in full.items()
    }


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (FACTS, "factual"),
        (RULES, "procedural"),
        ({"base": 0.99, "unknown": None, "content_gain": None, "from_prompt": 0.4, "style_shift": None}, "procedural"),
        (STYLE, "stylistic"),
        ({**FACTS, "format_gain": 0.95, "style_shift": 0.5}, "mixed"),
        ({"content_gain": 0.0, "style_shift": 0.65}, "unclear"),
    ],
    ids=["a table of facts", "named rules", "operations that the base has", "a layout", "facts in a layout", "nothing"],
)
def test_signatures_of_known_kind(values: dict[str, float | None], kind: str) -> None:
    judged = judge_kind(profile(**values))
    assert judged.kind == kind, judged
    assert judged.confidence > 0.5
    assert judged.evidence
    assert measured_kind(profile(**values)) == (judged.kind, judged.confidence)


def test_the_parts_of_a_mixture_are_named() -> None:
    judged = judge_kind(profile(**{**FACTS, "format_gain": 0.95, "style_shift": 0.5}))
    assert judged.parts == ("factual", "stylistic")
    assert min(judged.scores["factual"], judged.scores["stylistic"]) > 0.5 > judged.scores["procedural"]


def test_fewer_examples_are_less_sure_and_too_few_say_nothing() -> None:
    confidences = [judge_kind(profile(half=half, **FACTS)).confidence for half in (0.02, 0.15, 0.4)]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] > confidences[-1]
    few = judge_kind(profile(n=15, **FACTS))
    assert (few.kind, few.confidence) == ("unclear", 0.0)
    assert "15 examples" in few.evidence[0]
    assert judge_kind({"base": absent("none")}).kind == "unclear"
    assert judge_kind({}).kind == "unclear"


def test_what_was_not_measured_lowers_the_confidence() -> None:
    whole = judge_kind(profile(**FACTS))
    part = judge_kind(profile(**{**FACTS, "supplied": None, "content_gain": None}))
    assert part.scores["factual"] < whole.scores["factual"]
    assert not [e for e in part.evidence if e.startswith(("supplied", "content_gain"))]


def test_a_signature_like_none_before_is_unclear() -> None:
    """A base that is always right and holds every answer in a text, far from all families at once."""
    odd = {"base": 1.0, "unknown": 0.0, "content_gain": -1.0, "content_gap": -1.0, "supplied": 1.0, "style_shift": 1.0}
    judged = judge_kind(profile(half=0.01, **odd))
    assert (judged.kind, judged.confidence) == ("unclear", 0.0)
    assert judged.evidence[0].startswith("unlike anything judged before")


def test_a_disagreement_is_said_with_its_evidence_and_only_when_sure() -> None:
    sure = judge_kind(profile(half=0.01, **FACTS))
    told = disagreement(sure, "procedural")
    assert told is not None
    assert told.startswith("declared procedural, measured factual (confidence ")
    assert "supplied 0.95 [0.94, 0.96], n=64 speaks for factual" in told
    assert disagreement(sure, "factual") is None
    assert disagreement(sure, None) is None
    mixed = judge_kind(profile(half=0.01, **{**FACTS, "format_gain": 0.95, "style_shift": 0.5}))
    assert disagreement(mixed, "factual") is None, "a part of a mixture is no disagreement"
    assert disagreement(judge_kind(profile(n=10)), "factual") is None


@given(st.tuples(*(st.floats(0, 1) for _ in SINGLES)))
def test_verdicts_are_a_distribution(scores: tuple[float, ...]) -> None:
    verdicts = verdict_probabilities(dict(zip(SINGLES, scores, strict=True)))
    assert sum(verdicts.values()) == pytest.approx(1.0)
    assert min(verdicts.values()) >= 0.0


shares = st.floats(-1, 1) | st.none()


@given(st.fixed_dictionaries(dict.fromkeys(FEATURES, shares)), st.floats(0.0, 0.5))
def test_any_profile_gets_a_verdict(values: dict[str, float | None], half: float) -> None:
    judged = judge_kind(profile(half=half, **values))
    assert 0.0 <= judged.confidence <= 1.0
    again = judge_kind(dict(reversed(profile(half=half, **values).items())))
    assert again == judged


def test_the_model_that_ships_names_what_it_reads_and_was_fitted_on() -> None:
    model = load_model()
    assert set(model.scores) == set(SINGLES)
    assert all(set(score.weights) == set(FEATURES) == set(model.centre) for score in model.scores.values())
    assert "seeds" in model.fitted_on


class Ear:
    """What a session is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_the_run_warns_of_another_kind_than_declared_and_the_report_shows_both() -> None:
    ear, found = Ear(), profile(half=0.01, **FACTS)
    units = replace(capability(search=20), declared_kind="procedural")
    tell_kind(ear, units, found)  # type: ignore[arg-type]
    assert len(ear.warnings) == 1
    assert ear.warnings[0].startswith("units: declared procedural, measured factual")
    tell_kind(ear, replace(units, declared_kind="factual"), found)  # type: ignore[arg-type]
    assert len(ear.warnings) == 1
    kind = kind_of(units, found)
    lines = kind_evidence(kind)
    assert kind_line(kind).startswith("measured factual, declared procedural (confidence ")
    assert lines[0] == f"disagreement: {ear.warnings[0].removeprefix('units: ')}"
    assert any(
        text.startswith("each by itself: factual 0.9") or text.startswith("each by itself: factual 1") for text in lines
    )
    assert any("most like" in text for text in lines)
    agreed = kind_of(replace(units, declared_kind="factual"), found)
    assert agreed.disagreement is None
    assert "disagreement" not in "".join(kind_evidence(agreed))
