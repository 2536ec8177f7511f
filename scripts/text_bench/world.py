"""The world of one seed: twelve names that are asked, a document that holds four of them, and edits of known worth.

Everything is in the language of the reference model (`reference_language.py`). Ten names are rules and two are facts;
every right line is worth about a thirteenth of the score. Each edit's truth holds by construction:

- helpful: adds the right line of an asked name that the start document lacks;
- harmful: puts a wrong meaning in the place of a right line of the start document, or adds a `form` line, after which
  every answer has the wrong layout;
- neutral: adds a line about a name that is never asked, or a short remark.

Neutral means that no right answer depends on the edit. It does not mean that no answer changes. One row in ten asks for a
mark, whose meaning no document can tell and whose right answer is drawn by lot; names without a line are guessed as well;
and any line may change a guess. That is the noise that gates have to live with; `truth.py` measures it.

A null world has the same start and asks for the same names, but every row about a name without a line has a right answer
drawn by lot, and its pool has neutral edits alone: no document is better than the start, whatever guesses it leads to.
Does not: ask a model, or know of any method.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from typing import Literal, TypeAlias

import reference_language as language

from hybrid.capability.types import Example, Split

Truth: TypeAlias = Literal["helpful", "harmful", "neutral"]
RULES, FACTS, KNOWN_RULES, KNOWN_FACTS = 10, 2, 3, 1
GUESSED = 10
"""One row in so many asks for a mark, and its right answer is drawn by lot: whatever is guessed is right as often."""
SIZES: dict[Split, int] = {"train": 80, "search": 100, "confirm": 150, "test": 240}
OPERATIONS = ("@rev", "@rotl", "@rotr", "@next", "@prev", "@swap", "@tail", "@head")
"""Those that the reference model applies almost without error."""
WRONG, FORMS = 10, ("form angle.", "form square.")
NEUTRAL, REMARKS = 20, 4
"""Neutral edits of the pool, and how many of them are remarks; a null world's pool holds twice as many of each."""
LONGEST_ANSWER = 8
"""Tokens of an answer. A right answer has at most 5 and the end."""


@dataclass(frozen=True)
class PoolEdit:
    """One edit and its truth. `op` is `append` (then `target` is empty) or `replace`; both texts are one whole line."""

    truth: Truth
    op: Literal["append", "replace"]
    target: str
    content: str

    def fits(self, lines: list[str]) -> bool:
        """Whether it would change a document of these lines."""
        return self.content not in lines and (self.op == "append" or self.target in lines)

    def apply(self, text: str) -> str:
        """The document with the edit; as it was where the target is missing."""
        lines = text.rstrip("\n").split("\n")
        if self.op == "append":
            return "\n".join([*lines, self.content]) + "\n"
        return "\n".join(self.content if line == self.target else line for line in lines) + "\n"

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the edit in requests and replies."""
        return self.op, self.target, self.content


@dataclass(frozen=True)
class World:
    """One seed's task. `start` is the document that every method begins with, `right` the one with all right lines, which in a
    null world is the start itself. `pool` is in the order in which every method's proposer draws."""

    seed: int
    null: bool
    start: str
    right: str
    splits: dict[Split, tuple[Example, ...]]
    pool: tuple[PoolEdit, ...]


