"""Text that came from a model or a stranger: bounded normalisation, and quoting that is safe to show.

Does not: judge anything. Every function is linear in the length of the text, whatever the text is.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

QUOTE_LIMIT = 200
"""Characters of a reference or completion that a feedback sentence may show."""
_LONGEST_RUN = 30
_MAY_HOLD_A_LONG_RUN = re.compile(r"[^\x00-\u02ff]{31}")
_JOINER = "\u034f"


def fold(text: str) -> str:
    """NFKC, then case folding.

    Canonical reordering is quadratic in the length of a run of combining marks, so runs are broken after 30 marks with
    U+034F, as the Stream-Safe Text Format of Unicode Standard Annex 15 (section 13) prescribes. No script needs more.
    """
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", _break_long_runs(text)).casefold()


def _break_long_runs(text: str) -> str:
    if not _MAY_HOLD_A_LONG_RUN.search(text):
        return text
    pieces: list[str] = []
    for marks, group in itertools.groupby(text, key=lambda c: unicodedata.combining(c) != 0):
        run = "".join(group)
        if marks and len(run) > _LONGEST_RUN:
            run = _JOINER.join(run[i : i + _LONGEST_RUN] for i in range(0, len(run), _LONGEST_RUN))
        pieces.append(run)
    return "".join(pieces)


def quote(text: str, limit: int = QUOTE_LIMIT) -> str:
    """The text in double quotes on one line, cut to `limit` characters, without control, format or unpaired characters.

    Line and tab characters become spaces. The result can be printed, stored as UTF-8 and shown to a proposer.
    """
    head = text.strip()[: 8 * limit]
    kept = "".join(" " if c.isspace() else c for c in head if c.isspace() or unicodedata.category(c)[0] != "C")
    plain = " ".join(kept.split())
    return f'"{plain[:limit]}…"' if len(plain) > limit or len(text.strip()) > len(head) else f'"{plain}"'
