"""What the suites of problems with a solver share: options, and the dealing of problems and their twins.

A suite of this kind says how to draw a problem of a given size, how to solve it and how to ask about it; here problems are drawn
until the sizes are filled, and `variant` is filled with twins that lost one element, or with larger problems.

Does not: know any problem (see `routes`, `items` and `givens`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import Field

from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import Deck
from hybrid.capability.types import Example, Split
from hybrid.capability.variants import ProblemKind, Which, has_both, twin_rows
from hybrid.config.schema import SuiteSizes

Problem = TypeVar("Problem")
Options = TypeVar("Options", bound="Twinned")
MOST_DRAWS = 2_000
"""Problems drawn for one row before the settings are called impossible."""


class Twinned(Asking):
    """Options of a suite whose problems can lose an element."""

    size: int = Field(default=5, ge=3, le=12)
    """Elements that a problem is made of; each suite says of which."""
    variant: Literal["removed", "larger"] = "removed"
    """Rows of `variant`: the problems of other splits with one element removed, or problems of their own that are larger."""
    removals: Which = "both"
    """Removals that change the answer (active), that do not (inactive), or one of each per problem."""
    parents: tuple[Literal["train", "search", "confirm", "test"], ...] = Field(default=("test",), min_length=1)
    """Splits whose problems lose an element, in turn."""
    larger_by: int = Field(default=2, ge=1, le=6)
    """Elements that the larger problems have more."""


@dataclass(frozen=True)
class Maker(Generic[Problem]):
    """How a suite draws problems, solves them and asks about them."""

    name: str
    kind: ProblemKind[Problem]
    draw: Callable[[random.Random, int], Problem]
    """A problem with so many elements; it need not have one answer."""
    ask: Callable[[Problem, str], Example]
    """Its row, with the given answer. The id is set by who calls."""


def deal(maker: Maker[Problem], options: Options, sizes: SuiteSizes, seed: int) -> dict[Split, list[Example]]:
    """All splits. Every problem has one answer, and one active and one inactive removal that leave one answer."""
    rng = random.Random(f"{maker.name} {seed} {options.size}")
    deck, problems = Deck(maker.name), dict[str, Problem]()
    plain = _rows(maker, options.size, rng, maker.name, problems)
    shots = [next(plain) for _ in range(options.shots)]
    splits = deck.deal((options.framed(row, shots) for row in plain), sizes)
    if not sizes.variant:
        return splits
    if options.variant == "larger":
        larger = random.Random(f"{maker.name} {seed} larger")
        rows = _rows(maker, options.size + options.larger_by, larger, f"{maker.name}-larger", problems)
        rows = (row.model_copy(update={"metadata": {**row.metadata, "change": "larger"}}) for row in rows)
    else:
        order = _in_turn([splits[split] for split in options.parents])
        parents = [(row.model_copy(update={"gold": None}), problems[row.id]) for row in order]
        rows = twin_rows(parents, maker.kind, maker.ask, options.removals, random.Random(f"{maker.name} {seed} twins"))
    splits["variant"] = deck.take((options.framed(row, shots) for row in rows), sizes.variant, "variant")
    return splits


def _rows(
    maker: Maker[Problem], size: int, rng: random.Random, prefix: str, problems: dict[str, Problem]
) -> Iterator[Example]:
    """Rows of drawn problems without end, until none of `MOST_DRAWS` draws is usable. Each problem is noted by its row's id."""
    number = failures = 0
    while failures < MOST_DRAWS:
        problem = maker.draw(rng, size)
        answer = maker.kind.solve(problem)
        if answer is None or not has_both(maker.kind, problem):
            failures += 1
            continue
        failures, number = 0, number + 1
        identity = f"{prefix}-{number}"
        problems[identity] = problem
        yield maker.ask(problem, answer).model_copy(update={"id": identity})


def _in_turn(groups: list[list[Example]]) -> list[Example]:
    """The first rows of all groups, then the second ones, and so on."""
    longest = max(map(len, groups))
    return [group[n] for n in range(longest) for group in groups if n < len(group)]
