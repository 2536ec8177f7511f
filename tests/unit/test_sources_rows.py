"""Broken rows: every message names file, line and field, says what was found and expected, and shows a correct row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.capability import rows as rows_module
from hybrid.capability.rows import EXAMPLE_ROW, MOST_PROBLEMS, ProblemList, read_rows
from hybrid.errors import Problem

GOOD = {"id": "g", "prompt": "1 + 1 =", "reference": "2"}
GOOD_LINE = json.dumps(GOOD)


def read(path: Path, content: str | bytes) -> tuple[list[str], list[Problem]]:
    """Ids of the readable rows, and the problems."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems = ProblemList()
    rows = read_rows(path, problems)
    return [r.example.id for r in rows], problems.all()


BROKEN_ROWS = {
    "missing field": ('{"id": "a", "prompt": "p"}', "reference", "missing", "expected text"),
    "misspelled field": ('{"id": "a", "promt": "p", "reference": "r"}', "promt", "unknown field", "'prompt'"),
    "usual other name": ('{"id": "a", "question": "p", "reference": "r"}', "question", "unknown field", "'prompt'"),
    "number as id": ('{"id": 7, "prompt": "p", "reference": "r"}', "id", "the number 7, expected text", "correct"),
    "null reference": ('{"id": "a", "prompt": "p", "reference": null}', "reference", "null, expected text", "correct"),
    "empty prompt": ('{"id": "a", "prompt": "  ", "reference": "r"}', "prompt", "found empty text", "correct"),
    "bad role": (
        '{"id": "a", "prompt": [{"role": "robot", "content": "x"}], "reference": "r"}',
        "prompt",
        'turn 1: role the text "robot", expected',
        "correct",
    ),
    "extra key in turn": (
        '{"id": "a", "prompt": [{"role": "user", "content": "x", "n": 1}], "reference": "r"}',
        "prompt",
        "turn 1: an object with the keys",
        "correct",
    ),
    "list metadata": (
        '{"id": "a", "prompt": "p", "reference": "r", "metadata": [1]}',
        "metadata",
        "a list of 1, expected an object",
        "correct",
    ),
    "long id": (json.dumps({**GOOD, "id": "x" * 201}), "id", "found 201 characters", "correct"),
    "lone surrogate": ('{"id": "a", "prompt": "\\ud800", "reference": "r"}', "prompt", "surrogate", "correct"),
    "NaN": ('{"id": "a", "prompt": "p", "reference": "r", "metadata": {"x": NaN}}', "", "NaN is not JSON", "finite"),
    "infinite": (
        '{"id": "a", "prompt": "p", "reference": "r", "metadata": {"x": 1e999}}',
        "",
        "out of range",
        "finite",
    ),
    "many digits": ('{"id": "a", "prompt": "p", "reference": ' + "9" * 5000 + "}", "", "too many digits", "text"),
    "twice a key": ('{"id": "a", "id": "b", "prompt": "p", "reference": "r"}', "", '"id" occurs twice', "keep one"),
    "not an object": ('["a"]', "", "a list of 1, expected an object", "one JSON object a line"),
    "not JSON": ("{'id': 'a'}", "", "not JSON", "one JSON object a line"),
    "nested too deep": (
        '{"id": "a", "metadata": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "",
        "nested too deep",
        "flatten",
    ),
}


@pytest.mark.parametrize(("row", "key", "message", "fix"), BROKEN_ROWS.values(), ids=BROKEN_ROWS.keys())
def test_broken_row_is_named_with_file_line_field_and_fix(
    tmp_path: Path, row: str, key: str, message: str, fix: str
) -> None:
    file = tmp_path / "train.jsonl"
    ids, problems = read(file, f"{GOOD_LINE}\n{row}\n")
    assert ids == ["g"]
    (problem,) = problems
    assert (problem.file, problem.line, problem.key) == (str(file), 2, key)
    assert message in problem.message
    assert fix in problem.fix
    assert EXAMPLE_ROW in problem.fix
    assert str(problem).startswith(f"{file}:2:")
    assert len(str(problem)) < 1000


