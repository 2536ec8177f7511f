"""The rows of BFCL as the package `bfcl_eval` ships them: requests, the functions on offer, the calls that answer them.

Source: Berkeley Function-Calling Leaderboard v4 (github.com/ShishirPatil/gorilla; Patil et al., ICML 2025). Licence: Apache-2.0.
Its data files are read where they are installed; its code is not imported. Read are the single-turn categories whose calls are
Python: Java and JavaScript rows hold values of those languages, several turns need its simulators, web search needs a network.

Does not: render rows or split them.
"""

from __future__ import annotations

import importlib.util
import json
import keyword
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CALLING = ("simple_python", "multiple", "parallel", "parallel_multiple")
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANT = ("irrelevance", "live_irrelevance")
"""Categories in which no function on offer serves the request."""
CATEGORIES = (*CALLING, *LIVE, *IRRELEVANT)
PACKAGE = "bfcl_eval"


@dataclass(frozen=True)
class Parameter:
    """One parameter as the model may be told of it."""

    name: str
    type: str
    description: str
    required: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Function:
    """One function on offer."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Wanted:
    """One call of the right answer: parameter -> acceptable values; "" among them says that it may be left out."""

    name: str
    accept: Mapping[str, Sequence[Any]]

    def arguments(self) -> dict[str, Any]:
        """One acceptable choice: the first value of each parameter, those that may be left out left out."""
        return {name: first(values) for name, values in self.accept.items() if "" not in values}


@dataclass(frozen=True)
class ToolRow:
    """A request over a library of functions. `calls` is empty where none serves it."""

    id: str
    category: str
    request: str
    library: tuple[Function, ...]
    calls: tuple[Wanted, ...]

    @property
    def names(self) -> list[str]:
        """Names of the functions that are called, in order, with repeats."""
        return [call.name for call in self.calls]


@dataclass(frozen=True)
class ReadRows:
    """Rows that can be used, and how many of each category cannot, by reason."""

    rows: tuple[ToolRow, ...]
    unusable: Mapping[tuple[str, str], int]


def folder() -> Path:
    """Where the package keeps its data. Imports nothing. Raises FileNotFoundError where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{PACKAGE} is not installed")
    return Path(next(iter(found.submodule_search_locations))) / "data"


@cache
def read_rows(categories: tuple[str, ...], where: Path) -> ReadRows:
    """Every row of the categories in the order of the files."""
    rows: list[ToolRow] = []
    unusable: dict[tuple[str, str], int] = {}
    for category in categories:
        answers = {}
        if category not in IRRELEVANT:
            answers = {
                a["id"]: a["ground_truth"] for a in _lines(where / "possible_answer" / f"BFCL_v4_{category}.json")
            }
        for raw in _lines(where / f"BFCL_v4_{category}.json"):
            row = _row(raw, category, answers.get(raw["id"], []))
            reason = unusable_because(row)
            if reason:
                unusable[(category, reason)] = unusable.get((category, reason), 0) + 1
            else:
                rows.append(row)
    return ReadRows(tuple(rows), unusable)


def unusable_because(row: ToolRow) -> str:
    """Why a row cannot be asked as Python calls; empty where it can."""
    if not row.library:
        return "no function is on offer"
    offered = {f.name: {p.name for p in f.parameters} for f in row.library}
    for call in row.calls:
        if call.name not in offered or any(name not in offered[call.name] for name in call.accept):
            return "the answer uses what is not on offer"
        words = [*call.name.split("."), *call.accept]
        if any(not word.isidentifier() or keyword.iskeyword(word) for word in words):
            return "a name that Python does not allow"
        required = {p.name for f in row.library if f.name == call.name for p in f.parameters if p.required}
        if not required <= set(call.arguments()):
            return "the answer leaves a required argument out"
    return ""


def first(values: Sequence[Any]) -> Any:
    """The first acceptable value, as a call would write it: inside a mapping every key has a list of them again."""
    return _written(next(value for value in values if value != ""))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: first(v) if isinstance(v, list) else _written(v) for k, v in value.items() if v != [""]}
    return [_written(item) for item in value] if isinstance(value, list) else value


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text("utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


def _row(raw: Mapping[str, Any], category: str, answers: Sequence[Mapping[str, Mapping[str, Any]]]) -> ToolRow:
    turns = [message["content"] for message in raw["question"][0]]
    library = tuple(_function(f) for f in raw["function"])
    calls = tuple(Wanted(name, dict(accept)) for answer in answers for name, accept in answer.items())
    return ToolRow(raw["id"], category, "\n".join(turns).strip(), library, calls)


def _function(raw: Mapping[str, Any]) -> Function:
    schema = raw["parameters"]
    required = set(schema.get("required", ()))
    parameters = tuple(
        Parameter(
            name,
            _type(about),
            str(about.get("description", "")).strip(),
            name in required,
            tuple(str(choice) for choice in about.get("enum", ())),
        )
        for name, about in schema["properties"].items()
    )
    return Function(raw["name"], str(raw.get("description", "")).strip(), parameters)


def _type(about: Mapping[str, Any]) -> str:
    name = str(about.get("type", "any"))
    inner = about.get("items")
    return f"{name} of {_type(inner)}" if name in ("array", "tuple") and isinstance(inner, dict) else name
