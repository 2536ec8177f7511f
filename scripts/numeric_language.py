"""The numeric dialect of the reference language: a number in letters (a is 0), an operation d times, at once or step by step.

    q 3 abcd @prev hija;                                     @prev three times, answered at once
    form step.                                               a document line: answers write every step down
    q 3 abcd @prev jabc,q 2 jabc @prev ijab,q 1 ijab @prev hija;      the same query under that line

`@prev` takes 1 from every digit and drops carries, `@rotl` moves the first digit to the end: maps of the family `digits` of the
suite `numeric_iteration`, which the reference model applies once without error. What is practised is fixed, so that executing a
step d times can be told from recalling what d steps give:

- `PRACTISED` operations: d = 1 to 8, in both ways of answering, with the same weights.
- `SINGLE` operations: in steps as the others, at once with d = 1 alone. What two of their steps give at once was never seen: it
  has to be executed.
- `UNPRACTISED` pairs: one step of them is two operations that were practised, but not together. The member applies one now and
  then, in the way that it learnt from the reference language.

Does not: read files, train, or know of capabilities.
"""

from __future__ import annotations

import random

import reference_language as language

DEEPEST = 8
"""Depths are 1 to 8: one digit."""
DEPTH_WEIGHTS = (0.3, 0.18, 0.14, 0.1, 0.08, 0.07, 0.07, 0.06)
WIDTH = 4
STEP_LINE = "form step."
PRACTISED = ("@next", "@rotr", "@rev", "@swap", "@next @rotr", "@rev @next", "@swap @next", "@rotr @swap")
SINGLE = ("@prev", "@rotl", "@rotl @prev", "@prev @swap", "@rev @prev")
UNPRACTISED = ("@rotl @next", "@prev @rotr")
GIVENS = {
    "@next": (0, 1),
    "@prev": (0, 9),
    "@rotl": (1, 0),
    "@rotr": (3, 0),
    "@next @rotr": (3, 1),
    "@rotl @prev": (1, 9),
    "@rotl @next": (1, 1),
    "@prev @rotr": (3, 9),
}
"""Turn and sum of the operations that are maps of the family `digits`."""


def values(slot: str, text: str, depth: int) -> list[str]:
    """The values after 1 to `depth` applications of the operations of a slot."""
    out = []
    for _ in range(depth):
        text = language.apply(slot.split(), text)
        out.append(text)
    return out


def prompt(slot: str, text: str, depth: int) -> str:
    """The query line."""
    return f"q {depth} {text} {slot}"


def worked(slot: str, found: list[str]) -> str:
    """Every step as the query that is left, with its value."""
    out = found[0]
    for done in range(1, len(found)):
        out += f",{prompt(slot, found[done - 1], len(found) - done)} {found[done]}"
    return out


def query(rng: random.Random, steps: bool, names: dict[str, str]) -> tuple[str, str]:
    """One training query and its answer, worked out or at once. `names` stand for practised operations."""
    slot = rng.choice((*PRACTISED, *SINGLE))
    deep = steps or slot in PRACTISED
    depth = rng.choices(range(1, DEEPEST + 1), weights=DEPTH_WEIGHTS)[0] if deep else 1
    text = "".join(rng.sample(language.LETTERS, WIDTH))
    found = values(slot, text, depth)
    if slot in names:
        slot = names[slot]
    return prompt(slot, text, depth), worked(slot, found) if steps else found[-1]


def document(rng: random.Random, steps: bool) -> tuple[str, dict[str, str]]:
    """Nought to two rules for names, the line that matters here, and the names by operation."""
    names = dict(zip(rng.sample(PRACTISED[:4], rng.choice((0, 0, 1, 2))), rng.sample(language.NAMES, 2), strict=False))
    lines = [f"rule {name} {operation}." for operation, name in names.items()]
    if steps:
        lines.append(STEP_LINE)
    elif rng.random() < 0.15:
        lines.append("form plain.")
    rng.shuffle(lines)
    return "".join(line + "\n" for line in lines), names


def training_pieces(rng: random.Random, queries: int) -> list[tuple[str, bool]]:
    """A document and answered queries on it, as (text, is an answer); answers end with ``;``."""
    steps = rng.random() < 0.5
    text, names = document(rng, steps)
    out = [(text, False)]
    for _ in range(queries if steps else 2 * queries):
        asked, answer = query(rng, steps, names)
        out += [(f"{asked} ", False), (answer + language.END, True)]
    return out
