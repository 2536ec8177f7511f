"""Function calls are compared part by part; hostile completions are parsed, never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.graders import GraderError, build_grader
from hybrid.capability.types import Example, Score
from hybrid.config.schema import FunctionCallGrader

REFERENCE = 'books.find(author="Jane Austen", before=1815)'


def grade(completion: str, reference: str = REFERENCE, **settings: Any) -> Score:
    grader = build_grader(FunctionCallGrader(type="function-call", **settings))
    return grader.grade(completion, Example(id="e", prompt="p", reference=reference))


@pytest.mark.parametrize(
    "completion",
    [
        REFERENCE,
        " books.find(before=1815, author='Jane Austen') ",
        "books.find(author='Jane Austen', before=1815.0)",
        f"```python\n{REFERENCE}\n```",
        f"[{REFERENCE}]",
    ],
)
def test_the_same_call_in_another_form_is_right(completion: str) -> None:
    assert grade(completion).value == 1.0


@pytest.mark.parametrize(
    ("completion", "parts"),
    [
        ('find(author="Jane Austen", before=1815)', {"name": 0, "arguments": 0, "values": 0, "format": 1, "count": 1}),
        ('books.find(author="Jane Austen")', {"name": 1, "arguments": 0.5, "values": 0.5, "extra": 1}),
        ('books.find(author="Jane Austen", before=1816)', {"arguments": 1, "types": 1, "values": 0.5}),
        ('books.find(author="Jane Austen", before="1815")', {"arguments": 1, "types": 0.5, "values": 0.5}),
        ('books.find(author="Jane Austen", before=1815, n=1)', {"arguments": 1, "values": 1, "extra": 2 / 3}),
        ('books.find(author="Jane Austen", before=True)', {"types": 0.5, "values": 0.5}),
        (f"{REFERENCE}\n{REFERENCE}", {"count": 0, "name": 0.5, "values": 0.5}),
        ("[]", {"count": 0, "name": 0}),
    ],
)
def test_what_is_wrong_shows_in_its_own_part(completion: str, parts: dict[str, float]) -> None:
    score = grade(completion)
    assert not score.passed
    assert score.value == 0.0
    assert {name: score.facets[name] for name in parts} == pytest.approx(parts)


def test_order_and_types_are_told_and_only_order_can_be_required() -> None:
    swapped = 'books.find(before=1815.0, author="Jane Austen")'
    score = grade(swapped)
    assert (score.passed, score.facets["order"], score.facets["types"]) == (True, 0.0, 0.5)
    assert not grade(swapped, order=True).passed
    assert grade(REFERENCE, order=True).passed


def test_a_share_is_partial_credit_and_only_a_right_answer_has_all_of_it() -> None:
    share = [grade(text, score="share").value for text in ("no call", "g(x=1)", 'books.find(author="Jane Austen")')]
    assert share == pytest.approx([0.0, 0.3, 0.8])
    extra = grade('books.find(author="Jane Austen", before=1815, n=1)', score="share")
    assert extra.value == 0.99
    assert grade(REFERENCE, score="share").value == 1.0


def test_several_calls_are_paired_by_name_and_values() -> None:
    reference = "f(x=1)\nf(x=2)\ng(y=-0.5)"
    assert grade("[g(y=-.5), f(x=2), f(x=1)]", reference).passed
    assert grade("f(x=2)\nf(x=2)\ng(y=-0.5)", reference).facets["values"] == pytest.approx(2 / 3)


def test_where_no_call_is_right_only_no_call_passes() -> None:
    assert grade("I cannot do this.", "").passed
    assert grade("", "").passed
    assert not grade("f(x=1)", "").passed


@pytest.mark.parametrize(
    "completion",
    [
        "", "books.find(", "books.find(**x)", "books.find(*x)", "books.find(author=open('/etc/passwd'))", "x = f()",
        "import os", "f(x=1) or f(x=2)", "__import__('os').system('true')", "(" * 3_000, "-" * 3_900 + "1", "f(x=" + "[" * 1_500,
        "f(" + "a=1," * 2_000 + ")", "f(x=1, x=2)", "f(x=\x00)", "f(x='\ud800')", "f(x={**a})", "f(x=lambda: 1)", "f(x=b'1')",
        "f(x=1j)", "f()()",
    ],
)  # fmt: skip
def test_what_is_no_call_is_unreadable_and_never_run(completion: str) -> None:
    score = grade(completion)
    assert (score.value, score.facets["format"]) == (0.0, 0.0)


@pytest.mark.parametrize("number", ["0x" + "f" * 3_800, "9" * 3_900, "1e999", "-1e999"])
def test_numbers_beyond_all_bounds_are_compared_and_break_nothing(number: str) -> None:
    assert grade(f"f(x={number})", "f(x=1)").facets["values"] == 0.0
    assert grade(f"f(x={number})", f"f(x={number})").passed


def test_odd_escapes_warn_nobody(recwarn: pytest.WarningsRecorder) -> None:
    grade(r'books.find(author="\d", before=1)')
    assert not recwarn.list


def test_a_reference_that_is_no_call_is_an_error_of_the_data() -> None:
    with pytest.raises(GraderError, match="'e'"):
        grade("f(x=1)", "not a call")


def test_every_gold_answer_of_the_real_task_passes_also_with_reordered_arguments() -> None:
    grader = build_grader(FunctionCallGrader(type="function-call"))
    folder = Path(__file__).parents[2] / "data" / "real" / "function-call"
    rows = [
        json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()
    ]
    assert len(rows) > 100
    for row in rows:
        example = Example(**row)
        assert grader.grade(example.gold_completion, example).value == 1.0, row["id"]
