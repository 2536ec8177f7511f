"""Packing: which items are worth most within a weight limit, and the same bag with one item or one rule taken away (N and N-1).

Source: drawn here with the seed. Licence: CC0-1.0. It measures optimisation under constraints. Rules say that two items may not
travel together. An active removal changes the best choice, an inactive one does not; the best choice is always the only one.

Does not: accept a choice that is nearly as good, though the facets `feasible` and `share` say how near it came.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, model_validator

from hybrid.capability.graders.base import right, unreadable, wrong
from hybrid.capability.graders.callables import FunctionGrader
from hybrid.capability.suites.base import About, SuiteData, words
from hybrid.capability.suites.twinned import Maker, Twinned, deal
from hybrid.capability.types import Example, Score
from hybrid.config.schema import SuiteSizes

NAMES = words(
    "axe bell book bowl broom coat comb cup drum fan flag flute harp hat hook jar kite knife lamp lens lute map mask net pan pen "
    "pot rope saw scarf shell spade spoon stool tent torch vase whip"
)
_LONGEST_ANSWER = 400


class Options(Twinned):
    """`size` is the number of items."""

    rules: int = Field(default=1, ge=0, le=4)
    """Pairs of items that may not travel together."""
    remove: Literal["item", "rule"] = "item"
    """What the twins lose."""

    @model_validator(mode="after")
    def _enough_rules(self) -> Options:
        if self.remove == "rule" and self.rules < 2:
            raise ValueError("rules: a twin that lost a rule is compared with one that lost another; write `rules: 2`")
        return self


@dataclass(frozen=True)
class Bag:
    """(name, weight, value) of every item, the most weight, and the pairs that may not travel together."""

    items: tuple[tuple[str, int, int], ...]
    most: int
    rules: tuple[tuple[str, str], ...]


class Packing:
    """Bags that can lose an item or a rule; see `ProblemKind`."""

    def __init__(self, remove: Literal["item", "rule"]) -> None:
        self._remove = remove

    def elements(self, instance: Bag) -> list[str]:
        """Names of the items, or `axe+bell` of every rule."""
        return [i[0] for i in instance.items] if self._remove == "item" else ["+".join(r) for r in instance.rules]

    def without(self, instance: Bag, element: str) -> Bag:
        """The bag without it. A rule about an item goes with the item."""
        items = tuple(i for i in instance.items if i[0] != element)
        return replace(
            instance, items=items, rules=tuple(r for r in instance.rules if element not in (*r, "+".join(r)))
        )

    def solve(self, instance: Bag) -> str | None:
        """The names of the best choice in alphabetical order; None where two choices are equally good."""
        best = best_two(instance)
        return None if not best or (len(best) > 1 and best[0][0] == best[1][0]) else ", ".join(best[0][1])


def best_two(instance: Bag) -> list[tuple[int, tuple[str, ...]]]:
    """(value, names in alphabetical order) of the two best things that may be packed, the empty bag left out; best first.

    Branch and bound: a branch that cannot beat the second best found so far is left.
    """
    items = sorted(instance.items)
    rest = [sum(value for _, _, value in items[n:]) for n in range(len(items) + 1)]
    best: list[tuple[int, tuple[str, ...]]] = []

    def look(n: int, room: int, value: int, names: tuple[str, ...]) -> None:
        if len(best) == 2 and value + rest[n] < best[1][0]:
            return
        if n == len(items):
            if names:
                best.append((value, names))
                best.sort(reverse=True)
                del best[2:]
            return
        name, weight, worth = items[n]
        if weight <= room and not _clash((*names, name), instance.rules):
            look(n + 1, room - weight, value + worth, (*names, name))
        look(n + 1, room, value, names)

    look(0, instance.most, 0, ())
    return best


def _clash(names: tuple[str, ...], rules: tuple[tuple[str, str], ...]) -> bool:
    return any(a in names and b in names for a, b in rules)


def draw(rng: random.Random, count: int, rules: int) -> Bag:
    """A bag that holds about half of the weight of its items."""
    items = tuple((name, rng.randint(1, 9), rng.randint(1, 9)) for name in rng.sample(NAMES, count))
    pairs = [(a[0], b[0]) for a, b in itertools.combinations(items, 2)]
    return Bag(items, sum(i[1] for i in items) // 2, tuple(rng.sample(pairs, min(rules, len(pairs)))))


class Items:
    """See the module."""

    about = About(
        measures="optimisation under constraints (packing), with one item or rule less in the variants",
        source="drawn here",
        licence="CC0-1.0",
        kind="procedural",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`."""
        maker = Maker("items", Packing(options.remove), lambda rng, n: draw(rng, n, options.rules), _ask)
        return SuiteData(deal(maker, options, sizes, seed), FunctionGrader(grade, "suite items"))


def _ask(instance: Bag, answer: str) -> Example:
    told = ", ".join(f"{name} {weight} kg worth {value}" for name, weight, value in instance.items)
    rules = "".join(f" Never {a} with {b}." for a, b in instance.rules)
    second = [", ".join(names) for _, names in best_two(instance)[1:]]
    overfull = ", ".join(sorted(name for name, _, _ in instance.items))
    return Example(
        id="items",
        prompt=f"Items: {told}. The bag holds {instance.most} kg.{rules} Which items are worth most together? Write their names.",
        reference=answer,
        metadata={
            "items": [list(item) for item in instance.items],
            "most": instance.most,
            "rules": [list(rule) for rule in instance.rules],
        },
        wrong=tuple(dict.fromkeys(said for said in (*second, overfull) if said != answer)),
    )


def grade(completion: str, example: Example) -> Score:
    """1 for the best choice, in any order. Facets: `feasible`, and `share` of the best value where it is feasible."""
    facts = example.metadata
    bag = Bag(tuple(map(tuple, facts["items"])), facts["most"], tuple(map(tuple, facts["rules"])))
    known = {name: (weight, value) for name, weight, value in bag.items}
    said = [
        word for word in re.split(r"[,\s]+|\band\b", completion.strip()[:_LONGEST_ANSWER].lower().rstrip(".")) if word
    ]
    if not said or len(completion.strip()) > _LONGEST_ANSWER or any(name not in known for name in said):
        return unreadable(example.reference, completion, "names of the items alone were expected", {"feasible": 0.0})
    names = tuple(sorted(set(said)))
    light = sum(known[name][0] for name in names) <= bag.most
    feasible = light and len(names) == len(said) and not _clash(names, bag.rules)
    best = sum(known[name][1] for name in example.reference.split(", "))
    facets = {"feasible": float(feasible), "share": sum(known[n][1] for n in names) / best if feasible else 0.0}
    same = feasible and ", ".join(names) == example.reference
    return right(facets) if same else wrong(example.reference, completion, facets)


SUITE = Items()
