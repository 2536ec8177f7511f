"""Iterations with exact values: what one step does, what a question says, and how an answer is written.

Five families. All arithmetic is in integers or fractions, so the values are the same on every machine and are rounded once, at
the end. A `Problem` is one start; the number of steps is chosen when it is asked.

    modular     x -> (a x + b) mod m, whole numbers
    digits      the first digits of a number go to its end, and every digit grows by the same, carries dropped; numbers whose
                last digit is large may grow by another number
    newton      Newton's method for x^2 = c from far away, where a step about halves x
    bisection   the midpoint of the interval that halving leaves for x^2 = c
    power       power iteration on a symmetric 2x2 matrix, the vector divided by its first entry

Does not: make rows, split them, or judge answers (`numeric_iteration` does).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

Family = Literal["modular", "digits", "newton", "bisection", "power"]
FAMILIES: tuple[Family, ...] = ("modular", "digits", "newton", "bisection", "power")
WHOLE: tuple[Family, ...] = ("modular", "digits")
"""Families of whole numbers, whose maps may be named."""
DEEPEST: Mapping[Family, int] = {"modular": 64, "digits": 64, "newton": 8, "bisection": 12, "power": 12}
"""Steps up to which the values stay apart (and, for fractions, short)."""
LEAST_MOVE = 20
"""Units of the last digit by which two neighbouring values differ at least, so that a step too few is wrong."""
_NEWTON_STARTS = (1_000, 9_999)
_NEVER = 10
"""A last digit is never that large."""
_POWER_COUPLING = (1, 4)
"""Off-diagonal entries: small ones make the vector settle slowly."""


@dataclass(frozen=True)
class Problem:
    """One start of one iteration. `named` is the name of a map that the question does not explain, or "".

    `givens`: modular (a, b, m, x); digits (turn, add, since, other, width, x), where numbers with a last digit of `since` or
    more grow by `other` (since = 10: never); newton (c, x); bisection (c, low, high); power (p, q, s).
    """

    family: Family
    givens: tuple[int, ...]
    named: str = ""

    def values(self, depth: int) -> list[Fraction]:
        """The value after 1, 2, ... `depth` steps."""
        return _VALUES[self.family](self.givens, depth)

    def statement(self, depth: int, digits: int) -> str:
        """The question in words."""
        steps = f"{depth} step{'' if depth == 1 else 's'}"
        if self.family == "digits":
            return _digits_text(self.givens, steps)
        shown = _TEXTS[self.family].format(*self.givens, steps=steps)
        return shown if self.family == "modular" else f"{shown} Round to {digits} decimals."

    @property
    def width(self) -> int:
        """Digits that a value is written with at least: leading zeros count in the family `digits`."""
        return self.givens[4] if self.family == "digits" else 1


def written(value: Fraction, digits: int, width: int = 1) -> str:
    """A value as an answer: rounded half to even to `digits` decimals; whole, of `width` digits at least, where `digits` is 0."""
    scaled = round(value * 10**digits)
    sign = "-" if scaled < 0 else ""
    whole, rest = divmod(abs(scaled), int(10**digits))
    return f"{sign}{whole}.{rest:0{digits}d}" if digits else f"{sign}{whole:0{width}d}"


def apart(values: list[Fraction], digits: int) -> bool:
    """Whether every value differs from the one before it by far more than the last digit."""
    least = Fraction(LEAST_MOVE if digits else 1, 10**digits)
    return all(abs(b - a) >= least for a, b in pairwise(values))


def named(family: Family, name: str, parts: tuple[int, ...], size: int, x: int) -> Problem:
    """A start of a named map: `parts` are (a, b), or (turn, add) with (since, other) behind them where there is an exception.

    `size` is the modulus, or the width.
    """
    if family == "modular":
        return Problem(family, (*parts, size, x), name)
    return Problem(family, (*parts[:2], *(parts[2:] or (_NEVER, 0)), size, x), name)


def starts(family: Family, size: int) -> int:
    """How many starts a family of whole numbers has."""
    return size if family == "modular" else int(10**size)


def draw(family: Family, rng: random.Random, size: int) -> Problem:
    """A random problem of a family. Not every one keeps its values apart: see `apart`."""
    if family == "modular":
        a, b, x = rng.randint(2, size - 1), rng.randint(1, size - 1), rng.randint(0, size - 1)
        return Problem(family, (a, b, size, x))
    if family == "digits":
        parts = (rng.randint(1, size - 1), rng.randint(1, 9))
        return named(family, "", parts, size, rng.randrange(starts(family, size)))
    if family == "newton":
        return Problem(family, (rng.randint(2, 99), rng.randint(*_NEWTON_STARTS)))
    if family == "bisection":
        high = rng.randint(10, 60)
        return Problem(family, (rng.randint(2, high * high - 1), 0, high))
    p = rng.randint(30, 60)
    return Problem(family, (p, rng.randint(*_POWER_COUPLING), p - rng.randint(1, 4)))


def changed(problem: Problem, rng: random.Random) -> Problem:
    """The same iteration with one given changed: the start, the number whose root is looked for, or an entry of the matrix."""
    givens = list(problem.givens)
    index, low, high = {
        "modular": (3, 0, givens[2] - 1 if problem.family == "modular" else 0),
        "digits": (5, 0, 10**problem.width - 1),
        "newton": (1, *_NEWTON_STARTS),
        "bisection": (0, 2, givens[-1] ** 2 - 1),
        "power": (1, *_POWER_COUPLING),
    }[problem.family]
    givens[index] = rng.choice([v for v in range(low, high + 1) if v != givens[index]])
    return Problem(problem.family, tuple(givens), problem.named)


def _modular(givens: tuple[int, ...], depth: int) -> list[Fraction]:
    a, b, m, x = givens
    out = []
    for _ in range(depth):
        x = (a * x + b) % m
        out.append(Fraction(x))
    return out


def _digits(givens: tuple[int, ...], depth: int) -> list[Fraction]:
    turn, add, since, other, width, x = givens
    shown, out = f"{x:0{width}d}", []
    for _ in range(depth):
        by = other if int(shown[-1]) >= since else add
        shown = "".join(str((int(c) + by) % 10) for c in shown[turn:] + shown[:turn])
        out.append(Fraction(int(shown)))
    return out


def _digits_text(givens: tuple[int, ...], steps: str) -> str:
    turn, add, since, other, width, x = givens
    moved = "moves the first digit to the end" if turn == 1 else f"moves the first {turn} digits to the end"
    moved = "leaves the digits in their order" if turn == 0 else moved
    unless = f" ({other} where the last digit of the number was {since} or more)" if since < _NEVER else ""
    return (
        f"Start with the number {x:0{width}d}, leading zeros kept. One step {moved} and adds {add}{unless} to every digit, "
        f"dropping carries. What is the number after {steps}?"
    )


def _newton(givens: tuple[int, ...], depth: int) -> list[Fraction]:
    c, x = givens[0], Fraction(givens[1])
    out = []
    for _ in range(depth):
        x = (x + c / x) / 2
        out.append(x)
    return out


def _bisection(givens: tuple[int, ...], depth: int) -> list[Fraction]:
    c, low, high = givens[0], Fraction(givens[1]), Fraction(givens[2])
    out = []
    for _ in range(depth):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * middle < c else (low, middle)
        out.append((low + high) / 2)
    return out


def _power(givens: tuple[int, ...], depth: int) -> list[Fraction]:
    p, q, s = givens
    ratio = Fraction(1)
    out = []
    for _ in range(depth):
        ratio = (q + s * ratio) / (p + q * ratio)
        out.append(ratio)
    return out


_VALUES: Mapping[Family, Callable[[tuple[int, ...], int], list[Fraction]]] = {
    "modular": _modular,
    "digits": _digits,
    "newton": _newton,
    "bisection": _bisection,
    "power": _power,
}
_TEXTS: Mapping[Family, str] = {
    "modular": "Start with x = {3}. One step replaces x by ({0} * x + {1}) mod {2}. What is x after {steps}?",
    "newton": "Newton's method for x^2 = {0} starts at x = {1}. One step replaces x by (x + {0} / x) / 2. "
    "What is x after {steps}?",
    "bisection": "Bisection for x^2 = {0} starts with the interval from {1} to {2}. One step keeps the half in which "
    "the root lies. What is the midpoint of the interval after {steps}?",
    "power": "Power iteration with the matrix [[{0}, {1}], [{1}, {2}]] starts at the vector (1, 1). One step multiplies the "
    "vector by the matrix and divides it by its first entry. What is the second entry after {steps}?",
}
PROCEDURES: Mapping[Family, str] = {
    "digits": "Move the digits, then add to each of them and keep the last digit of every sum, one step at a time.",
    "modular": "Multiply, add, and take the remainder, one step at a time.",
    "newton": "One step is: c / x, add x, divide by 2. Keep six decimals on the way.",
    "bisection": "One step is: take the midpoint m of the interval; where m * m is less than the number, the interval "
    "goes on from m to its upper end, otherwise from its lower end to m.",
    "power": "One step on (1, r) with the matrix [[p, q], [q, s]] is: r becomes (q + s * r) / (p + q * r). "
    "Keep six decimals on the way.",
}
"""What one step is, for a document."""
