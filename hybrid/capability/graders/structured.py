"""The json grader: fields of the completion's first JSON value against those of the reference.

Does not: repair broken JSON, follow references or execute anything. Bounded: values nested deeper than 64 levels are
not read, and the search for a value gives up after a fixed amount of fruitless parsing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from hybrid.capability.graders.base import right, settings_fingerprint, unreadable, wrong
from hybrid.capability.types import Example, Score
from hybrid.config import schema

DEEPEST = 64
_MOST_ATTEMPTS = 1000
_MOST_WASTED = 8_000_000
_START = re.compile(r'\{\s*["}]|\[\s*(?:[\]\[{"0-9-]|true|false|null)')
_FENCE = "```"
_MISSING = object()


class Json:
    """Correct when every listed field (dotted path, digits index lists) is equal; without fields, the whole values.

    Numbers are equal within the absolute tolerance, and 1 equals 1.0 but not true. Each listed field reports a facet
    `field.<path>`. Value and `passed` stay all or nothing.
    """

    def __init__(self, config: schema.JsonGrader) -> None:
        self._config = config

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion; without a JSON value it counts as unreadable."""
        expected, got = first_json(example.reference), first_json(completion)
        if got is _MISSING:
            facets = {f"field.{path}": 0.0 for path in self._config.fields}
            return unreadable(example.reference, completion, "there is no readable JSON value in the answer", facets)
        if not self._config.fields:
            return right() if self._same(got, expected) else wrong(example.reference, completion)
        return self._grade_fields(got, expected)

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)

    def _grade_fields(self, got: Any, expected: Any) -> Score:
        pairs = [(path, _at(got, path), _at(expected, path)) for path in self._config.fields]
        same = {path: self._same(a, b) for path, a, b in pairs}
        facets = {f"field.{path}": float(equal) for path, equal in same.items()}
        if all(same.values()):
            return right(facets)
        path, found, wanted = next(p for p in pairs if not same[p[0]])
        return wrong(f"{path} = {_show(wanted)}", f"{path} = {_show(found)}", facets)

    def _same(self, a: Any, b: Any) -> bool:
        if a is _MISSING or b is _MISSING:
            return False
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(self._same(a[k], b[k]) for k in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(self._same, a, b))
        if _is_number(a) and _is_number(b):
            return bool(a == b) or self._near(a, b)
        return type(a) is type(b) and bool(a == b)

    def _near(self, a: float, b: float) -> bool:
        try:
            return math.isclose(a, b, rel_tol=0.0, abs_tol=self._config.tolerance)
        except OverflowError:  # an integer beyond the range of floats is near nothing but itself
            return False


def first_json(text: str) -> Any:
    """The first JSON value of a text, or a private marker when there is none.

    Tried in order: the whole text; the first object or list in it, inside or outside code fences; the content of a code
    fence (so that a fenced bare number or string is found). NaN, infinities, duplicate keys and values nested deeper
    than 64 levels are not JSON here.
    """
    try:
        return next((value for value in _found(text) if value is not _MISSING), _MISSING)
    except _TooDeepError:
        return _MISSING


def _found(text: str) -> Iterator[Any]:
    yield _whole(text)
    yield _embedded(text)
    yield from map(_whole, _fenced(text))


def _whole(text: str) -> Any:
    try:
        return _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return _MISSING  # a value too deep even for the parser is met again by `_embedded`, from further inside


def _embedded(text: str) -> Any:
    wasted = 0
    position = 0
    for _ in range(_MOST_ATTEMPTS):
        start = _START.search(text, position)
        if start is None or wasted > _MOST_WASTED:
            break
        try:
            return _DECODER.raw_decode(text, start.start())[0]
        except json.JSONDecodeError as error:
            wasted += error.pos - start.start()
        except (ValueError, RecursionError):
            wasted += len(text) // 8
        position = start.start() + 1
    return _MISSING


def _fenced(text: str) -> Iterator[str]:
    for block in text.split(_FENCE)[1:64:2]:
        yield block
        yield block.partition("\n")[2]  # without the language


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


class _TooDeepError(Exception):
    """Ends the search: what is inside a value that is too deep is not "the first value" either."""


class _ShallowDecoder(json.JSONDecoder):
    """A decoder whose verdict on deep values does not depend on how much of the Python stack is already in use."""

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        value, end = super().raw_decode(s, idx)
        if _deeper_than(value, DEEPEST):
            raise _TooDeepError
        return value, end


_DECODER = _ShallowDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def _deeper_than(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit + 1):
        layer = [c for v in layer if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
        if not layer:
            return False
    return True


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part, _MISSING)
        elif isinstance(value, list) and part.isascii() and part.isdigit() and len(part) < 10:
            value = value[int(part)] if int(part) < len(value) else _MISSING
        else:
            return _MISSING
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    return "nothing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
