"""`numeric_iteration`: numbers that take d steps to reach, each step needing the one before.

Source: made here, from the definitions in `numeric_steps`; nothing is read. Licence: that of this project. What it measures:
whether a procedure is carried out. Accuracy against d (metadata `depth`, which the depth probe reads) tells carrying out from
recalling (Bernier et al. 2026, arXiv 2603.23004: numerics that iterate are recalled; an explicit procedure in text helps).

The answer is the last number of the completion, so that a document may ask for every value on the way; it is right within
one unit of the last digit. Listed wrong answers are the values of one step less and one step more. Variants, in turn: one
more step, one given changed, one step removed. The seed document spells one step out and asks for every value on the way.

Named maps (`maps`, `template`) ask about steps that the question does not explain: what the model knows of them is in its
weights. `train_starts` and `held_starts` keep the starts of `train` out of the other splits: without them a test question
may be a training question with another number of steps.

Does not: fit the slope (`hybrid.probe.depth`), or know that a value was written down on the way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from pydantic import Field, model_validator

from hybrid.capability.graders import build_grader
from hybrid.capability.suites.base import About, Deck, SuiteData, SuiteError
from hybrid.capability.suites.numeric_steps import (
    DEEPEST,
    PROCEDURES,
    WHOLE,
    Family,
    Problem,
    apart,
    changed,
    draw,
    named,
    starts,
    written,
)
from hybrid.capability.types import Example, Split
from hybrid.config.schema import NumericGrader, RegexGrader, Section, SuiteSizes

_TRIES = 2_000
"""Draws of a problem whose values stay apart before the options are refused."""


class Options(Section):
    """Which iteration, how deep, and what the question looks like."""

    family: Family = "modular"
    depths: tuple[int, ...] = Field(default=(1, 2, 3, 4, 5, 6), min_length=1)
    """Required steps; every depth is as frequent as it is listed."""
    digits: int = Field(default=4, ge=1, le=8)
    """Decimals of an answer where it is no whole number."""
    modulus: int = Field(default=97, ge=5, le=10_000)
    """m of modular problems."""
    width: int = Field(default=3, ge=2, le=8)
    """Digits of the numbers of the family digits."""
    maps: dict[str, tuple[int, ...]] = Field(default={})
    """Name -> (a, b) of modular, (turn, add) or (turn, add, since, other) of digits; `template` then names the map."""
    template: str = ""
    """modular and digits: the question as a format with {name}, {x} and {d}; empty asks in words."""
    alphabet: str = ""
    """digits: the ten signs that digits are written with, 0 first; empty writes 0 to 9. With a `template` alone."""
    train_starts: tuple[int, ...] = ()
    """modular and digits: the starts of `train`; empty allows all."""
    held_starts: tuple[int, ...] = ()
    """modular and digits: the starts of every other split; empty allows all."""

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        deepest = DEEPEST[self.family] - 1  # a variant asks one step more
        if not all(1 <= depth <= deepest for depth in self.depths):
            raise ValueError(f"depths of {self.family} lie between 1 and {deepest}")
        if self.family not in WHOLE and (self.maps or self.template or self.train_starts or self.held_starts):
            raise ValueError("maps, template, train_starts and held_starts are for the families modular and digits")
        if bool(self.maps) != ("{name" in self.template):
            raise ValueError("named maps need a template with {name}, and such a template named maps")
        for name, parts in self.maps.items():
            if not self._is_map(parts):
                raise ValueError(
                    f"{name}: {list(parts)} is no map of {self.family}; see the key `maps` in docs/suites.md"
                )
        if self.family in WHOLE and not all(0 <= x < self.starts for x in (*self.train_starts, *self.held_starts)):
            raise ValueError(f"a start lies between 0 and {self.starts - 1}")
        if self.alphabet and (self.family != "digits" or not self.template or len(set(self.alphabet)) != 10):
            raise ValueError("an alphabet has ten different signs, and belongs to the family digits with a template")
        try:
            self.template.format(name="n", x="0" if self.alphabet else 0, d=1)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(f"the template cannot be filled in: {error}") from error
        return self

    def _is_map(self, parts: tuple[int, ...]) -> bool:
        if self.family == "modular":
            return len(parts) == 2
        digits = all(0 <= part <= 9 for part in parts[1:])
        return len(parts) in (2, 4) and 0 <= parts[0] < self.width and digits

    @property
    def size(self) -> int:
        """What the numbers of a whole family are bounded by: the modulus or the width."""
        return self.modulus if self.family == "modular" else self.width

    @property
    def starts(self) -> int:
        """Starts of a whole family."""
        return starts(self.family, self.size)

    @property
    def places(self) -> int:
        """Decimals of an answer."""
        return 0 if self.family in WHOLE else self.digits


class NumericIteration:
    """The suite."""

    about = About(
        measures="whether an iteration is carried out: accuracy against the number of sequential steps",
        source="made by this project from textbook iterations with exact arithmetic",
        licence="Apache-2.0, as the project",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """Rows of every split. Raises `SuiteError` where the options allow fewer."""
        rng = random.Random(f"numeric_iteration {seed} {options.model_dump_json()}")
        deck = Deck("numeric_iteration")
        splits: dict[Split, list[Example]] = {}
        for split in ("test", "confirm", "search", "train"):
            allowed = options.train_starts if split == "train" else options.held_starts
            splits[split] = deck.take(_rows(rng, options, allowed, split), getattr(sizes, split), split)
        splits["variant"] = deck.take(_variants(rng, options, splits["test"]), sizes.variant, "variant")
        return SuiteData(splits, build_grader(_grader(options)), skill=document(options.family))


SUITE = NumericIteration()


def _grader(options: Options) -> NumericGrader | RegexGrader:
    """The last number of the completion, or its last signs where numbers are written in other signs."""
    if options.alphabet:
        signs = re.escape(options.alphabet)
        return RegexGrader(type="regex", pattern=rf"(?:[\s\S]*[^{signs}])?{{reference}}", format=rf"[\s\S]*[{signs}]")
    unit = 0.5 if options.family in WHOLE else 10.0**-options.digits
    return NumericGrader(type="numeric", absolute=unit, relative=0.0, which="last")


def document(family: Family) -> str:
    """A SKILL.md that spells one step out and asks for every value to be written down."""
    return (
        f"---\nname: numeric-iteration\ndescription: How to carry out {family} steps one by one.\n---\n"
        "Work in steps. Never give the last value at once.\n"
        f"{PROCEDURES[family]}\n"
        "Write the value after every step on a line of its own, numbered: `1: value`, `2: value`, and so on.\n"
        "Stop after as many steps as are asked for. The last number that you write is the answer.\n"
    )


def _rows(rng: random.Random, options: Options, allowed: tuple[int, ...], split: Split) -> Iterator[Example]:
    """Endless rows, depths in turn so that every depth is as frequent as it is listed."""
    number = 0
    while True:
        depth = options.depths[number % len(options.depths)]
        yield _example(_problem(rng, options, allowed, depth), depth, options, f"{split}-{number:05d}", None, "")
        number += 1


def _problem(rng: random.Random, options: Options, allowed: tuple[int, ...], depth: int) -> Problem:
    """A problem whose values stay apart up to one step after `depth`. Raises `SuiteError` when none is found."""
    for _ in range(_TRIES):
        problem = draw(options.family, rng, options.size)
        if options.maps:
            name = rng.choice(sorted(options.maps))
            problem = named(options.family, name, options.maps[name], options.size, problem.givens[-1])
        if allowed:
            problem = replace(problem, givens=(*problem.givens[:-1], rng.choice(allowed)))
        if apart(problem.values(depth + 1), options.places):
            return problem
    raise SuiteError(
        "options", f"no {options.family} problem moves at every one of {depth} steps", "take other maps or fewer digits"
    )


def _example(problem: Problem, depth: int, options: Options, name: str, parent: str | None, variant: str) -> Example:
    values = problem.values(depth + 1)
    shown = [_spelt(written(value, options.places, problem.width), options) for value in values]
    if options.template:
        x = problem.givens[-1]
        start = _spelt(written(Fraction(x), 0, problem.width), options) if options.alphabet else x
        prompt = options.template.format(name=problem.named, x=start, d=depth)
    else:
        prompt = problem.statement(depth, options.digits)
    return Example(
        id=name,
        prompt=prompt,
        reference=shown[depth - 1],
        metadata={"depth": depth, "family": problem.family, "givens": list(problem.givens), "map": problem.named}
        | ({"variant": variant, **_CHANGES[variant]} if variant else {}),
        parent_id=parent,
        wrong=tuple(w for w in (shown[depth - 2] if depth > 1 else "", shown[depth]) if w and w != shown[depth - 1]),
    )


def _spelt(shown: str, options: Options) -> str:
    return shown.translate(str.maketrans("0123456789", options.alphabet)) if options.alphabet else shown


_TWINS = ("deeper", "changed", "shallower")
_CHANGES: dict[str, dict[str, Any]] = {
    "deeper": {"change": "one step more"},
    "changed": {"change": "one given changed"},
    # Neighbouring values differ, so the answer always does: every removal is active.
    "shallower": {"change": "one step removed", "removed": "the last step", "active": True},
}
"""What a twin's metadata say, by the convention of `hybrid.capability.variants`."""


def _variants(rng: random.Random, options: Options, parents: list[Example]) -> Iterator[Example]:
    """Twins of test rows: one step more, one given changed, one step removed, in turn; further rounds of `changed` after that."""
    for turn in range(len(_TWINS)):
        for number, parent in enumerate(parents):
            kind = _TWINS[(number + turn) % len(_TWINS)]
            depth = int(parent.metadata["depth"])
            problem = Problem(options.family, tuple(parent.metadata["givens"]), parent.metadata["map"])
            if kind == "changed":
                problem = changed(problem, rng)
            elif kind == "deeper" or depth == 1:
                kind, depth = "deeper", depth + 1
            else:
                depth -= 1
            if apart(problem.values(depth + 1), options.places):
                yield _example(problem, depth, options, f"variant-{turn}-{number:05d}", parent.id, kind)
