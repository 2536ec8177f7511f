"""Does routing every token by the experts' own directions (Arrow) find the right expert? LoRA experts on the reference model.

    python scripts/bench_arrow.py --seeds 0-4          # after bench_interference.py, whose experts these are; one core

Arrow (Ostapenko et al. 2024, 2405.11157) gives each expert, in every layer, the input direction that its change stretches most,
and lets each token take the experts whose directions it is most aligned with. Nothing is trained, and nobody says which expert a
request needs. PEFT's implementation, with the best expert per token (top 1) and with a softmax over both (top 2), against the
right expert chosen for each request and against the exact sum. Intervals are 95 %, over seeds (Student).

Does not: place or serve: an Arrow model is a set of adapters and a layer of its own, not an adapter folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench_interference import LORA_RATE, on
from bench_svf import EVERY, STEPS
from expert_bench import base, document_rows, make_job, over_seeds, run_and_print, tasks, train
from peft import ArrowConfig, create_arrow_model

from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig

TOP = {"arrow, top 1": 1, "arrow, top 2": 2}
COLUMNS = ("first", "second", "third")


def run_seed(seed: int, root: Path) -> dict[str, dict[str, float]]:
    """Accuracy by candidate and task."""
    known = json.loads((root / str(seed) / "INTERFERENCE.json").read_text(encoding="utf-8"))
    marks, lora = tasks(seed, 2), known["kinds"]["lora"]
    tests = {"first": marks[0].test, "second": marks[1].test, "third": document_rows(seed, 192)}
    folders = []
    for number, (task, step) in enumerate(zip(marks, lora["steps"], strict=True)):
        out = root / str(seed) / f"lora-grpo-{number}"
        job = make_job(task, out, seed, "lora", "grpo", steps=STEPS, every=EVERY, rate=LORA_RATE["grpo"])
        folders.append(str(dict(train(job, root).checkpoints)[step].path))
    right = {"first": lora["first"]["first"], "second": lora["second"]["second"], "third": known["base"]["third"]}
    found = {"base": known["base"], "right expert": right, "sum": lora["sum"], "mixture": lora["mixture"]}
    for name, top in TOP.items():
        loaded = base(root)
        torch.manual_seed(seed)  # PEFT finds the directions by power iteration from random vectors
        create_arrow_model(loaded.model, folders, ArrowConfig(top_k=top)).eval()
        found[name] = on(TransformersBackend(loaded, TransformersBackendConfig(), share_prefixes=False), None, tests)
    return found


def report(found: dict[int, Any]) -> str:
    """The table."""
    out = [
        "| | first mark | second mark | not taught | all three | minus the right expert |",
        "|---|---|---|---|---|---|",
    ]
    right = [fmean(f["right expert"][c] for c in COLUMNS) for f in found.values()]
    for name in next(iter(found.values())):
        columns = [over_seeds([f[name][c] for f in found.values()]) for c in COLUMNS]
        every = [fmean(f[name][c] for c in COLUMNS) for f in found.values()]
        minus = "-" if name == "right expert" else over_seeds([e - r for e, r in zip(every, right, strict=True)], True)
        out.append(f"| {name} | {' | '.join(columns)} | {over_seeds(every)} | {minus} |")
    return "\n".join(out)


if __name__ == "__main__":
    run_and_print(__doc__, run_seed, report)
