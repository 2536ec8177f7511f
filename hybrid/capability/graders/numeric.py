"""The numeric grader: a number of the completion against the number of the reference.

Read are integers, decimals, thousands separators (1,234.5), scientific notation, signs (also U+2212), and fractions of
two numbers (3/4). `50%` is 50 and `3 kg` is 3. Not read: digits of other scripts, words, decimal commas, mixed numbers.
Does not: convert units.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Iterator
from decimal import Decimal

from hybrid.capability.graders.base import right, settings_fingerprint, unreadable, wrong
from hybrid.capability.types import Example, Score
from hybrid.config import schema

LONGEST_NUMBER = 1000
"""Characters of one number; a longer one is not read. Arithmetic keeps as many digits, so integers compare exactly."""
_CONTEXT = decimal.Context(prec=LONGEST_NUMBER, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
_NUMBER = re.compile(
    r"(?:(?<![\w)\].%])[+-])?"  # a sign, unless something before it makes it an operator
    r"(?<!\w)(?<![0-9]\.)"  # not inside a word or a version number
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]+)?"
)
_BARS = frozenset(("/", " /", "/ ", " / "))


class Numeric:
    """Correct when |got - expected| <= max(absolute, relative * |expected|).

    `which` picks the number of both texts: the first, the last, or the only one (several different are unreadable).
    """

    def __init__(self, config: schema.NumericGrader) -> None:
        self._config = config

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion; without a number it counts as unreadable."""
        got, expected = self._pick(completion), self._pick(example.reference)
        if got is None:
            only = self._config.which == "only"
            why = "there is not exactly one number in the answer" if only else "there is no number in the answer"
            return unreadable(example.reference, completion, why)
        if expected is None:
            return wrong(example.reference, completion)
        return right() if self._close(got, expected) else wrong(example.reference, completion)

    def fingerprint(self) -> str:
        """Identity of the rule."""
        return settings_fingerprint(self._config)

    def _pick(self, text: str) -> Decimal | None:
        chains = list(_chains(text.replace("\u2212", "-")))
        if self._config.which == "last":
            return next((numbers[-1] for numbers in map(_numbers, reversed(chains)) if numbers), None)
        found = (number for chain in chains for number in _numbers(chain))
        first = next(found, None)
        if self._config.which == "only" and any(number != first for number in found):
            return None
        return first

    def _close(self, got: Decimal, expected: Decimal) -> bool:
        if got == expected:
            return True
        distance = _CONTEXT.abs(_CONTEXT.subtract(got, expected))
        relative = _CONTEXT.multiply(Decimal(self._config.relative), _CONTEXT.abs(expected))
        return distance.is_finite() and distance <= max(Decimal(self._config.absolute), relative)


def _numbers(chain: list[str]) -> list[Decimal]:
    """The readable numbers of a chain: two numbers joined by one bar are a fraction; three or more are a date, say."""
    values = [value for value in map(_value, chain) if value is not None]
    if len(chain) == 2 and len(values) == 2:
        values = [_CONTEXT.divide(values[0], values[1])]
    return [value for value in values if value.is_finite()]


def _chains(text: str) -> Iterator[list[str]]:
    """The number tokens of a text in order, those joined by bars together."""
    chain: list[str] = []
    end = 0
    for match in _NUMBER.finditer(text):
        if chain and text[end : match.start()] not in _BARS:
            yield chain
            chain = []
        chain.append(match.group())
        end = match.end()
    if chain:
        yield chain


def _value(token: str) -> Decimal | None:
    if len(token) > LONGEST_NUMBER:
        return None
    value = _CONTEXT.create_decimal(token.replace(",", ""))
    return value if value.is_finite() else None
