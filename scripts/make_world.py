"""Make a world of known truth for the reference model: data, a runnable configuration, and where each capability belongs.

    python scripts/make_world.py --seed 7 --out runs/worlds/7 && hybrid run runs/worlds/7/config.yaml

Writes `DIR/config.yaml`, `DIR/truth.json` (capability -> placement, which nothing in `hybrid` reads), `DIR/vocabulary.yaml`
(the offline proposer's candidate lines: every operation, not only the right ones) and `DIR/<capability>/*.jsonl`.
Seed 0 has one capability of each kind; other seeds draw kinds, names, rules, facts, marks, layouts and sizes.

Each truth holds by construction of the language (see `reference_language.py`):

- keep: operations named directly; the base applies them.
- skill, factual: the same few facts asked in many ways; unguessable, so gradients see no success; a document supplies them.
- skill, procedural: a name per operation; a document line defines it. Variants apply the name twice: a document covers
  that, weights trained on single applications do not.
- weights: a mark, whose operation documents cannot define; the base hits it now and then, so gradients can sharpen it.
- both: facts (unguessable without a document) asked with a mark that makes the layout random whatever documents say;
  the grader wants one layout. Judged by sampling, so the share of the right layout is the score of text alone.
- neither: answers that nothing determines, or facts of which training rows never speak.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reference_language as language

EASY = ("@rev", "@rotl", "@rotr", "@next", "@prev", "@swap", "@tail", "@head")
"""Operations that the base applies almost without error, on arguments of 4 or 5 letters."""
GUESSED = ("@rev", "@next", "@rotl", "@prev", "@swap")
"""Easy operations that the prior favours: a mark is read as one of them now and then."""
TWICE = ("@rotl", "@rotr", "@next", "@prev", "@tail", "@head")
"""Operations that differ from themselves when applied twice."""
SPLITS = ("train", "search", "confirm", "test", "variant")


@dataclass(frozen=True)
class Sizes:
    """Examples per split."""

    train: int
    search: int
    confirm: int
    test: int
    variant: int


@dataclass
class Draft:
    """A capability under construction: its rows by split, its truth, and its part of the configuration."""

    name: str
    truth: str
    kind: str | None
    rows: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]


MakeRow = Callable[[random.Random, str], dict[str, Any]]


def fill(
    rng: random.Random, sizes: Sizes, make: MakeRow, vary: Callable[[random.Random, dict[str, Any]], dict[str, Any]]
):
    """Rows for every split without a prompt in two of them; variants are twins of `test` rows."""
    seen: set[str] = set()
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS[:-1]:
        rows[split] = []
        while len(rows[split]) < getattr(sizes, split):
            row = make(rng, split)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                rows[split].append({"id": f"{split}-{len(rows[split]):04d}", **row})
    rows["variant"] = []
    for parent in rows["test"]:
        twin = vary(rng, parent)
        if len(rows["variant"]) < sizes.variant and twin["prompt"] not in seen:
            seen.add(twin["prompt"])
            rows["variant"].append({"id": f"variant-{len(rows['variant']):04d}", **twin, "parent_id": parent["id"]})
    return rows


def operation_rows(slots: dict[str, str]) -> tuple[MakeRow, Callable[[random.Random, dict[str, Any]], dict[str, Any]]]:
    """Rows `q abcd SLOT` for slots with known operations; variants have a longer argument."""

    def row(slot: str, text: str) -> dict[str, Any]:
        answer = language.apply([slots[slot]], text)
        return {"prompt": f"q {text} {slot}", "reference": answer, "metadata": {"slot": slot, "text": text}}

    def make(rng: random.Random, split: str) -> dict[str, Any]:
        return row(rng.choice(sorted(slots)), language.argument(rng, 4, 5))

    def longer(rng: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        text = parent["metadata"]["text"]
        return row(parent["metadata"]["slot"], text + rng.choice([c for c in language.LETTERS if c not in text]))

    return make, longer


def keep(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """Operations named directly."""
    operations = rng.sample(EASY, rng.randint(2, 4))
    make, vary = operation_rows({op: op for op in operations})
    return Draft(name, "keep", "procedural", fill(rng, sizes, make, vary), {})


def weights(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """A mark with one operation."""
    make, vary = operation_rows({rng.choice(language.MARKS): rng.choice(GUESSED)})
    return Draft(name, "weights", "procedural", fill(rng, sizes, make, vary), {})


def procedural(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """Names with one operation each; variants apply the name twice."""
    names = rng.sample(language.NAMES, rng.randint(2, 4))
    slots = dict(zip(names, rng.sample(TWICE, len(names)), strict=True))
    make, _ = operation_rows(slots)

    def twice(_: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        slot, text = parent["metadata"]["slot"], parent["metadata"]["text"]
        answer = language.apply([slots[slot]] * 2, text)
        return {"prompt": f"q {text} {slot} {slot}", "reference": answer, "metadata": {"slot": slot, "text": text}}

    return Draft(name, "skill", "procedural", fill(rng, sizes, make, twice), {})


def fact_rows(facts: Callable[[str], dict[str, str]], mark: str, layout: str):
    """Rows `ask cd NAME`; `facts(split)` gives the facts of a split; variants have a longer reference number."""

    def row(name: str, value: str, noise: str) -> dict[str, Any]:
        out = {"prompt": f"ask {noise} {mark}{name}", "reference": value, "metadata": {"name": name, "noise": noise}}
        gold = language.FORMS[layout].format(value)
        return out if gold == value else {**out, "gold": gold}

    def make(rng: random.Random, split: str) -> dict[str, Any]:
        table = facts(split)
        name = rng.choice(sorted(table))
        return row(name, table[name], language.argument(rng, 2, 3))

    def longer(rng: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        noise = parent["metadata"]["noise"]
        noise += rng.choice([c for c in language.LETTERS if c not in noise])
        return row(parent["metadata"]["name"], parent["reference"], noise)

    return make, longer


def factual(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """A few facts, asked in many ways."""
    table = {n: language.value(rng) for n in rng.sample(language.NAMES, rng.randint(3, 6))}
    make, vary = fact_rows(lambda split: table, "", "plain")
    return Draft(name, "skill", "factual", fill(rng, sizes, make, vary), {})


def both(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """Facts whose layout no document controls."""
    table = {n: language.value(rng) for n in rng.sample(language.NAMES, rng.randint(3, 4))}
    layout = rng.choice(("angle", "square"))
    make, vary = fact_rows(lambda split: table, rng.choice(language.MARKS) + " ", layout)
    left, right = language.FORMS[layout].format(" ").split(" ")
    grader = {"type": "regex", "pattern": f"\\{left}{{reference}}\\{right}", "format": r"[<\[]?[a-z0-9]+[>\]]?"}
    settings = {"grader": grader, "decoding": {"max_new_tokens": 14, "temperature": 1.0}}
    return Draft(name, "both", "factual", fill(rng, sizes, make, vary), settings)


def neither(rng: random.Random, sizes: Sizes, name: str) -> Draft:
    """Facts of which training rows never speak, or answers drawn at random."""
    if rng.random() < 0.5:
        names = rng.sample(language.NAMES, 32)
        tables = {s: {n: language.value(rng) for n in names[8 * i : 8 * i + 8]} for i, s in enumerate(SPLITS[:-1])}
        make, vary = fact_rows(lambda split: tables[split], "", "plain")
        return Draft(name, "neither", "factual", fill(rng, sizes, make, vary), {})
    mark = rng.choice(language.MARKS)

    def row(text: str) -> dict[str, Any]:
        answer = language.value(random.Random(f"{name} {mark} {text}"), 5)
        return {"prompt": f"q {text} {mark}", "reference": answer, "metadata": {"text": text}}

    def longer(rng: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        text = parent["metadata"]["text"]
        return row(text + rng.choice([c for c in language.LETTERS if c not in text]))

    rows = fill(rng, sizes, lambda rng, split: row(language.argument(rng, 4, 5)), longer)
    return Draft(name, "neither", "procedural", rows, {})


KINDS: dict[str, Callable[[random.Random, Sizes, str], Draft]] = {
    "known-operations": keep,
    "fact-table": factual,
    "named-rules": procedural,
    "unnamed-operation": weights,
    "fact-layout": both,
    "random-answers": neither,
}


def vocabulary() -> dict[str, Any]:
    """Candidate lines for the offline proposer: every operation, and fact lines filled from training rows."""
    return {
        "slots": [r"(?:^| )(?P<name>\$?[A-Za-z]+)$"],
        "rules": [f"rule {{name}} {op}." for op in language.OPERATIONS] + [f"form {f}." for f in language.FORMS],
        "facts": ["fact {name} {reference}."],
        "examples": [],
    }


def dump(value: Any) -> str:
    """YAML of plain data; JSON scalars and flow collections are YAML, and need no library."""
    return json.dumps(value, ensure_ascii=False)


def config_text(name: str, seed: int, drafts: list[Draft], counterfactual: bool) -> str:
    """The world's configuration."""
    lines = [
        f"name: {name}",
        "model: {path: reference, dtype: float32, device: auto}",
        "capabilities:",
    ]
    for draft in drafts:
        settings = {"grader": {"type": "exact"}, "decoding": {"max_new_tokens": 14}, **draft.settings}
        lines += [
            f"  - name: {draft.name}",
            f"    source: {{type: jsonl, path: {draft.name}}}",
            f"    grader: {dump(settings['grader'])}",
            f"    decoding: {dump(settings['decoding'])}",
            f"    kind: {draft.kind}",
        ]
    lines += [
        "skill: {proposer: {type: offline, vocabulary: vocabulary.yaml, trials: 12}}",
        "weights:",
        "  method: grpo",
        "  lora: {rank: 8, alpha: 16}",
        "  grpo: {steps: 40, prompts_per_step: 8, generations: 8, learning_rate: 0.0005}",
        "  checkpoint_every: 20",
        "gate: {ship: {minimum_effect: 0.15}}",
        f"router: {{counterfactual: {'true' if counterfactual else 'false'}}}",
        f"seed: {seed}",
    ]
    return "\n".join(lines) + "\n"


