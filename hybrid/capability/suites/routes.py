"""Shortest ways between towns, and the same maps with one road closed (N and N-1).

Source: maps are drawn here with the seed. Licence: CC0-1.0. It measures a procedure under constraints: a way has to exist before
it can be short. A removal of a road on the shortest way is active, one elsewhere is inactive; every problem has one shortest way,
and still has one after each removal that is asked about.

Does not: ask about maps in which two ways are equally short.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from hybrid.capability.graders.base import right, unreadable, wrong
from hybrid.capability.graders.callables import FunctionGrader
from hybrid.capability.suites.base import About, SuiteData
from hybrid.capability.suites.twinned import Maker, Twinned, deal
from hybrid.capability.types import Example, Score
from hybrid.config.schema import SuiteSizes

_LONGEST_ANSWER = 400


class Options(Twinned):
    """`size` is the number of towns, A, B and so on; ways lead from the first to the last."""

    ask: Literal["way", "length"] = "way"
    """Answer with the towns along the way (`A-C-E`), or with its length alone (`7`)."""
    roads: float = Field(default=0.6, gt=0, le=1)
    """Share of the pairs of towns that a road joins."""


@dataclass(frozen=True)
class Map:
    """Roads with their lengths, in the order in which they are told, between the towns `A` to `last`."""

    roads: tuple[tuple[str, str, int], ...]
    last: str


class Closable:
    """Maps whose roads can be closed; see `ProblemKind`."""

    def __init__(self, ask: Literal["way", "length"]) -> None:
        self._ask = ask

    def elements(self, instance: Map) -> list[str]:
        """`A-B` of every road."""
        return [f"{a}-{b}" for a, b, _ in instance.roads]

    def without(self, instance: Map, element: str) -> Map:
        """The map without that road."""
        return Map(tuple(r for r in instance.roads if f"{r[0]}-{r[1]}" != element), instance.last)

    def solve(self, instance: Map) -> str | None:
        """The shortest way, or its length; None where no way leads there or two are equally short."""
        found = shortest(instance)
        return None if found is None else found[1] if self._ask == "way" else str(found[0])


def shortest(instance: Map) -> tuple[int, str] | None:
    """(length, `A-C-E`) of the shortest way from A to the last town; None where there is none, or two are equally short.

    Dijkstra's algorithm. Lengths are positive, so a town that is reached as soon on two ways is seen before it is left.
    """
    roads: dict[str, list[tuple[str, int]]] = {}
    for a, b, length in instance.roads:
        roads.setdefault(a, []).append((b, length))
        roads.setdefault(b, []).append((a, length))
    best: dict[str, tuple[int, str, bool]] = {"A": (0, "A", True)}
    done: set[str] = set()
    while waiting := [(far, town) for town, (far, _, _) in best.items() if town not in done]:
        far, town = min(waiting)
        _, way, single = best[town]
        if town == instance.last:
            return (far, way) if single else None
        done.add(town)
        for there, length in roads.get(town, ()):
            known = best.get(there)
            if known is None or far + length < known[0]:
                best[there] = (far + length, f"{way}-{there}", single)
            elif far + length == known[0]:
                best[there] = (known[0], known[1], False)
    return None


def draw(rng: random.Random, towns: int, share: float) -> Map:
    """A map of so many towns; each pair is joined with probability `share`, by a road of 1 to 9."""
    names = [chr(ord("A") + n) for n in range(towns)]
    pairs = [pair for pair in itertools.combinations(names, 2) if rng.random() < share]
    rng.shuffle(pairs)
    return Map(tuple((a, b, rng.randint(1, 9)) for a, b in pairs), names[-1])


class Routes:
    """See the module."""

    about = About(
        measures="a procedure under constraints (shortest ways), with one road closed in the variants",
        source="drawn here",
        licence="CC0-1.0",
        kind="procedural",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`."""

        def ask(instance: Map, answer: str) -> Example:
            return _ask(instance, answer, options.ask)

        maker = Maker("routes", Closable(options.ask), lambda rng, n: draw(rng, n, options.roads), ask)
        return SuiteData(deal(maker, options, sizes, seed), FunctionGrader(grade, "suite routes", options.ask))


def _ask(instance: Map, answer: str, ask: Literal["way", "length"]) -> Example:
    told = ", ".join(f"{a}-{b} {length}" for a, b, length in instance.roads)
    wanted = "Which way from A to {} is the shortest?" if ask == "way" else "How long is the shortest way from A to {}?"
    form = " Write the towns with hyphens between them." if ask == "way" else " Write the number alone."
    kind = Closable(ask)
    longer = (kind.solve(kind.without(instance, road)) for road in kind.elements(instance))
    missed = dict.fromkeys(other for other in longer if other is not None and other != answer)
    return Example(
        id="routes",
        prompt=f"Roads and their lengths: {told}. {wanted.format(instance.last)}{form}",
        reference=answer,
        metadata={"roads": [list(road) for road in instance.roads], "last": instance.last, "ask": ask},
        wrong=tuple(missed)[:2],
    )


def grade(completion: str, example: Example) -> Score:
    """1 for the shortest way or its length. The facet `feasible` says whether a way exists at all on this map."""
    said = completion.strip()
    if example.metadata["ask"] == "length":
        if not (said.isascii() and said.isdigit() and len(said) < 10):
            return unreadable(example.reference, completion, "a number alone was expected")
        return right() if int(said) == int(example.reference) else wrong(example.reference, completion)
    if len(said) > _LONGEST_ANSWER:
        return unreadable(example.reference, completion, "the answer is too long")
    towns = [town.strip().upper() for town in said.rstrip(".").split("-")]
    if not all(len(town) == 1 and "A" <= town <= "Z" for town in towns):
        return unreadable(
            example.reference, completion, "towns with hyphens between them were expected", {"feasible": 0.0}
        )
    joined = {frozenset(road[:2]) for road in example.metadata["roads"]}
    steps = [frozenset(step) in joined for step in itertools.pairwise(towns)]
    feasible = float(towns[0] == "A" and towns[-1] == example.metadata["last"] and bool(steps) and all(steps))
    if "-".join(towns) == example.reference:
        return right({"feasible": 1.0})
    return wrong(example.reference, completion, {"feasible": feasible})


SUITE = Routes()
