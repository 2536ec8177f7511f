"""What a document's body is made of: lines in one normal form, hidden characters, protected sections, words.

Normal form: lines end in "\\n", no blank line comes first, exactly one line end comes last; the empty body is "".
Does not: know front matter (`document`) or edits (`edits`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

PROTECTED_END = "<!-- protected:end -->"
_START = re.compile(r"<!-- protected:start ([A-Za-z0-9][A-Za-z0-9_.-]{0,63}) -->")
_MARKER_LIKE = re.compile(r"<!\s*--\s*protected\s*:", re.IGNORECASE)
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_LEADING_BLANK = re.compile(r"\A(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Section:
    """A protected section: its name and the indices of its marker lines, both inclusive and counted from 0."""

    name: str
    first: int
    last: int


def normal(text: str) -> str:
    """`text` in normal form. Text of blank lines alone becomes ""."""
    body = _LEADING_BLANK.sub("", text).rstrip("\n")
    return body + "\n" if body.strip() else ""


def lines_of(body: str) -> list[str]:
    """The lines of a body without their ends; the empty body has none."""
    return normal(body)[:-1].split("\n") if body.strip() else []


def join(lines: Sequence[str]) -> str:
    """The body, in normal form, that consists of `lines`."""
    return normal("\n".join(lines))


def is_hidden(character: str) -> bool:
    """Whether a character can hide text or change its order: control, format (zero width, bidi, tags), surrogate, line
    and paragraph separators, and noncharacters. Line feed and tab are not hidden."""
    if character in "\n\t":
        return False
    return unicodedata.category(character) in _HIDDEN or (ord(character) & 0xFFFE) == 0xFFFE


def hidden(text: str) -> list[tuple[int, str]]:
    """Every line that holds a hidden character: its index from 0 and the first such character as `U+XXXX NAME`."""
    found = []
    for index, line in enumerate(text.split("\n")):
        if line.isprintable():
            continue
        character = next((c for c in line if is_hidden(c)), None)
        if character is not None:
            found.append((index, f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"))
    return found


@lru_cache(maxsize=16_384)
def single_line(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` characters: hidden characters go, white space becomes single spaces."""
    spaced = " ".join("".join(" " if c.isspace() else c for c in text).split())
    return "".join(c for c in spaced if not is_hidden(c))[:limit].strip()


def has_marker(text: str) -> bool:
    """Whether the text holds anything like the marker of a protected section."""
    return _MARKER_LIKE.search(text) is not None


def sections(lines: Sequence[str]) -> tuple[list[Section], list[tuple[int, str]]]:
    """The protected sections of a body, and its malformed markers as (line index, what is wrong).

    A section that is never closed protects everything to the end.
    """
    found: list[Section] = []
    mistakes: list[tuple[int, str]] = []
    open_at: tuple[int, str] | None = None
    for index, line in enumerate(lines):
        start = _START.fullmatch(line)
        if start is not None and open_at is None:
            open_at = (index, start.group(1))
        elif line == PROTECTED_END and open_at is not None:
            found.append(Section(open_at[1], open_at[0], index))
            open_at = None
        elif has_marker(line):
            mistakes.append((index, _marker_mistake(line, open_at)))
    if open_at is not None:
        mistakes.append((open_at[0], f"the protected section {open_at[1]} is never closed"))
        found.append(Section(open_at[1], open_at[0], len(lines) - 1))
    return found, sorted(mistakes)


def _marker_mistake(line: str, open_at: tuple[int, str] | None) -> str:
    if _START.fullmatch(line) is not None and open_at is not None:
        return f"a protected section starts inside the protected section {open_at[1]}"
    if line == PROTECTED_END:
        return "this ends a protected section that never started"
    return "this is not a marker of a protected section"


def editable(body: str) -> list[tuple[int, str]]:
    """(index, line) of every line that is neither blank nor inside a protected section."""
    lines = lines_of(body)
    spans, _ = sections(lines)
    return [
        (i, line) for i, line in enumerate(lines) if line.strip() and not any(s.first <= i <= s.last for s in spans)
    ]


@lru_cache(maxsize=4096)
def _word(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(value)}(?!\w)")


def mentions(line: str, value: str) -> bool:
    """Whether `value` occurs in `line` as whole words."""
    return bool(value) and value in line and _word(value).search(line) is not None
