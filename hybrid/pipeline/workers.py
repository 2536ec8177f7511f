"""Several processes, one run: rank 0 leads, the others join its trainings.

Under `accelerate launch`, rank 0 runs the pipeline alone; every other rank waits for orders. An order is a small dict of
plain values (which capability, which arm, which text), broadcast to all ranks; each rank builds the same job from its
own copy of the configuration and data, and all of them enter the trainer together.

Does not: share measurements over ranks, or start processes.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

LONGEST_WAIT = timedelta(days=7)
"""How long a rank may wait for an order; a measurement on rank 0 can take hours."""


def rank() -> int:
    """This process's rank; 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes in this run; 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(cpu: bool) -> None:
    """Join the process group (nothing to do when alone)."""
    if world_size() == 1:
        return
    from accelerate import PartialState

    PartialState(cpu=cpu, timeout=LONGEST_WAIT)


def leave() -> None:
    """Leave the process group in order, so that no rank is left waiting."""
    if world_size() == 1:
        return
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def broadcast(order: dict[str, Any] | None) -> dict[str, Any]:
    """Rank 0 gives an order, every rank gets it. Alone, the order comes straight back."""
    if world_size() == 1:
        assert order is not None
        return order
    import torch.distributed as distributed

    box: list[Any] = [order]
    distributed.broadcast_object_list(box, src=0)
    received: dict[str, Any] = box[0]
    return received
