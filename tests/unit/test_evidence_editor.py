from __future__ import annotations

import random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.skill.edits import Append, Delete, Edit
from hybrid.skill.evidence_editor import EvidenceEditor, aggregate
from hybrid.skill.reflection import Editor, Proposal, ReviewContext

SOURCE = Literal["failure", "success"]
EDITOR: Editor = EvidenceEditor()
PROPOSALS = st.lists(
    st.builds(
        Proposal,
        edit=st.sampled_from([Append(content="a"), Append(content="b"), Delete(target="a")]),
        support=st.integers(0, 5),
        source=st.sampled_from(["failure", "success"]),
        rationale=st.sampled_from(["r", "s"]),
        expected_gain=st.none() | st.floats(-1, 1),
    ),
    max_size=9,
)


def p(edit: Edit | str, support: int, gain: float | None, source: SOURCE = "failure", why: str = "r") -> Proposal:
    made = Append(content=edit) if isinstance(edit, str) else edit
    return Proposal(edit=made, support=support, source=source, rationale=why, expected_gain=gain)


def names(proposals: list[Proposal]) -> list[str]:
    return [x.edit.content if isinstance(x.edit, Append) else x.edit.op for x in proposals]


def test_merge_adds_support_and_prefers_failures() -> None:
    found = [p("a", 1, 1.0), p("b", 2, 0.9), p("a", 3, 0.5), p("c", 9, 1.0, "success"), p("d", 1, 0.1)]
    merged = EDITOR.merge("", found, "")
    assert [(n, m.support) for n, m in zip(names(merged), merged, strict=True)] == [
        ("a", 4),
        ("b", 2),
        ("d", 1),
        ("c", 9),
    ]
    assert merged[0].expected_gain == pytest.approx((1 * 1.0 + 3 * 0.5) / 4)


def test_an_edit_that_both_sources_ask_for_is_one_from_failures() -> None:
    [merged] = aggregate([p("a", 5, None, "success", "worked"), p("a", 1, None, "failure", "broke")])
    assert (merged.source, merged.support, merged.expected_gain, merged.rationale) == ("failure", 6, None, "worked")


def test_the_mean_gain_is_over_the_parts_that_were_tried() -> None:
    assert aggregate([p("a", 2, None), p("a", 1, 0.25), p("a", 3, 0.5)])[0].expected_gain == pytest.approx(1.75 / 4)
    assert aggregate([p("a", 2, None), p("a", 0, 0.5)])[0].expected_gain is None
    assert aggregate([p("a", 0, 0.5), p("a", 0, 0.25)])[0].expected_gain == 0.0


def test_rank_cuts_at_the_budget_and_without_one_at_what_promises_nothing() -> None:
    found = [p("tidy", 4, 0.0), p("win", 9, 1.0, "success"), p("x", 2, None), p("small", 1, 0.5), p("harm", 3, -0.5)]
    assert names(EDITOR.rank("", found, 3, "")) == ["x", "small", "tidy"]
    assert names(EDITOR.rank("", found, 99, "")) == ["x", "small", "tidy", "harm", "win"]
    assert names(EDITOR.rank("", found, None, "")) == ["x", "small", "win"]
    assert EDITOR.rank("", found, 0, "") == [] == EDITOR.rank("", [], None, "")


def test_a_tie_goes_by_the_text_of_the_edit() -> None:
    assert names(EDITOR.rank("", [p("b", 1, 1.0), p(Delete(target="z"), 1, 1.0), p("a", 1, 1.0)], 9, "")) == [
        "a",
        "b",
        "delete",
    ]


def test_it_never_looks_back() -> None:
    nothing = ReviewContext(body="", slow="", compared=(), accepted=(), rejected=(), memory="m")
    assert EDITOR.looks_back is False and EDITOR.review(nothing) is None


@settings(deadline=None)
@given(PROPOSALS, st.randoms(use_true_random=False))
def test_merging_loses_nothing_repeats_nothing_and_forgets_the_order(
    found: list[Proposal], luck: random.Random
) -> None:
    merged = aggregate(found)
    shuffled = list(found)
    luck.shuffle(shuffled)
    assert aggregate(shuffled) == merged
    assert {m.edit for m in merged} == {f.edit for f in found} and len(merged) == len({m.edit for m in merged})
    assert sum(m.support for m in merged) == sum(f.support for f in found)
    sources = [m.source for m in merged]
    assert sources == sorted(sources)
