"""The slow section: one protected section at the end of a body, in which an epoch's lesson is kept.

Edits cannot reach it; the loop overwrites it once an epoch (the slow update of SkillOpt, arXiv 2605.23904). Its markers are
those of every protected section (`text`), its name is `slow-update`.
Does not: decide what stands there, or gate it.

    body = with_slow("Be brief.\\n", "Check the unit.")
    slow_text(body)       # "Check the unit."
    with_slow(body, "")   # "Be brief.\\n"
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.skill.edits import Append, apply
from hybrid.skill.text import PROTECTED_END, join, lines_of, sections

SLOW = "slow-update"
_START = f"<!-- protected:start {SLOW} -->"


def slow_text(body: str) -> str:
    """The text of the slow section without its markers and without blank lines at either end; "" for none.

    Where a seed holds several sections of that name, the last one counts.
    """
    lines = lines_of(body)
    spans = [s for s in sections(lines)[0] if s.name == SLOW]
    return _trimmed(lines[spans[-1].first + 1 : spans[-1].last]) if spans else ""


def with_slow(body: str, text: str) -> str:
    """`body` with `text` as its slow section, at the end; the empty text removes the section.

    All other lines stay as they are, those of other protected sections included. Raises ValueError for text that no edit
    may hold (markers, front matter fences, hidden characters), and for a body whose markers are broken.
    """
    lines = lines_of(body)
    spans, mistakes = sections(lines)
    if mistakes:
        raise ValueError(f"line {mistakes[0][0] + 1} of the body: {mistakes[0][1]}")
    old = {i for s in spans if s.name == SLOW for i in range(s.first, s.last + 1)}
    rest = [line for i, line in enumerate(lines) if i not in old]
    content = _trimmed(text.split("\n"))
    if not content:
        return join(rest)
    refused = apply("", [Append(content=content)]).refused
    if refused:
        raise ValueError(refused[0][1].replace("the content", "the text of the slow section"))
    return join([*rest, _START, *content.split("\n"), PROTECTED_END])


def _trimmed(lines: Sequence[str]) -> str:
    filled = [i for i, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[filled[0] : filled[-1] + 1]) if filled else ""
