"""The numeric dialect of the reference language: maps of three-digit numbers, applied d times, at once or step by step.

    q 375 Bas 4 319;                           the map Bas applied four times to 375, answered at once
    form step.                                 a document line: answers write every value before the last one
    q 375 Bas 4 1:642,2:315,3:042,4:319;       the same query under that line

A map moves the first `turn` digits to the end and adds `add` to every digit, dropping carries (family `digits` of the suite
`numeric_iteration`). Names stand for maps whose meaning is in the weights alone: no document says what Bas is. Who has
practised what is fixed, so that executing a step d times can be told from recalling what d steps give:

- `PRACTISED` maps: d = 1 to 8, in both ways of answering, with the same weights.
- `SINGLE` maps: d = 1 alone, in both ways. Two steps of them were never seen: they have to be executed.
- `LEAKY` maps: as `SINGLE`, and only from numbers whose last digit is below 8. From 8 on they add another number, which
  was never seen: a step that the weights hold for four numbers in five.

Does not: read files, train, or know of capabilities.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import reference_language as language

DEEPEST = 8
"""Depths are 1 to 8: one digit."""
DEPTH_WEIGHTS = (0.3, 0.18, 0.14, 0.1, 0.08, 0.07, 0.07, 0.06)
WIDTH = 3
ALWAYS = 10
"""An exception from this digit on never applies."""
STEP_LINE = "form step."


@dataclass(frozen=True)
class Map:
    """Turn and add; numbers whose last digit is `since` or more add `other` instead."""

    name: str
    turn: int
    add: int
    since: int = ALWAYS
    other: int = 0

    @property
    def givens(self) -> tuple[int, ...]:
        """As the suite `numeric_iteration` writes a map of the family `digits`."""
        return (self.turn, self.add) if self.since == ALWAYS else (self.turn, self.add, self.since, self.other)

    def step(self, number: str) -> str:
        """One application."""
        add = self.other if int(number[-1]) >= self.since else self.add
        return "".join(str((int(c) + add) % 10) for c in number[self.turn :] + number[: self.turn])

    def values(self, number: str, depth: int) -> list[str]:
        """The values after 1 to `depth` steps."""
        out = []
        for _ in range(depth):
            number = self.step(number)
            out.append(number)
        return out


def _maps() -> tuple[tuple[Map, ...], tuple[Map, ...], tuple[Map, ...]]:
    """12 practised maps (8 of them turn), 5 single and 5 leaky ones (all turn): another pair of turn and sum each."""
    rng = random.Random("maps of the numeric dialect")
    turning = [(turn, add) for turn in range(1, WIDTH) for add in range(1, 10)]
    still = [(0, add) for add in range(1, 10)]
    rng.shuffle(turning)
    rng.shuffle(still)
    names = iter(language.NAMES)
    practised = tuple(Map(next(names), *pair) for pair in (*turning[:8], *still[:4]))
    single = tuple(Map(next(names), *pair) for pair in turning[8:13])
    leaky = tuple(Map(next(names), turn, add, 8, (add + rng.randint(1, 9)) % 10) for turn, add in turning[13:])
    return practised, single, leaky


PRACTISED, SINGLE, LEAKY = _maps()
MAPS = {m.name: m for m in (*PRACTISED, *SINGLE, *LEAKY)}


def prompt(name: str, number: str, depth: int) -> str:
    """The query line."""
    return f"q {number} {name} {depth}"


def worked(values: list[str]) -> str:
    """Every value, numbered."""
    return ",".join(f"{i}:{v}" for i, v in enumerate(values, 1))


def number(rng: random.Random) -> str:
    """Any number, leading zeros kept."""
    return f"{rng.randrange(10**WIDTH):0{WIDTH}d}"


def query(rng: random.Random, steps: bool) -> tuple[str, str]:
    """One training query and its answer, worked out or at once."""
    chosen, x = rng.choice(tuple(MAPS.values())), number(rng)
    while int(x[-1]) >= chosen.since:
        x = number(rng)
    deep = rng.choices(range(1, DEEPEST + 1), weights=DEPTH_WEIGHTS)[0]
    values = chosen.values(x, deep if chosen in PRACTISED else 1)
    return prompt(chosen.name, x, len(values)), worked(values) if steps else values[-1]


def document(rng: random.Random, steps: bool) -> str:
    """Nought to two lines of the reference language that do not matter here, and the line that does."""
    lines = [line for line in language.Document(rng, rng.choice((0, 0, 1, 2))).lines if not line.startswith("form")]
    if steps:
        lines.append(STEP_LINE)
    elif rng.random() < 0.15:
        lines.append("form plain.")
    rng.shuffle(lines)
    return "".join(line + "\n" for line in lines)


def training_pieces(rng: random.Random, queries: int) -> list[tuple[str, bool]]:
    """A document and answered queries on it, as (text, is an answer); answers end with ``;``."""
    steps = rng.random() < 0.4
    out = [(document(rng, steps), False)]
    for _ in range(queries if steps else 2 * queries):
        asked, answer = query(rng, steps)
        out += [(f"{asked} ", False), (answer + language.END, True)]
    return out
