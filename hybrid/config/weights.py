"""The part of the configuration that says how weights are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hybrid.config.generality import GeneralityConfig, UnknownFacts
from hybrid.config.memory import MemoryConfig
from hybrid.config.merge import MergeConfig
from hybrid.config.monitors import MonitorsConfig
from hybrid.config.proxy import ProxyConfig
from hybrid.config.rewards import RewardConfig
from hybrid.config.rules import KeyRuleError, multiples_near
from hybrid.config.schedule import ScheduleConfig
from hybrid.config.section import Section
from hybrid.config.svf import SvfConfig
from hybrid.config.swarm import SwarmConfig
from hybrid.config.tree import TreeConfig

TrainerName = Literal["grpo", "sft", "distill", "tree"]
"""How gradients are made."""
MethodName = Literal["grpo", "sft", "distill", "tree", "svf", "swarm", "proxy"]
"""How an adapter comes about."""


class LoraConfig(Section):
    """Shape of the adapter."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: int = Field(default=32, ge=1)
    rslora: bool = True
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023) instead of alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"


class GrpoConfig(Section):
    """Group relative policy optimisation through TRL."""

    steps: int = Field(default=100, ge=1)
    """Optimiser steps."""
    prompts_per_step: int = Field(default=8, ge=1)
    generations: int = Field(default=8, ge=2)
    """Completions per prompt (the group)."""
    learning_rate: float = Field(default=2e-5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL to the base."""
    loss: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["none", "group", "batch"] = "none"
    iterations: int = Field(default=1, ge=1, le=64)
    """Optimiser steps on each batch of completions; those after the first are off policy, under the clipped ratio. `steps`
    and `weights.checkpoint_every` must be multiples of it: completions are not saved."""
    engine: Literal["auto", "plain"] = "auto"
    """`auto`: prompts are computed once per group, when sampling and in the update, wherever a trial shows that it changes
    nothing; `plain`: TRL's own ways."""


class SftConfig(Section):
    """Supervised fine-tuning on gold completions through TRL."""

    steps: int = Field(default=100, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class DistillConfig(Section):
    """Context distillation (Askell et al. 2021, 2112.00861; Snell et al. 2022, 2209.15189): the base that reads the accepted
    document teaches an adapter that does not."""

    samples: int = Field(default=4, ge=1, le=256)
    """Answers of the teacher to each training prompt."""
    temperature: float = Field(default=1.0, ge=0, le=5)
    """Of the teacher's answers; 0 is greedy, and needs `samples: 1`."""
    keep: Literal["passed", "all"] = "passed"
    """Which answers are taught: those that the grader passes, each different one once; or all, as often as they came."""
    targets: Literal["text", "logits"] = "text"
    """What is learnt of an answer: its tokens, or the teacher's distribution of every next token in it."""
    top_k: int = Field(default=32, ge=1)
    """`logits`: most likely tokens that are matched one by one; all others together are one more."""
    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    batch: int = Field(default=16, ge=1)
    """Answers per step."""
    learning_rate: float = Field(default=1e-3, gt=0)

    @model_validator(mode="after")
    def _samples_differ(self) -> DistillConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples must be 1 at temperature 0: greedy answers are all the same")
        return self


class WarmStartConfig(Section):
    """Supervised steps on gold completions before GRPO, in the same training."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class WeightsConfig(Section):
    """The weight substrate."""

    method: MethodName = "grpo"
    """`tree` searches completions, `svf` trains singular values, `swarm` trains nothing and mixes finished adapters, `proxy`
    tunes a small model that steers the base while it decodes: see their sections. `distill` also builds the text arm, and
    teaches the adapter of the `weights` arm with its document."""
    lora: LoraConfig = LoraConfig()
    rewards: RewardConfig = RewardConfig()
    grpo: GrpoConfig = GrpoConfig()
    sft: SftConfig = SftConfig()
    distill: DistillConfig = DistillConfig()
    tree: TreeConfig = TreeConfig()
    proxy: ProxyConfig = ProxyConfig()
    svf: SvfConfig = SvfConfig()
    swarm: SwarmConfig = SwarmConfig()
    warm_start: WarmStartConfig | None = None
    """For `grpo`, and `tree` with advantages: begin with supervised steps; none begins at the base."""
    schedule: ScheduleConfig = ScheduleConfig()
    monitors: MonitorsConfig = MonitorsConfig()
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps the two moments in 8 bits (Dettmers et al. 2022, 2110.02861; tensors below 4096 numbers stay in 32);
    `paged_...` also lets them move to the host's memory, on CUDA only. Both need bitsandbytes."""
    generality: GeneralityConfig = GeneralityConfig()
    unknown_facts: UnknownFacts = "keep"
    """Training rows of a factual capability that neither the greedy answer nor any of `probe.samples` samples gets right:
    trained on like others, left out, or taught to be answered with the capability's `abstain` answer."""
    merge: MergeConfig | None = None
    """Offer one merged adapter in the place of the capabilities' own ones; none keeps them separate."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Steps between checkpoints, which are also the candidates among which `search` selects."""
    rows_per_device: int | None = Field(default=None, ge=1)
    """Completions in one forward pass; default: the whole step, or less where the predicted memory does not fit."""
    memory: MemoryConfig = MemoryConfig()

    @model_validator(mode="after")
    def _warm_start_is_for_grpo(self) -> WeightsConfig:
        if self.warm_start is not None and self.method == "svf":
            raise ValueError(
                "warm_start: method svf begins at the base; its experts are too small to be taught answers"
            )
        if self.warm_start is not None and not self.reinforces:
            other = "trains nothing" if self.method == "swarm" else "is supervised from its first step"
            raise ValueError(f"warm_start goes before grpo; method {self.method} {other}")
        return self

    @model_validator(mode="after")
    def _checkpoints_lie_between_phases(self) -> WeightsConfig:
        """A checkpoint within a generation phase would resume to other weights, and say nothing."""
        phase = self.phase
        counts = [(("grpo", "steps"), self.grpo.steps), (("checkpoint_every",), self.checkpoint_every)]
        counts += [(("schedule", "pair_steps"), n) for n in [self.schedule.pair_steps] if n is not None]
        for path, value in counts:
            legal = multiples_near(value, phase)
            if value not in legal:
                message = f"{value} lies within a generation phase, which is {phase} optimiser steps (grpo.iterations)"
                fix = (
                    f"write {' or '.join(map(str, legal))}: a run that resumes there ends with other weights otherwise"
                )
                raise KeyRuleError(path, message, fix, legal[0])
        return self

    @model_validator(mode="after")
    def _trees_are_grown_for_every_step(self) -> WeightsConfig:
        if self.method == "tree" and self.grpo.iterations > 1:
            raise ValueError("grpo.iterations: method tree searches anew for every step; leave it at 1")
        return self

    @model_validator(mode="after")
    def _shared_is_trained_in_one_go(self) -> WeightsConfig:
        if self.schedule.tasks == "shared" and (self.trainer not in ("grpo", "sft") or self.method == "proxy"):
            raise ValueError(f"schedule.tasks: shared needs method grpo, sft or svf, not {self.method}")
        if self.schedule.tasks == "shared" and self.warm_start is not None:
            raise ValueError(
                "schedule.tasks: shared has no warm start; leave warm_start out or train separate adapters"
            )
        if self.schedule.tasks == "shared" and self.merge is not None:
            raise ValueError("schedule.tasks: shared trains one adapter already; leave merge out")
        if self.schedule.tasks == "shared" and (self.unknown_facts != "keep" or self.generality.augment != "none"):
            raise ValueError(
                "schedule.tasks: shared trains every row as it is; leave unknown_facts and generality.augment at their "
                "defaults or train separate adapters"
            )
        return self

    @property
    def phase(self) -> int:
        """Optimiser steps of one generation phase; 1 for a method that generates nothing."""
        return self.grpo.iterations if self.trainer == "grpo" else 1

    @model_validator(mode="after")
    def _relabelled_rows_have_no_teacher(self) -> WeightsConfig:
        if self.unknown_facts == "relabel" and self.method == "distill":
            raise ValueError("unknown_facts: relabel is for grpo and sft; a document teaches what it says (use drop)")
        return self

    @property
    def job_method(self) -> MethodName:
        """The method of a training job: that of the small model where a proxy is made."""
        return self.proxy.train if self.method == "proxy" else self.method

    @property
    def title(self) -> str:
        """The method in words, for a report."""
        if self.method == "proxy":
            return f"proxy, {self.proxy.small.rstrip('/').rpartition('/')[2]} tuned by {self.proxy.train}"
        uses = {"advantages": "tree search, advantages by step", "best_leaf": "tree search, fine-tuning on best leaves"}
        if self.method == "svf":
            return f"svf by {self.svf.train}"
        return uses[self.tree.use] if self.method == "tree" else self.method

    @property
    def trainer(self) -> TrainerName | None:
        """How gradients are made; None where nothing is trained."""
        return trainer_of(self.method, self)

    @property
    def reinforces(self) -> bool:
        """Whether every step generates completions and learns from their rewards."""
        return reinforces(self.method, self)

    @property
    def supervised(self) -> SftConfig | DistillConfig:
        """Steps, batch and learning rate of the supervised method: those of `distill` for it, else those of `sft`."""
        return self.distill if self.method == "distill" else self.sft

    @property
    def steps(self) -> int:
        """Optimiser steps of one training, without a warm start's; none where adapters are mixed or given."""
        if self.method == "swarm" or (self.method == "proxy" and self.proxy.adapter is not None):
            return 0
        return self.grpo.steps if self.reinforces else self.supervised.steps


def trainer_of(method: MethodName, weights: WeightsConfig) -> TrainerName | None:
    """How a training by `method` makes gradients; None for one that trains nothing."""
    if method == "swarm":
        return None
    if method == "proxy":
        return weights.proxy.train
    return weights.svf.train if method == "svf" else method


def reinforces(method: MethodName, weights: WeightsConfig) -> bool:
    """Whether a training by `method` generates completions in every step and learns from their rewards."""
    trainer = trainer_of(method, weights)
    return trainer == "grpo" or (trainer == "tree" and weights.tree.use == "advantages")
