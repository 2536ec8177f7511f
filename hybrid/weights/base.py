"""What a weight trainer is asked and what it answers.

Does not: train, touch disk or import torch. `hybrid.weights.grpo`, `sft` and `distill` hold the trainers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hybrid.backends.base import Adapter
from hybrid.capability.types import Example, Grader
from hybrid.config.schema import DistillConfig, ModelConfig, SftConfig, WeightsConfig
from hybrid.config.weights import MethodName, TrainerName, reinforces, trainer_of
from hybrid.weights.monitors import Alarm

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel

Method = MethodName
Progress = Callable[[int, int, dict[str, float]], None]
"""(step, total steps, metrics of that step); called after every optimiser step, on the main process."""


@dataclass(frozen=True)
class Task:
    """One capability's part of a shared job: examples `first` to `first + rows - 1`, and the text read before them."""

    capability: str
    skill: str
    first: int
    rows: int


@dataclass(frozen=True)
class TrainJob:
    """One adapter to train.

    `examples` are training rows; `stages` holds indices into them, trained in this order, one stage meaning plain
    training. `skill` is the text that the model reads before every prompt (may be empty). `out` is a folder of this
    job alone: checkpoints, adapters and the result live there; the same job on it goes on where it stopped.

    For `distill` every example's gold completion is an answer of the teacher, an example with several answers is there
    several times, and `teacher` is the document that the teacher read before its prompts.

    A shared job trains one adapter for several capabilities: `tasks` says whose rows are whose and which text each task
    reads (`skill` is then unused), `grader` judges an example as its own task's grader does (see `tasks`). `stage_steps`
    are the optimiser steps of each stage; without them stages share the configured steps by their rows. `start` is the
    adapter that the training goes on from, with a fresh optimiser; none begins at the base.
    """

    capability: str
    examples: tuple[Example, ...]
    skill: str
    stages: tuple[tuple[int, ...], ...]
    grader: Grader
    model: ModelConfig
    weights: WeightsConfig
    max_new_tokens: int
    seed: int
    out: Path
    method: Method
    teacher: str = ""
    tasks: tuple[Task, ...] = ()
    stage_steps: tuple[int, ...] = ()
    start: Adapter | None = None
    strict: bool = False
    fork: Path | None = None

    def skill_of(self, row: int) -> str:
        """The text that the model reads before the prompt of example `row`: its task's own in a shared job."""
        return next((task.skill for task in self.tasks if task.first <= row < task.first + task.rows), self.skill)

    @property
    def reinforces(self) -> bool:
        """Whether every step generates completions and learns from their rewards."""
        return reinforces(self.method, self.weights)

    @property
    def trainer(self) -> TrainerName:
        """How gradients are made."""
        found = trainer_of(self.method, self.weights)
        assert found is not None, "a job trains"
        return found

    @property
    def learning_rate(self) -> float:
        """Of the job's optimiser, at its start."""
        if self.method == "svf":
            return self.weights.svf.learning_rate
        return self.weights.grpo.learning_rate if self.reinforces else self.supervised.learning_rate

    @property
    def supervised(self) -> SftConfig | DistillConfig:
        """Steps, batch and learning rate of a supervised job."""
        return self.weights.distill if self.method == "distill" else self.weights.sft

    @property
    def steps(self) -> int:
        """Optimiser steps of the job, without those of a warm start."""
        if self.stage_steps:
            return sum(self.stage_steps)
        return self.weights.grpo.steps if self.reinforces else self.supervised.steps

    @property
    def iterations(self) -> int:
        """Optimiser steps of one generation phase; 1 where nothing is generated."""
        return self.weights.grpo.iterations if self.trainer == "grpo" else 1

    @property
    def rows_per_step(self) -> int:
        """Sequences behind one optimiser step over all processes: completions where rewards teach, given answers otherwise."""
        grpo = self.weights.grpo
        return grpo.prompts_per_step * grpo.generations if self.reinforces else self.supervised.batch


@dataclass(frozen=True)
class MemoryFacts:
    """Memory that a training added to a process that held its base, in MiB, and the rows in one forward pass.

    `predicted_mib` is None where the model's dimensions are not known, `measured_mib` where the system does not tell.
    """

    rows_per_device: int
    predicted_mib: int | None
    measured_mib: int | None

    @property
    def surprise(self) -> str:
        """One sentence when the two differ by more than 2 times and 256 MiB, else empty."""
        predicted, measured = self.predicted_mib, self.measured_mib
        if predicted is None or measured is None or abs(predicted - measured) <= _UNREMARKABLE_MIB:
            return ""
        if predicted <= 2 * measured and measured <= 2 * predicted:
            return ""
        return f"training took {measured:,} MiB beside its base, {predicted:,} were predicted"


_UNREMARKABLE_MIB = 256
"""Libraries that are loaded on the way, and what an allocator keeps, explain a difference up to this."""


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    `checkpoints` are (step, adapter) in step order, the final one last: the candidates among which `search` selects.
    They are empty when no gradient ever flowed, because every adapter is then what the job began with; `note` says so.
    `seconds` are wall seconds in optimiser steps that count (work lost to a kill is not in it), `completions` the
    generated ones, `tokens_in` and `tokens_out` tokens read and generated over all processes. A warm start counts in
    `seconds` and `tokens_in`, and its adapter is the checkpoint of step 0. `history` has one entry per step, a warm
    start's left out, with finite numbers only: step, loss, grad_norm, entropy, seconds, and for GRPO reward, reward_std,
    frac_reward_zero_std (share of groups without reward variance), clipped_ratio, mean_length, kl when beta > 0 or a
    monitor asks for it, the figures of `hybrid.weights.observe`, those of `hybrid.weights.tree` (tree/..., critic/...) where
    completions were searched (a search before training stands in the entry of step 1), and `alarm/NAME` at the step of an
    alarm. `alarms` are those of the monitors; checkpoints that a rollback took back are not among `checkpoints`. `memory`
    is of this training without a warm start; None when an earlier version trained it. `remarks` are for the report:
    damaged checkpoints that were passed over, and what was carried over from another run. `warnings` say which fast way of
    the engine was not used, and why.
    """

    checkpoints: tuple[tuple[int, Adapter], ...]
    steps: int
    seconds: float
    completions: int
    tokens_in: int
    tokens_out: int
    history: tuple[dict[str, float], ...]
    note: str
    alarms: tuple[Alarm, ...] = ()
    memory: MemoryFacts | None = None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class WeightTrainer(Protocol):
    """Trains an adapter.

    `train` is deterministic given the job, the base model and the machine; killed anywhere and called again it ends
    with the same bytes (bit for bit on a CPU). A finished job returns its recorded result without loading a model.
    `load` gives a base model of the trainer's own: it is changed and must not be shared with a backend. Under several
    processes every process calls `train` with the same job, the first one writes, and all return the same result.

    SIGINT and SIGTERM end it at the next generation boundary, with a checkpoint there, and raise KeyboardInterrupt; a second
    signal does not wait.

    Raises ConfigError for settings that cannot be trained, RunFolderError when `job.out` holds another job, and
    TrainingError for a non-finite reward, loss or gradient (before the weights move) or a policy that is not the
    adapted model.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """Train `job` to its end, or return what an earlier call finished."""
        ...
