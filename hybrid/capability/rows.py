"""Reads one `*.jsonl` file into examples: strict, streaming, every mistake in one pass.

Does not: compare files with each other (see `sources`), cut to a limit or grade.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from hybrid.capability.graders.text import quote
from hybrid.capability.types import SPLITS, Example, Message, Split
from hybrid.errors import Problem

LARGEST_ROW_BYTES = 1_000_000
LARGEST_FILE_BYTES = 512_000_000
MOST_PROBLEMS = 50
"""Problems listed per file; the rest are counted."""
EXAMPLE_ROW = '{"id": "add-1", "prompt": "2 + 3 =", "reference": "5"}'
_FIELDS = ("id", "prompt", "reference", "gold", "metadata", "parent_id", "wrong")
_REQUIRED = ("id", "prompt", "reference")
_MEANT = {"question": "prompt", "input": "prompt", "instruction": "prompt", "messages": "prompt"} | dict.fromkeys(
    ("answer", "target", "label", "output", "completion", "response"), "reference"
)
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Row:
    """An example and where it was read. `line` is 1-based; for data without lines it is the row's number from 1."""

    example: Example
    file: str
    line: int

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        return f"{self.file}:{self.line}"


class ProblemList:
    """Collects problems: per file the first `MOST_PROBLEMS`, then one that says how many more there are."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Problem]] = {}
        self._dropped: dict[str, int] = {}
        self._last_line: dict[str, int] = {}

    def add(self, problem: Problem) -> None:
        """Note one problem."""
        kept = self._kept.setdefault(problem.file, [])
        self._last_line[problem.file] = max(problem.line, self._last_line.get(problem.file, 0))
        if len(kept) < MOST_PROBLEMS:
            kept.append(problem)
        else:
            self._dropped[problem.file] = self._dropped.get(problem.file, 0) + 1

    def __bool__(self) -> bool:
        return bool(self._kept)

    def all(self) -> list[Problem]:
        """The problems by file and line, with the counts of those left out at the last line concerned."""
        cut = [
            Problem(
                file, self._last_line[file], "", f"{more} more problems in this file are not listed", "fix these first"
            )
            for file, more in self._dropped.items()
        ]
        return sorted([*(p for kept in self._kept.values() for p in kept), *cut])


def split_rows(rows: Mapping[Split, list[Row]]) -> Iterator[tuple[Split, Row]]:
    """Every row with its split, in the order of the splits."""
    return ((split, row) for split in SPLITS for row in rows.get(split, ()))


def read_rows(path: Path, problems: ProblemList) -> list[Row]:
    """The readable rows of a file in order; everything else goes to `problems`. Never raises for bad data."""
    reader = _Reader(str(path), problems)
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            reader.report(0, "", f"the file has {size} bytes, more than {LARGEST_FILE_BYTES}", "split or thin it out")
            return []
        with path.open("rb") as stream:
            for number, line, whole in _lines(stream):
                reader.read(number, line, whole)
    except OSError as error:
        reader.report(0, "", f"the file cannot be read: {error.strerror or error}", "check its permissions")
        return []
    if not reader.rows and not reader.reported:
        reader.report(0, "", "the file has no rows", f"write one example a line, such as {EXAMPLE_ROW}")
    return reader.rows


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Line number, bytes (one more than the cap when the row is too large), and whether the line has an end."""
    number = 0
    while line := stream.readline(LARGEST_ROW_BYTES + 2):
        number += 1
        rest = line
        while len(rest) == LARGEST_ROW_BYTES + 2 and not rest.endswith(b"\n"):
            rest = stream.readline(LARGEST_ROW_BYTES + 2)
        yield number, line, rest.endswith(b"\n")


