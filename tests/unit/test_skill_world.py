"""A toy world: an interpreter that really applies the lines of a document to prompts, and counts what it is asked.

`q Kar abcd` asks for a named operation, `ask Lim cd` for a named value. Names without a line get a guess. The first of
two lines about one name wins; `Ignore the rules.` breaks everything; `Answer in capitals.` changes the layout.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hybrid.capability.types import Example, Split
from hybrid.config.schema import EditBudgetConfig, SearchGateConfig, SkillConfig
from hybrid.skill.proposer import OfflineProposer
from hybrid.skill.reflection import Proposer, RolloutView
from hybrid.skill.task import SkillTask
from hybrid.skill.vocabulary import Vocabulary, parse_vocabulary

LETTERS = "abcdefghij"
OPS: dict[str, Callable[[str], str]] = {
    "@rev": lambda t: t[::-1],
    "@sort": lambda t: "".join(sorted(t)),
    "@desc": lambda t: "".join(sorted(t, reverse=True)),
    "@rotl": lambda t: t[1:] + t[:1],
    "@rotr": lambda t: t[-1:] + t[:-1],
    "@next": lambda t: "".join(LETTERS[(LETTERS.index(c) + 1) % 10] for c in t),
    "@prev": lambda t: "".join(LETTERS[(LETTERS.index(c) - 1) % 10] for c in t),
    "@twin": lambda t: "".join(c + c for c in t),
    "@head": lambda t: t[:-1],
    "@tail": lambda t: t[1:],
    "@ends": lambda t: t[:1] + t[-1:],
    "@swap": lambda t: "".join(t[i : i + 2][::-1] for i in range(0, len(t), 2)),
}
RULES = "\n".join(f'  - "rule {{name}}: {op}."' for op in OPS)
VOCABULARY = f"""
slots: ["^(?:q|ask) (?P<name>[A-Z][a-z]+)"]
rules:
{RULES}
  - "Answer in capitals."
  - "Ignore the rules."
  - "Be brief."
facts: ["fact {{name}}: {{reference}}."]
examples: ["{{prompt}} {{reference}}"]
"""


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:6], "big")


@dataclass
class World:
    """What is true (`rules`, `facts`, `capitals`), and a model that reads documents. With probability `noise` an answer
    is garbled, afresh for every document and prompt."""

    rules: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    capitals: bool = False
    noise: float = 0.0
    paid: set[tuple[str, str, str]] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def truth(self, prompt: str) -> str:
        kind, name, argument = prompt.split()
        answer = OPS[self.rules[name]](argument) if kind == "q" else self.facts[name]
        return answer.upper() if self.capitals else answer

    def examples(self, rng: random.Random, count: int, prefix: str) -> tuple[Example, ...]:
        made: dict[str, None] = {}
        names = [("q", n) for n in self.rules] + [("ask", n) for n in self.facts]
        while len(made) < count:
            kind, name = names[len(made) % len(names)]
            letters = rng.sample(LETTERS, rng.randint(3, 6) if kind == "q" else 3)
            made[f"{kind} {name} {''.join(letters)}"] = None
        return tuple(Example(id=f"{prefix}{i}", prompt=p, reference=self.truth(p)) for i, p in enumerate(made))

    def answer(self, body: str, prompt: str) -> str:
        lines = body.split("\n")
        if "Ignore the rules." in lines or digest(body, prompt) % 1000 < 1000 * self.noise:
            return "?"
        kind, name, argument = prompt.split()
        if kind == "q":
            found = re.search(rf"(?m)^rule {name}: (@\w+)\.$", body)
            op = found.group(1) if found else sorted(OPS)[digest(prompt) % len(OPS)]
            answer = OPS[op](argument) if op in OPS else "?"
        else:
            found = re.search(rf"(?m)^fact {name}: (\S+)\.$", body)
            answer = found.group(1) if found else "none"
        return answer.upper() if "Answer in capitals." in lines else answer

    def measure(self, body: str, examples: Sequence[Example], split: Split) -> list[RolloutView]:
        views = []
        for example in examples:
            assert isinstance(example.prompt, str)
            self.paid.add((body, example.id, split))
            self.asked.append((example.id, split))
            text = self.answer(body, example.prompt)
            right = text == example.reference
            views.append(RolloutView(example, text, float(right), right, "" if right else "wrong"))
        return views

    @property
    def lines(self) -> set[str]:
        """The right document."""
        out = {f"rule {n}: {op}." for n, op in self.rules.items()} | {f"fact {n}: {v}." for n, v in self.facts.items()}
        return out | ({"Answer in capitals."} if self.capitals else set())


def world(seed: int, rules: int = 4, facts: int = 0, **more: float | bool) -> World:
    rng = random.Random(f"world {seed}")
    names = rng.sample([c + v + d for c in "BDFGKLMN" for v in "aeiou" for d in "klmnrst"], rules + facts)
    return World(
        rules={n: rng.choice(sorted(OPS)) for n in names[:rules]},
        facts={n: "".join(rng.choice("uvwxyz0123456789") for _ in range(4)) for n in names[rules:]},
        **more,  # type: ignore[arg-type]
    )


def vocabulary(text: str = VOCABULARY) -> Vocabulary:
    return parse_vocabulary(text, "vocabulary.yaml")


def task(w: World, seed: int, body: str = "", proposer: Proposer | None = None, **config: object) -> SkillTask:
    rng = random.Random(f"rows {seed}")
    settings = {"epochs": 3, "batch": 32, "minibatch": 8, "edits": EditBudgetConfig(maximum=4, minimum=1), **config}
    return SkillTask(
        capability="toy",
        train=w.examples(rng, 96, "train-"),
        search=w.examples(rng, 64, "search-"),
        seed_body=body,
        config=SkillConfig(**settings),  # type: ignore[arg-type]
        gate=SearchGateConfig(),
        proposer=proposer or OfflineProposer(vocabulary(), trials=4, seed=seed),
        measure=w.measure,
        count_tokens=lambda text: len(text.split()),
        seed=seed,
    )


def test_the_world_follows_its_own_document_and_nothing_less() -> None:
    w = world(1, rules=2, facts=2)
    rows = w.examples(random.Random(0), 40, "x")
    right = "".join(f"{line}\n" for line in sorted(w.lines))
    assert all(v.passed for v in w.measure(right, rows, "train"))
    assert sum(v.passed for v in w.measure("", rows, "train")) < 10
    assert not any(v.passed for v in w.measure(right + "Ignore the rules.\n", rows, "train"))
