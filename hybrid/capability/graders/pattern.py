"""The regex grader: a pattern in which `{reference}` stands for the escaped reference.

Does not: match in this process (see `matching`), or show the pattern in its feedback: an improver may read feedback.
"""

from __future__ import annotations

import re

from hybrid.capability.graders.base import right, settings_fingerprint, unreadable, wrong
from hybrid.capability.graders.matching import MATCHER, MatchTooCostly
from hybrid.capability.types import Example, Score
from hybrid.config import schema

SLOT = "{reference}"
_ANYTHING = r"(?:[\s\S]+?)"


class Regex:
    """Correct when the stripped completion matches the pattern with this example's reference.

    Well-formed (facet `format`) is what matches `format`, or else the pattern with any reference. Both matches together
    may take `timeout_s` seconds of processor time; an answer that takes longer counts as unreadable.
    """

    def __init__(self, config: schema.RegexGrader) -> None:
        self._config = config
        self._well_formed = (config.format or config.pattern).replace(SLOT, _ANYTHING)

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion. Raises `GraderError` when the matching process cannot be used."""
        patterns = (fill(self._config.pattern, example.reference.strip()), self._well_formed)
        try:
            first = MATCHER.first(patterns, completion.strip(), self._config.full, self._config.timeout_s)
        except MatchTooCostly:
            return unreadable(example.reference, completion, "the answer took too long to read")
        if first == 0:
            return right()
        if first == 1:
            return wrong(example.reference, completion)
        return unreadable(example.reference, completion, "the answer does not have the required layout")

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)


def fill(pattern: str, reference: str) -> str:
    """The pattern for one reference; the reference is one unit, so that a quantifier behind it repeats all of it."""
    return pattern.replace(SLOT, f"(?:{re.escape(reference)})")


def pattern_mistakes(config: schema.RegexGrader) -> list[str]:
    """What keeps these patterns from being used; empty when nothing does."""
    mistakes = []
    if SLOT not in config.pattern:
        mistakes.append("pattern: it does not contain {reference}, so every answer would be judged alike")
    for key, pattern in (("pattern", config.pattern), ("format", config.format)):
        try:
            re.compile(fill(pattern or "", "x"))
        except (re.error, OverflowError, RecursionError) as error:
            mistakes.append(f"{key}: it is not a regular expression of Python's re: {error}")
    return mistakes
