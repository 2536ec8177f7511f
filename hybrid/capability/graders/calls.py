"""The function-call grader: calls compared by their syntax tree, part by part.

    grader.grade('f(b="x", a=1.0)', Example(id="1", prompt="...", reference='f(a=1, b="x")')).facets
    # format 1, count 1, name 1, arguments 1, extra 1, types .5, values 1, order 0

The parts are those of BFCL's syntax-tree check (Berkeley function-calling leaderboard) and of granular function-calling tasks
(Granite, arXiv 2407.00121). A completion is hostile input: it is parsed, never evaluated or run, and only literals are
read as values. What a row says in `metadata.calls` counts too (`call_rows`): acceptable values, which functions exist, and
whether only names, arguments or an answer are asked. Does not: judge calls that are equal in effect and not in form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybrid.capability.graders.base import GraderError, right, settings_fingerprint, unreadable, wrong
from hybrid.capability.graders.call_parts import grade_answer, grade_names
from hybrid.capability.graders.call_rows import CallRow, Values, row_of, same_number, wanted_calls
from hybrid.capability.graders.call_syntax import Call, arguments_of, attempted, calls_of
from hybrid.capability.types import Example, Score
from hybrid.config import schema

PARTS = ("count", "name", "arguments", "extra", "types", "values", "order")
"""Facets besides `format`, each in [0, 1]."""
SHARES = {"format": 0.1, "count": 0.2, "name": 0.3, "arguments": 0.2, "values": 0.2}
"""What each part is worth in the share."""


class FunctionCall:
    """Correct when every call of the reference is there with its name and values, and nothing else is."""

    def __init__(self, config: schema.FunctionCallGrader) -> None:
        self._config = config

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion. Raises `GraderError` when the reference is no call."""
        row = row_of(example)
        if row is not None and row.asked in ("names", "next"):
            return grade_names(completion, example, row, self._config.order)
        if row is not None and row.asked == "answer":
            return grade_answer(completion, example, row)
        wanted = self._wanted(example, row)
        asked = row is not None and row.asked == "arguments"
        found = arguments_of(completion, row.names) if row and asked else calls_of(completion, bool(row and row.nested))
        if found is None:
            return self._no_call(completion, example, row, bool(wanted))
        facets = self._facets(wanted, found)
        if row is not None and row.library:
            called = [name for call in found for name in call.called]
            facets["known"] = sum(name in row.library for name in called) / len(called) if called else 1.0
        # A number may be written as an integer or not, so the types are told and not required.
        required = [name for name in PARTS if name != "types" and (self._config.order or name != "order")]
        if all(facets[name] == 1.0 for name in required):
            return right(facets)
        score = wrong(example.reference, completion, facets)
        if self._config.score == "all":
            return score
        share = sum(weight * score.facets[name] for name, weight in SHARES.items())
        return Score(min(share, 0.99), False, score.facets, score.feedback)

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)

    def _no_call(self, completion: str, example: Example, row: CallRow | None, wanted: bool) -> Score:
        """The score of what is no call: right only where none is wanted and it does not begin as one either."""
        known = {"known": 0.0} if row is not None and row.library else {}
        if not wanted and not (row is not None and attempted(completion, row.library)):
            return right(dict.fromkeys((*PARTS, *known), 1.0))
        expected = example.reference or "no call"
        return unreadable(expected, completion, "the answer is no call", {**dict.fromkeys(PARTS, 0.0), **known})

    def _wanted(self, example: Example, row: CallRow | None) -> list[Call]:
        if row is not None and row.accept:
            return wanted_calls(row)
        if not example.reference.strip():
            return []
        wanted = calls_of(example.reference, bool(row and row.nested))
        if wanted is None:
            raise GraderError(f"function-call grader, example {example.id!r}: the reference is no call; write f(x=1)")
        return wanted

    def _facets(self, wanted: Sequence[Call], found: Sequence[Call]) -> dict[str, float]:
        """Parts of the answer, averaged over the calls of the longer side; what is missing there counts as wrong."""
        if not wanted or not found:
            return dict.fromkeys(PARTS, float(len(wanted) == len(found)))
        pairs = _paired(wanted, found, self._equal)
        most = max(len(wanted), len(found))
        each = [self._pair(a, b) for a, b in pairs]
        facets = {name: sum(parts[name] for parts in each) / most for name in PARTS if name != "count"}
        return {"count": float(len(wanted) == len(found)), **facets}

    def _pair(self, wanted: Call, found: Call) -> dict[str, float]:
        """Parts of one call. Without the right name the rest is about another function, and counts for nothing."""
        if wanted.name != found.name:
            return dict.fromkeys(PARTS, 0.0)
        given = dict(found.arguments)
        asked = {n: v for n, v in wanted.arguments if n in given or not (isinstance(v, Values) and v.optional)}
        both = [name for name in asked if name in given]
        count = max(len(asked), 1)
        same = [self._same(asked[name], given[name]) for name in both]
        kinds = [_kind(given[name]) in _kinds(asked[name]) for name in both]
        return {
            "name": 1.0,
            "arguments": len(both) / count if asked else 1.0,
            "extra": 1.0 if len(both) == len(given) else len(both) / len(given),
            "types": sum(kinds) / count if asked else 1.0,
            "values": sum(same) / count if asked else 1.0,
            "order": float([n for n in found.names if n in asked] == [n for n in wanted.names if n in given]),
        }

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, Values):
            return a.admits(b, self._config.tolerance)
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(self._same(a[key], b[key]) for key in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(self._same, a, b))
        if _kind(a) in ("int", "float") and _kind(b) in ("int", "float"):
            return same_number(a, b, self._config.tolerance)
        return type(a) is type(b) and bool(a == b)

    def _equal(self, wanted: Call, found: Call) -> bool:
        parts = self._pair(wanted, found)
        return all(parts[name] == 1.0 for name in ("arguments", "extra", "values"))


def _kind(value: Any) -> str:
    return type(value).__name__


def _kinds(wanted: Any) -> set[str]:
    return wanted.kinds() if isinstance(wanted, Values) else {_kind(wanted)}


def _paired(
    wanted: Sequence[Call], found: Sequence[Call], same: Callable[[Call, Call], bool]
) -> list[tuple[Call, Call]]:
    """Each wanted call with an unused found one: an equal one first, else one of its name, else the next one left."""
    left = list(found)
    pairs: dict[int, Call] = {}
    for equal in (True, False):
        for i, call in enumerate(wanted):
            alike = (b for b in left if b.name == call.name and (not equal or same(call, b)))
            other = next(alike, None) if i not in pairs else None
            if other is not None:
                left.remove(other)
                pairs[i] = other
    for i in range(len(wanted)):
        if i not in pairs and left:
            pairs[i] = left.pop(0)
    return [(wanted[i], other) for i, other in sorted(pairs.items())]
