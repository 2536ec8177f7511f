"""Batch arithmetic: how one optimiser step is cut into forward passes, and where a checkpoint may lie.

One generation phase is `grpo.iterations` optimiser steps: `steps_per_generation` equals the gradient accumulation. A
checkpoint within a phase would resume to other weights without an error, because the trainer's buffer of rollouts is not
saved. So checkpoints lie on boundaries alone: the schema refuses other settings, and `resumable` what lies there anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.errors import ConfigError, Problem


@dataclass(frozen=True)
class BatchPlan:
    """`per_device` rows in a forward pass, `accumulation` passes per optimiser step, on `processes` processes."""

    per_device: int
    accumulation: int
    processes: int

    @property
    def rows(self) -> int:
        """Rows behind one optimiser step."""
        return self.per_device * self.accumulation * self.processes


def plan_batches(rows: int, processes: int, rows_per_device: int | None) -> BatchPlan:
    """Cut `rows` per step over `processes` into equal passes of at most `rows_per_device` (none: one pass).

    The optimiser step sees the same rows whatever the cut. Raises ConfigError when the rows do not divide.
    """
    local, rest = divmod(rows, processes)
    if rest:
        message = f"{rows} rows per step cannot be shared equally by {processes} processes"
        fix = f"make prompts_per_step * generations (grpo) or batch (sft) a multiple of {processes}"
        raise ConfigError([Problem("config", 0, "weights", message, fix)])
    most = min(rows_per_device or local, local)
    per_device = next(size for size in range(most, 0, -1) if local % size == 0)
    return BatchPlan(per_device, local // per_device, processes)


def is_boundary(step: int, accumulation: int, steps_per_generation: int, iterations: int) -> bool:
    """Whether a new generation phase begins after optimiser step `step`: nothing is left in the buffer of rollouts."""
    return step * accumulation % (steps_per_generation * iterations) == 0


def resumable(step: int, iterations: int) -> bool:
    """Whether training may go on from a checkpoint of `step`, under plans whose phase is `iterations` steps."""
    return is_boundary(step, accumulation=1, steps_per_generation=1, iterations=iterations)


def checkpoint_steps(steps: int, every: int) -> tuple[int, ...]:
    """Steps whose checkpoints are candidates: multiples of `every`, and the last step."""
    return tuple(sorted({*range(every, steps + 1, every), steps}))
