"""The part of the configuration that says how singular value fine-tuning is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section


class DirectionsConfig(Section):
    """Which singular directions of every matrix are scaled."""

    keep: Literal["all", "top", "bottom", "spread"] = "all"
    """`top`: the greatest singular values, which make a LoRA of that rank exactly; `bottom`: the least; `spread`: evenly over
    all of them."""
    count: int | None = Field(default=None, ge=1)
    """How many, for every choice but `all`; a matrix with fewer has all of them scaled."""

    @model_validator(mode="after")
    def _counted(self) -> DirectionsConfig:
        if self.keep != "all" and self.count is None:
            raise ValueError(f"keep: {self.keep} needs a count of directions")
        if self.keep == "all" and self.count is not None:
            raise ValueError("keep: all takes no count; leave it out, or write top, bottom or spread")
        return self


class SvfConfig(Section):
    """Singular value fine-tuning (Transformer-squared, 2501.06252): one factor per singular value of a weight matrix, instead of
    new matrices. Steps, rows and rewards are those of `weights.grpo` (or `weights.sft`)."""

    train: Literal["grpo", "sft"] = "grpo"
    """`sft` is offered to be measured: experts this small are reported to fail under it."""
    target_modules: str | tuple[str, ...] = "all-linear"
    directions: DirectionsConfig = DirectionsConfig()
    learning_rate: float = Field(default=1e-2, gt=0)
    """Instead of that of `weights.grpo` or `weights.sft`: of factors, which are near 1, not of matrices."""
