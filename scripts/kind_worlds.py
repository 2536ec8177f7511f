"""Capabilities of constructed kind in the reference language, for fitting and judging measured kinds.

    made = make_capability(seed)        # family by seed, everything else drawn from it
    made.kinds                          # {"factual"}: true by construction
    made.texts                          # what the context probe may try

A *family* is a way to construct: what determines the answers, how they are asked, and which texts are at hand. A
capability is procedural where the answer is worked out of the question by operations, factual where it is a value
that no rule gives, stylistic where the content is easy and a layout is asked for; mixed ones need two of these,
unclear ones have nothing to know. Texts: worked examples always; for most seeds the document that holds all it takes
(`oracle`), or a `draft` that lacks lines of it.

Does not: run anything. Nothing in `hybrid` reads the kinds; `bench_kinds.py` compares.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import make_world as world
import reference_language as language

from hybrid.capability.graders import build_grader
from hybrid.capability.types import Capability, Example
from hybrid.config.schema import ExactGrader, RegexGrader

ROWS = {"train": 24, "search": 64}
Row = dict[str, str]
MakeRow = Callable[[random.Random], Row]


@dataclass
class Plan:
    """What a family draws: how to make a row, the document that holds all it takes, the layout that is graded."""

    make: MakeRow
    lines: list[str] = field(default_factory=list)
    layout: str = "plain"
    temperature: float = 0.0


@dataclass(frozen=True)
class Made:
    """One constructed capability."""

    seed: int
    family: str
    kinds: frozenset[str]
    capability: Capability
    texts: dict[str, str]
    temperature: float


def operation(rng: random.Random, name: str, operations: list[str], verb: str = "q", lead: str = "") -> Row:
    """A row that applies what `name` stands for."""
    while True:
        text = language.argument(rng, 4, 5)
        answer = language.apply(operations, text)
        if 0 < len(answer) <= language.LONGEST_ANSWER:
            break
    if verb == "call":
        return {"prompt": f"{lead}call {text} {name}", "reference": f"{''.join(operations)}({text})"}
    return {"prompt": f"{lead}q {text} {name}", "reference": answer}


def ask(rng: random.Random, name: str, value: str, mark: str = "", lead: str = "") -> Row:
    """A row that asks for a fact."""
    return {"prompt": f"{lead}ask {language.argument(rng, 1, 3)} {mark}{name}", "reference": value}


def _facts(rng: random.Random, low: int, high: int, length: int = 3) -> dict[str, str]:
    return {n: language.value(rng, length) for n in rng.sample(language.NAMES, rng.randint(low, high))}


def _rules(rng: random.Random, count: int, steps: int) -> dict[str, list[str]]:
    names = rng.sample(language.NAMES, count)
    return {n: rng.sample(world.EASY, steps) for n in names}


def _fact_lines(table: dict[str, str]) -> list[str]:
    return [f"fact {n} {v}." for n, v in table.items()]


def _rule_lines(rules: dict[str, list[str]]) -> list[str]:
    return [f"rule {n} {' '.join(ops)}." for n, ops in rules.items()]


def _layout(rng: random.Random) -> str:
    return rng.choice(("angle", "square"))


def direct(rng: random.Random) -> Plan:
    """Operations named directly."""
    ops = rng.sample(world.EASY, rng.randint(2, 5))
    return Plan(lambda r: (lambda op: operation(r, op, [op]))(r.choice(ops)))


def composed(rng: random.Random) -> Plan:
    """Two operations named directly, one after the other."""
    pairs = [rng.sample(world.EASY, 2) for _ in range(rng.randint(2, 4))]
    return Plan(lambda r: (lambda p: operation(r, " ".join(p), p))(r.choice(pairs)))


def named(rng: random.Random, steps: int = 1) -> Plan:
    """A name per rule, which a document defines."""
    rules = _rules(rng, rng.randint(2, 5), steps)
    return Plan(lambda r: (lambda n: operation(r, n, rules[n]))(r.choice(sorted(rules))), _rule_lines(rules))


def mark(rng: random.Random) -> Plan:
    """A mark that stands for an operation which no document can name."""
    name, op = rng.choice(language.MARKS), rng.choice(world.GUESSED)
    return Plan(lambda r: operation(r, name, [op]))


def facts(rng: random.Random, low: int = 3, high: int = 6, length: int = 3) -> Plan:
    """A table of values, asked with noise."""
    table = _facts(rng, low, high, length)
    return Plan(lambda r: (lambda n: ask(r, n, table[n]))(r.choice(sorted(table))), _fact_lines(table))


def styled_operations(rng: random.Random) -> Plan:
    """Operations that the base does, in a layout that it would not choose."""
    plan, layout = direct(rng), _layout(rng)
    return Plan(plan.make, [f"form {layout}."], layout)


def styled_reading(rng: random.Random) -> Plan:
    """A fact that stands in the prompt, in a layout."""
    layout = _layout(rng)

    def make(r: random.Random) -> Row:
        table = _facts(r, 2, 3)
        name = r.choice(sorted(table))
        return ask(r, name, table[name], lead="\n".join(_fact_lines(table)) + "\n")

    return Plan(make, [f"form {layout}."], layout)


def styled_rule(rng: random.Random) -> Plan:
    """A rule that stands in the prompt, in a layout."""
    layout = _layout(rng)

    def make(r: random.Random) -> Row:
        rules = _rules(r, 2, 1)
        name = r.choice(sorted(rules))
        return operation(r, name, rules[name], lead="\n".join(_rule_lines(rules)) + "\n")

    return Plan(make, [f"form {layout}."], layout)


def styled_mark(rng: random.Random) -> Plan:
    """A fact that stands in the prompt, in a layout that the model draws whatever it is told."""
    layout, mark_name = _layout(rng), rng.choice(language.MARKS)

    def make(r: random.Random) -> Row:
        table = _facts(r, 2, 3)
        name = r.choice(sorted(table))
        return ask(r, name, table[name], f"{mark_name} ", "\n".join(_fact_lines(table)) + "\n")

    return Plan(make, [f"form {layout}."], layout, temperature=1.0)


def facts_in_layout(rng: random.Random) -> Plan:
    """Values that nobody knows, in a required layout."""
    plan, layout = facts(rng, 3, 5), _layout(rng)
    return Plan(plan.make, [*plan.lines, f"form {layout}."], layout)


def rules_in_layout(rng: random.Random) -> Plan:
    """Rules that a document defines, in a required layout."""
    plan, layout = named(rng), _layout(rng)
    return Plan(plan.make, [*plan.lines, f"form {layout}."], layout)


def rules_and_facts(rng: random.Random) -> Plan:
    """Half rules, half facts."""
    one, other = named(rng), facts(rng, 3, 4)
    return Plan(lambda r: r.choice((one, other)).make(r), [*one.lines, *other.lines])


def nothing(rng: random.Random) -> Plan:
    """Answers that nothing determines."""
    name, tag = rng.choice(language.MARKS), rng.random()

    def make(r: random.Random) -> Row:
        text = language.argument(r, 4, 5)
        return {"prompt": f"q {text} {name}", "reference": language.value(random.Random(f"{tag} {text}"), 5)}

    return Plan(make, _rule_lines(_rules(rng, 2, 1)))


def never_told(rng: random.Random) -> Plan:
    """A new value for every question, and a document about other names."""
    tag = rng.random()

    def make(r: random.Random) -> Row:
        name, noise = r.choice(language.NAMES), language.argument(r, 3, 3)
        return {"prompt": f"ask {noise} {name}", "reference": language.value(random.Random(f"{tag} {name} {noise}"))}

    return Plan(make, _fact_lines(_facts(rng, 3, 4)))


def called(rng: random.Random) -> Plan:
    """Rules that are named in a structured answer and not applied."""
    rules = _rules(rng, rng.randint(2, 4), 1)
    return Plan(lambda r: (lambda n: operation(r, n, rules[n], "call"))(r.choice(sorted(rules))), _rule_lines(rules))


def twice(rng: random.Random) -> Plan:
    """A named rule, applied two times."""
    rules = {n: [rng.choice(world.TWICE)] for n in rng.sample(language.NAMES, rng.randint(2, 4))}
    return Plan(
        lambda r: (lambda n: operation(r, f"{n} {n}", rules[n] * 2))(r.choice(sorted(rules))), _rule_lines(rules)
    )


def facts_among_rules(rng: random.Random) -> Plan:
    """A table of values in a document that also defines rules, which no question asks for."""
    plan = facts(rng, 3, 5)
    return Plan(plan.make, [*plan.lines, *_rule_lines(_rules(rng, 3, 1))])


PURE: dict[str, tuple[str, Callable[[random.Random], Plan]]] = {
    "direct operations": ("procedural", direct),
    "fact table": ("factual", facts),
    "operations in a layout": ("stylistic", styled_operations),
    "composed operations": ("procedural", composed),
    "large fact table": ("factual", lambda rng: facts(rng, 7, 10)),
    "fact read in a layout": ("stylistic", styled_reading),
    "named rules": ("procedural", named),
    "long facts": ("factual", lambda rng: facts(rng, 3, 6, 4)),
    "rule read in a layout": ("stylistic", styled_rule),
    "named rules of two steps": ("procedural", lambda rng: named(rng, 2)),
    "small fact table": ("factual", lambda rng: facts(rng, 2, 3)),
    "layout by chance": ("stylistic", styled_mark),
    "unnamed operation": ("procedural", mark),
}
"""Families of one kind: name -> (kind, maker)."""
OTHER: dict[str, tuple[str, Callable[[random.Random], Plan]]] = {
    "facts in a layout": ("factual stylistic", facts_in_layout),
    "rules in a layout": ("procedural stylistic", rules_in_layout),
    "rules and facts": ("procedural factual", rules_and_facts),
    "answers at random": ("", nothing),
    "facts never told": ("", never_told),
}
"""Families of two kinds or of none."""
UNSEEN: dict[str, tuple[str, Callable[[random.Random], Plan]]] = {
    "rules named in a call": ("procedural", called),
    "names used twice": ("procedural", twice),
    "facts among rules": ("factual", facts_among_rules),
}
"""Never fitted on: a kind in a shape that the calibration did not have."""
FAMILIES = {**PURE, **OTHER}


def make_capability(seed: int, families: Sequence[str] = ()) -> Made:
    """The capability of `seed`; its family is that at `seed` modulo their number, among `FAMILIES` unless others are given."""
    names = list(families) or list(FAMILIES)
    name = names[seed % len(names)]
    kinds, maker = {**FAMILIES, **UNSEEN}[name]
    rng = random.Random(f"kind {seed} {name}")
    plan = maker(rng)
    gold = language.FORMS[plan.layout]
    seen: set[str] = set()
    splits: dict[Any, tuple[Example, ...]] = {}
    for split, count in ROWS.items():
        rows: list[Example] = []
        for _ in range(40 * count):
            row = plan.make(rng)
            if len(rows) < count and row["prompt"] not in seen:
                seen.add(row["prompt"])
                said = gold.format(row["reference"])
                extra = {} if said == row["reference"] else {"gold": said}
                rows.append(Example(id=f"{split}-{len(rows):03d}", **row, **extra))
        splits[split] = tuple(rows)
    capability = Capability(f"kind-{seed}", splits, build_grader(_grader(plan.layout)))
    return Made(seed, name, frozenset(kinds.split()), capability, _texts(rng, plan), plan.temperature)


def _grader(layout: str) -> ExactGrader | RegexGrader:
    if layout == "plain":
        return ExactGrader(type="exact")
    left, right = (f"\\{c}" for c in language.FORMS[layout].format(" ").split(" "))
    return RegexGrader(type="regex", pattern=f"{left}{{reference}}{right}", format=f"{left}[a-z0-9]+{right}")


def _texts(rng: random.Random, plan: Plan) -> dict[str, str]:
    """Seven in ten have the whole document, the others a draft that lacks one line or up to half of them."""
    lines = list(plan.lines)
    rng.shuffle(lines)
    if not lines or rng.random() < 0.7:
        return {"oracle": "".join(line + "\n" for line in lines)}
    kept = lines[: max(1, len(lines) - rng.randint(1, max(1, len(lines) // 2)))]
    return {"draft": "".join(line + "\n" for line in kept)}
