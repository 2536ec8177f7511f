"""What a row says of its calls besides the reference: acceptable values, the functions that exist, which part is asked.

A row carries it as `metadata.calls`, and the function-call grader reads it:

    {"asked": "calls", "accept": [{"f": {"x": [1, 2], "y": ["", "day"]}}], "library": ["f", "g"]}

`accept` is the form of BFCL's answers: every argument with its acceptable values, where "" among them says that the argument
may be left out. Rows without `metadata.calls` are graded by their reference alone. Does not: parse or judge a completion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from hybrid.capability.graders.base import GraderError
from hybrid.capability.graders.call_syntax import Call
from hybrid.capability.types import Example

Accept: TypeAlias = Mapping[str, Mapping[str, Sequence[Any]]]
"""One call: its name -> parameter -> acceptable values. Where `nested`, a value `{"call": {...}}` is a call itself."""


class CallRow(BaseModel):
    """`metadata.calls` of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    asked: Literal["calls", "names", "next", "arguments", "answer"] = "calls"
    """calls: whole calls. names: the names alone. next: one of `names`. arguments: those of each function of `names`, a line
    each. answer: a sentence that states every text of `results`."""
    accept: tuple[dict[str, dict[str, list[Any]]], ...] = ()
    """The calls with all their acceptable values; empty: those of the reference as they are."""
    library: tuple[str, ...] = ()
    """Names of the functions that exist; empty: not known, and `known` is not told."""
    names: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    nested: bool = False
    """Whether a value may be a call."""


@dataclass(frozen=True)
class Values:
    """What one argument may be. Texts are compared as BFCL compares them: without case, spaces and `,./-_*^`."""

    options: tuple[Any, ...]

    @property
    def optional(self) -> bool:
        """Whether the argument may be left out."""
        return "" in self.options

    def admits(self, value: Any, tolerance: float) -> bool:
        """Whether the value is one of them."""
        return any(_admitted(option, value, tolerance) for option in self.options)

    def kinds(self) -> set[str]:
        """The types of the acceptable values."""
        return {type(option).__name__ for option in self.options}


def row_of(example: Example) -> CallRow | None:
    """The row's `metadata.calls`, or None where it has none. Raises `GraderError` for one that cannot be read."""
    found = example.metadata.get("calls")
    if found is None:
        return None
    try:
        return CallRow.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("calls", *first["loc"])))
        raise GraderError(f"function-call grader, example {example.id!r}: metadata.{where}: {first['msg']}") from error


def same_number(a: float, b: float, tolerance: float) -> bool:
    """Equal within a relative and absolute tolerance; exactly equal where a number is beyond the range of floats."""
    try:
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:
        return a == b


def plain(text: str) -> str:
    """A text as BFCL's checker compares it (`standardize_string` of bfcl_eval)."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _admitted(option: Any, value: Any, tolerance: float) -> bool:
    """Whether one acceptable value admits this one. Inside a mapping every key has a list of acceptable values again."""
    if isinstance(option, Call) and isinstance(value, Call):
        wanted = dict(option.arguments)
        given = dict(value.arguments)
        missing = [name for name in wanted if name not in given and not wanted[name].optional]
        inside = all(name in wanted and wanted[name].admits(given[name], tolerance) for name in given)
        return option.name == value.name and not missing and inside
    if isinstance(option, dict) and isinstance(value, dict):
        missing = [key for key in option if key not in value and "" not in _listed(option[key])]
        inside = all(
            key in option and Values(tuple(_listed(option[key]))).admits(value[key], tolerance) for key in value
        )
        return not missing and inside
    if isinstance(option, list) and isinstance(value, list):
        return len(option) == len(value) and all(_admitted(a, b, tolerance) for a, b in zip(option, value, strict=True))
    if _number(option) and _number(value):
        return same_number(option, value, tolerance)
    if isinstance(option, str) and isinstance(value, str):
        return option != "" and plain(option) == plain(value)
    return type(option) is type(value) and bool(option == value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def wanted_calls(row: CallRow) -> list[Call]:
    """The calls of `accept`, every argument as its acceptable values."""
    return [_wanted(call, row.nested) for call in row.accept]


def _wanted(call: Accept, nested: bool) -> Call:
    name, arguments = next(iter(call.items()))
    return Call(
        name, tuple((key, Values(tuple(_option(v, nested) for v in values))) for key, values in arguments.items())
    )


def _option(value: Any, nested: bool) -> Any:
    if nested and isinstance(value, dict) and list(value) == ["call"]:
        return _wanted(value["call"], nested)
    return value
