"""The data of a plan: frozen, JSON-able, every number with its meaning. No behaviour."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hybrid.pipeline.plan_cost import Calls, Estimate
from hybrid.pipeline.plan_memory import MemoryPlan


class StagePlan(BaseModel):
    """One stage of one capability. `calls` sums the rows; `tokens` counts in and out together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    rows: tuple[Calls, ...]
    calls: Estimate
    tokens: Estimate
    training_steps: Estimate
    training_completions: Estimate


class Detectable(BaseModel):
    """What the ship gate can show at one level.

    `effect` is the smallest gain found with the configured power (None: not measurable at this size); `power` the
    chance that a true gain of the minimum effect is found; `needed` the `confirm` examples that would find it with
    that power.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    alpha: float
    effect: float | None
    power: float
    needed: int


class EvidencePlan(BaseModel):
    """The ship gate of one capability: alone at alpha, and in the worst case of the correction over `family` tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    confirm: int
    minimum_effect: float
    target_power: float
    family: int
    alone: Detectable
    worst_case: Detectable


class CapabilityPlan(BaseModel):
    """One capability: examples per split, stages in order, and what its evidence can show (None: nothing is built)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    splits: dict[str, int]
    stages: tuple[StagePlan, ...]
    evidence: EvidencePlan | None
    judge: Estimate | None = None
    """Requests to the model that grades its answers; None where none does."""


class Plan(BaseModel):
    """The whole run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    model: str
    capabilities: tuple[CapabilityPlan, ...]
    calls: Estimate
    tokens: Estimate
    training_steps: Estimate
    judge_calls: Estimate
    """Requests to all judges, apart from `calls`."""
    tokens_from: str
    memory: MemoryPlan
    warnings: tuple[str, ...]
