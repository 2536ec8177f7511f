"""Worlds of one capability each, of six truths and drawn difficulty, for the regret benchmark (`scripts/bench_router.py`).

    draw = draw_world(seed=1000, attempt=0)      # what the capability is; pure
    write_world(draw, Path("runs/router/1000"))  # data, vocabulary, configuration

The truth of a seed is TRUTHS[seed % 6]:

- text: facts or named rules that nobody could guess; a document supplies them. Best placed as a skill.
- weights: a mark, whose operation documents cannot define and samples hit now and then. Best placed in weights.
- both: facts in a layout that no document controls. Best placed in both.
- neither: answers that nothing determines, or facts of which training rows never speak.
- harmed: training looks good and is not. `nearly`: the base does it but for a few answers that nothing determines (keep,
  or neither). `template`: named rules that no line of the vocabulary can define; an adapter learns single applications by
  heart and fails the variants, which apply the name twice (neither). `shortcut`: the same with a vocabulary that defines
  them (skill).
- small: a gain of some 0.15 on a dozen confirm examples: no honest test can show it (undecided).

What makes them hard: a drawn share of rows that the base does already, so base scores run from 0 to 0.88; seed documents
of which some lines are right and some wrong; marks whose operation is rare in the samples; four to eight lines to read.

Whether a construction holds on the model (the right document is read, the mark is hit) is for the caller to ask, with
`Drawn.oracle` and `Drawn.bounds`: a world that does not hold is drawn again with the next `attempt`.

Does not: load a model, or know what `hybrid` makes of a world.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import reference_language as language
from make_world import EASY, GUESSED, SPLITS, TWICE, MakeRow, Sizes, fact_rows, fill, operation_rows, vocabulary

Truth = Literal["text", "weights", "both", "neither", "harmed", "small"]
TRUTHS: tuple[Truth, ...] = ("text", "weights", "both", "neither", "harmed", "small")
FULL = Sizes(train=64, search=64, confirm=112, test=112, variant=48)
STEPS, CHECK = 16, 8
"""Optimiser steps of a training, and between its checkpoints."""
MINIMUM_EFFECT = 0.15
RARE = ("@rotr", "@swap", "@head", "@tail")
"""Operations that a mark stands for less often than those of GUESSED."""


@dataclass(frozen=True)
class Drawn:
    """A world before it is written. `right` are the placements that are right; `oracle` the document that says all that a
    document can; `bounds` what has to hold of the model's scores on `test`: name -> (least, most)."""

    seed: int
    truth: Truth
    flavour: str
    right: tuple[str, ...]
    rows: dict[str, list[dict[str, Any]]]
    oracle: str
    bounds: dict[str, tuple[float, float]]
    settings: dict[str, Any] = field(default_factory=dict)
    seed_lines: tuple[str, ...] = ()
    lines: dict[str, Any] = field(default_factory=vocabulary)
    drawn: dict[str, Any] = field(default_factory=dict)
    """The difficulty that was drawn, for the table."""

    @property
    def name(self) -> str:
        """Of the capability."""
        return f"world-{self.seed}"


Vary = Any


