"""Nearest words: what somebody who made one slip of the keyboard most likely meant.

Does not: know what the words are for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100  # comparing is quadratic, and nobody mistypes a longer word by one letter
_LISTED = 24


def distance(a: str, b: str) -> int:
    """Least number of insertions, deletions, substitutions and swaps of neighbours (optimal string alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` most likely stands for, or None when nothing is near.

    One slip is always near (in a word of two letters or more), two in words of six, else `difflib` decides. Case,
    hyphens and underscores are not slips. Ties go to the more similar, then to the alphabet.
    """
    if len(word) > _LONGEST:
        return None
    folded = _fold(word)
    ranked: list[tuple[int, float, str]] = []
    for choice in sorted(set(choices)):
        if len(choice) > _LONGEST:
            continue
        steps = distance(folded, _fold(choice))
        ratio = difflib.SequenceMatcher(a=folded, b=_fold(choice), autojunk=False).ratio()
        shortest = min(len(word), len(choice))
        allowed = 2 if shortest >= 6 else 1 if shortest >= 2 else 0
        if steps <= allowed or ratio >= 0.72:
            ranked.append((steps if steps <= allowed else allowed + 1, -ratio, choice))
    return min(ranked)[2] if ranked else None


def listing(words: Iterable[str]) -> str:
    """Words joined by commas, cut after a couple of dozen."""
    every = list(words)
    rest = len(every) - _LISTED
    return ", ".join(every[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(word: str, choices: Iterable[str], what: str) -> str:
    """A sentence that helps: the nearest choice when there is one, then the choices (`what` says what they are)."""
    legal = list(choices)
    near = nearest(word, legal)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"{what}: {listing(legal)}" if legal else f"{what}: none"


def shown(value: object) -> str:
    """A value from a file as a person should see it: what it is, cut, with nothing that a terminal would obey."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, dict):
        return "a section of keys"
    return "a list"


def quoted(text: str) -> str:
    """Text in quotes, at most 60 characters of it, control characters escaped."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_").replace(" ", "_")