def make_world(seed: int, null: bool = False) -> World:
    """The world of a seed; the same seed always gives the same world."""
    rng = random.Random(f"text benchmark {seed}")
    names = rng.sample(language.NAMES, len(language.NAMES))
    asked, others = names[: RULES + FACTS], names[RULES + FACTS :]
    rules = {name: rng.choice(OPERATIONS) for name in asked[:RULES]}
    facts = {name: language.value(rng) for name in asked[RULES:]}
    known = [*list(rules)[:KNOWN_RULES], *list(facts)[:KNOWN_FACTS]]
    lines = {name: f"rule {name} {rules[name]}." if name in rules else f"fact {name} {facts[name]}." for name in asked}
    start = [lines[name] for name in known]
    rng.shuffle(start)
    rest = [] if null else [lines[name] for name in asked if name not in known]
    harmful = [] if null else _harmful(rng, {name: lines[name] for name in known}, rules)
    neutral = _neutral(rng, others, 2 if null else 1)
    edits = [PoolEdit("helpful", "append", "", line) for line in rest] + harmful + neutral
    rng.shuffle(edits)
    return World(
        seed=seed,
        null=null,
        start="".join(f"{line}\n" for line in start),
        right="".join(f"{line}\n" for line in (*start, *rest)),
        splits=_splits(rng, rules, facts, frozenset(asked) - frozenset(known) if null else frozenset()),
        pool=tuple(edits),
    )


def _splits(
    rng: random.Random, rules: dict[str, str], facts: dict[str, str], lots: frozenset[str]
) -> dict[Split, tuple[Example, ...]]:
    """Rows of every split without a prompt in two of them; `test` asks everything as often as it should be asked on
    average, the others at random. The answers about names in `lots` are drawn by lot."""
    mark = rng.choice(language.MARKS)
    names, seen = [*rules, *facts], set[str]()
    out: dict[Split, tuple[Example, ...]] = {}
    for split, size in SIZES.items():
        rows: list[Example] = []
        while len(rows) < size:
            turn = len(rows)
            guessed = turn % GUESSED == 0 if split == "test" else rng.random() < 1 / GUESSED
            name = names[(turn - turn // GUESSED - 1) % len(names)] if split == "test" else rng.choice(names)
            prompt, answer = _row(rng, mark if guessed else name, rules, facts, lots)
            if prompt not in seen:
                seen.add(prompt)
                rows.append(Example(id=f"{split}-{len(rows):04d}", prompt=prompt, reference=answer))
        out[split] = tuple(rows)
    return out


def _row(
    rng: random.Random, name: str, rules: dict[str, str], facts: dict[str, str], lots: frozenset[str]
) -> tuple[str, str]:
    """A prompt and its answer."""
    if name in facts:
        answer = language.value(rng) if name in lots else facts[name]
        return f"ask {language.argument(rng, 2, 3)} {name}", answer
    text = language.argument(rng, 4, 5)
    operation = rules[name] if name in rules and name not in lots else rng.choice(OPERATIONS)
    return f"q {text} {name}", language.apply([operation], text)


def _harmful(rng: random.Random, known: dict[str, str], rules: dict[str, str]) -> list[PoolEdit]:
    """Wrong meanings in the places of the known lines, turn by turn, and the lines that spoil the layout."""
    wrong: list[list[str]] = []
    for name in known:
        lines = [f"rule {name} {op}." for op in OPERATIONS if op != rules[name]] if name in rules else []
        wrong.append(rng.sample(lines, len(lines)) or [f"fact {name} {language.value(rng)}." for _ in range(WRONG)])
    turns = [(i % len(known), i // len(known)) for i in range(WRONG)]
    targets = list(known.values())
    edits = [PoolEdit("harmful", "replace", targets[at], wrong[at][turn]) for at, turn in turns]
    return edits + [PoolEdit("harmful", "append", "", form) for form in FORMS]


def _neutral(rng: random.Random, others: list[str], times: int) -> list[PoolEdit]:
    """Lines about names that are never asked: three rules to a fact; and short remarks."""
    names = rng.sample(others, (NEUTRAL - REMARKS) * times)
    lines = [
        f"fact {name} {language.value(rng)}." if i % 4 == 3 else f"rule {name} {rng.choice(OPERATIONS)}."
        for i, name in enumerate(names)
    ]
    remarks: set[str] = set()
    while len(remarks) < REMARKS * times:
        remarks.add("# " + "".join(rng.sample(string.ascii_lowercase, 4)))
    return [PoolEdit("neutral", "append", "", line) for line in (*lines, *sorted(remarks))]
