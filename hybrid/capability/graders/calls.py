"""The function-call grader: calls compared by their syntax tree, part by part.

    grader.grade('f(b="x", a=1.0)', Example(id="1", prompt="...", reference='f(a=1, b="x")')).facets
    # format 1, count 1, name 1, arguments 1, extra 1, types .5, values 1, order 0

The parts are those of BFCL's syntax-tree check (Berkeley function-calling leaderboard) and of granular function-calling tasks
(Granite, arXiv 2407.00121). A completion is hostile input: it is parsed, never evaluated or run, and only literals are
read as values. Does not: know which functions exist, or judge calls that are equal in effect and not in form.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.capability.graders.base import GraderError, right, settings_fingerprint, unreadable, wrong
from hybrid.capability.types import Example, Score
from hybrid.config import schema

LONGEST = 4_000
"""Characters of a completion that may be a call; more is not read."""
PARTS = ("count", "name", "arguments", "extra", "types", "values", "order")
"""Facets besides `format`, each in [0, 1]."""
SHARES = {"format": 0.1, "count": 0.2, "name": 0.3, "arguments": 0.2, "values": 0.2}
"""What each part is worth in the share."""
_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Call:
    """One call: the dotted name, and its arguments in order; positional ones are named "0", "1", ..."""

    name: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def names(self) -> list[str]:
        """Argument names in the order given."""
        return [name for name, _ in self.arguments]


class FunctionCall:
    """Correct when every call of the reference is there with its name and values, and nothing else is."""

    def __init__(self, config: schema.FunctionCallGrader) -> None:
        self._config = config

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion. Raises `GraderError` when the reference is no call."""
        wanted = self._wanted(example)
        found = calls_of(completion)
        if found is None:
            facets = dict.fromkeys(PARTS, 0.0)
            if not wanted:  # prose is what a refusal to call looks like
                return right(dict.fromkeys(PARTS, 1.0))
            return unreadable(example.reference, completion, "the answer is no call", facets)
        facets = self._facets(wanted, found)
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

    def _wanted(self, example: Example) -> list[Call]:
        if not example.reference.strip():
            return []
        wanted = calls_of(example.reference)
        if wanted is None:
            raise GraderError(f"function-call grader, example {example.id!r}: the reference is no call; write f(x=1)")
        return wanted

    def _facets(self, wanted: Sequence[Call], found: Sequence[Call]) -> dict[str, float]:
        """Parts of the answer, averaged over the calls of the longer side; what is missing there counts as wrong."""
        if not wanted or not found:
            return dict.fromkeys(PARTS, float(len(wanted) == len(found)))
        pairs = _paired(wanted, found)
        most = max(len(wanted), len(found))
        each = [self._pair(a, b) for a, b in pairs]
        facets = {name: sum(parts[name] for parts in each) / most for name in PARTS if name != "count"}
        return {"count": float(len(wanted) == len(found)), **facets}

    def _pair(self, wanted: Call, found: Call) -> dict[str, float]:
        """Parts of one call. Without the right name the rest is about another function, and counts for nothing."""
        if wanted.name != found.name:
            return dict.fromkeys(PARTS, 0.0)
        asked, given = dict(wanted.arguments), dict(found.arguments)
        both = [name for name in asked if name in given]
        count = max(len(asked), 1)
        same = [self._same(asked[name], given[name]) for name in both]
        kinds = [_kind(asked[name]) == _kind(given[name]) for name in both]
        return {
            "name": 1.0,
            "arguments": len(both) / count if asked else 1.0,
            "extra": 1.0 if len(both) == len(given) else len(both) / len(given),
            "types": sum(kinds) / count if asked else 1.0,
            "values": sum(same) / count if asked else 1.0,
            "order": float([n for n in found.names if n in asked] == [n for n in wanted.names if n in given]),
        }

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(self._same(a[key], b[key]) for key in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(self._same, a, b))
        if _kind(a) in ("int", "float") and _kind(b) in ("int", "float"):
            try:
                return math.isclose(a, b, rel_tol=self._config.tolerance, abs_tol=self._config.tolerance)
            except OverflowError:  # an integer beyond the range of floats
                return bool(a == b)
        return type(a) is type(b) and bool(a == b)


def calls_of(text: str) -> list[Call] | None:
    """The calls that a text consists of, in order; None when it is anything else.

    One call, several on lines of their own, or a list of them; a code fence around them is taken off.
    """
    lines = [line for line in text.strip().splitlines() if not line.strip().startswith("```")]
    source = "\n".join(line.strip() for line in lines)
    if not source or len(source) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes and the like are the completion's affair
            statements = ast.parse(source).body
        nodes = [node for statement in statements for node in _call_nodes(statement)]
        return [_call(node) for node in nodes]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _call_nodes(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Expr):
        value = statement.value
        return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]
    raise ValueError("a statement is no call")


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or any(isinstance(a, ast.Starred) for a in node.args):
        raise ValueError("this is no call")
    arguments = [(str(i), _value(a)) for i, a in enumerate(node.args)]
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in dict(arguments):
            raise ValueError("an argument has no name, or comes twice")
        arguments.append((keyword.arg, _value(keyword.value)))
    return Call(_dotted(node.func), tuple(arguments))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("this is no name")


def _value(node: ast.expr) -> Any:
    """A literal as plain data: text, numbers, truth values, null, lists (tuples too) and mappings with text keys."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        if _kind(inner) in ("int", "float"):
            return -inner
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) if key is not None else None for key in node.keys]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return dict(zip(keys, map(_value, node.values), strict=True))
    raise ValueError("this is no literal")


def _kind(value: Any) -> str:
    return type(value).__name__


def _paired(wanted: Sequence[Call], found: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Each wanted call with an unused found one: an equal one first, else one of its name, else the next one left."""
    left = list(found)
    pairs: dict[int, Call] = {}
    for equal in (True, False):
        for i, call in enumerate(wanted):
            alike = (
                b for b in left if b.name == call.name and (not equal or dict(b.arguments) == dict(call.arguments))
            )
            other = next(alike, None) if i not in pairs else None
            if other is not None:
                left.remove(other)
                pairs[i] = other
    for i in range(len(wanted)):
        if i not in pairs and left:
            pairs[i] = left.pop(0)
    return [(wanted[i], other) for i, other in sorted(pairs.items())]
