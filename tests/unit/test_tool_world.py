"""The tools of the calls benchmark: rows, their renderings, twins, and how answers are judged. No model, no torch."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench_calls import ARMS, exact, one_pass, parts, rates, report, test_rows  # noqa: E402
from reference_language import vocabulary  # noqa: E402
from tool_world import SHAPES, TASKS, Row, Tool, Use, make_libraries, make_tools, render, without  # noqa: E402

test_rows.__test__ = False  # type: ignore[attr-defined]  # a maker of rows, not a test
FIRST, SECOND = Tool("Lim", "b39", ("a", "c")), Tool("Pot", "h0f", ("e",))
INNER = Use(SECOND, ("6",))
NESTED = Row((FIRST, SECOND), "nested", "4.(6 Pot) Lim", (Use(FIRST, ("4", INNER)),), 1)
TWO = Row((FIRST, SECOND), "chaining", "4.7 Lim,6 Pot", (Use(FIRST, ("4", "7")), INNER), 2)
NO_TOOL = Row((FIRST, SECOND), "irrelevant", "5 Gol", (), 3)


def test_one_row_is_rendered_as_every_task() -> None:
    assert NESTED.text == "fact Lim b39(a,c).\nfact Pot h0f(e).\n"
    assert render(NESTED, "call") == ("call 4.(6 Pot) Lim", "b39(a:4,c:h0f(e:6))")
    assert render(NESTED, "name") == ("ask 4.(6 Pot) Lim", "h0f,b39")
    assert render(TWO, "parameters") == ("form 4.7 Lim,6 Pot:b39,h0f", "(a:4,c:7),(e:6)")
    following = {render(Row(TWO.library, TWO.shape, TWO.question, TWO.uses, seed), "next") for seed in range(20)}
    assert following == {
        ("plain 4.7 Lim,6 Pot:", "b39"),
        ("plain 4.7 Lim,6 Pot:b39(a:4,c:7)", "h0f"),
        ("plain 4.7 Lim,6 Pot:b39(a:4,c:7),h0f(e:6)", "-"),
    }
    prompt, answer = render(TWO, "response") or ("", "")
    assert prompt.endswith("=" + answer.strip("[]"))
    asked = {task: render(NO_TOOL, task) for task in TASKS}
    assert [task for task in TASKS if asked[task] is None] == ["parameters", "response"]
    assert asked["call"] == ("call 5 Gol", "-")


def test_worlds_keep_tools_apart_and_use_the_models_tokens() -> None:
    rng = random.Random(0)
    seen, unseen = make_tools(rng, 30, 10, 20)
    assert not {t.name for t in seen} & {t.name for t in unseen}
    assert not {t.wish for t in seen} & {t.wish for t in unseen}
    groups = make_libraries(rng, seen, 60, 4)
    assert {row.shape for group in groups for row in group} == set(SHAPES)
    assert all(len({row.question for row in group}) == 4 for group in groups)
    known = set(vocabulary())
    for row in (row for group in groups for row in group):
        assert len({t.wish for t in row.library}) == len(row.library)
        served = {t.wish for t in row.library} & {w for t in seen for w in [t.wish] if w in row.question}
        assert bool(served) == bool(row.uses)
        for task in TASKS:
            for text in render(row, task) or ():
                words = text.replace("(", " ( ").replace(")", " ) ").replace(",", " , ").replace(":", " : ").split()
                assert all(word in known or all(c in known for c in word) for word in words), text


def test_the_arms_see_the_same_rows_and_no_sequence_holds_two_renderings_of_one() -> None:
    rng = random.Random(1)
    groups = make_libraries(rng, make_tools(rng, 20, 5, 20)[0], 6, 4)
    whole = one_pass("umbrella", groups, random.Random(2))
    seven = one_pass("seven tasks", groups, random.Random(2))
    calls = {
        arm: sorted(text for pieces in passed for text, answer in pieces if not answer and text.startswith("call "))
        for arm, passed in (("umbrella", whole), ("seven tasks", seven))
    }
    assert calls["umbrella"] == calls["seven tasks"]
    assert len(seven) == len(TASKS) * len(whole)
    for pieces in seven:
        questions = [text.split(" ", 1)[1].split(":")[0] for text, answer in pieces[1:] if not answer]
        assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("row", [NESTED, TWO, NO_TOOL])
def test_right_calls_pass_and_others_do_not(row: Row) -> None:
    assert exact(row, row.call)
    for said in ("", "b39(a:4)", "b39(a:4,c:7", "h0f(e:6),h0f(e:6)", "-" if row.uses else "none"):
        assert not exact(row, said)


def test_parts_tell_names_arguments_and_invented_tools() -> None:
    assert parts(TWO, TWO.call) == {"name": 1.0, "argument": 1.0, "calls": 2, "unknown": 0}
    found = parts(TWO, "b39(a:4,c:1),j11(e:6)")
    assert (found["name"], found["calls"], found["unknown"]) == (0.5, 2, 1)
    assert found["argument"] == pytest.approx(1 / 3)
    assert parts(TWO, "no call(")["name"] == 0.0


def test_a_twin_lacks_the_needed_tool_and_is_refused() -> None:
    twin = without(Row((FIRST, SECOND), "single", "6 Pot", (INNER,), 4))
    assert twin is not None
    assert (twin.library, twin.uses, twin.call) == ((FIRST,), (), "-")
    assert without(TWO) is None
    assert without(NO_TOOL) is None


def test_the_report_pairs_arms_by_seed_and_example() -> None:
    rows = [NESTED, TWO, NO_TOOL, *(r for r in (Row((FIRST,), s, "q", (INNER,), 5) for s in ("single", "parallel")))]

    def tested(good: int) -> dict[str, object]:
        made = [{"shape": r.shape, "exact": i < good, **parts(r, r.call)} for i, r in enumerate(rows)]
        cost = {"tokens": 10, "answer_tokens": 5, "steps": 1}
        return {"cost": cost, "test": {"unseen": made, "seen": made, "twins": made}}

    found = {seed: {ARMS[0]: tested(1), ARMS[1]: tested(3)} for seed in range(3)}
    assert rates(found[0][ARMS[1]])["exact call"] == pytest.approx(0.6)
    text = report(found, ARMS[:2])
    assert "| exact call | 0.200 [0.200, 0.200] | 0.600 [0.600, 0.600] | +0.400 [+0.400, +0.400] |" in text
    assert "paired by example: +0.400" in text
