"""Task order in the report: what was measured before tasks shared an adapter, what the order was, and whether it helped.

Does not: measure or draw (see `order_text`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.report.parts import Count, Delta, Effect, Estimate, Part, Share, Text


class OrderPoint(Part):
    """One point of a shared training: before it (`after` null, step 0) or after the stage of a task.

    Per task the mean answer entropy in nats (of sampled answers to training rows) and the score on `search`.
    """

    after: Text | None
    step: Count
    entropy: dict[Text, Estimate]
    accuracy: dict[Text, Estimate]


class TaskForecast(Part):
    """One task's score on `search` at the end of the ordered and of the mixed training. `predicted` needs the matrix."""

    predicted: Estimate | None
    actual: Estimate | None
    joint: Estimate | None


class Schedule(Part):
    """Several capabilities in one adapter: their order, backward transfer, predicted and actual scores, and the choice.

    `backward_transfer[i][j]` is what training on j, after i, does to i. `predicted` and `actual` are means over tasks at
    the end of the ordered training, on `search`.
    """

    order: tuple[Text, ...]
    backward_transfer: dict[Text, dict[Text, Effect]]
    predicted: Estimate | None
    actual: Estimate | None
    arm: Text = ""
    by: Literal["structured", "transfer", "given"] | None = None
    why: Text = ""
    steps: Count = 0
    """Optimiser steps of the ordered training, and of the mixed one."""
    pair_steps: Count | None = None
    """Steps of each training that measured the matrix; null where there is none."""
    replay: Share | None = None
    """Share of earlier tasks' rows in every later stage."""
    points: tuple[OrderPoint, ...] = ()
    joint: OrderPoint | None = None
    """The end of the mixed training."""
    tasks: dict[Text, TaskForecast] = Field(default={})
    helped: Delta | None = None
    """Ordered minus mixed training, each at its selected checkpoint: paired on `search`, every task counting the same."""
    chosen: Literal["ordered", "joint"] | None = None
    reason: Text = ""
    others: tuple[Schedule, ...] = ()
    """Where both kinds of adapter were built (`router.counterfactual`), the second shared training."""
