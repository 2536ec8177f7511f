"""What the experiments on SVF and LoRA experts share: tasks in the reference language, trainings, scores, intervals.

Does not: run by itself. `bench_svf.py`, `bench_interference.py`, `bench_mixing.py` and `bench_arrow.py` do.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import reference_language as language
import torch
from bench_order import STUDENT
from bench_worlds import seeds_of
from make_world import GUESSED, operation_rows
from safetensors.torch import save

from hybrid.backends.adapters import inspect_adapter, read_config, read_tensors, write_manifest
from hybrid.backends.base import Adapter, Backend, Request, Sampling
from hybrid.backends.loading import LoadedModel, load_base
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example
from hybrid.config.schema import (
    DirectionsConfig,
    ExactGrader,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    SftConfig,
    SvfConfig,
    TransformersBackendConfig,
    WeightsConfig,
)
from hybrid.store.atomic import write_bytes, write_json
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.build import build_trainer
from hybrid.weights.schedule import plain

MODEL = ModelConfig(path="reference", device="cpu", threads=1)
GRADER = build_grader(ExactGrader(type="exact"))
TOKENS = 14
LORA = LoraConfig(rank=16, alpha=32)
LORA_RATE = {"grpo": 5e-4, "sft": 1e-3}
"""What the worlds of the reference model train their LoRA with (`make_world.py`, and its rate for supervised steps)."""


@dataclass(frozen=True)
class Task:
    """A mark whose operation is fixed: the base draws it from a broad prior. Splits of examples."""

    mark: str
    operation: str
    train: tuple[Example, ...]
    search: tuple[Example, ...]
    test: tuple[Example, ...]


def tasks(seed: int, count: int, sizes: tuple[int, int, int] = (96, 96, 192)) -> list[Task]:
    """Different marks with different operations; no prompt is in two splits."""
    rng = random.Random(f"experts {seed}")
    marks, operations = rng.sample(language.MARKS, count), rng.sample(GUESSED, count)
    return [_task(rng, mark, operation, sizes) for mark, operation in zip(marks, operations, strict=True)]


def _task(rng: random.Random, mark: str, operation: str, sizes: tuple[int, int, int]) -> Task:
    make, _ = operation_rows({mark: operation})
    seen: set[str] = set()
    splits = []
    for split, size in zip(("train", "search", "test"), sizes, strict=True):
        rows: list[Example] = []
        while len(rows) < size:
            row = make(rng, split)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                rows.append(Example(id=f"{split}-{len(rows)}", prompt=row["prompt"], reference=row["reference"]))
        splits.append(tuple(rows))
    return Task(mark, operation, *splits)


def document_rows(seed: int, size: int) -> tuple[Example, ...]:
    """What no expert is taught: a name whose rule stands in a document of three lines before the query."""
    rng = random.Random(f"documents {seed}")
    rows = []
    for i in range(size):
        names = rng.sample(language.NAMES, 3)
        rules = {name: rng.choice(GUESSED) for name in names}
        text, name = language.argument(rng, 4, 5), rng.choice(names)
        lines = [f"rule {n} {op}." for n, op in rules.items()]
        prompt = "\n".join([*lines, f"q {text} {name}"])
        rows.append(Example(id=f"doc-{i}", prompt=prompt, reference=language.apply([rules[name]], text)))
    return tuple(rows)


def make_job(
    task: Task,
    out: Path,
    seed: int,
    kind: str,
    trainer: str,
    *,
    steps: int,
    every: int,
    rate: float,
    directions: DirectionsConfig | None = None,
) -> TrainJob:
    """A training of `kind` (lora, svf) by `trainer` (grpo, sft): 8 prompts of 8 completions, or 16 answers, a step."""
    weights = WeightsConfig(
        method="svf" if kind == "svf" else trainer,  # type: ignore[arg-type]
        lora=LORA,
        grpo=GrpoConfig(steps=steps, prompts_per_step=8, generations=8, learning_rate=rate),
        sft=SftConfig(steps=steps, batch=16, learning_rate=rate),
        svf=SvfConfig(train=trainer, learning_rate=rate, directions=directions or DirectionsConfig()),  # type: ignore[arg-type]
        checkpoint_every=every,
    )
    return TrainJob(
        capability=f"{task.mark}-{task.operation}",
        examples=task.train,
        skill="",
        stages=plain(len(task.train)),
        grader=GRADER,
        model=MODEL,
        weights=weights,
        max_new_tokens=TOKENS,
        seed=seed,
        out=out,
        method=weights.method,
    )


def base(root: Path) -> LoadedModel:
    """The reference model, with its directions kept under `root`."""
    return load_base(MODEL, Path, root / ".cache")


def train(job: TrainJob, root: Path) -> TrainResult:
    """Train, or read back what was trained."""
    return build_trainer(job.method).train(job, lambda: base(root), lambda *_: None)


def backend(root: Path) -> TransformersBackend:
    """Answers of the reference model and of adapters on it."""
    return TransformersBackend(base(root), TransformersBackendConfig())


def scores(by: Backend, adapter: Adapter | None, rows: Sequence[Example]) -> list[float]:
    """1 or 0 for each row, answered greedily."""
    requests = [Request(row.prompt, seed=0) for row in rows]
    answers = by.generate(requests, Sampling(max_new_tokens=TOKENS), adapter)
    return [float(GRADER.grade(a.text, row).value) for a, row in zip(answers, rows, strict=True)]


def over_seeds(values: Sequence[float], sign: bool = False) -> str:
    """Mean over seeds with its 95 % interval (Student); one of scores, without a sign, ends where scores do."""
    plus = "+" if sign else ""
    if len(values) < 2:
        return f"{fmean(values):{plus}.3f}"
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    low, high = fmean(values) - half, fmean(values) + half
    if not sign:
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{fmean(values):{plus}.3f} [{low:{plus}.3f}, {high:{plus}.3f}]"


def numbers(adapter: Adapter) -> int:
    """Trained numbers of an adapter."""
    tensors: dict[str, Any] = read_tensors(adapter.path)
    return sum(int(t.numel()) for t in tensors.values())


def add_loras(folders: Sequence[Path], weights: Sequence[float], out: Path, base_fingerprint: str) -> Adapter:
    """sum of w_k B_k A_k as one LoRA: the matrices side by side, each expert's scaling and weight in its B. Exact, as PEFT's
    `cat` is without rank-stabilised scaling."""
    tensors = [read_tensors(folder) for folder in folders]
    configs = [read_config(folder) for folder in folders]
    joined: dict[str, Any] = {}
    for name in tensors[0]:
        dim = 0 if ".lora_A." in name else 1
        scaled = [
            found[name] if dim == 0 else found[name] * (w * _scaling(config))
            for w, found, config in zip(weights, tensors, configs, strict=True)
        ]
        joined[name] = torch.cat(scaled, dim=dim).contiguous()
    rank = sum(int(config["r"]) for config in configs)
    write_bytes(out / "adapter_model.safetensors", save(joined, metadata={"format": "pt"}))
    write_json(out / "adapter_config.json", configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False})
    write_manifest(out, base_fingerprint, {"method": "cat"})
    return inspect_adapter(out)


def _scaling(config: dict[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def run_and_print(
    about: str | None, run_seed: Callable[[int, Path], Any], report: Callable[[dict[int, Any]], str]
) -> None:
    """The command line of an experiment over seeds: `--seeds`, `--out`, and its table. `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("runs/experts"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(report({seed: run_seed(seed, args.out) for seed in seeds_of(args.seeds)}))
