"""Reads the calls that a text consists of, by its syntax tree. A text is hostile input: parsed, never evaluated or run.

Does not: judge calls, or know which functions exist.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 4_000
"""Characters of a text that may be a call; more is not read."""
NONE = "none"
"""What is answered where no function is the answer."""
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

    @property
    def called(self) -> list[str]:
        """The name of this call and of those among its values."""
        return [self.name, *(name for _, value in self.arguments for name in _called(value))]


def calls_of(text: str, nested: bool = False) -> list[Call] | None:
    """The calls that a text consists of, in order; None when it is anything else.

    One call, several on lines of their own, or a list of them; a code fence around them is taken off. A value may be a call
    itself only where `nested`.
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
        return [_call(node, nested) for node in nodes]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def names_of(text: str) -> list[str] | None:
    """The dotted names that a text consists of: one, several between commas, in brackets or on lines; None when it is anything
    else. The word `none` is no name: alone it is the empty list."""
    lines = [line.strip() for line in text.strip().splitlines() if not line.strip().startswith("```")]
    source = "\n".join(line.strip("`") for line in lines if line)
    if not source or len(source) > LONGEST:
        return None
    if source.strip(" .").lower() == NONE:
        return []
    try:
        statements = ast.parse(source).body
        return [_dotted(node) for statement in statements for node in _call_nodes(statement)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def arguments_of(text: str, names: Sequence[str]) -> list[Call] | None:
    """The calls whose arguments alone a text gives, a line for each function of `names`; None when a line is anything else."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip() and not line.strip().startswith("```")]
    if not lines or not names:
        return None
    found: list[Call] = []
    for number, line in enumerate(lines):
        calls = calls_of(f"{names[min(number, len(names) - 1)]}({line})")
        if calls is None or len(calls) != 1:
            return None
        found += calls
    return found


def attempted(text: str, library: Sequence[str]) -> bool:
    """Whether a text that is no call holds what begins as a call of one of these functions."""
    return any(f"{name}(" in text for name in library)


def _called(value: Any) -> list[str]:
    if isinstance(value, Call):
        return value.called
    if isinstance(value, dict):
        value = list(value.values())
    return [name for item in value for name in _called(item)] if isinstance(value, list) else []


def _call_nodes(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Expr):
        value = statement.value
        return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]
    raise ValueError("a statement is no call")


def _call(node: ast.expr, nested: bool) -> Call:
    if not isinstance(node, ast.Call) or any(isinstance(a, ast.Starred) for a in node.args):
        raise ValueError("this is no call")
    arguments = [(str(i), _value(a, nested)) for i, a in enumerate(node.args)]
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in dict(arguments):
            raise ValueError("an argument has no name, or comes twice")
        arguments.append((keyword.arg, _value(keyword.value, nested)))
    return Call(_dotted(node.func), tuple(arguments))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("this is no name")


def _value(node: ast.expr, nested: bool = False) -> Any:
    """A literal as plain data: text, numbers, truth values, null, lists (tuples too) and mappings with text keys.

    A call is one too where `nested`.
    """
    if nested and isinstance(node, ast.Call):
        return _call(node, nested)
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, nested) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) if key is not None else None for key in node.keys]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return dict(zip(keys, (_value(value, nested) for value in node.values), strict=True))
    raise ValueError("this is no literal")
