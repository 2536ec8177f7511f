"""Iterations with exact values: what one step does, what a question says, and how an answer is written.

Four families. All arithmetic is in integers or fractions, so the values are the same on every machine and are rounded once, at
the end. A `Problem` is one start; the number of steps is chosen when it is asked.

    modular     x -> (a x + b) mod m, whole numbers
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

Family = Literal["modular", "newton", "bisection", "power"]
FAMILIES: tuple[Family, ...] = ("modular", "newton", "bisection", "power")
DEEPEST: Mapping[Family, int] = {"modular": 64, "newton": 8, "bisection": 12, "power": 12}
"""Steps up to which the values stay apart (and, for fractions, short)."""
LEAST_MOVE = 20
"""Units of the last digit by which two neighbouring values differ at least, so that a step too few is wrong."""
_NEWTON_STARTS = (1_000, 9_999)
_POWER_COUPLING = (1, 4)
"""Off-diagonal entries: small ones make the vector settle slowly."""


@dataclass(frozen=True)
class Problem:
    """One start of one iteration. `named` is the name of a map that the question does not explain, or "".

    `givens`: modular (a, b, m, x); newton (c, x); bisection (c, low, high); power (p, q, s).
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
        shown = _TEXTS[self.family].format(*self.givens, steps=steps)
        return shown if self.family == "modular" else f"{shown} Round to {digits} decimals."


def written(value: Fraction, digits: int) -> str:
    """A value as an answer: rounded half to even to `digits` decimals; whole where `digits` is 0."""
    scaled = round(value * 10**digits)
    sign, whole, rest = "-" if scaled < 0 else "", *divmod(abs(scaled), 10**digits)
    return f"{sign}{whole}.{rest:0{digits}d}" if digits else f"{sign}{whole}"


def apart(values: list[Fraction], digits: int) -> bool:
    """Whether every value differs from the one before it by far more than the last digit."""
    least = Fraction(LEAST_MOVE if digits else 1, 10**digits)
    return all(abs(b - a) >= least for a, b in pairwise(values))


def draw(family: Family, rng: random.Random, modulus: int) -> Problem:
    """A random problem of a family. Not every one keeps its values apart: see `apart`."""
    if family == "modular":
        a, b, x = rng.randint(2, modulus - 1), rng.randint(1, modulus - 1), rng.randint(0, modulus - 1)
        return Problem(family, (a, b, modulus, x))
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
    "modular": "Multiply, add, and take the remainder, one step at a time.",
    "newton": "One step is: c / x, add x, divide by 2. Keep six decimals on the way.",
    "bisection": "One step is: take the midpoint m of the interval; where m * m is less than the number, the interval "
    "goes on from m to its upper end, otherwise from its lower end to m.",
    "power": "One step on (1, r) with the matrix [[p, q], [q, s]] is: r becomes (q + s * r) / (p + q * r). "
    "Keep six decimals on the way.",
}
"""What one step is, for a document."""
