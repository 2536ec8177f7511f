"""Plain text for people: tables, trees and lines that are safe to print.

What models and data files wrote may hold control characters that a terminal would obey; everything passes `safe`.
Does not: know what the words mean, colour anything, or print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def safe(value: object) -> str:
    """One line of text in which every character prints; others become a question mark."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(value))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as aligned columns under their keys; numbers to the right. Empty for no rows."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[safe(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    right = [all(isinstance(row.get(c), int | float) for row in rows) for c in columns]
    lines = [
        "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in [columns, *cells]
    ]
    return "\n".join(lines)


def tree(value: Any, indent: int = 0) -> str:
    """Nested data as `key: value` lines, two spaces deeper per level; list items start with a hyphen."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            branch = isinstance(inner, Mapping | list | tuple) and len(inner) > 0
            lines.append(
                f"{pad}{safe(key)}:\n{tree(inner, indent + 1)}" if branch else f"{pad}{safe(key)}: {_leaf(inner)}"
            )
        return "\n".join(lines)
    if isinstance(value, list | tuple):
        return "\n".join(f"{pad}- {tree(item, indent + 1).lstrip()}" for item in value)
    return f"{pad}{_leaf(value)}"


def findings(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the doctor found: one line each, and what to do under those that are not ok."""
    width = max((len(safe(row["name"])) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{_MARKS[row['status']]}  {safe(row['name']).ljust(width)}  {safe(row['detail'])}".rstrip())
        if row["status"] != "ok" and row.get("fix"):
            lines.append(" " * (width + 8) + safe(row["fix"]))
    return "\n".join(lines)


def _leaf(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else safe(value)
