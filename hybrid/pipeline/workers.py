"""Several processes, one run: rank 0 leads, the others do what it orders.

Under a launcher (`accelerate launch`, `torchrun`), rank 0 runs the pipeline; every other rank waits for orders. An order
is a small dict of plain values, broadcast to all ranks: a training that all enter together, or a list of requests of
which each generates its part (see `sharded`). Orders and answers travel over groups of their own on the CPU, so
that a rank may wait for days between orders while a rank that owes an answer has hours at most.

Does not: know what an order means, or start or restart processes: launchers do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from hybrid import errors
from hybrid.errors import BackendError, HybridError, UsageError

LONGEST_WAIT = timedelta(days=7)
"""How long a rank may wait for an order; what rank 0 does alone (an endpoint's answers, graders) can take hours."""
STEP_WAIT = timedelta(hours=2)
"""How long a rank may wait for the others within a training."""


class _Team:
    """The groups of this process, and whether the others can still be told anything."""

    orders: Any = None
    answers: Any = None
    answer_wait = timedelta(hours=1)
    listening = True


_team = _Team()


def rank() -> int:
    """This process's rank; 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes in this run; 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_launch(environment: Mapping[str, str]) -> None:
    """Raise UsageError for a launcher's settings under which a guard of hybrid would not hold.

    DeepSpeed ZeRO: the optimiser's state goes into folders that a committed checkpoint does not hash, and an adapter's
    tensors are parts on each process. FSDP2 has a way of its own (`weights.shard`).
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1", "yes"):
        raise UsageError(
            "the launcher asks for DeepSpeed, which hybrid does not support. Launch with configs/accelerate/fsdp2.yaml, which "
            "splits the base of a training, or with configs/accelerate/multi-gpu-ddp.yaml"
        )


def join(device: str, answer_s: float) -> None:
    """Join the process group (nothing to do when alone). `device` computes, `cpu` or `cuda`; every process takes the GPU
    of its local rank. An answer may take `answer_s` seconds. Raises BackendError and UsageError for a launch that
    cannot work.
    """
    refuse_launch(os.environ)
    if world_size() == 1:
        return
    import torch
    import torch.distributed as distributed
    from accelerate import PartialState

    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise BackendError(
                f"process {rank()} has no GPU of its own: {torch.cuda.device_count()} are visible on this machine; "
                "start one process per GPU (num_processes)"
            )
        torch.cuda.set_device(local)
    PartialState(cpu=device == "cpu", timeout=STEP_WAIT)
    _team.orders = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    _team.answer_wait = timedelta(seconds=answer_s)
    _team.answers = distributed.new_group(backend="gloo", timeout=_team.answer_wait)
    _team.listening = True


def leave() -> None:
    """Leave the process group in order, so that no rank is left waiting."""
    if world_size() == 1:
        return
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def broadcast(order: dict[str, Any] | None) -> dict[str, Any]:
    """Rank 0 gives an order, every rank gets it. Alone, the order comes straight back.

    Raises BackendError when another process is gone.
    """
    if world_size() == 1:
        assert order is not None
        return order
    import torch.distributed as distributed

    box: list[Any] = [order]
    try:
        distributed.broadcast_object_list(box, src=0, group=_team.orders, device=_cpu())
    except RuntimeError as error:
        raise _lost(error) from error
    received: dict[str, Any] = box[0]
    return received


def gather(answer: Any) -> list[Any]:
    """Every rank gives an answer; rank 0 gets all of them by rank, the others an empty list.

    Raises BackendError naming the ranks that did not answer in time or are gone.
    """
    if world_size() == 1:
        return [answer]
    import torch.distributed as distributed

    box: list[Any] = [None] * world_size() if rank() == 0 else []
    try:
        # A gather alone would say that time ran out, not whose. The barrier does not take the group's own limit.
        distributed.monitored_barrier(group=_team.answers, timeout=_team.answer_wait, wait_all_ranks=True)
        distributed.gather_object(answer, box if rank() == 0 else None, dst=0, group=_team.answers)
    except RuntimeError as error:
        raise _lost(error) from error
    return box


@contextmanager
def leading() -> Iterator[None]:
    """Rank 0 leads inside. The others are released at the end, and told of the error that ended it, which they raise too.

    Not where they may be inside a training, and not where one of them is gone: the launcher ends them then, when this
    process exits.
    """
    try:
        yield
    except HybridError as error:
        if world_size() > 1 and _team.listening:
            broadcast({"kind": "failed", **described(error)})
        raise
    broadcast({"kind": "stop"})


@contextmanager
def together() -> Iterator[None]:
    """All ranks are in one training inside: an error that leaves it may be this rank's alone."""
    _team.listening = False
    try:
        yield
    except errors.TrainingError:
        _team.listening = True  # raised on every rank alike
        raise
    _team.listening = True


def described(error: HybridError) -> dict[str, str]:
    """An error as plain values, for `rebuilt` on another rank."""
    return {"error": type(error).__name__, "message": str(error)}


def rebuilt(data: dict[str, str], where: str = "") -> HybridError:
    """The error that `described` was given, of its class where that takes a sentence; `where` names its process."""
    kind = getattr(errors, data["error"], BackendError)
    if not (isinstance(kind, type) and issubclass(kind, HybridError)) or issubclass(kind, errors.ProblemsError):
        kind = errors.UsageError if kind in (errors.ConfigError, errors.DataError) else BackendError
    return kind(f"{where}{data['message']}")


def _lost(error: RuntimeError) -> BackendError:
    """A process died, hangs or took too long: nobody can be told anything any more."""
    _team.listening = False
    late = re.search(r"Ranks? ([\d, ]+) failed to pass", str(error))
    who = f"process {late[1].strip(', ')}" if late else "another process" if rank() == 0 else "process 0"
    first = next(iter(str(error).splitlines()), "")
    return BackendError(
        f"{who} gave no answer: it ended, hangs, or needs longer than {_team.answer_wait.total_seconds():.0f} s "
        f"(backend.share_timeout_s); what was paid for is kept, and the same command goes on ({first[:200]})"
    )


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
