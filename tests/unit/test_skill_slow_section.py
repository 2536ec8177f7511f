from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.skill.document import new_document
from hybrid.skill.edits import Append, apply
from hybrid.skill.slow_section import slow_text, with_slow
from hybrid.skill.text import lines_of, normal

OTHER = "<!-- protected:start licence -->\nkeep me\n<!-- protected:end -->\n"
PLAIN = st.lists(st.sampled_from(["", "a", "b c", "  d", "## e", "	f", "g  "]), max_size=6)
TEXT = PLAIN.map("\n".join)
BODY = st.lists(st.sampled_from(["", "\n", "x\n", "y \n", " \n", OTHER]), max_size=8).map("".join)


def trimmed(text: str) -> str:
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(lines)


def test_it_is_created_overwritten_and_removed() -> None:
    one = with_slow("Be brief.\n", "Check the unit.")
    assert one == ("Be brief.\n<!-- protected:start slow-update -->\nCheck the unit.\n<!-- protected:end -->\n")
    two = with_slow(one, "\nFirst.\n\nSecond.\n\n")
    assert slow_text(two) == "First.\n\nSecond." and "Check" not in two
    assert with_slow(two, " \n") == "Be brief.\n"
    assert slow_text("") == slow_text("Be brief.\n") == "" and with_slow("", "") == ""


def test_it_moves_behind_lines_that_were_appended_since() -> None:
    body = apply(with_slow("a\n", "s"), [Append(content="b")]).body
    assert with_slow(body, "t") == with_slow("a\nb\n", "t")
    assert with_slow(body, "") == "a\nb\n"


def test_several_sections_of_the_name_become_one() -> None:
    twice = with_slow("a\n", "old") + with_slow("", "new")
    assert slow_text(twice) == "new"
    assert with_slow(twice, "x") == with_slow("a\n", "x")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\n<!-- protected:end -->\nb", "marker"),
        ("<!-- PROTECTED:START y -->", "marker"),
        ("---\nname: other", "fence"),
        ("a\n...  ", "fence"),
        ("a\u200bb", "U\\+200B"),
        ("a\rb", "U\\+000D"),
        ("\u202eabc", "U\\+202E"),
    ],
)
def test_text_that_no_edit_may_hold_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"the text of the slow section.*{why}"):
        with_slow("a\n", text)


def test_a_body_with_broken_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 2 of the body.*never closed"):
        with_slow("a\n<!-- protected:start slow-update -->\nb\n", "c")


@given(BODY, TEXT)
def test_what_was_written_is_read_and_nothing_else_changes(body: str, text: str) -> None:
    written = with_slow(body, text)
    assert slow_text(written) == trimmed(text)
    assert with_slow(written, text) == written == with_slow(written, slow_text(written))
    assert new_document("n", "d", written).body == written
    if trimmed(text):
        lines = lines_of(normal(body))
        assert lines_of(written)[: len(lines)] == lines
        assert len(lines_of(written)) == len(lines) + 2 + len(trimmed(text).split("\n"))
    else:
        assert written == normal(body)


@given(BODY, TEXT, TEXT)
def test_the_last_text_wins_and_removal_gives_the_body_back(body: str, one: str, two: str) -> None:
    assert with_slow(with_slow(body, one), two) == with_slow(body, two)
    assert with_slow(with_slow(body, one), "") == normal(body)
