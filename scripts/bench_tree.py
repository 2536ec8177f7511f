"""Tree search against GRPO and best-leaf SFT at equal generated tokens, on chains of operations of which one is unknown.

    python scripts/bench_tree.py --seeds 0-5        # what docs/tree-search.md holds; one core

A row asks for three operations one after the other, `q cdfa @next $oak @rev`, and is answered with a line of working,
`degb:begd:dgeb`; only the last text is checked. The mark in the middle means one operation in each world, which nothing says:
it has to be found out from right and wrong answers, and it is one step of three. The base is the reference model, taught once
to write the working, with marks that mean everything.

Every arm begins with that base and has the same settings; a training ends at the first checkpoint by which it has generated as
many tokens as `grpo` had at its last, and that checkpoint is measured on the sealed test, whatever its accuracy. Best leaves are
searched with the same number of tokens. Intervals are 95 %, differences paired by example and, over worlds, by seed.
A run resumes: a finished arm is in --out.

Does not: probe, place or ship; `hybrid run` with `weights: {method: tree}` does.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_worlds import seeds_of
from reference_language import MARKS, OPERATION_PRIOR, apply, argument

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.build import build_backend
from hybrid.capability.types import Example, Score
from hybrid.config.schema import ModelConfig, TransformersBackendConfig, WeightsConfig
from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.store.atomic import write_json
from hybrid.weights.base import Method, TrainJob, TrainResult
from hybrid.weights.build import build_trainer
from hybrid.weights.schedule import plain

CHOICES = ("@rev", "@sort", "@desc", "@rotl", "@rotr", "@next", "@prev", "@swap")
"""Operations that keep the length, so that a wrong step is no shorter."""
FIRM = ("@rev", "@rotl", "@rotr", "@next", "@prev", "@swap")
"""Those after which a wrong text is still wrong: sorting would forgive the step before it."""
ROWS = {"train": 96, "test": 240}
MOST_TOKENS = 24
GRPO = {"prompts_per_step": 8, "generations": 8, "learning_rate": 5e-4}
TREE = {"delimiter": ":", "option_tokens": 8}
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"method": "grpo"},
    "grpo, twice the rate": {"method": "grpo", "grpo": {"learning_rate": 1e-3}},
    "tree, both / sqrt": {"method": "tree", "tree": {"credit": "both", "weighting": "sqrt"}},
    "tree, both / reach": {"method": "tree", "tree": {"credit": "both", "weighting": "reach"}},
    "best leaf": {"method": "tree", "tree": {"use": "best_leaf", "wave": 8}, "grpo": {"prompts_per_step": 24}},
}
KNOWN = 120
"""Chains without a mark: what training should have left alone."""


class LastText:
    """Right when the text after the last colon is the reference; what was written before it does not count."""

    def grade(self, completion: str, example: Example) -> Score:
        """1 or 0."""
        right = completion.strip().rpartition(":")[2] == example.reference
        return Score(float(right), right)

    def fingerprint(self) -> str:
        """Stable identity."""
        return "last text"


def chain(
    rng: random.Random, marks: Mapping[str, str], place: int | None, choices: Sequence[str] = FIRM
) -> tuple[str, str]:
    """A query of three operations and its working; the one at `place` is named by a mark of `marks`."""
    operations = [rng.choice(choices) for _ in range(3)]
    slots = list(operations)
    if place is not None:
        slots[place] = rng.choice(sorted(marks))
        operations[place] = marks[slots[place]]
    text = argument(rng, 4, 5)
    working = [apply(operations[: k + 1], text) for k in range(3)]
    return f"q {text} {' '.join(slots)}", ":".join(working)


def rows(rng: random.Random, count: int, marks: Mapping[str, str], name: str) -> tuple[Example, ...]:
    """Distinct rows of a world."""
    found: dict[str, str] = {}
    while len(found) < count:
        prompt, working = chain(rng, marks, 1)
        found.setdefault(prompt, working)
    return tuple(
        Example(id=f"{name}-{i:03d}", prompt=prompt, reference=working.rpartition(":")[2], gold=working)
        for i, (prompt, working) in enumerate(found.items())
    )


def base_model(root: Path, seed: int) -> Path:
    """The reference model that writes its working; a mark means whatever the prior of the language draws."""
    folder = root / "base"
    if (folder / "done.json").exists():
        return folder
    rng = random.Random(f"working {seed}")
    prior = {name: OPERATION_PRIOR[name] for name in CHOICES}
    examples = []
    for i in range(6000):
        drawn = {mark: rng.choices(list(prior), weights=list(prior.values()))[0] for mark in MARKS}
        prompt, working = chain(rng, drawn, rng.choice((None, 0, 1, 2)), CHOICES)
        examples.append(Example(id=f"w{i}", prompt=prompt, reference=working))
    weights = WeightsConfig.model_validate(
        {
            "method": "sft",
            "lora": {"rank": 32, "alpha": 32},
            "sft": {"steps": 400, "batch": 32, "learning_rate": 2e-3},
            "checkpoint_every": 400,
        }
    )
    result = train(
        root / "base-training", "sft", ModelConfig(path="reference", device="cpu", threads=1), weights, examples, seed
    )
    merge(ModelConfig(path="reference", device="cpu", threads=1), result.checkpoints[-1][1], folder)
    write_json(folder / "done.json", {"steps": result.steps})
    return folder


def merge(model: ModelConfig, adapter: Adapter, folder: Path) -> None:
    """The base with the adapter in its weights (float32), as a model of its own."""
    from peft import PeftModel

    from hybrid.backends.loading import load_base

    loaded = load_base(model, Path, folder.parent / "cache")
    merged = PeftModel.from_pretrained(loaded.model, str(adapter.path)).merge_and_unload()
    merged.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def train(
    out: Path, method: Method, model: ModelConfig, weights: WeightsConfig, examples: Sequence[Example], seed: int
) -> TrainResult:
    """One training, resumed if it was begun."""
    from hybrid.backends.loading import load_base

    job = TrainJob(
        capability="chain",
        examples=tuple(examples),
        skill="",
        stages=plain(len(examples)),
        grader=LastText(),
        model=model,
        weights=weights,
        max_new_tokens=MOST_TOKENS,
        seed=seed,
        out=out,
        method=method,
    )
    return build_trainer(method).train(job, lambda: load_base(model, Path, out.parent / "cache"), lambda *_: None)


def settings(arm: Mapping[str, Any], steps: int, budget: int) -> WeightsConfig:
    """An arm's configuration. A tree shares what its leaves begin with, so it takes more steps to the same tokens; best leaves
    are searched with `budget` tokens over all prompts."""
    tree = {**TREE, **arm.get("tree", {})}
    grpo = {**GRPO, "steps": steps if arm["method"] == "grpo" else math.ceil(1.4 * steps), **arm.get("grpo", {})}
    if tree.get("use") == "best_leaf":
        tree["budget_tokens"] = budget // ROWS["train"]
        grpo["generations"] = 256  # the budget ends the search
    return WeightsConfig.model_validate(
        {
            "method": arm["method"],
            "lora": {"rank": 8, "alpha": 16},
            "grpo": grpo,
            "sft": {"steps": 120, "batch": 16, "learning_rate": 1e-3},
            "tree": tree,
            "checkpoint_every": 120 if tree.get("use") == "best_leaf" else 2,
        }
    )


def matched(result: TrainResult, budget: int) -> tuple[int, Adapter, int]:
    """(step, adapter, generated tokens) of the last checkpoint that has generated at most `budget` tokens."""
    spent, made = {}, 0
    for line in result.history:
        made += int(line.get("tree/tokens", 0))
        spent[int(line["step"])] = made
    within = [(step, adapter, spent[step]) for step, adapter in result.checkpoints if spent[step] <= budget]
    return within[-1]


def measure(base: Path, adapter: Adapter | None, examples: Sequence[Example]) -> list[float]:
    """Greedy answers, right or wrong."""
    model = ModelConfig(path=str(base), device="cpu", threads=1)
    backend = build_backend(model, TransformersBackendConfig(), Path, base.parent / "cache")
    sampling = Sampling(max_new_tokens=MOST_TOKENS)
    found = backend.generate([Request(e.prompt, 0) for e in examples], sampling, adapter)
    return [LastText().grade(c.text, e).value for c, e in zip(found, examples, strict=True)]


def run_arm(seed: int, name: str, steps: int, root: Path, base: Path, budget: int) -> dict[str, Any]:
    """One arm of one world, measured; from --out where it is finished."""
    folder = root / str(seed) / name.replace(" ", "").replace(",", "-").replace("/", "-")
    if (folder / "row.json").exists():
        row: dict[str, Any] = json.loads((folder / "row.json").read_text(encoding="utf-8"))
        return row
    rng = random.Random(f"world {seed}")
    marks = {rng.choice(MARKS): rng.choice(CHOICES)}
    splits = {split: rows(rng, count, marks, split) for split, count in ROWS.items()}
    known = [chain(rng, marks, None) for _ in range(KNOWN)]
    kept = [Example(id=f"k{i}", prompt=p, reference=w.rpartition(":")[2]) for i, (p, w) in enumerate(known)]
    row = {"seed": seed, "arm": name, "tokens": 0, "step": 0, "note": "", "history": [], "seconds": 0.0}
    adapter = None
    if name != "base":
        model = ModelConfig(path=str(base), device="cpu", threads=1)
        method: Method = ARMS[name]["method"]
        result = train(folder, method, model, settings(ARMS[name], steps, budget), splits["train"], seed)
        if method == "grpo":
            row["step"], adapter = result.checkpoints[-1]
            row["tokens"] = result.tokens_out
        else:
            row["step"], adapter, row["tokens"] = matched(result, budget)
        row |= {"note": result.note, "history": list(result.history), "seconds": result.seconds}
    row["test"] = measure(base, adapter, splits["test"])
    row["known"] = measure(base, adapter, kept)
    write_json(folder / "row.json", row)
    return row


def shown(values: Sequence[float]) -> str:
    """`0.97 [0.93, 0.99]`."""
    interval = mean_interval(values, 0.95)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def difference(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], split: str) -> str:
    """Mean over worlds of (second minus first), its interval over worlds: worlds are what a claim is about."""
    each = [sum(b[split]) / len(b[split]) - sum(a[split]) / len(a[split]) for a, b in pairs]
    mean, low, high = paired_interval(each, 0.95)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def summary(every: Sequence[Mapping[str, Any]]) -> str:
    """Each arm over all worlds, against `grpo` and against best leaves."""
    by = {(r["seed"], r["arm"]): r for r in every}
    seeds = sorted({r["seed"] for r in every})
    out = [
        "| arm | test | minus grpo | minus best leaf | chains without a mark | minus base | tokens |",
        "|---|" + "---|" * 6,
    ]
    for name in ("base", *ARMS):
        mine = [by[s, name] for s in seeds]
        cells = [name, shown([v for r in mine for v in r["test"]])]
        for other in ("grpo", "best leaf"):
            cells.append(
                "-" if name in (other, "base") else difference([(by[s, other], by[s, name]) for s in seeds], "test")
            )
        cells.append(f"{sum(sum(r['known']) / len(r['known']) for r in mine) / len(mine):.3f}")
        cells.append("-" if name == "base" else difference([(by[s, "base"], by[s, name]) for s in seeds], "known"))
        cells.append(f"{sum(r['tokens'] for r in mine) / len(mine):.0f}")
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-5")
    parser.add_argument("--steps", type=int, default=20, help="of grpo; the others get its tokens")
    parser.add_argument("--out", type=Path, default=Path("runs/tree"))
    args = parser.parse_args()
    wall, processor = time.monotonic(), time.process_time()
    base = base_model(args.out, 0)
    print("| seed | arm | step | tokens | test | chains without a mark |\n|---|---|---|---|---|---|")
    every: list[dict[str, Any]] = []
    for seed in seeds_of(args.seeds):
        budget = 0
        for name in ("base", *ARMS):
            row = run_arm(seed, name, args.steps, args.out, base, budget)
            budget = row["tokens"] if name == "grpo" else budget
            cells = [seed, name, row["step"], row["tokens"], shown(row["test"]), shown(row["known"])]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            every.append(row)
    print(f"\n{summary(every)}")
    for row in every:
        if row["note"]:
            print(f"- {row['seed']}, {row['arm']}: {row['note']}")
    spent = time.process_time() - processor
    print(f"\n{spent:.0f} s of processor time, {time.monotonic() - wall:.0f} s on the clock")


if __name__ == "__main__":
    main()
