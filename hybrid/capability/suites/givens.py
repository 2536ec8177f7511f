"""Word problems with one given too many, and the same problems with one given taken away (N and N-1).

Source: made here with the seed. Licence: CC0-1.0. It measures whether an answer is worked out from what is told. Without a given
that counts (an active removal) nothing follows, and the right answer is `unknown`; without the one that does not count (inactive)
the answer stays. Every prompt says so, for the whole problems too.

Does not: ask for more than one step per given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hybrid.capability.graders.base import right, unreadable, wrong
from hybrid.capability.graders.callables import FunctionGrader
from hybrid.capability.suites.base import About, SuiteData, words
from hybrid.capability.suites.twinned import Maker, Twinned, deal
from hybrid.capability.types import Example, Score
from hybrid.config.schema import SuiteSizes

UNKNOWN = "unknown"
_GOODS = words(
    "apples bolts books bottles bricks buttons candles cards coins cups eggs lamps lemons nails pears plates stamps"
)
_PLACES = words("Bergen Bilbao Cork Delft Ghent Graz Izmir Kobe Lille Oran Parma Porto Tartu Turin Varna York")
_MOVES = (
    ("Then {n} more {g} arrive", 1),
    ("Then {n} {g} are sold", -1),
    ("Then {n} {g} are found", 1),
    ("Then {n} {g} break", -1),
)
_IDLE = (
    "One of them weighs {n} grams",
    "The store is {n} years old",
    "There are {n} people at work",
    "The next town is {n} km away",
)


class Options(Twinned):
    """`size` is the number of givens: a start, changes, and one that does not count."""


@dataclass(frozen=True)
class Story:
    """A store of something. Givens in the order in which they are told: (name, sentence, change); the start is one of them,
    the idle one changes nothing. A given that counts and is missing leaves `whole` false."""

    goods: str
    place: str
    givens: tuple[tuple[str, str, int], ...]
    whole: bool = True


class Telling:
    """Stories that can lose a given; see `ProblemKind`."""

    def elements(self, instance: Story) -> list[str]:
        """Names of the givens."""
        return [name for name, _, _ in instance.givens]

    def without(self, instance: Story, element: str) -> Story:
        """The story with a gap where the given was. A change that counts leaves its sentence without the number."""
        kept = tuple(_blurred(given) if given[0] == element else given for given in instance.givens)
        return Story(
            instance.goods,
            instance.place,
            tuple(given for given in kept if given[1]),
            instance.whole and element == "idle",
        )

    def solve(self, instance: Story) -> str:
        """How many there are at the end, or `unknown`."""
        return str(sum(change for _, _, change in instance.givens)) if instance.whole else UNKNOWN


def _blurred(given: tuple[str, str, int]) -> tuple[str, str, int]:
    name, sentence, change = given
    if name == "idle":
        return name, "", 0
    return name, sentence.replace(str(abs(change)), "some"), 0


def draw(rng: random.Random, count: int) -> Story:
    """A story of so many givens whose stock never falls below zero."""
    goods, place = rng.choice(_GOODS), rng.choice(_PLACES)
    stock = rng.randint(20, 60)
    givens = [("start", f"A store in {place} has {stock} {goods}", stock)]
    for number in range(1, count - 1):
        sentence, sign = rng.choice(_MOVES)
        amount = rng.randint(2, min(19, max(2, stock - 1)))
        if sign * amount + stock < 0:
            sentence, sign = _MOVES[0]
        stock += sign * amount
        givens.append((f"change {number}", sentence.format(n=amount, g=goods), sign * amount))
    idle = ("idle", rng.choice(_IDLE).format(n=rng.randint(3, 90)), 0)
    givens.insert(rng.randint(1, len(givens)), idle)
    return Story(goods, place, tuple(givens))


class Givens:
    """See the module."""

    about = About(
        measures="working out from what is told, and saying `unknown` where a given is missing",
        source="made here",
        licence="CC0-1.0",
        kind="procedural",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`."""
        maker = Maker("givens", Telling(), draw, _ask)
        return SuiteData(deal(maker, options, sizes, seed), FunctionGrader(grade, "suite givens"))


def _ask(instance: Story, answer: str) -> Example:
    told = ". ".join(sentence for _, sentence, _ in instance.givens)
    question = f"How many {instance.goods} are there now? If that cannot be known, answer {UNKNOWN}."
    total = sum(change for _, _, change in instance.givens)
    near = (str(total), UNKNOWN) if answer == UNKNOWN else (str(int(answer) + 1), UNKNOWN)
    return Example(
        id="givens",
        prompt=f"{told}. {question}",
        reference=answer,
        metadata={"goods": instance.goods},
        wrong=tuple(other for other in near if other != answer),
    )


def grade(completion: str, example: Example) -> Score:
    """1 for the number, or for `unknown` where it is. The facet `known` is 1 where a number was said."""
    said = completion.strip().rstrip(".").lower()
    if said == UNKNOWN:
        same = example.reference == UNKNOWN
        return right({"known": 0.0}) if same else wrong(example.reference, completion, {"known": 0.0})
    if not (said.isascii() and said.isdigit() and len(said) < 10):
        return unreadable(example.reference, completion, "a number alone was expected, or unknown")
    same = example.reference != UNKNOWN and int(said) == int(example.reference)
    return right({"known": 1.0}) if same else wrong(example.reference, completion, {"known": 1.0})


SUITE = Givens()
