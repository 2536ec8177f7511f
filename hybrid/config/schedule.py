"""The part of the configuration that says in which order weights are trained: rows within a task, and tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybrid.config.section import Identifier, Section

TaskOrder = Literal["structured", "transfer"] | tuple[Identifier, ...]


class ScheduleConfig(Section):
    """Order of training rows within a capability, or of capabilities that share one adapter."""

    stages: Literal["none", "structured_first"] = "none"
    """`structured_first` trains on rows of low base entropy first, in `count` stages."""
    count: int = Field(default=2, ge=2, le=8)
    tasks: Literal["separate", "shared"] = "separate"
    """`shared` trains one adapter for all capabilities that want one, task after task and, beside it, all mixed; the better of
    both goes on. A task then has as many steps as a training of its own."""
    order: TaskOrder = "structured"
    """`shared`: tasks by ascending answer entropy; by measured backward transfer where it is asymmetric beyond its error; or
    a list of all capabilities in the order to train them."""
    pair_steps: int | None = Field(default=None, ge=1)
    """`transfer`: steps of each of the T + T(T-1) trainings that measure it; default: as many as a task has."""
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """`shared`: share of rows of earlier tasks in every later stage. The order by transfer replays none: its matrix was
    measured without."""
    entropy_rows: int = Field(default=32, ge=2)
    """`shared`: training rows per task on which the answer entropy is measured, `probe.samples` answers each."""

    @model_validator(mode="after")
    def _one_kind_of_stage(self) -> ScheduleConfig:
        if self.tasks == "shared" and self.stages != "none":
            raise ValueError(
                "tasks: shared makes a stage of every task; leave stages: none, or train separate adapters"
            )
        if not isinstance(self.order, str) and len(set(self.order)) != len(self.order):
            raise ValueError("order names a capability twice")
        defaults = type(self).model_fields
        unread = ["order", "pair_steps", "replay", "entropy_rows"] if self.tasks == "separate" else []
        unread += ["pair_steps"] if self.order != "transfer" else []
        for name in unread:
            if getattr(self, name) != defaults[name].default:
                needed = "tasks: shared" if self.tasks == "separate" else "order: transfer"
                raise ValueError(f"{name} is read with {needed} alone; leave it out, or write {needed}")
        return self
