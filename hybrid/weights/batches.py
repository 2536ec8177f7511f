"""Batch arithmetic: how one optimiser step is cut into forward passes, and where a checkpoint may lie.

One generation phase is one optimiser step: `steps_per_generation` equals the gradient accumulation and rollouts are
used once. A checkpoint within a phase would resume to other weights without an error, because the trainer's buffer of
rollouts is not saved; with this plan every step is a boundary, and `checkpoint_steps` checks it.
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


def checkpoint_steps(steps: int, every: int, plan: BatchPlan) -> tuple[int, ...]:
    """Steps at which checkpoints lie: multiples of `every` and the last step, all of them generation boundaries."""
    found = sorted({*range(every, steps + 1, every), steps})
    if not all(is_boundary(step, plan.accumulation, plan.accumulation, iterations=1) for step in found):
        raise AssertionError(f"a checkpoint of {found} lies within a generation phase")
    return tuple(found)