def mixed(rng: random.Random, share: float, make: MakeRow, vary: Vary) -> tuple[MakeRow, Vary]:
    """A `share` of rows that the base does already (operations named directly) among those of `make`."""
    direct, longer = operation_rows({op: op for op in rng.sample(EASY, 3)})

    def row(inner: random.Random, split: str) -> dict[str, Any]:
        easy = inner.random() < share
        out = (direct if easy else make)(inner, split)
        return {**out, "metadata": {**out["metadata"], "easy": easy}}

    def varied(inner: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        easy = parent["metadata"]["easy"]
        out = (longer if easy else vary)(inner, parent)
        return {**out, "metadata": {**out["metadata"], "easy": easy}}

    return row, varied


def named_rules(slots: dict[str, str]) -> tuple[MakeRow, Vary]:
    """Names with one operation each; variants apply the name twice."""
    make, _ = operation_rows(slots)

    def twice(_: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        slot, text = parent["metadata"]["slot"], parent["metadata"]["text"]
        answer = language.apply([slots[slot]] * 2, text)
        return {"prompt": f"q {text} {slot} {slot}", "reference": answer, "metadata": {"slot": slot, "text": text}}

    return make, twice


def undetermined(key: str, mark: str) -> tuple[MakeRow, Vary]:
    """Answers that nothing determines."""

    def row(text: str) -> dict[str, Any]:
        answer = language.value(random.Random(f"{key} {mark} {text}"), 5)
        return {"prompt": f"q {text} {mark}", "reference": answer, "metadata": {"text": text}}

    def longer(rng: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        text = parent["metadata"]["text"]
        return row(text + rng.choice([c for c in language.LETTERS if c not in text]))

    return lambda rng, split: row(language.argument(rng, 4, 5)), longer


def partly_right(rng: random.Random, lines: list[str], wrong: list[str]) -> tuple[tuple[str, ...], int]:
    """A seed document: some of the right lines, some wrong ones for the same names, or none at all (half of the time)."""
    if rng.random() < 0.5:
        return (), 0
    kept = [(right, rng.random()) for right in lines]
    out = tuple(right if u < 0.45 else bad for (right, u), bad in zip(kept, wrong, strict=True) if u < 0.45 or u > 0.75)
    return out, sum(u < 0.45 for _, u in kept)


def draw_world(seed: int, attempt: int = 0) -> Drawn:
    """The world of `seed`: the same every time."""
    rng = random.Random(f"regret {seed} {attempt}")
    truth = TRUTHS[seed % len(TRUTHS)]
    makers = {
        "text": _text,
        "weights": _weights,
        "both": _both,
        "neither": _neither,
        "harmed": _harmed,
        "small": _small,
    }
    return makers[truth](rng, seed)


def _facts(rng: random.Random, low: int, high: int) -> tuple[dict[str, str], list[str], list[str]]:
    """A table, its document lines, and wrong lines for the same names."""
    table = {n: language.value(rng) for n in rng.sample(language.NAMES, rng.randint(low, high))}
    return table, [f"fact {n} {v}." for n, v in table.items()], [f"fact {n} {language.value(rng)}." for n in table]


def _rules(rng: random.Random, low: int, high: int) -> tuple[dict[str, str], list[str], list[str]]:
    """Named operations, their document lines, and wrong lines for the same names."""
    names = rng.sample(language.NAMES, rng.randint(low, high))
    slots = dict(zip(names, rng.sample(TWICE, len(names)), strict=True))
    wrong = [f"rule {n} {rng.choice([o for o in TWICE if o != op])}." for n, op in slots.items()]
    return slots, [f"rule {n} {op}." for n, op in slots.items()], wrong


def _text(rng: random.Random, seed: int) -> Drawn:
    factual = rng.random() < 0.6
    if factual:
        table, lines, wrong = _facts(rng, 3, 6)
        make, vary = fact_rows(lambda split: table, "", "plain")
    else:
        slots, lines, wrong = _rules(rng, 2, 4)
        make, vary = named_rules(slots)
    share = rng.choice((0.0, 0.2, 0.4))
    start, right = partly_right(rng, lines, wrong)
    rows = fill(rng, FULL, *mixed(rng, share, make, vary))
    drawn = {"easy": share, "lines": len(lines), "seed_lines": len(start), "seed_right": right}
    bounds = {"oracle": (0.85, 1.0), "base": (0.0, 0.7)}
    flavour = "facts" if factual else "rules"
    return Drawn(seed, "text", flavour, ("skill",), rows, "\n".join(lines), bounds, seed_lines=start, drawn=drawn)


def _weights(rng: random.Random, seed: int) -> Drawn:
    operation = rng.choice(GUESSED if rng.random() < 0.7 else RARE)
    make, vary = operation_rows({rng.choice(language.MARKS): operation})
    share = rng.choice((0.0, 0.2, 0.4))
    rows = fill(rng, FULL, *mixed(rng, share, make, vary))
    bounds = {"sampled": (0.2, 1.0), "base": (0.0, 0.7)}
    drawn = {"easy": share, "operation": operation}
    return Drawn(seed, "weights", "mark", ("weights",), rows, "", bounds, drawn=drawn)


def _both(rng: random.Random, seed: int) -> Drawn:
    table, lines, wrong = _facts(rng, 3, 5)
    layout = rng.choice(("angle", "square"))
    make, vary = fact_rows(lambda split: table, rng.choice(language.MARKS) + " ", layout)
    start, right = partly_right(rng, lines, wrong)
    left, close = language.FORMS[layout].format(" ").split(" ")
    grader = {"type": "regex", "pattern": f"\\{left}{{reference}}\\{close}", "format": r"[<\[]?[a-z0-9]+[>\]]?"}
    settings = {"grader": grader, "decoding": {"max_new_tokens": 10, "temperature": 1.0}}
    return Drawn(
        seed,
        "both",
        "layout",
        ("both",),
        fill(rng, FULL, make, vary),
        "\n".join(lines),
        {"oracle": (0.1, 0.75), "base": (0.0, 0.2)},
        settings,
        start,
        drawn={"lines": len(lines), "seed_lines": len(start), "seed_right": right},
    )


def _neither(rng: random.Random, seed: int) -> Drawn:
    share = rng.choice((0.0, 0.2, 0.4))
    unheard = rng.random() < 0.5
    if unheard:
        names = rng.sample(language.NAMES, 32)
        tables = {s: {n: language.value(rng) for n in names[8 * i : 8 * i + 8]} for i, s in enumerate(SPLITS[:-1])}
        make, vary = fact_rows(lambda split: tables[split], "", "plain")
    else:
        make, vary = undetermined(f"neither {seed}", rng.choice(language.MARKS))
    rows = fill(rng, FULL, *mixed(rng, share, make, vary))
    flavour = "unheard facts" if unheard else "undetermined"
    return Drawn(seed, "neither", flavour, ("neither",), rows, "", {"base": (0.0, 0.7)}, drawn={"easy": share})


def _harmed(rng: random.Random, seed: int) -> Drawn:
    flavour = ("nearly", "template", "shortcut")[seed // len(TRUTHS) % 3]
    if flavour == "nearly":
        share = rng.choice((0.8, 0.84, 0.88))
        rows = fill(rng, FULL, *mixed(rng, share, *undetermined(f"harmed {seed}", rng.choice(language.MARKS))))
        right, bounds = ("keep", "neither"), {"base": (0.7, 0.93)}
        return Drawn(seed, "harmed", flavour, right, rows, "", bounds, drawn={"easy": share})
    slots, lines, _ = _rules(rng, 1, 3)
    share = rng.choice((0.0, 0.2))
    rows = fill(rng, FULL, *mixed(rng, share, *named_rules(slots)))
    drawn, bounds = {"easy": share, "lines": len(lines)}, {"oracle": (0.85, 1.0), "base": (0.0, 0.5)}
    if flavour == "shortcut":
        return Drawn(seed, "harmed", flavour, ("skill",), rows, "\n".join(lines), bounds, drawn=drawn)
    poor = vocabulary()
    poor["rules"] = [line for line in poor["rules"] if not any(f" {op}." in line for op in slots.values())]
    return Drawn(seed, "harmed", flavour, ("neither",), rows, "\n".join(lines), bounds, lines=poor, drawn=drawn)


def _small(rng: random.Random, seed: int) -> Drawn:
    share = rng.choice((0.82, 0.84, 0.86))
    search, confirm = rng.choice((12, 16, 20, 24)), rng.choice((10, 12, 14))
    sizes = Sizes(train=32, search=search, confirm=confirm, test=112, variant=16)
    if rng.random() < 0.5:
        table, lines, _ = _facts(rng, 2, 3)
        make, vary = fact_rows(lambda split: table, "", "plain")
        flavour, bounds = "facts", {"oracle": (0.9, 1.0), "base": (0.6, 0.95)}
    else:
        lines, (make, vary) = [], operation_rows({rng.choice(language.MARKS): rng.choice(GUESSED)})
        flavour, bounds = "mark", {"base": (0.6, 0.95)}
    rows = fill(rng, sizes, *mixed(rng, share, make, vary))
    drawn = {"easy": share, "search": search, "confirm": confirm}
    return Drawn(seed, "small", flavour, ("undecided",), rows, "\n".join(lines), bounds, drawn=drawn)


def config_text(drawn: Drawn, router: str) -> str:
    """The world's configuration; `router` is the text of that section."""
    settings = {"grader": {"type": "exact"}, "decoding": {"max_new_tokens": 10}, **drawn.settings}
    skill = ["    skill: SKILL.md"] if drawn.seed_lines else []
    lines = [
        f"name: {drawn.name}",
        "model: {path: reference, dtype: float32, device: cpu, threads: 1}",
        "capabilities:",
        f"  - name: {drawn.name}",
        "    source: {type: jsonl, path: data}",
        f"    grader: {json.dumps(settings['grader'])}",
        f"    decoding: {json.dumps(settings['decoding'])}",
        *skill,
        "probe: {examples: 40, samples: 8, variants: 32}",
        "skill: {attribution: 0, proposer: {type: offline, vocabulary: vocabulary.yaml, trials: 6}}",
        "weights:",
        "  method: grpo",
        "  lora: {rank: 8, alpha: 16}",
        f"  grpo: {{steps: {STEPS}, prompts_per_step: 6, generations: 8, learning_rate: 0.0015, engine: plain}}",
        f"  checkpoint_every: {CHECK}",
        f"gate: {{ship: {{minimum_effect: {MINIMUM_EFFECT}}}}}",
        f"router: {router}",
        f"seed: {drawn.seed}",
    ]
    return "\n".join(lines) + "\n"


def write_world(drawn: Drawn, out: Path, router: str = "{counterfactual: true}") -> Path:
    """Write data, seed document, vocabulary and configuration; returns the configuration's path. Nothing names the truth."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in drawn.rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    entries = [f"{key}: {json.dumps(value)}" for key, value in drawn.lines.items()]
    (out / "vocabulary.yaml").write_text("\n".join(entries) + "\n", encoding="utf-8")
    if drawn.seed_lines:
        head = f"---\nname: {drawn.name}\ndescription: What somebody wrote down about it.\n---\n\n"
        (out / "SKILL.md").write_text(head + "\n".join(drawn.seed_lines) + "\n", encoding="utf-8")
    path = out / "config.yaml"
    path.write_text(config_text(drawn, router), encoding="utf-8")
    return path
