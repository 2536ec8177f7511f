"""Figures of a step: passes by group, formats by the declared classifier, passes that no answer could earn."""

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.capability.graders.base import GraderError
from hybrid.capability.types import Example, Score
from hybrid.config.monitors import FormatPattern, MonitorsConfig
from hybrid.evidence.classify import build_classifier, classifier_fingerprint
from hybrid.weights.observe import Observer, Sample, figures

CODE_FIRST = MonitorsConfig(
    formats=(FormatPattern(name="code", pattern=r"\bdef\b"), FormatPattern(name="text", pattern=r"[a-z]{3}"))
)
EXAMPLES = [Example(id=f"e{i}", prompt=f"p{i}", reference=r) for i, r in enumerate(["1", "1", "2", "3"])]


class Ends:
    """Passes a completion that ends in the reference, and anything that ends in a delimiter: the hole of this grader."""

    def __init__(self):
        self.asked = []

    def grade(self, completion, example):
        self.asked.append((completion, example.id))
        right = completion.endswith((example.reference, "####"))
        return Score(float(right), right)

    def fingerprint(self):
        return "ends"


def observed(completions, **changes):
    grader = Ends()
    observer = Observer(MonitorsConfig(**changes), EXAMPLES, grader)
    graded = [(row, text, grader.grade(text, EXAMPLES[row])) for row, text in completions]
    grader.asked.clear()
    return observer.samples(graded), grader


def test_passes_are_counted_by_group():
    samples = [Sample("1", "x", passed, None) for passed in (True, False, False, False, False, False, True, True)]
    found = figures(samples, generations=2)
    assert found["pass_at_1"] == 3 / 8
    assert found["pass_at_k"] == 2 / 4
    assert set(found) == {"pass_at_1", "pass_at_k", "unspecific"}


def test_shares_and_passes_by_format():
    samples = [Sample("1", "x", True, "code"), Sample("1", "y", False, "code")] * 3 + [
        Sample("1", "z", True, "text")
    ] * 2
    found = figures(samples, generations=4)
    assert (found["format/code"], found["format/text"]) == (0.75, 0.25)
    assert (found["format_passed/code"], found["format_passed/text"]) == (0.375, 0.25)
    assert found["effective_formats"] == pytest.approx(1.7548, abs=1e-4)


sample = st.builds(Sample, st.sampled_from("12"), st.sampled_from("xyz"), st.booleans(), st.sampled_from(["a", "b"]))


@given(st.lists(sample, min_size=4, max_size=24).map(lambda found: found[: len(found) // 4 * 4]))
def test_figures_agree_with_each_other(samples):
    found = figures(samples, generations=4)
    shares = [v for k, v in found.items() if k.startswith("format/")]
    passed = [v for k, v in found.items() if k.startswith("format_passed/")]
    assert sum(shares) == pytest.approx(1.0)
    assert sum(passed) == pytest.approx(found["pass_at_1"])
    assert found["unspecific"] <= found["pass_at_1"] <= found["pass_at_k"] <= 1.0
    assert 1.0 <= found["effective_formats"] <= 2.0 + 1e-9


def test_a_text_that_passes_for_two_references_is_unspecific():
    """Rows 0 and 1 share a reference: the same answer to both is simply right."""
    same, _ = observed([(0, "so 1"), (1, "so 1")])
    assert figures(same, 1)["unspecific"] == 0.0
    hole, _ = observed([(0, "####"), (2, "####"), (3, "so 3"), (0, "so 2")])
    assert figures(hole, 1)["unspecific"] == 0.5


def test_swapped_references_see_a_hole_that_no_two_texts_share():
    texts = [(0, "a ####"), (1, "b ####"), (2, "c ####"), (3, "so 3")]
    plain, grader = observed(texts)
    assert figures(plain, 1)["unspecific"] == 0.0
    assert grader.asked == [], "nothing more is graded unless asked for"
    swapped, grader = observed(texts, swap_references=True)
    assert figures(swapped, 1)["unspecific"] == 0.75
    # The next row with another reference: e1 has that of e0.
    assert grader.asked == [("a ####", "e2"), ("b ####", "e2"), ("c ####", "e3"), ("so 3", "e0")]


def test_only_passing_completions_are_graded_again():
    _, grader = observed([(0, "so 9"), (0, "so 1")], swap_references=True)
    assert grader.asked == [("so 1", "e2")]


def test_the_first_pattern_names_the_format():
    classify = build_classifier(CODE_FIRST)
    assert classify is not None
    assert [classify(t) for t in ("def f", "so abc", "12", "")] == ["code", "text", "other", "other"]
    assert build_classifier(MonitorsConfig()) is None


def test_a_completion_that_makes_a_pattern_explode_is_other():
    classify = build_classifier(MonitorsConfig(formats=(FormatPattern(name="bad", pattern=r"(a+)+$"),)))
    assert classify is not None
    started = time.monotonic()
    assert classify("a" * 60 + "b") == "other"
    assert time.monotonic() - started < 60
    assert classify("aaa") == "bad", "the next completion is judged as ever"


def test_the_order_of_patterns_is_part_of_the_rule():
    reverse = MonitorsConfig(formats=CODE_FIRST.formats[::-1])
    assert classifier_fingerprint(reverse) != classifier_fingerprint(CODE_FIRST)
    assert classifier_fingerprint(MonitorsConfig()) is None


def module(tmp_path, monkeypatch, body):
    (tmp_path / "told.py").write_text(f"def tell(completion):\n    {body}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "told", raising=False)
    return MonitorsConfig(classifier="told:tell")


def test_a_callable_may_tell_formats_apart(tmp_path, monkeypatch):
    config = module(tmp_path, monkeypatch, "return 'long' if len(completion) > 3 else 'short'")
    classify = build_classifier(config)
    assert classify is not None
    assert [classify("abcd"), classify("abc")] == ["long", "short"]
    first = classifier_fingerprint(config)
    assert classifier_fingerprint(module(tmp_path, monkeypatch, "return 'one'")) != first, "its source counts"


@pytest.mark.parametrize("body", ["return 'Not a name'", "return None", "raise ValueError('x')", "return 'a' * 65"])
def test_a_callable_that_gives_no_name_is_an_error_and_not_a_format(tmp_path, monkeypatch, body):
    classify = build_classifier(module(tmp_path, monkeypatch, body))
    assert classify is not None
    with pytest.raises(GraderError, match="told:tell"):
        classify("abc")


def test_a_callable_that_is_not_there_is_named():
    with pytest.raises(GraderError, match="no_such_module"):
        build_classifier(MonitorsConfig(classifier="no_such_module:tell"))
