"""The one YAML dialect of hybrid: data and nothing else, with the line of every key.

Accepts mappings with text keys, lists, text, `true`/`false`, `null`/`~`/nothing, decimal integers and decimal floats
(`1e-5` is a number). Everything else that a plain scalar could mean in YAML 1.1 (`yes`, `010`, `0x1F`, `12:30`,
`2024-01-01`, `.nan`) is text. Anchors, aliases, tags, merge keys, duplicate keys and further documents are mistakes.
JSON is accepted as it is, surrogate pairs included. Does not: know what the keys mean, or read files.

    data, lines, problems = parse_yaml("model: {path: reference}", "run.yaml")
    lines[("model", "path")]  # 1
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from hybrid.errors import Problem

KeyPath: TypeAlias = tuple[str | int, ...]
MAX_BYTES = 1_000_000
MAX_DEPTH = 50

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?\Z")
_INT_DIGITS = 18  # fits a signed 64-bit integer whatever the digits
_SIMPLE_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_TABS = "start any token"


@dataclass(frozen=True)
class Document:
    """What was read of a text. `complete` is false when a syntax error or a limit hid the rest of it."""

    value: Any
    lines: Mapping[KeyPath, int]
    problems: tuple[Problem, ...]
    complete: bool


class _StopError(Exception):
    """The rest of the text cannot be read; the reason is already among the problems."""


def format_path(path: KeyPath) -> str:
    """`("capabilities", 0, "grader")` as `capabilities[0].grader`; odd keys are quoted, long ones cut."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _SIMPLE_KEY.match(part):
            text += f".{part[:60]}" if text else part[:60]
        else:
            text += f"[{part[:60]!a}]"
    return text


def resolve_scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means in this dialect. Numbers too large for 64 bits or for a float stay text."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INT.match(text):
        return int(text) if len(text.lstrip("+-")) <= _INT_DIGITS else text
    if _FLOAT.match(text):
        number = float(text)
        return number if math.isfinite(number) else text
    return text


def read_document(text: str, file: str) -> Document:
    """Read one document; `file` is only named in the problems. Never raises."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        fix = "move data into files of its own and name them here"
        problem = Problem(file, 0, "", f"the file is larger than {MAX_BYTES:,} bytes", fix)
        return Document(None, {(): 1}, (problem,), complete=False)
    reader = _Reader(text, file)
    value = reader.document()
    return Document(value, reader.lines, tuple(sorted(reader.problems)), reader.complete)


def parse_yaml(text: str, file: str) -> tuple[Any, Mapping[KeyPath, int], list[Problem]]:
    """Read one document: its value, the 1-based line of every key path, and every mistake found, sorted.

    A line belongs to the key (or to the item of a list); `()` is the document itself. With problems the value holds
    what could be read; None after a syntax error. Never raises.
    """
    document = read_document(text, file)
    return document.value, document.lines, list(document.problems)


class _Reader:
    """Builds values from PyYAML's events, so that nothing of YAML's object model is ever in reach of a file."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.line = 1
        self.lines: dict[KeyPath, int] = {(): 1}
        self.problems: list[Problem] = []
        self.complete = False

    def document(self) -> Any:
        """The value of the only document; None when there is none, or when it cannot be read to its end."""
        value = None
        try:
            self._next()  # the stream starts
            if isinstance(self._next(), yaml.DocumentStartEvent):
                event = self._next()
                self.lines[()] = self.line
                value = self._value(event, ())
                self._next()  # the document ends
                if isinstance(self._next(), yaml.DocumentStartEvent):
                    self._add((), "a second document starts here", "keep one document per file")
            self.complete = True
        except _StopError:
            value = None
        except yaml.MarkedYAMLError as error:
            self._syntax_error(error)
        except yaml.reader.ReaderError as error:
            self.line = self.text.count("\n", 0, error.position) + 1
            fix = "remove it, or write it as an escape in double quotes"
            self._add((), "this character is not allowed in YAML", fix)
        except (ValueError, OverflowError):  # PyYAML turns escapes and version numbers into Python's without a check
            self._add(
                (), "this cannot be read as YAML", "look here and below for an escape such as \\U that is no character"
            )
        return value

    def _next(self) -> yaml.Event:
        event = next(self.events)
        if event.start_mark is not None:
            self.line = event.start_mark.line + 1
        return event

    def _add(self, path: KeyPath, message: str, fix: str) -> None:
        self.problems.append(Problem(self.file, self.line, format_path(path), message, fix))

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            self.line = mark.line + 1
        detail = " ".join(part for part in (error.context, error.problem) if part)
        if _TABS in detail and "\\t" in detail:
            self._add((), "a tab is used as indentation", "indent with spaces")
            return
        fix = "look here and one line above for the indentation, a missing colon, or an unclosed quote or bracket"
        self._add((), f"not valid YAML ({detail})", fix)

    def _value(self, event: yaml.Event, path: KeyPath) -> Any:
        """The value that starts at `event`; its keys get their lines."""
        if len(path) > MAX_DEPTH:
            self._add(path[:3], f"nested more than {MAX_DEPTH} levels deep", "flatten it")
            raise _StopError
        if isinstance(event, yaml.AliasEvent):
            self._add(path, f"the alias *{event.anchor} is not supported", "write the value out here")
            return None
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        self._reject_decorations(event, path)
        return self._sequence(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _reject_decorations(self, event: yaml.Event, path: KeyPath) -> None:
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor is not None:
            self._add(path, f"the anchor &{anchor} is not supported", "remove it and write the value out")
        if tag is not None:
            self._add(path, f"the tag {tag!r} is not supported", "remove it; plain values have no tags")

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath) -> Any:
        self._reject_decorations(event, path)
        value = resolve_scalar(event.value) if event.style is None else event.value
        if not isinstance(value, str):
            return value
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")  # JSON writes astral characters as pairs
        except UnicodeDecodeError:
            self._add(path, "the text holds half of a surrogate pair", "write the character itself")
            return ""

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            here = (*path, len(items))
            self.lines[here] = self.line
            items.append(self._value(event, here))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key is None:
                self._aside(self._next(), path)
            elif key in mapping:
                fix = "keep one of the two"
                self._add((*path, key), f"this key is already on line {self.lines[(*path, key)]}", fix)
                self._aside(self._next(), (*path, key))
            else:
                self.lines[(*path, key)] = self.line
                mapping[key] = self._value(self._next(), (*path, key))
        return mapping

    def _key(self, event: yaml.Event, path: KeyPath) -> str | None:
        """The text of a key, or None for a key that cannot be used (reported)."""
        if not isinstance(event, yaml.ScalarEvent):
            self._add(path, "a key must be text", "write one word before the colon")
            self._aside(event, (*path, "?"))
            return None
        if event.style is None and event.value == "<<":
            self._add(path, "the merge key << is not supported", "write the keys out")
            return None
        key = self._scalar(event, path)
        if not isinstance(key, str):
            name = event.value or "(empty)"
            self._add(path, f"the key {name} is not text", f'put it in quotes: "{event.value}"')
            return None
        return key

    def _aside(self, event: yaml.Event, path: KeyPath) -> None:
        """Read a value for its problems alone: it has no place in the result, and its keys keep no lines."""
        kept, self.lines = self.lines, {}
        try:
            self._value(event, path)
        finally:
            self.lines = kept
