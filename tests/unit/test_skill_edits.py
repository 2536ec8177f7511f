from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hybrid.config.schema import EditBudgetConfig
from hybrid.skill.edits import Append, Delete, Edit, InsertAfter, Replace, apply
from hybrid.skill.schedule import edit_budget
from hybrid.skill.text import join, lines_of, normal

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROTECTED = "<!-- protected:start keep -->\nsecret\nshared\n<!-- protected:end -->\n"
LINE = st.sampled_from(["a", "b", "c", "d e", "", "  f", "# g"])
BODY = st.lists(LINE, max_size=8).map(join)
TEXT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)
EDIT = st.one_of(
    st.builds(Append, content=TEXT),
    st.builds(InsertAfter, target=TEXT, content=TEXT),
    st.builds(Replace, target=TEXT, content=TEXT),
    st.builds(Delete, target=TEXT),
)
NEW = st.sampled_from(["new", "new\nlines", "x\n\ny"])


def one(body: str, edit: Edit) -> str:
    result = apply(body, [edit])
    assert result.applied == (edit,) and not result.refused
    return result.body


def why(body: str, edit: Edit) -> str:
    result = apply(body, [edit])
    assert not result.applied and result.body == normal(body)
    return result.refused[0][1]


def test_the_four_operations() -> None:
    body = "a\nb\nc\n"
    assert one(body, Append(content="d\ne")) == "a\nb\nc\nd\ne\n"
    assert one(body, InsertAfter(target="a", content="x")) == "a\nx\nb\nc\n"
    assert one(body, Replace(target="b\nc", content="x")) == "a\nx\n"
    assert one(body, Delete(target="b")) == "a\nc\n"
    assert one("", Append(content="a\n")) == "a\n"
    assert one("b\nb\n", Delete(target="b")) == "b\n"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (InsertAfter(target="missing", content="x"), "not a line"),
        (Replace(target="missing", content="x"), "not a line"),
        (Delete(target="sec"), "not a line"),
        (Delete(target="A"), "not a line"),
        (Delete(target="a "), "not a line"),
        (Delete(target=""), "target is empty"),
        (Delete(target="secret"), "protected section keep"),
        (Replace(target="<!-- protected:end -->", content="x"), "protected section keep"),
        (InsertAfter(target="<!-- protected:start keep -->", content="x"), "protected section keep"),
        (Delete(target="a\n<!-- protected:start keep -->"), "protected section keep"),
        (Replace(target="a", content="a"), "changes nothing"),
        (Append(content=" \n "), "content is empty"),
        (Append(content="x\n<!-- protected:start y -->"), "marker"),
        (Append(content="<!--PROTECTED : end-->"), "marker"),
        (Append(content="x\n---\ny"), "fence"),
        (Append(content="a\u202eb"), "U+202E"),
        (Replace(target="a", content="\U000e0061"), "hidden"),
    ],
)
def test_what_is_refused_and_why(edit: Edit, words: str) -> None:
    assert words in why("a\n" + PROTECTED + "shared2\n", edit)


def test_a_line_outside_a_protected_section_is_found_behind_the_same_line_inside() -> None:
    assert one(PROTECTED + "shared\n", Delete(target="shared")) == PROTECTED


def test_an_unclosed_section_protects_to_the_end() -> None:
    assert "protected" in why("a\n<!-- protected:start k -->\nb\n", Delete(target="b"))


def test_edits_are_atomic_and_reported_in_order() -> None:
    edits = [Append(content="x"), Delete(target="nope"), Replace(target="x", content="y"), Delete(target="x")]
    result = apply("a\n", edits)
    assert result.body == "a\ny\n"
    assert result.applied == (edits[0], edits[2])
    assert [e for e, _ in result.refused] == [edits[1], edits[3]]


def test_the_token_cap_stops_growth_and_lets_a_long_body_shrink() -> None:
    def count(text: str) -> int:
        return len(text.split())

    capped = apply("a b c\n", [Append(content="d e"), Append(content="d")], count, 4)
    assert capped.body == "a b c\nd\n" and "5 tokens" in capped.refused[0][1]
    assert apply("a b c\nd e f\n", [Delete(target="d e f")], count, 2).body == "a b c\n"
    assert apply("a b c\n", [Replace(target="a b c", content="a b d")], count, 2).refused


