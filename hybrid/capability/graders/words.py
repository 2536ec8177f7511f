"""Graders that compare words: exact, normalized and choice.

Does not: understand numbers or structure. Look-alike letters of another script are other letters.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache

from hybrid.capability.graders.base import right, settings_fingerprint, unreadable, wrong
from hybrid.capability.graders.text import fold
from hybrid.capability.types import Example, Score
from hybrid.config import schema


class Exact:
    """Correct when completion and reference are the same characters, surrounding white space aside."""

    def __init__(self, config: schema.ExactGrader) -> None:
        self._config = config

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion; an empty one counts as unreadable unless the reference is empty too."""
        return _compare(completion, example, completion.strip(), example.reference.strip())

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)


class Normalized:
    """Correct when equal after NFKC, case folding, and removing punctuation, articles, invisible characters and spaces.

    The normalisation of SQuAD (Rajpurkar et al. 2016, evaluation script), except that a minus or decimal point in
    front of a digit is kept: -5 is not 5, and 3.14 is not 314.
    """

    def __init__(self, config: schema.NormalizedGrader) -> None:
        self._config = config
        self._articles = frozenset(fold(a) for a in config.articles)

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion; one of which nothing is left counts as unreadable."""
        return _compare(completion, example, self._normal(completion), self._normal(example.reference))

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config, {"unicode": unicodedata.unidata_version})

    def _normal(self, text: str) -> str:
        bare = _punctuation().sub("", fold(text).replace("\u2212", "-"))
        return " ".join(word for word in bare.split() if word not in self._articles)


class Choice:
    """Correct when the completion names exactly one choice, as a whole word in any case, and it is the reference.

    Where choices overlap the longest wins ("C++" is not "C"). Naming the same choice twice is naming one choice.
    """

    def __init__(self, config: schema.ChoiceGrader) -> None:
        self._config = config
        longest_first = sorted({c.strip().casefold() for c in config.choices}, key=lambda c: (-len(c), c))
        self._pattern = re.compile(r"(?<!\w)(?:" + "|".join(re.escape(c) for c in longest_first) + r")(?!\w)")

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion; none or two different choices count as unreadable."""
        named = {m.group() for m in self._pattern.finditer(completion.casefold())}
        if not named:
            return unreadable(example.reference, completion, "none of the choices is named")
        if len(named) > 1:
            return unreadable(example.reference, completion, f"{len(named)} different choices are named")
        same = named == {example.reference.strip().casefold()}
        return right() if same else wrong(example.reference, completion)

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)


def choice_mistakes(config: schema.ChoiceGrader) -> list[str]:
    """What keeps these choices from being told apart; empty when nothing does."""
    folded = [c.strip().casefold() for c in config.choices]
    mistakes = [
        f"choices: {c!r} occurs twice (case does not count)" for c in sorted(set(folded)) if folded.count(c) > 1
    ]
    return mistakes + (["choices: one is empty; every choice needs a name"] if "" in folded else [])


def _compare(completion: str, example: Example, got: str, expected: str) -> Score:
    if got == expected:
        return right()
    if not got:
        return unreadable(example.reference, completion, "the answer is empty")
    return wrong(example.reference, completion)


@lru_cache(maxsize=1)
def _punctuation() -> re.Pattern[str]:
    """Punctuation (Unicode P*) and invisible format characters (Cf), except signs and points in front of digits."""
    removed = (c for c in map(chr, range(sys.maxunicode + 1)) if _is_removed(unicodedata.category(c)))
    sign, point = r"(?!(?<!\w)-\.?[0-9])", r"(?!(?<!\.)\.[0-9])"
    return re.compile(sign + point + "[" + re.escape("".join(removed)) + "]")


def _is_removed(category: str) -> bool:
    return category[0] == "P" or category == "Cf"
