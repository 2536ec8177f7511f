"""Facts: what a model knows, or can read, and cannot work out.

Three tables: `countries` from the package countryinfo (MIT licence), `elements` from the periodic table (common knowledge, CC0),
`fictional` (made here with the seed, CC0): towns, wardens and founding years that stand in no text a model was trained on.
Every fact is asked about in several wordings; rows about one fact share `metadata.paraphrase_of`.

By default a fact stands in every split, each time in another wording, so that a training can put it into the weights. With
`apart: true` no fact is in two splits: then only a text that holds the facts can help. The oracle text holds them all.

Does not: accept a sentence around the answer (override the grader where a model writes sentences).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from hybrid.capability.graders import build_grader
from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import IN_ORDER, About, Deck, SuiteData, SuiteError, slug
from hybrid.capability.suites.facts_tables import OF_TABLE, RELATIONS, Relation, Table, pairs
from hybrid.capability.types import Example, Split
from hybrid.config.schema import NormalizedGrader, SuiteSizes

PER_SPLIT = 2
"""Wordings of a fact per split with `apart: true`."""


class Options(Asking):
    """Which facts, and how they are dealt."""

    table: Table = "fictional"
    """What is asked about: countries, chemical elements, or invented towns."""
    relation: str | None = None
    """countries: capital, currency, region. elements: symbol, number. fictional: warden, founded. Default: the first."""
    facts: int | None = Field(default=None, ge=4)
    """How many facts; default: as few as the sizes allow, so that every wording of each is used."""
    apart: bool = False
    """No fact is in two splits."""
    most_population: int | None = Field(default=None, ge=1)
    """Of `countries`, only those with at most so many people, which models know less well."""
    variant: Literal["inverse", "wording"] = "inverse"
    """Rows of `variant`: the question from value to entity, or a wording that no other split uses."""

    @model_validator(mode="after")
    def _of_the_table(self) -> Options:
        legal = OF_TABLE[self.table]
        if self.relation is not None and self.relation not in legal:
            raise ValueError(f"relation: {self.table} have no {self.relation!r}; choose from {', '.join(legal)}")
        if self.most_population is not None and self.table != "countries":
            raise ValueError(f"most_population: {self.table} have no population; remove it")
        if self.variant == "inverse" and self.relation == "region":
            raise ValueError(
                "variant: a region has many countries, so it cannot be asked for one; write `variant: wording`"
            )
        return self

    @property
    def asked(self) -> str:
        """The relation, with the default filled in."""
        return self.relation or OF_TABLE[self.table][0]


@dataclass(frozen=True)
class _Fact:
    entity: str
    value: str
    wrong: str
    """The value of another fact."""
    order: tuple[int, ...]
    """The fact's wordings in the order in which they are used."""