def test_the_example_row_is_correct_and_shown_once(tmp_path: Path) -> None:
    ids, problems = read(tmp_path / "a.jsonl", EXAMPLE_ROW + "\n")
    assert (ids, problems) == (["add-1"], [])
    _, problems = read(tmp_path / "b.jsonl", "1\n2\n3\n")
    assert [EXAMPLE_ROW in p.fix for p in problems] == [True, False, False]


def test_all_mistakes_of_one_row_are_reported_together(tmp_path: Path) -> None:
    _, problems = read(tmp_path / "a.jsonl", '{"id": 1, "prompt": 2, "extra": 3}\n')
    assert {p.key for p in problems} == {"id", "prompt", "reference", "extra"}


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b'\xef\xbb\xbf{"id": "a", "prompt": "p", "reference": "r"}\n', 1, "byte order mark"),
        (b'{"id": "a", "prompt": "\xff", "reference": "r"}\n', 1, "byte 24 of the line (0xff) is not UTF-8"),
        (GOOD_LINE.encode() + b'\n{"id": "b", "prom', 2, "the last line is cut off"),
        (GOOD_LINE.encode() + b'\n{"id": "\xc3', 2, "the last line is cut off"),
        (b"", 0, "the file has no rows"),
        (b"\n \n", 0, "the file has no rows"),
        ('{"id": "a"}'.encode("utf-16"), 1, "not UTF-8"),
    ],
)
def test_damaged_files_are_named_errors(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    _, problems = read(tmp_path / "a.jsonl", content)
    assert len(problems) == 1
    assert problems[0].line == line
    assert message in problems[0].message


def test_whole_last_line_without_line_end_blank_lines_and_crlf_are_fine(tmp_path: Path) -> None:
    other = json.dumps({**GOOD, "id": "h"})
    assert read(tmp_path / "a.jsonl", f"{GOOD_LINE}\r\n\r\n\n{other}") == (["g", "h"], [])


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    ids, problems = read(tmp_path / "a.jsonl", f"{GOOD_LINE}\n\n{GOOD_LINE}\n")
    assert ids == ["g"]
    assert [(p.line, p.key) for p in problems] == [(3, "id")]
    assert "line 1" in problems[0].message


def test_row_size_cap_keeps_the_line_numbers_right(tmp_path: Path) -> None:
    cap = rows_module.LARGEST_ROW_BYTES
    frame = len('{"id": "b", "prompt": "", "reference": "r"}')
    exact = '{"id": "b", "prompt": "' + "x" * (cap - frame) + '", "reference": "r"}'
    huge = '{"id": "c", "prompt": "' + "x" * (3 * cap) + '", "reference": "r"}'
    ids, problems = read(tmp_path / "a.jsonl", f"{exact}\n{huge}\n{exact.replace('b', 'd', 1)}y\n{GOOD_LINE}\n")
    assert ids == ["b", "g"]
    assert [p.line for p in problems] == [2, 3]
    assert all("more than 1000000 bytes" in p.message for p in problems)


def test_file_size_cap(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with file.open("wb") as stream:
        stream.truncate(rows_module.LARGEST_FILE_BYTES + 1)  # sparse: nothing is stored
    problems = ProblemList()
    assert read_rows(file, problems) == []
    assert "more than 512000000" in problems.all()[0].message


def test_problems_are_cut_per_file_and_the_rest_counted(tmp_path: Path) -> None:
    _, problems = read(tmp_path / "a.jsonl", "0\n" * (MOST_PROBLEMS + 7))
    assert len(problems) == MOST_PROBLEMS + 1
    assert "7 more problems" in problems[-1].message
    assert [p.line for p in problems[:-1]] == list(range(1, MOST_PROBLEMS + 1))


def test_chat_prompts_gold_metadata_and_parent_survive(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hé?"}]
    row = {"id": "a", "prompt": turns, "reference": "r", "gold": "<r>", "metadata": {"x": [1]}, "parent_id": "p"}
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    problems = ProblemList()
    (read_row,) = read_rows(file, problems)
    example = read_row.example
    assert not problems
    assert example.prompt_text == "be brief\nhé?"
    assert (example.gold_completion, example.metadata, example.parent_id) == ("<r>", {"x": [1]}, "p")
    assert read_row.place == f"{file}:1"