@SLOW_MACHINE
@given(BODY, st.lists(EDIT, max_size=6))
def test_apply_is_pure_splits_its_edits_and_keeps_the_normal_form(body: str, edits: list[Edit]) -> None:
    result = apply(body, edits)
    assert result == apply(body, edits)
    assert sorted(map(repr, [*result.applied, *(e for e, _ in result.refused)])) == sorted(map(repr, edits))
    assert normal(result.body) == result.body
    step = body
    for edit in edits:
        step = apply(step, [edit]).body
    assert step == result.body
    if not result.applied:
        assert result.body == body


@SLOW_MACHINE
@given(BODY, BODY, st.lists(EDIT, max_size=8))
def test_protected_lines_never_change(before: str, after: str, edits: list[Edit]) -> None:
    result = apply(before + PROTECTED + after, edits)
    assert PROTECTED in result.body
    assert result.body.count("protected:") == 2


@SLOW_MACHINE
@given(BODY, NEW)
def test_append_and_insert_are_undone_by_delete(body: str, content: str) -> None:
    appended = one(body, Append(content=content))
    assert one(appended, Delete(target=content)) == body
    lines = [line for line in lines_of(body) if line.strip()]
    assume(lines)
    inserted = one(body, InsertAfter(target=lines[0], content=content))
    assert one(inserted, Delete(target=content)) == body


@SLOW_MACHINE
@given(BODY, NEW)
def test_replace_is_undone_by_replace_and_delete_by_its_place(body: str, content: str) -> None:
    lines = lines_of(body)
    assume(any(line.strip() for line in lines))
    target = next(line for line in lines if line.strip())
    assert one(one(body, Replace(target=target, content=content)), Replace(target=content, content=target)) == body
    assert len(lines_of(one(body, Delete(target=target)))) < len(lines)


@SLOW_MACHINE
@given(EDIT)
def test_edits_survive_json(edit: Edit) -> None:
    adapter: TypeAdapter[Edit] = TypeAdapter(Edit)
    assert adapter.validate_json(adapter.dump_json(edit)) == edit
    assert hash(edit) == hash(adapter.validate_json(adapter.dump_json(edit)))


def _budgets(total: int, **config: object) -> list[int]:
    return [edit_budget(t, total, EditBudgetConfig(**config)) for t in range(total)]  # type: ignore[arg-type]


def test_the_schedules_are_the_published_formulas() -> None:
    assert _budgets(8, maximum=4, minimum=2, schedule="constant") == [4] * 8
    # 4 - 2 t for t = 0, 1/8, ..., 7/8, halves to even: 4, 3.75, 3.5, 3.25, 3, 2.75, 2.5, 2.25
    assert _budgets(8, maximum=4, minimum=2, schedule="linear") == [4, 4, 4, 3, 3, 3, 2, 2]
    # 3 + cos(pi t): 4, 3.92, 3.71, 3.38, 3, 2.62, 2.29, 2.08
    assert _budgets(8, maximum=4, minimum=2, schedule="cosine") == [4, 4, 4, 3, 3, 3, 2, 2]
    # 5.5 + 4.5 cos(pi t) at t = 0, 1/4, 1/2, 3/4: 10, 8.68, 5.5, 2.32
    assert _budgets(4, maximum=10, minimum=1, schedule="cosine") == [10, 9, 6, 2]


@SLOW_MACHINE
@given(st.integers(1, 60), st.integers(1, 64), st.integers(1, 64), st.sampled_from(["constant", "linear", "cosine"]))
def test_budgets_fall_within_their_bounds(total: int, a: int, b: int, schedule: str) -> None:
    budgets = _budgets(total, maximum=max(a, b), minimum=min(a, b), schedule=schedule)
    assert budgets[0] == max(a, b)
    assert all(min(a, b) <= x <= max(a, b) for x in budgets)
    assert budgets == sorted(budgets, reverse=True)


def test_a_step_outside_the_run_is_an_error() -> None:
    for step in (-1, 3):
        with pytest.raises(ValueError, match="step"):
            edit_budget(step, 3, EditBudgetConfig())
