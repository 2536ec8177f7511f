"""The countries and territories of the package `countryinfo` (MIT licence), read from its data files alone.

Does not: claim that the package is right. Rows known to be stale, disputed or written in several ways are named here, so that
who asks about them can leave them out.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from hybrid.capability.suites.base import words

CAPITAL_DOUBTFUL = words("CC CX EH FO GQ GS IO KI MS NF NR PN SJ SZ TF TK UM")
"""No capital, none in law, moved, abandoned, or hardly inhabited."""
CURRENCY_STALE = words("BY HR MR ST VE ZM ZW SL BG CU SV TR LT LV EE KP TW")
"""The code in the package has since changed, or is disputed."""


def lands() -> list[dict[str, Any]]:
    """The countries and territories that have name, code, capital and currencies, by alpha-2 code (key `code`)."""
    folder = Path(str(importlib.metadata.distribution("countryinfo").locate_file("countryinfo"))) / "data"
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        code = (row.get("ISO") or {}).get("alpha2")
        if code and isinstance(row.get("capital"), str) and row["capital"] and row.get("currencies"):
            found.setdefault(code, row)
    return [found[code] | {"code": code} for code in sorted(found)]


def plain(text: str) -> bool:
    """Written in one way only: no accents, no alternatives, no St. that may be a Saint."""
    return text.isascii() and not any(mark in text for mark in ("(", "/", "St. "))


def overlap(a: str, b: str) -> bool:
    """True when one name gives the other away (Guatemala, Guatemala City)."""
    words = {w for w in a.lower().replace("-", " ").split() if len(w) > 3}
    return bool(words & {w for w in b.lower().replace("-", " ").split() if len(w) > 3})


def has_plain_capital(row: dict[str, Any]) -> bool:
    """The capital is in law, has one spelling, and is not given away by the name of the land."""
    plainly = plain(row["name"] + row["capital"]) and "Saint" not in row["capital"]
    return row["code"] not in CAPITAL_DOUBTFUL and plainly and not overlap(row["name"], row["capital"])


def own_currencies(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(land, ISO 4217 code) of the lands with one currency that no other land of the list has."""
    rows = [r for r in rows if len(r["currencies"]) == 1 and r["code"] not in CURRENCY_STALE and plain(r["name"])]
    users: dict[str, int] = {}
    for row in rows:
        users[row["currencies"][0]] = users.get(row["currencies"][0], 0) + 1
    return [(r["name"], r["currencies"][0]) for r in rows if users[r["currencies"][0]] == 1]
