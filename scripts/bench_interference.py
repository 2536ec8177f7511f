"""Do experts disturb each other when they are added up? SVF against LoRA, two experts each, on the reference model.

    python scripts/bench_interference.py --seeds 0-4          # what docs/interference.md holds; one core

A seed fixes the operations of two marks; each kind trains one expert per mark by GRPO. So that the kinds are compared at equal
gain, every expert is its first checkpoint (one every 3 steps) that answers 90 % of 96 `search` rows right, else the last one.
Then, on `test`: each expert alone, their sum (weights 1) and their mixture (weights 1/2), on the first mark, on the second, and
on a third capability that neither was taught (a name whose rule stands in a document before the query). LoRA experts are added
by concatenating their matrices, which is exact (PEFT's `cat`), SVF experts by adding their vectors. Intervals are 95 %, over
seeds (Student); what is said of a seed is the mean over its two experts or marks. A run resumes.

Does not: search for better weights than these two, or compare with choosing the right expert (that is "alone").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bench_svf import EVERY, LORA_RATE, STEPS, SVF_RATE
from expert_bench import add_loras, backend, document_rows, make_job, over_seeds, run_and_print, scores, tasks, train

from hybrid.backends.base import Adapter
from hybrid.backends.svf.mixing import mix
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.store.atomic import write_json
from hybrid.weights.base import TrainResult

KINDS = ("lora", "svf")
TARGET = 0.9
WEIGHTS = {"sum": (1.0, 1.0), "mixture": (0.5, 0.5)}


def chosen(by: TransformersBackend, result: TrainResult, rows: Any) -> tuple[int, Adapter]:
    """The first checkpoint that reaches the target on `rows`, else the last."""
    for step, adapter in result.checkpoints:
        if fmean(scores(by, adapter, rows)) >= TARGET:
            return step, adapter
    return result.checkpoints[-1]


def run_seed(seed: int, root: Path) -> dict[str, Any]:
    """Scores of every candidate on every task, as plain JSON; read back where it was done."""
    kept = root / str(seed) / "INTERFERENCE.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    marks, by = tasks(seed, 2), backend(root)
    tests = {"first": marks[0].test, "second": marks[1].test, "third": document_rows(seed, 192)}
    found: dict[str, Any] = {"base": on(by, None, tests), "kinds": {}}
    for kind in KINDS:
        experts, steps = [], []
        for number, task in enumerate(marks):
            rate = (SVF_RATE if kind == "svf" else LORA_RATE)["grpo"]
            out = root / str(seed) / f"{kind}-grpo-{number}"
            job = make_job(task, out, seed, kind, "grpo", steps=STEPS, every=EVERY, rate=rate)
            step, adapter = chosen(by, train(job, root), task.search)
            experts.append(adapter)
            steps.append(step)
        rows: dict[str, Any] = {"steps": steps, "first": on(by, experts[0], tests), "second": on(by, experts[1], tests)}
        for name, weights in WEIGHTS.items():
            out = root / str(seed) / f"{kind}-{name}"
            folders, print_ = [e.path for e in experts], by.info().fingerprint
            add = mix if kind == "svf" else add_loras
            rows[name] = on(by, add(folders, weights, out, print_), tests)
        found["kinds"][kind] = rows
        print(f"seed {seed}: {kind}: {json.dumps(rows)}", flush=True)
    write_json(kept, found)
    return found


def on(by: TransformersBackend, adapter: Adapter | None, tests: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy on every task."""
    return {name: fmean(scores(by, adapter, rows)) for name, rows in tests.items()}


def effects(found: Mapping[str, Any], kind: str) -> dict[str, float]:
    """What one seed says of a kind; differences of accuracy."""
    base, rows = found["base"], found["kinds"][kind]
    pair = ("first", "second")
    own = {name: rows[name][name] for name in pair}
    told = {
        "steps to the target": fmean(rows["steps"]),
        "own gain of an expert": fmean(own[name] - base[name] for name in pair),
        "an expert alone: on the other's mark": fmean(rows[a][b] - base[b] for a, b in (pair, pair[::-1])),
        "an expert alone: on the third": fmean(rows[name]["third"] - base["third"] for name in pair),
    }
    for what, weights in (("sum", "1"), ("mixture", "1/2")):
        told[f"{what} (weights {weights}): on a mark, minus its expert"] = fmean(rows[what][n] - own[n] for n in pair)
        told[f"{what}: share of the own gain kept"] = fmean(rows[what][n] - base[n] for n in pair) / max(
            1e-9, told["own gain of an expert"]
        )
        told[f"{what}: on the third"] = rows[what]["third"] - base["third"]
    return told


def report(found: Mapping[int, Mapping[str, Any]]) -> str:
    """The table, and what the base does."""
    out = ["| | LoRA r=16 | SVF | SVF minus LoRA |", "|---|---|---|---|"]
    by_kind = {kind: [effects(f, kind) for f in found.values()] for kind in KINDS}
    for name in by_kind["lora"][0]:
        lora, svf = ([e[name] for e in by_kind[kind]] for kind in KINDS)
        minus = over_seeds([s - o for s, o in zip(svf, lora, strict=True)], True)
        out.append(f"| {name} | {over_seeds(lora, True)} | {over_seeds(svf, True)} | {minus} |")
    bare = {name: over_seeds([f["base"][name] for f in found.values()]) for name in ("first", "second", "third")}
    return "\n".join([*out, "", "- the base: " + ", ".join(f"{name} {value}" for name, value in bare.items())])


if __name__ == "__main__":
    run_and_print(__doc__, run_seed, report)
