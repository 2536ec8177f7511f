"""House styles: layouts, registers, lengths and formats, each judged by a program.

Source: records are made here with the seed. Licence: CC0-1.0. It measures style: everything that an answer says stands in the
prompt, and how it has to be said does not, unless `told: true`. The oracle text is the rule. Every rule is a few checks, each a
facet of the score; listed wrong answers break one check each.

    card      a catalogue card in one fixed line                 layout
    polite    a command, turned into a polite question           register
    brief     a sentence of exactly eight words                  length
    list      things in alphabetical order, with bars and a count   format
    radio     a message in lower case that ends with `over.`     format

Does not: judge taste, or grammar beyond its checks.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hybrid.capability.graders.callables import FunctionGrader
from hybrid.capability.graders.text import quote
from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import About, Deck, SuiteData, slug, words
from hybrid.capability.suites.names import FIRST_NAMES, LAST_NAMES, TOWNS
from hybrid.capability.types import Example, Score
from hybrid.config.schema import SuiteSizes

Task = Literal["card", "polite", "brief", "list", "radio"]
Record = Mapping[str, Any]
_LONGEST_ANSWER = 2_000
_VERBS = words("open close move clean paint check bring lift wash label pack sort copy count repair measure")
_THINGS = words(
    "door window table lamp bench cup shelf box ladder mirror carpet clock drawer engine filter gate handle kettle letter map "
    "parcel pump rope sign stove switch tray valve wheel"
)
_ROOMS = words("attic barn cellar garage garden hall kitchen library office shed studio workshop")
_COLOURS = words("black blue brown green grey orange pink purple red silver white yellow")


class Options(Asking):
    """Which house style."""

    task: Task = "card"
    """The house style."""
    told: bool = False
    """The prompt states the rule. Otherwise only a document or a training can."""
    score: Literal["all", "share"] = "all"
    """The value of an answer: 1 when every check passes and 0 otherwise, or the share of the checks that pass."""


@dataclass(frozen=True)
class House:
    """One style. `ask` phrases a record, in a second way for `variant`; `checks` judge (answer, record)."""

    rule: str
    draw: Callable[[random.Random], Record]
    ask: Callable[[Record, bool], str]
    gold: Callable[[Record], str]
    checks: Mapping[str, Callable[[str, Record], bool]]
    broken: Callable[[Record, str], list[str]]
    """From record and gold answer: answers that break one check each, in the order of the checks."""


def _person(rng: random.Random) -> Record:
    born, town = rng.randint(1931, 2004), rng.choice(TOWNS)
    return {"first": rng.choice(FIRST_NAMES), "last": rng.choice(LAST_NAMES), "born": str(born), "town": town}


def _ask_person(r: Record, turned: bool) -> str:
    if turned:
        return f"Lives in {r['town']}: {r['first']} {r['last']}, born {r['born']}."
    return f"{r['first']} {r['last']}, born {r['born']}, lives in {r['town']}."


def _task(rng: random.Random) -> Record:
    return {
        "verb": rng.choice(_VERBS),
        "colour": rng.choice(_COLOURS),
        "thing": rng.choice(_THINGS),
        "room": rng.choice(_ROOMS),
    }


def _command(r: Record) -> str:
    return f"{r['verb']} the {r['colour']} {r['thing']} in the {r['room']}"


def _ask_task(r: Record, turned: bool) -> str:
    command = f"in the {r['room']}, {r['verb']} the {r['colour']} {r['thing']}" if turned else _command(r)
    return f"{command[0].upper()}{command[1:]}!"


def _things(rng: random.Random) -> Record:
    return {"things": rng.sample(_THINGS, rng.randint(3, 5))}


def _ask_things(r: Record, turned: bool) -> str:
    *most, last = r["things"]
    return f"We need a {last}, and also: {', '.join(most)}." if turned else f"We need: {', '.join(most)} and {last}."


def _listed(said: str) -> list[str]:
    return [part.strip() for part in re.sub(r"\(\d+\)\s*$", "", said).split("|")]


def _holds(*keys: str) -> Callable[[str, Record], bool]:
    return lambda said, r: all(re.search(rf"\b{re.escape(r[key])}\b", said, re.IGNORECASE) for key in keys)


_WHO = _holds("first", "last", "born", "town")
_WHAT = _holds("verb", "colour", "thing", "room")
HOUSES: dict[Task, House] = {
    "card": House(
        "Write the catalogue card in one line: LAST NAME, FIRST NAME (YEAR OF BIRTH) @ TOWN.",
        _person,
        _ask_person,
        lambda r: f"{r['last']}, {r['first']} ({r['born']}) @ {r['town']}",
        {
            "names": lambda said, r: said.startswith(f"{r['last']}, {r['first']} "),
            "year": lambda said, r: f" ({r['born']}) " in said,
            "town": lambda said, r: said.endswith(f" @ {r['town']}"),
            "nothing_else": lambda said, r: len(said.split()) == 5,
        },
        lambda r, gold: [
            f"{r['first']} {r['last']} ({r['born']}) @ {r['town']}",
            gold.replace("(", "").replace(")", ""),
            gold.replace("@", "in"),
            gold.replace("@", "lives @"),
        ],
    ),
    "polite": House(
        "Turn the command into a question that begins with `Could you please` and ends with a question mark.",
        _task,
        _ask_task,
        lambda r: f"Could you please {_command(r)}?",
        {
            "opening": lambda said, r: said.startswith("Could you please "),
            "question": lambda said, r: said.endswith("?") and said.count("?") == 1,
            "calm": lambda said, r: "!" not in said,
            "content": _WHAT,
        },
        lambda r, gold: [
            f"Please {_command(r)}?",
            gold.replace("?", "."),
            gold.replace("?", "!?"),
            gold.replace(f" {r['thing']}", ""),
        ],
    ),
    "brief": House(
        "Write one sentence of exactly eight words that holds the whole name, the year and the town.",
        _person,
        _ask_person,
        lambda r: f"{r['first']} {r['last']}, born {r['born']}, lives in {r['town']} today.",
        {
            "eight_words": lambda said, r: len(said.split()) == 8,
            "sentence": lambda said, r: said.endswith(".") and said.count(".") == 1 and "\n" not in said,
            "content": _WHO,
        },
        lambda r, gold: [gold.replace(" today.", "."), gold.rstrip("."), gold.replace(r["town"], "town")],
    ),
    "list": House(
        "Write the things in alphabetical order with ` | ` between them, and their number in brackets behind the last.",
        _things,
        _ask_things,
        lambda r: f"{' | '.join(sorted(r['things']))} ({len(r['things'])})",
        {
            "order": lambda said, r: _listed(said) == sorted(_listed(said)),
            "bars": lambda said, r: said.count(" | ") == len(r["things"]) - 1 and "," not in said,
            "count": lambda said, r: said.endswith(f" ({len(r['things'])})"),
            "content": lambda said, r: set(re.findall(r"[a-z]+", said)) == set(r["things"]),
        },
        lambda r, gold: [
            f"{' | '.join(sorted(r['things'], reverse=True))} ({len(r['things'])})",
            gold.replace(" | ", ", "),
            gold.replace(f"({len(r['things'])})", f"({len(r['things']) + 1})"),
            gold.replace(" (", "s ("),
        ],
    ),
    "radio": House(
        "Repeat the order in lower case, without commas and exclamation marks, and end with `over.`",
        _task,
        _ask_task,
        lambda r: f"{_command(r)} over.",
        {
            "lower": lambda said, r: said == said.lower(),
            "ending": lambda said, r: said.endswith(" over."),
            "plain": lambda said, r: not re.search("[,!]", said),
            "content": _WHAT,
        },
        lambda r, gold: [
            gold.capitalize(),
            gold.removesuffix(" over."),
            gold.replace(" over", ", over"),
            "open sesame over.",
        ],
    ),
}


class Style:
    """See the module."""

    about = About(
        measures="style: five house rules about layout, register, length and format",
        source="made here",
        licence="CC0-1.0",
        kind="stylistic",
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`. Rows of `variant` put the records of test rows in another order."""
        house = HOUSES[options.task]
        rng, deck = random.Random(f"style {options.task} {seed}"), Deck(f"style, task {options.task},")
        drawn = (house.draw(rng) for _ in itertools.count())
        plain = (self._row(options, record, f"{options.task}-{n}", False) for n, record in enumerate(drawn, 1))
        shots = [next(plain) for _ in range(options.shots)]
        splits = deck.deal((options.framed(row, shots) for row in plain), sizes)
        twins = (self._row(options, e.metadata["record"], f"{e.id}-turned", True, e.id) for e in splits["test"])
        if sizes.variant:
            splits["variant"] = deck.take((options.framed(row, shots) for row in twins), sizes.variant, "variant")
        grader = FunctionGrader(grade, "suite style", options.score)
        return SuiteData(splits, grader, oracle=f"{house.rule}\n")

    def _row(self, options: Options, record: Record, identity: str, turned: bool, parent: str | None = None) -> Example:
        house = HOUSES[options.task]
        gold = house.gold(record)
        rule = f"{house.rule}\n" if options.told else ""
        facts = {"task": options.task, "record": dict(record), "score": options.score}
        return Example(
            id=slug(identity),
            prompt=f"{rule}{house.ask(record, turned)}",
            reference=gold,
            metadata={**facts, **({"change": "order of the record"} if turned else {})},
            parent_id=parent,
            wrong=tuple(house.broken(record, gold)),
        )


def grade(completion: str, example: Example) -> Score:
    """All checks of the row's house style. Facets: each check, and `format`, which is all of them but the content."""
    said, facts = completion.strip(), example.metadata
    checks = HOUSES[facts["task"]].checks
    met = {name: float(len(said) <= _LONGEST_ANSWER and check(said, facts["record"])) for name, check in checks.items()}
    share = sum(met.values()) / len(met)
    form = float(all(value for name, value in met.items() if name != "content"))
    failed = [name.replace("_", " ") for name, value in met.items() if not value]
    told = "Correct." if not failed else f"Not met: {', '.join(failed)}; got {quote(completion)}."
    value = share if facts["score"] == "share" else float(share == 1.0)
    return Score(value, share == 1.0, {**met, "format": form}, told)


SUITE = Style()