class _Reader:
    """Turns the lines of one file into rows, and remembers ids and whether an example row was shown."""

    def __init__(self, file: str, problems: ProblemList) -> None:
        self.file = file
        self.rows: list[Row] = []
        self.reported = 0
        self._problems = problems
        self._lines_by_id: dict[str, int] = {}

    def report(self, line: int, key: str, message: str, fix: str) -> None:
        """Note a problem; the file's first row problem shows how a correct row looks."""
        if line and not self.reported:
            fix = f"{fix}; a correct row: {EXAMPLE_ROW}"
        self.reported += 1
        self._problems.add(Problem(self.file, line, key, message, fix))

    def read(self, number: int, line: bytes, has_end: bool) -> None:
        """Read one line; blank lines are skipped."""
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            self.report(1, "", "the file starts with a byte order mark", "save it as UTF-8 without BOM")
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            return
        if len(line.rstrip(b"\r\n")) > LARGEST_ROW_BYTES:
            self.report(number, "", f"the row has more than {LARGEST_ROW_BYTES} bytes", "shorten or remove it")
            return
        content = self._parse(number, line, has_end)
        if content is None:
            return
        before = self.reported
        for mistake in row_mistakes(content):
            self.report(number, *mistake)
        if self.reported == before:
            self._keep(number, content)

    def _keep(self, number: int, content: dict[str, Any]) -> None:
        name = content["id"]
        if name in self._lines_by_id:
            first = self._lines_by_id[name]
            self.report(number, "id", f"{quote(name)} was already used on line {first}", "give every row its own id")
            return
        self._lines_by_id[name] = number
        prompt = content["prompt"]
        if not isinstance(prompt, str):
            content = {**content, "prompt": tuple(Message(**turn) for turn in prompt)}
        if "wrong" in content:
            content = {**content, "wrong": tuple(content["wrong"])}
        self.rows.append(Row(Example(**content), self.file, number))

    def _cut_off(self, number: int) -> None:
        self.report(number, "", "the last line is cut off", "finish or remove it, and end it with a line end")

    def _parse(self, number: int, line: bytes, has_end: bool) -> dict[str, Any] | None:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if not has_end and error.reason == "unexpected end of data":
                self._cut_off(number)
                return None
            found = f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8"
            self.report(number, "", found, "save the file as UTF-8")
            return None
        try:
            content = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            if has_end:
                self.report(
                    number, "", f"not JSON: {error.msg} at column {error.colno}", "write one JSON object a line"
                )
            else:
                self._cut_off(number)
            return None
        except _BadValueError as error:
            self.report(number, "", str(error), error.fix)
            return None
        except ValueError:  # Python refuses to read integers of thousands of digits
            self.report(number, "", "a number has too many digits", "write it as text")
            return None
        except RecursionError:
            self.report(number, "", "the row is nested too deep", "flatten it")
            return None
        if isinstance(content, dict):
            return content
        self.report(number, "", f"found {show(content)}, expected an object", "write one JSON object a line")
        return None


class _BadValueError(ValueError):
    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if k in dict(pairs[:i]))
        raise _BadValueError(f"the key {quote(twice)} occurs twice", "keep one of them")
    return content


def _no_constant(name: str) -> Any:
    raise _BadValueError(f"{name} is not JSON", "write a finite number, null or text")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _BadValueError(f"the number {digits[:40]} is out of range", "write a finite number or text")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def row_mistakes(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Field, what is wrong, what to do: for every mistake of a row."""
    meant: set[str] = set()
    for name in content:
        if name not in _FIELDS:
            nearest = _MEANT.get(name.casefold()) or next(iter(get_close_matches(name, _FIELDS, n=1)), None)
            meant.add(nearest or "")
            fix = f"did you mean {nearest!r}?" if nearest else "move it into metadata, or remove it"
            yield quote(name)[1:-1], "unknown field", f"{fix} (fields: {', '.join(_FIELDS)})"
    for name in _REQUIRED:
        if name not in content and name not in meant:
            yield name, "the field is missing", f"expected {_EXPECTED[name]}"
    for name in _FIELDS:
        if name in content and (found := _wrong(name, content[name])):
            yield name, f"found {found}, expected {_EXPECTED[name]}", "correct the value"


_EXPECTED = {
    "id": "text of 1 to 200 characters",
    "prompt": 'text that is not empty, or a list of {"role": "system|user|assistant", "content": text}',
    "reference": "text",
    "gold": "text or null",
    "metadata": "an object",
    "parent_id": "the id of another example, or null",
    "wrong": "a list of texts, answers that must not pass",
}


def _wrong(name: str, value: Any) -> str:
    """What was found in a field where something else belongs; empty when the value is right."""
    if not _encodable(value):
        return "half of a surrogate pair, which is no character"
    if name == "prompt" and isinstance(value, list):
        return _wrong_turns(value)
    if name == "metadata":
        return "" if isinstance(value, dict) else show(value)
    if name == "wrong":
        texts = isinstance(value, list) and all(isinstance(answer, str) for answer in value)
        return "" if texts else "a list with something other than texts" if isinstance(value, list) else show(value)
    if value is None and name in ("gold", "parent_id"):
        return ""
    if not isinstance(value, str):
        return show(value)
    if name == "id" and not 1 <= len(value) <= 200:
        return f"{len(value)} characters"
    return "empty text" if name in ("id", "prompt") and not value.strip() else ""


def _wrong_turns(turns: list[Any]) -> str:
    if not turns:
        return "an empty list"
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
            return f"turn {number}: {show(turn)}"
        if turn["role"] not in _ROLES:
            return f"turn {number}: role {show(turn['role'])}"
        if not isinstance(turn["content"], str):
            return f"turn {number}: content {show(turn['content'])}"
    return "" if any(turn["content"].strip() for turn in turns) else "turns without any text"


def _encodable(value: Any) -> bool:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def show(value: Any) -> str:
    """A JSON value in words, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str():
            return f"the text {quote(value, 40)}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object with the keys " + (", ".join(quote(str(k), 40) for k in list(value)[:8]) or "(none)")
