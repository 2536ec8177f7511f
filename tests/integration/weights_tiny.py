"""Training jobs on the tiny random Llama: a grader that a random model can already earn something from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from backend_tiny import load_tiny, save_tiny

from hybrid.backends.loading import LoadedModel
from hybrid.capability.types import Example, Score
from hybrid.config.schema import DistillConfig, GrpoConfig, LoraConfig, ModelConfig, SftConfig, WeightsConfig
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.build import build_trainer
from hybrid.weights.schedule import plain

LORA = LoraConfig(rank=4, alpha=4)


class Letters:
    """The share of a completion's characters that are among the first thirteen letters; passes above one half."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.rows: list[str] = []

    def grade(self, completion: str, example: Example) -> Score:
        self.seen.append(completion)
        self.rows.append(example.id)
        value = sum(c in "abcdefghijklm" for c in completion) / max(len(completion), 1)
        return Score(value, value > 0.5)

    def fingerprint(self) -> str:
        return "letters"


class Constant(Letters):
    """Gives every completion the same value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def grade(self, completion: str, example: Example) -> Score:
        return Score(self.value, False)


def make_job(folder: Path, out: Path, method: str = "grpo", **changes: Any) -> TrainJob:
    """Eight rows, six steps, a checkpoint every second one. `grpo`, `sft`, `distill` and `weights` change those sections."""
    model = {"device": "cpu", "threads": 1, **changes.pop("model", {})}
    grpo = {
        "steps": 6,
        "prompts_per_step": 2,
        "generations": 4,
        "learning_rate": 1e-2,
        **changes.pop("grpo", {}),
    }
    sft = {"steps": 6, "batch": 4, "learning_rate": 1e-2, **changes.pop("sft", {})}
    distill = {"steps": 6, "batch": 4, "learning_rate": 1e-2, **changes.pop("distill", {})}
    weights = {"lora": LORA, "checkpoint_every": 2, **changes.pop("weights", {})}
    job = TrainJob(
        capability="letters",
        examples=tuple(
            Example(id=f"e{i}", prompt=f"{'xyz'[i % 3]}{i} =", reference="abc"[: 1 + i % 3]) for i in range(8)
        ),
        skill="",
        stages=plain(8),
        grader=Letters(),
        model=ModelConfig(path=str(folder), **model),
        weights=WeightsConfig(
            grpo=GrpoConfig(**grpo), sft=SftConfig(**sft), distill=DistillConfig(**distill), **weights
        ),
        max_new_tokens=6,
        seed=0,
        out=out,
        method=method,  # type: ignore[arg-type]
    )
    return dataclasses.replace(job, **changes)


def load(job: TrainJob) -> LoadedModel:
    """A fresh base for one training."""
    settings = job.model.model_dump(exclude={"path", "device", "threads"}, exclude_defaults=True)
    return load_tiny(Path(job.model.path), **settings)


def train(job: TrainJob, on_progress: Any = None) -> TrainResult:
    """Train with the job's method."""
    return build_trainer(job.method).train(job, lambda: load(job), on_progress or (lambda *_: None))


def interrupted(job: TrainJob, after: int) -> None:
    """Train until step `after` was logged, then stop as a killed process would: nothing of that step is saved."""

    def stop(step: int, _total: int, _metrics: dict[str, float]) -> None:
        if step == after:
            raise KeyboardInterrupt

    try:
        train(job, stop)
    except KeyboardInterrupt:
        return
    raise AssertionError("the job ended before it was interrupted")


def without_seconds(result: TrainResult) -> list[dict[str, float]]:
    """The history without wall time."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in result.history]


def hashes(result: TrainResult) -> list[tuple[int, str]]:
    """(step, sha256) of every candidate."""
    return [(step, adapter.sha256) for step, adapter in result.checkpoints]


__all__ = ["Constant", "Letters", "hashes", "interrupted", "load", "make_job", "save_tiny", "train", "without_seconds"]
