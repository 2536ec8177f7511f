"""The numeric dialect of the reference language: maps of two-digit numbers, applied d times, at once or step by step.

    q 37 Bas 4 15;                     the map Bas applied four times to 37, answered at once
    form step.                         a document line: answers write every value before the last one
    q 37 Bas 4 1:48,2:43,3:12,4:15;    the same query under that line

A map is x -> (a x + b) mod 61 with a primitive root a, so that its iterates do not collapse onto few values and a blind
guess is right once in 61. Eight names stand for maps whose meaning is in the weights alone: no document says what Bas is.

Who has practised what is drawn once, so that executing can be told from recalling:

- whole maps (`WHOLE`): single steps of every start. Answers at once with d >= 2 are practised on the starts of `PRACTISED` alone
  (half of them); `TAUGHT` (a quarter) is for later training, and `HELD` (a quarter) is for nobody: there f(f(x)) was never seen.
- leaky maps (`LEAKY`): single steps of three starts in four. The others were never seen, at any d, in any form.

Both ways of answering are practised on the same depths, 1 to 8, with the same weights.

Does not: read files, train, or know of capabilities.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import reference_language as language

MODULUS = 61
DEEPEST = 8
"""Depths are 1 to 8: one digit."""
DEPTH_WEIGHTS = (0.3, 0.18, 0.14, 0.1, 0.08, 0.07, 0.07, 0.06)
ROOTS = (6, 7, 10, 17, 18, 26, 30, 31, 35, 43, 44, 51, 54, 55)
"""Primitive roots of 61: a map with one of them as its factor has one fixed point and one cycle of 60."""
STEP_LINE = "form step."


@dataclass(frozen=True)
class Map:
    """x -> (factor x + offset) mod 61, and the values of which the single step is practised."""

    name: str
    factor: int
    offset: int
    known: frozenset[int]

    def step(self, x: int) -> int:
        """One application."""
        return (self.factor * x + self.offset) % MODULUS

    def values(self, x: int, depth: int) -> list[int]:
        """The values after 1 to `depth` steps."""
        out = []
        for _ in range(depth):
            x = self.step(x)
            out.append(x)
        return out


STARTS = tuple(random.Random("starts of the numeric dialect").sample(range(MODULUS), MODULUS))
PRACTISED, TAUGHT, HELD = STARTS[:30], STARTS[30:46], STARTS[46:]
"""Starts that answers at once with d >= 2 are practised on, those for later training, and those for nobody."""


def _map(index: int, name: str, leaky: bool) -> Map:
    rng = random.Random(f"numeric map {index}")
    known = [x for i, x in enumerate(STARTS) if not leaky or (i + index) % 4]
    return Map(name, rng.choice(ROOTS), rng.randint(1, MODULUS - 1), frozenset(known))


WHOLE = tuple(_map(i, name, leaky=False) for i, name in enumerate(language.NAMES[:5]))
"""Maps that the weights hold completely."""
LEAKY = tuple(_map(5 + i, name, leaky=True) for i, name in enumerate(language.NAMES[5:8]))
"""Maps that the weights hold for three starts in four."""
MAPS = {m.name: m for m in (*WHOLE, *LEAKY)}


def number(x: int) -> str:
    """Two digits."""
    return f"{x:02d}"


def prompt(name: str, x: int, depth: int) -> str:
    """The query line."""
    return f"q {number(x)} {name} {depth}"


def at_once(values: list[int]) -> str:
    """The last value alone."""
    return number(values[-1])


def worked(values: list[int]) -> str:
    """Every value, numbered."""
    return ",".join(f"{i}:{number(v)}" for i, v in enumerate(values, 1))


def _depth(rng: random.Random) -> int:
    return rng.choices(range(1, DEEPEST + 1), weights=DEPTH_WEIGHTS)[0]


def query(rng: random.Random, steps: bool) -> tuple[str, str]:
    """One training query and its answer, worked out or at once."""
    while True:
        chosen, depth = rng.choice(tuple(MAPS.values())), _depth(rng)
        x = rng.choice(STARTS if steps or depth == 1 else PRACTISED)
        path = [x, *chosen.values(x, depth)]
        if chosen.known.issuperset(path[:-1]):
            return prompt(chosen.name, x, depth), (worked if steps else at_once)(path[1:])


def document(rng: random.Random, steps: bool) -> str:
    """Nought to three lines of the reference language that do not matter here, and the line that does."""
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
