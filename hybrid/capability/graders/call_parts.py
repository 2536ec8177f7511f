"""Scores of what is asked of a call besides the call: names alone, the next name, the sentence that states the results.

Does not: judge whole calls or their arguments (`calls` does).
"""

from __future__ import annotations

import re
from collections import Counter

from hybrid.capability.graders.base import right, unreadable, wrong
from hybrid.capability.graders.call_rows import CallRow
from hybrid.capability.graders.call_syntax import LONGEST, calls_of, names_of
from hybrid.capability.types import Example, Score

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def grade_names(completion: str, example: Example, row: CallRow, order: bool) -> Score:
    """Names of functions, all of them or the next one. Facets: count, name (F1 over names with their repeats), known, order."""
    found = names_of(completion)
    if found is None:
        facets = dict.fromkeys(("count", "name", "known", "order"), 0.0)
        return unreadable(example.reference, completion, "the answer is no list of function names", facets)
    wanted = list(row.names)
    if row.asked == "next":  # any of them, and one only
        wanted = [n for n in found if n in row.names][:1] or list(row.names[:1])
    shared = sum((Counter(wanted) & Counter(found)).values())
    facets = {
        "count": float(len(found) == len(wanted)),
        "name": 2 * shared / (len(found) + len(wanted)) if found or wanted else 1.0,
        "known": sum(name in row.library for name in found) / len(found) if found and row.library else 1.0,
        "order": float(found == wanted),
    }
    if facets["name"] == 1.0 and (facets["order"] == 1.0 or not order):
        return right(facets)
    return wrong(example.reference, completion, facets)


def grade_answer(completion: str, example: Example, row: CallRow) -> Score:
    """A sentence with every result in it, that is no call, and states no number that the prompt does not hold.

    Facets: values (share of the results that are stated), extra (1: no made-up number), count (1: it is no call).
    """
    text = completion.strip()
    stated = [_stands(result, text) for result in row.results]
    numbers = set(_NUMBER.findall(text)) - set(_NUMBER.findall(example.prompt_text))
    facets = {
        "values": sum(stated) / len(stated) if stated else 0.0,
        "extra": float(not numbers),
        "count": float(calls_of(text, nested=True) is None),
    }
    if not text or len(text) > LONGEST:
        return unreadable(example.reference, completion, "the answer is empty or too long", dict.fromkeys(facets, 0.0))
    if all(value == 1.0 for value in facets.values()):
        return right(facets)
    return wrong(example.reference, completion, facets)


def _stands(result: str, text: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(result)}(?!\w|\.\d)", text) is not None