def make_world(seed: int, out: Path, counterfactual: bool) -> dict[str, str]:
    """Write the world of `seed` into `out` and return its truth."""
    rng = random.Random(f"world {seed}")
    kinds = list(KINDS) if seed == 0 else sorted(KINDS) + rng.sample(sorted(KINDS), rng.randint(0, 2))
    if seed:
        rng.shuffle(kinds)
    drafts = []
    for kind in kinds:
        name = kind if not any(d.name == kind for d in drafts) else f"{kind}-b"
        size = 160 if seed == 0 else rng.choice((144, 160, 192))
        sizes = Sizes(train=96, search=96, confirm=size, test=size, variant=64)
        drafts.append(KINDS[kind](rng, sizes, name))
    out.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        (out / draft.name).mkdir(exist_ok=True)
        for split, rows in draft.rows.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (out / draft.name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    entries = [f"{key}: {json.dumps(value)}" for key, value in vocabulary().items()]
    (out / "vocabulary.yaml").write_text("\n".join(entries) + "\n", encoding="utf-8")
    (out / "config.yaml").write_text(config_text(f"world-{seed}", seed, drafts, counterfactual), encoding="utf-8")
    truth = {d.name: d.truth for d in drafts}
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return truth


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counterfactual", action="store_true", help="train every arm of every capability")
    args = parser.parse_args()
    for name, placement in make_world(args.seed, args.out, args.counterfactual).items():
        print(f"{name}: {placement}")


if __name__ == "__main__":
    main()
