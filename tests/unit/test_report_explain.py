"""The terminal explanation, the edit diffs and the figures."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_example import (
    arm,
    bare_capability,
    delta,
    edit,
    example,
    example_data,
    saved,
    skill_capability,
    verdict,
)
from test_report_render import Tree

from hybrid.errors import RunFolderError, UsageError
from hybrid.report import svg
from hybrid.report.diff import edit_diff, line_diff, whole_diff
from hybrid.report.explain import to_text, what_would_change
from hybrid.report.render import explain
from hybrid.report.schema import CapabilityReport, Report, SkillEdit
from hybrid.report.text import limits, seconds


@pytest.fixture
def run(tmp_path):
    saved(tmp_path, example())
    return tmp_path


def flat(text):
    """The explanation without its line breaks."""
    return " ".join(text.split())


def test_explain_tells_where_why_and_what_else(run):
    text = flat(explain(run, "unit-conversion"))
    for said in (
        "unit-conversion: skill (confidence 0.940)",
        "measured factual, declared procedural",
        "(2) context gain 0.31 [0.20, 0.42], n=64 is at least 0.10",
        "skill (served): 0.700 [0.636, 0.764], n=200; variants 0.660",
        "skill + weights: not built, so nothing is known of it here",
        "weights: undecided, +0.044 [-0.047, +0.135], 31 improved, 24 regressed, n=160, p 0.210",
        "LoRA by GRPO, checkpoint 150: +0.044",
        "context_gain 0.310 [0.200, 0.420], n=64: gain of the best text over the better of no text and an irrelevant text",
        "1.609344 km; 1 inch = 2.54 cm",
        "6 of 200 test examples got worse",
        "an answer reads 96.0 prompt tokens, +77.6 against the base",
        "Regret -0.180",
        "keep: the base scores 0.405",
        "variant_gap is not measurable, n=0: how much worse it is on variants (not measurable at this size: no variants",
        "not measurable, so nothing speaks from there: variant_gap",
        "it was declared procedural and measures as factual",
    ):
        assert said in text, said


def test_an_explanation_is_numbered_questions_in_short_lines(run):
    text = explain(run, "unit-conversion")
    heads = [row for row in text.splitlines() if re.match(r"\d+\. ", row)]
    assert [head.partition(".")[0] for head in heads] == [str(n) for n in range(1, len(heads) + 1)]
    assert heads[0] == "1. What is claimed"
    assert heads[-1].endswith("What speaks for doubt?")
    assert text.endswith("\n") and "  \n" not in text
    assert max(map(len, text.splitlines())) <= 112


def test_each_question_begins_with_what_its_numbers_say(run):
    text = flat(explain(run, "unit-conversion"))
    for said in (
        "Alone it falls short: base 0.410 [0.300, 0.520] is below 0.900, with its whole interval.",
        "A text helps: context_gain 0.310 [0.200, 0.420] is at least 0.100, with its whole interval.",
        "Gradients would have a signal: signal_rate 0.220 [0.110, 0.330] is at least 0.200, though its interval holds",
    ):
        assert said in text, said
    data = example_data()
    data["capabilities"][0]["profile"]["context_gain"].update(value=0.12, low=-0.01, high=0.25)
    report = Report.model_validate(data)
    said = flat(to_text(report, report.capabilities[0]))
    assert "No text is shown to help: context_gain 0.120" in said
    assert "reaches down to zero" in said
    bare = report.model_copy(update={"router": report.router.model_copy(update={"thresholds": {}})})
    assert "No text is shown" not in to_text(bare, bare.capabilities[0])


def test_any_probe_is_shown_with_all_that_it_reports(run):
    data = example_data()
    data["capabilities"][0]["profile"] = {
        "odd_thing": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40, "note": "made up", "seen": 3},
        "text_signal_rate": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 64, "note": ""},
        "calls_per_day": {"value": 1000.0, "n": 0, "note": "declared"},
        "\x1b[2J": {"value": None, "n": 0, "note": "\u202eleft out"},
    }
    report = Report.model_validate(data)
    text = to_text(report, report.capabilities[0])
    assert "odd_thing 0.250 [0.100, 0.400], n=40 (made up; seen 3)" in flat(text)
    assert "text_signal_rate 0.500 [0.400, 0.600], n=64: share of groups of samples" in flat(text)
    assert "under the best text" in flat(text)
    assert "calls_per_day 1000.000: calls a day (declared)" in flat(text)
    assert "\x1b" not in text and "\u202e" not in text
    assert "⟨U+001B⟩[2J is not measurable, n=0 (⟨U+202E⟩left out)" in flat(text)


def test_what_the_gate_asked_for_stands_beside_its_decision(run):
    gate = {"alpha": 0.05, "minimum_effect": 0.1, "multiplicity": "holm", "family": 5}
    report = Report.model_validate({**example_data(), "gate": gate})
    text = flat(to_text(report, report.capabilities[0]))
    assert "alpha 0.05 one-sided, least gain 0.1, correction: Holm over the 5 arms of this run that asked" in text


def test_doubts_name_what_speaks_against(run):
    data = example_data()
    capability = data["capabilities"][0]
    capability["arms"]["skill"]["variant"] = {"mean": 0.2, "low": 0.1, "high": 0.3, "n": 100, "level": 0.95}
    capability["confidence"] = 0.6
    data["warnings"] = ["unit-conversion: the adapter was tired", "tone: another one", "unit-conversion-b: no"]
    report = Report.model_validate(data)
    doubts = flat(to_text(report, report.capabilities[0]).partition("What speaks for doubt?")[2])
    assert "on variants it gives 0.200 [0.100, 0.300], n=100, and not 0.700" in doubts
    assert "its routing is not sure (confidence 0.600)" in doubts
    assert "warning of the run: unit-conversion: the adapter was tired" in doubts
    assert "another one" not in doubts and "unit-conversion-b" not in doubts


def test_explain_an_undecided_capability_without_numbers(run):
    text = flat(explain(run, "tone"))
    assert "tone: undecided (confidence —)" in text
    assert "skill and weights not built" in text and "router.force: {tone: skill}" in text


def test_unknown_capability_gets_the_nearest_name(run):
    with pytest.raises(UsageError, match="did you mean 'unit-conversion'"):
        explain(run, "unit-convertion")
    with pytest.raises(UsageError, match="this run has: unit-conversion, date-arithmetic"):
        explain(run, "zzzzzz")
    with pytest.raises(UsageError) as caught:
        explain(run, "\x1b[31m\u202e")
    assert "\x1b" not in str(caught.value) and "\u202e" not in str(caught.value)


def test_explain_without_a_report_says_so(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        explain(tmp_path, "tone")


def hints(*gates, placement="undecided", **more):
    data = {**bare_capability("x", placement), "gate": list(gates), **more}
    capability = CapabilityReport.model_validate(data)
    report = Report.model_validate({**example_data(), "capabilities": [capability]})
    return what_would_change(capability, report)


def test_examples_needed_follow_the_square_of_the_half_width():
    gate = {**verdict("skill", "undecided", delta(0.05, 20, 12, 0.1, 100), "open"), "low": -0.05, "high": 0.15}
    assert "about 400 confirm examples would show it (there were 100" in hints(gate)[0]
    gate["low"] = -0.10
    assert "about 900 confirm examples" in hints(gate)[0]


def test_hints_never_promise_where_nothing_points_up():
    down = {**verdict("weights", "undecided", delta(-0.02, 9, 11, 0.7, 100), "open"), "low": -0.1, "high": 0.06}
    assert "more examples would confirm no gain" in hints(down)[0]
    flat = {**verdict("skill", "undecided", delta(0.0, 0, 0, 1.0, 9), "none differ"), "low": 0.0, "high": 0.0}
    assert "more examples would confirm no gain" in hints(flat)[0]
    above = {**verdict("skill", "undecided", delta(0.2, 5, 1, 0.06, 12), "exact"), "low": 0.01, "high": 0.39}
    assert "although its interval excludes zero" in hints(above)[0]
    no = {**verdict("skill", "reject", delta(0.0, 3, 3, 0.6, 400), "small"), "low": -0.02, "high": 0.02}
    assert "rule out a gain above +0.020" in hints(no)[0]
    veto = {
        **verdict("skill", "reject", delta(0.2, 30, 5, 1e-6, 100), "slice"),
        "slices": {"unit=kg": {"delta": -0.3, "low": -0.5, "high": -0.1, "n": 20}},
    }
    assert "without the regression of unit=kg" in hints(veto)[0]


def test_keep_hint_only_where_it_is_not_kept():
    arms = {**bare_capability()["arms"], "base": arm(0.5)}
    assert any(h.startswith("keep: the base scores 0.500") for h in hints(arms=arms))
    assert not any(h.startswith("keep:") for h in hints(arms=arms, placement="keep"))


def test_limits_name_the_sizes():
    assert limits(example())[0].startswith(
        "Sealed tests held 200 examples; a score of one half is then known to about ±0.07"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7325, "2 h 2 min")]
)
def test_seconds(value, shown):
    assert seconds(value) == shown


# ---- diffs ----------------------------------------------------------------------------------------------------------

lines_ = st.lists(st.text(st.sampled_from("ab "), max_size=3), max_size=12)


@settings(deadline=None)
@given(lines_, lines_)
def test_line_diff_rebuilds_both_sides(old, new):
    changes = line_diff("\n".join(old), "\n".join(new), context=1000)
    before = [t for kind, t in changes if kind in ("same", "removed")]
    after = [t for kind, t in changes if kind in ("same", "added")]
    if changes:
        assert before == "\n".join(old).splitlines() and after == "\n".join(new).splitlines()
    else:
        assert "\n".join(old).splitlines() == "\n".join(new).splitlines()


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("append", [("same", "t"), ("added", "c")]),
        ("insert_after", [("same", "t"), ("added", "c")]),
        ("insert_before", [("added", "c"), ("same", "t")]),
        ("replace", [("removed", "t"), ("added", "c")]),
        ("delete", [("removed", "t")]),
    ],
)
def test_edits_show_what_they_do(op, expected):
    assert edit_diff(SkillEdit.model_validate(edit(1, op, "t", "c", "accept", 0.1, "w"))) == expected


def test_whole_diff_from_seed_and_from_nothing():
    c = CapabilityReport.model_validate(skill_capability())
    kinds = [k for k, _ in whole_diff(c)]
    assert kinds.count("removed") == 1 and kinds.count("added") == 3
    fresh = c.model_copy(update={"seed_skill_text": None})
    assert {k for k, _ in whole_diff(fresh)} == {"added"}
    assert whole_diff(c.model_copy(update={"skill_text": None})) == []


# ---- figures --------------------------------------------------------------------------------------------------------


def test_marks_stand_where_their_numbers_are():
    scale = svg.Scale(0, 1, 126, 402)
    row = svg.Row("skill", (svg.Mark("skill", 0.7, 0.6, 0.8),), "0.7")
    figure = Tree(str(svg.intervals("f", [row], "t", "d"))).root
    assert float(figure.find("circle")[0].attributes["cx"]) == pytest.approx(scale.at(0.7), abs=0.05)
    whisker = figure.find("line", **{"class": "whisker"})[0].attributes
    assert [float(whisker[k]) for k in ("x1", "x2")] == pytest.approx([scale.at(0.6), scale.at(0.8)], abs=0.06)


def test_arms_differ_by_shape_not_only_by_colour():
    rows = [svg.Row(a, (svg.Mark(a, 0.5, 0.4, 0.6),), "v") for a in ("base", "skill", "weights", "both")]
    figure = Tree(str(svg.intervals("f", rows, "t", "d"))).root
    shapes = [g.children[-1].tag for g in figure.find("g")]
    assert shapes == ["circle", "circle", "rect", "path"]


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_ordered_and_inside(low, span, most):
    high = low + span
    found = svg.ticks(low, high, most)
    assert found == sorted(set(found)) and len(found) <= most + 1
    slack = span * 1e-6 + abs(low) * 1e-9 + 1e-9
    assert all(low - slack <= t <= high + slack for t in found)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(-100, 100)), min_size=1, max_size=600, unique_by=lambda p: p[0]),
    st.none() | st.integers(0, 5000),
)
def test_curves_of_any_history_are_finite_small_and_stable(points, selected):
    labels = ("t", "d", "reward")
    figure = svg.curve("c", points, selected, labels)
    assert figure == svg.curve("c", list(reversed(points)), selected, labels)
    assert len(figure) < 20_000 and not re.search(r"nan|inf[^o]", figure)
    Tree(str(figure))
    assert svg.thin(sorted(map(tuple, points)))[-1] == max(points)


def test_thin_keeps_the_last_point_and_smooth_keeps_constants():
    assert svg.thin([(float(i), 0.0) for i in range(1001)])[-1] == (1000.0, 0.0)
    assert svg.smooth([2.0] * 9, 3) == [2.0] * 9
    assert svg.smooth([0.0, 3.0, 0.0], 1) == [1.5, 1.0, 1.5]


def test_the_report_is_json_that_other_tools_read():
    assert json.loads(example().to_json())["capabilities"][0]["arms"]["both"] is None