class Facts:
    """See the module."""

    about = About(
        measures="facts: known or unknown, in several wordings; invented ones that no model has seen",
        source="countryinfo (countries), the periodic table, invented here (fictional)",
        licence="MIT (countryinfo); CC0-1.0 (the rest)",
        kind="factual",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`."""
        relation = RELATIONS[options.asked]
        rng = random.Random(f"facts {options.table} {options.asked} {seed}")
        facts = self._facts(options, relation, sizes, seed, rng)
        shots = [self._row(options, relation, fact, 0) for fact in facts[: options.shots]]
        facts = facts[options.shots :]
        deck = Deck("facts")
        splits: dict[Split, list[Example]] = {}
        if options.apart:
            self._deal_apart(options, relation, facts, sizes, deck, splits, shots)
        else:
            rows = self._in_turn(options, relation, facts, len(facts[0].order))
            splits = deck.deal((options.framed(row, shots) for row in rows), sizes)
        if sizes.variant:
            twins = (options.framed(row, shots) for row in self._twins(options, relation, facts, splits))
            splits["variant"] = deck.take(twins, sizes.variant, "variant")
        said = [relation.statement.format(e=f.entity, v=f.value) for f in sorted(facts, key=lambda f: f.entity)]
        grader = build_grader(NormalizedGrader(type="normalized", articles=()))
        return SuiteData(splits, grader, oracle="".join(f"{line}\n" for line in said))

    def _facts(
        self, options: Options, relation: Relation, sizes: SuiteSizes, seed: int, rng: random.Random
    ) -> list[_Fact]:
        """The facts that are asked about, in random order; the first `shots` of them are the worked examples."""
        known = pairs(options.table, options.asked, options.most_population, seed)
        rng.shuffle(known)
        counts = [getattr(sizes, split) for split in IN_ORDER]
        wordings = len(relation.wordings) - (options.variant == "wording")
        fewest = sum(-(-n // PER_SPLIT) for n in counts) if options.apart else -(-sum(counts) // wordings)
        fewest = max(fewest, sizes.variant, 4)
        wanted = options.facts or fewest
        if wanted < fewest:
            found = f"{wanted} facts give fewer rows than the sizes ask for; {fewest} are needed"
            raise SuiteError("options.facts", found, "raise it, or lower the sizes")
        if wanted + options.shots > len(known):
            found = f"{options.table} hold {len(known)} facts of this kind; {wanted + options.shots} are needed"
            raise SuiteError("sizes", found, "lower the sizes, or take another table")
        chosen = known[: wanted + options.shots]
        others = {value for _, value in chosen}
        return [
            _Fact(e, v, rng.choice(sorted(others - {v})), tuple(rng.sample(range(wordings), wordings)))
            for e, v in chosen
        ]

    def _in_turn(self, options: Options, relation: Relation, facts: Sequence[_Fact], most: int) -> Iterator[Example]:
        """Every fact in its first wording, then every fact in its second, and so on."""
        for turn in range(most):
            for fact in facts:
                yield self._row(options, relation, fact, turn)

    def _deal_apart(
        self,
        options: Options,
        relation: Relation,
        facts: Sequence[_Fact],
        sizes: SuiteSizes,
        deck: Deck,
        splits: dict[Split, list[Example]],
        shots: Sequence[Example],
    ) -> None:
        """Fill the splits, each from facts of its own."""
        start = 0
        for split in IN_ORDER:
            size = getattr(sizes, split)
            end = start + -(-size // PER_SPLIT)
            rows = self._in_turn(options, relation, facts[start:end], PER_SPLIT)
            splits[split] = deck.take((options.framed(row, shots) for row in rows), size, split)
            start = end

    def _twins(
        self, options: Options, relation: Relation, facts: Sequence[_Fact], splits: Mapping[Split, list[Example]]
    ) -> Iterator[Example]:
        """One variant per fact: first of those in test rows, of those in training rows last."""
        rows = [row for split in IN_ORDER for row in splits[split]]
        parents = {row.metadata["entity"]: row.id for row in reversed(rows)}
        known = {fact.entity: fact for fact in facts}
        for fact in (known[entity] for entity in dict.fromkeys(row.metadata["entity"] for row in rows)):
            if options.variant == "wording":
                row = self._row(options, relation, fact, None)
            else:
                assert relation.inverse is not None, "options refuse the inverse of such a relation"
                others = sorted({f.entity for f in facts} - {fact.entity})
                row = Example(
                    id=slug(options.asked, fact.entity, "inverse"),
                    prompt=relation.inverse.format(v=fact.value),
                    reference=fact.entity,
                    metadata={"entity": fact.entity, "change": "inverse question"},
                    wrong=(others[len(fact.entity) % len(others)],),
                )
            yield row.model_copy(update={"parent_id": parents[fact.entity]})

    def _row(self, options: Options, relation: Relation, fact: _Fact, turn: int | None) -> Example:
        """The fact in its `turn`-th wording; None is the wording kept for `variant`."""
        number = len(relation.wordings) - 1 if turn is None else fact.order[turn]
        key = slug(options.asked, fact.entity)
        extra = {"change": "unseen wording"} if turn is None else {}
        prompt = relation.wordings[number].format(e=fact.entity)
        return Example(
            id=f"{key}-{number}",
            prompt=prompt[:1].upper() + prompt[1:],
            reference=fact.value,
            metadata={"entity": fact.entity, "wording": number, "paraphrase_of": key, **extra},
            wrong=(fact.wrong,),
        )


SUITE = Facts()
