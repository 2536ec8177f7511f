"""A suite of one's own in one file: named rules and facts in the language of the shipped reference model.

    source: {type: suite, path: ../examples/rules_suite.py, options: {task: rule, depth: 2}}

`q abcd Kar Lim` asks to apply the rules named Kar and Lim to abcd; what the names mean is said nowhere in the data, so that a
document (`rule Kar @rev.`) or a training has to supply it. With `depth: 2` the variants are twins that lost one of the two rules
(N and N-1); with `depth: 1` the rule is applied twice. The language is described in scripts/reference_language.py.

Does not: ask anything that needs more than letters and digits.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from hybrid.capability.graders import build_grader
from hybrid.capability.suites.base import About, Deck, SuiteData, slug
from hybrid.capability.types import Example
from hybrid.capability.variants import twin_rows
from hybrid.config.schema import ExactGrader, Section, SuiteSizes

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import reference_language as language

OPERATIONS = ("@rev", "@sort", "@desc", "@rotl", "@rotr", "@next", "@prev", "@swap")
"""Those that can follow each other on any text of the language."""


class Options(Section):
    """What is asked."""

    task: Literal["rule", "fact"] = "rule"
    names: int = Field(default=4, ge=2, le=12)
    """Rules or facts that the capability is about."""
    depth: Literal[1, 2] = 1
    """Rules applied in one question."""


@dataclass(frozen=True)
class Query:
    """Rules applied to a text, from left to right."""

    text: str
    slots: tuple[str, ...]


class Rules:
    """Queries that can lose a rule; see `hybrid.capability.variants.ProblemKind`."""

    def __init__(self, meaning: dict[str, str]) -> None:
        self._meaning = meaning

    def elements(self, instance: Query) -> tuple[str, ...]:
        """The names in the query, each once."""
        return tuple(dict.fromkeys(instance.slots))

    def without(self, instance: Query, element: str) -> Query:
        """The query with all the other names."""
        return Query(instance.text, tuple(s for s in instance.slots if s != element))

    def solve(self, instance: Query) -> str | None:
        """What the rules make of the text; None where no rule is left."""
        return language.apply([self._meaning[s] for s in instance.slots], instance.text) if instance.slots else None


class RulesSuite:
    """See the module."""

    about = About(measures="rules and facts of the reference language", source="made here", licence="CC0-1.0")
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `hybrid.capability.suites.base.Suite`."""
        rng = random.Random(f"rules {options.task} {options.depth} {seed}")
        names, grader = rng.sample(language.NAMES, options.names), build_grader(ExactGrader(type="exact"))
        deck = Deck("rules")
        if options.task == "fact":
            return SuiteData(_facts({name: language.value(rng) for name in names}, deck, sizes, rng), grader)
        meaning = {name: rng.choice(OPERATIONS) for name in names}
        kind = Rules(meaning)
        queries = (
            Query(language.argument(rng, 4, 5), tuple(rng.sample(names, options.depth))) for _ in itertools.count()
        )
        splits = deck.deal((_ask(q, kind.solve(q) or "") for q in queries), sizes)
        if sizes.variant:
            parents = [(e, Query(e.metadata["text"], tuple(e.metadata["slots"]))) for e in splits["test"]]
            if options.depth == 2:
                twins: Iterator[Example] = twin_rows(parents, kind, _ask, "active", rng)
            else:
                twice = ((e, Query(q.text, q.slots * 2)) for e, q in parents)
                twins = (_ask(q, kind.solve(q) or "").model_copy(update={"parent_id": e.id}) for e, q in twice)
            splits["variant"] = deck.take(twins, sizes.variant, "variant")
        lines = "".join(f"rule {name} {meaning[name]}.\n" for name in names)
        return SuiteData(splits, grader, oracle=lines)


def _ask(query: Query, answer: str) -> Example:
    other = language.apply(["@twin"], query.text)
    return Example(
        id=slug("q", query.text, *query.slots),
        prompt=f"q {query.text} {' '.join(query.slots)}",
        reference=answer,
        metadata={"text": query.text, "slots": list(query.slots)},
        wrong=(other,),
    )


def _facts(table: dict[str, str], deck: Deck, sizes: SuiteSizes, rng: random.Random) -> dict[str, list[Example]]:
    def ask(name: str, noise: str) -> Example:
        wrong = next(value for other, value in table.items() if value != table[name])
        facts = {"name": name, "noise": noise, "paraphrase_of": name}
        prompt = f"ask {noise} {name}"
        return Example(
            id=slug("ask", noise, name), prompt=prompt, reference=table[name], metadata=facts, wrong=(wrong,)
        )

    drawn = (ask(rng.choice(sorted(table)), language.argument(rng, 2, 3)) for _ in itertools.count())
    splits = deck.deal(drawn, sizes)
    longer = (
        ask(e.metadata["name"], language.argument(rng, 4, 4)).model_copy(update={"parent_id": e.id})
        for e in splits["test"]
    )
    if sizes.variant:
        splits["variant"] = deck.take(longer, sizes.variant, "variant")
    return splits


SUITE = RulesSuite()
