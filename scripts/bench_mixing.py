"""Three ways to use two SVF experts on requests of three kinds, on the reference model: choose, add, or find weights.

    python scripts/bench_mixing.py --seeds 0-4          # what docs/svf.md holds; one core, after bench_interference.py

The experts are those of `bench_interference.py` (two marks with fixed operations). Requests: 96 `test` rows of each mark, and 96
that neither was taught (a name whose rule stands in a document before the query), for which the base is right to ask.

- right expert: who wrote the row says which expert it is for.
- classifier expert: an SVF expert fine-tuned to name the expert on 32 training prompts of each kind, asked first.
- sum, mixture: weights 1 and 1/2. few-shot: weights by CMA-ES on 12 `search` rows, 4 of each kind, 60 mixtures at most.

The model cannot be asked in words, so the paper's choice by prompt is not measured here. Intervals are 95 %, over seeds
(Student). A run resumes.

Does not: use LoRA experts (`bench_interference.py` has their sums).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import reference_language as language
from bench_interference import WEIGHTS, chosen
from bench_svf import EVERY, STEPS, SVF_RATE
from expert_bench import (
    GRADER,
    TOKENS,
    backend,
    document_rows,
    make_job,
    over_seeds,
    run_and_print,
    scores,
    tasks,
    train,
)

from hybrid.backends.svf.mixing import mix
from hybrid.capability.types import Example
from hybrid.store.atomic import write_json
from hybrid.weights.schedule import plain
from hybrid.weights.svf.mix import Expert, choose, classifier_rows, few_shot

KINDS = ("first", "second", "third")
QUESTION = "{request} #"
ARMS = ("base", "right expert", "classifier expert", "sum", "mixture", "few-shot")


def classifier(seed: int, root: Path, experts: list[Expert], prompts: Mapping[str, list[str]]) -> Any:
    """The last checkpoint of an SVF expert that is taught which expert a prompt is for; the base has a name too."""
    named = [*experts, Expert(_names()[2], "", experts[0].adapter)]
    rows = classifier_rows(named, prompts, QUESTION)
    task = dataclasses.replace(tasks(seed, 2)[0], train=rows)
    out = root / str(seed) / "classifier"
    job = make_job(task, out, seed, "svf", "sft", steps=60, every=60, rate=SVF_RATE["sft"])
    return train(dataclasses.replace(job, stages=plain(len(rows))), root).checkpoints[-1][1]


def _names() -> tuple[str, ...]:
    """Three words of the language: those by which experts (and the base) are called."""
    return language.NAMES[:3]


def run_seed(seed: int, root: Path) -> dict[str, Any]:
    """Accuracy of every arm on every kind of request, as plain JSON; read back where it was done."""
    kept = root / str(seed) / "MIXING.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    by, marks = backend(root), tasks(seed, 2)
    documents = document_rows(seed + 1000, 32 + 4 + 96)
    tests: dict[str, tuple[Example, ...]] = {"first": marks[0].test[:96], "second": marks[1].test[:96]}
    tests["third"] = documents[36:]
    experts = []
    for number, task in enumerate(marks):
        out = root / str(seed) / f"svf-grpo-{number}"
        job = make_job(task, out, seed, "svf", "grpo", steps=STEPS, every=EVERY, rate=SVF_RATE["grpo"])
        experts.append(Expert(_names()[number], "", chosen(by, train(job, root), task.search)[1]))
    prompts = {_names()[i]: [row.prompt for row in marks[i].train[:32]] for i in range(2)}
    prompts[_names()[2]] = [row.prompt for row in documents[:32]]
    judge = classifier(seed, root, experts, prompts)
    folders, fingerprint = [e.adapter.path for e in experts], by.info().fingerprint
    shots = [*marks[0].search[:4], *marks[1].search[:4], *documents[32:36]]
    found = few_shot(by, experts, shots, GRADER, root / str(seed) / "few-shot", seed=seed, max_new_tokens=TOKENS)
    adapters = {
        name: mix(folders, weights, root / str(seed) / f"svf-{name}", fingerprint) for name, weights in WEIGHTS.items()
    }
    adapters["few-shot"] = found.adapter
    told: dict[str, Any] = {"weights": found.weights, "measured": found.measured, "right choice": {}}
    told |= {arm: {kind: fmean(scores(by, a, rows)) for kind, rows in tests.items()} for arm, a in adapters.items()}
    told["base"] = {kind: fmean(scores(by, None, rows)) for kind, rows in tests.items()}
    told["right expert"], told["classifier expert"] = {}, {}
    for kind, rows in tests.items():
        meant = None if kind == "third" else experts[KINDS.index(kind)]
        told["right expert"][kind] = fmean(scores(by, meant.adapter if meant else None, rows))
        picked = choose(
            by, experts, [row.prompt for row in rows], classifier=judge, template=QUESTION, max_new_tokens=3
        )
        told["right choice"][kind] = fmean(float(p is meant) for p in picked)
        total = 0.0
        for expert in {id(p): p for p in picked}.values():
            mine = [row for row, p in zip(rows, picked, strict=True) if p is expert]
            total += sum(scores(by, expert.adapter if expert else None, mine))
        told["classifier expert"][kind] = total / len(rows)
    print(f"seed {seed}: {json.dumps(told)}", flush=True)
    write_json(kept, told)
    return told


def report(found: Mapping[int, Mapping[str, Any]]) -> str:
    """The table."""
    out = [
        "| | first mark | second mark | not taught | all three | minus the right expert |",
        "|---|---|---|---|---|---|",
    ]
    rows = list(found.values())
    best = [fmean(r["right expert"].values()) for r in rows]
    for arm in ARMS:
        cells = [over_seeds([r[arm][kind] for r in rows]) for kind in KINDS]
        mean = [fmean(r[arm].values()) for r in rows]
        minus = "-" if arm == "right expert" else over_seeds([m - b for m, b in zip(mean, best, strict=True)], True)
        out.append(f"| {arm} | {' | '.join(cells)} | {over_seeds(mean)} | {minus} |")
    right = over_seeds([fmean(r["right choice"].values()) for r in rows])
    found_ = "; ".join(", ".join(f"{w:+.2f}" for w in r["weights"]) for r in rows)
    return "\n".join(
        [*out, "", f"- the classifier expert names the right one in {right}", f"- few-shot weights: {found_}"]
    )


if __name__ == "__main__":
    run_and_print(__doc__, run_seed, report)
