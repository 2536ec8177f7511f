"""One backend over all processes: rank 0 asks, every rank generates its part, rank 0 puts the parts in order.

    backend = ShardedBackend(own)                  # rank 0, as `Backend`
    serve(own, order)                              # every other rank, for each order of the kind `generate`

The parts are whole batches, cut as one process would cut them: a batch has the same rows and the same padding
whoever computes it, so that on a CPU the completions are those of one process to the bit. What this costs is that a call
of a single batch is one process's work: `backend.batch_size` decides how much there is to share. A backend that cuts no
batches (`scripted`, `vllm`) is asked for every n-th request; what it answers must not depend on the others.

An error on one rank is raised on rank 0 as the same class, with the process named, after all have answered; ranks stay
in step. Does not: touch the ledger or the store: a completion is counted where it is kept, on rank 0, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hybrid.backends.base import Adapter, Backend, Completion, ModelInfo, Request, Sampling
from hybrid.errors import BackendError, HybridError
from hybrid.pipeline import workers


@runtime_checkable
class Divisible(Protocol):
    """A backend whose answers depend, in rounding, on how a call is cut into batches.

    `batch_rows` is the most rows in a batch. `generate_part` answers the requests of every batch whose number leaves
    `part` when divided by `parts`, by place; over all parts each place is answered once, whatever `parts` is.
    """

    batch_rows: int

    def generate_part(
        self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None, part: int, parts: int
    ) -> dict[int, Completion]:
        """Completions by place in `requests`."""
        ...


@dataclass(frozen=True)
class _Answer:
    """What one rank did: completions by place, or its error; its batch size and warnings afterwards."""

    done: dict[int, Completion]
    error: dict[str, str] | None
    rows: int
    warnings: tuple[str, ...]


class ShardedBackend:
    """The `Backend` of rank 0 in a run of several processes. `rows` counts completions by rank."""

    def __init__(self, own: Backend) -> None:
        self.own = own
        self.rows = [0] * workers.world_size()
        self._warnings: list[str] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went other than configured, on any process; what only others met is said with their number."""
        own = tuple(getattr(self.own, "warnings", ()))
        return tuple(dict.fromkeys([*own, *(w for w in self._warnings if w.split(": ", 1)[1] not in own)]))

    def info(self) -> ModelInfo:
        """Facts of the base model; all processes were found to hold the same one."""
        return self.own.info()

    def count_tokens(self, text: str) -> int:
        """Number of the model's tokens in `text`, without special tokens."""
        return self.own.count_tokens(text)

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One completion per request, in the order asked, made by all processes. Raises as `Backend`, and BackendError
        when a process did not answer."""
        if len(requests) < 2:
            self.rows[0] += len(requests)
            return self.own.generate(requests, sampling, adapter)
        order = {
            "kind": "generate",
            "requests": tuple(requests),
            "sampling": sampling,
            "adapter": adapter,
            "rows": getattr(self.own, "batch_rows", 0),
        }
        workers.broadcast(order)
        return self._merge(workers.gather(_answer(self.own, order)), len(requests))

    def _merge(self, answers: Sequence[_Answer], count: int) -> list[Completion]:
        for rank, answer in enumerate(answers):
            self._warnings += [f"process {rank}: {w}" for w in answer.warnings if rank > 0]
        self._warnings = list(dict.fromkeys(self._warnings))
        if isinstance(self.own, Divisible):
            self.own.batch_rows = min(answer.rows for answer in answers)  # memory ran out somewhere
        # The first rank's error first: where all have the same one, it reads as in a run of one process.
        for rank, answer in enumerate(answers):
            if answer.error is not None:
                raise workers.rebuilt(answer.error, f"process {rank}: " if rank else "")
        done: dict[int, Completion] = {}
        for rank, answer in enumerate(answers):
            if done.keys() & answer.done.keys():
                raise BackendError(f"process {rank} answered requests of another process; start the run again")
            self.rows[rank] += len(answer.done)
            done |= answer.done
        if len(done) != count:
            raise BackendError(f"{count - len(done)} of {count} requests were answered by no process")
        return [done[place] for place in range(count)]


def serve(own: Backend, order: dict[str, Any]) -> None:
    """Generate this rank's part of an order and hand it to rank 0. Its errors are rank 0's to raise."""
    workers.gather(_answer(own, order))


def _answer(own: Backend, order: dict[str, Any]) -> _Answer:
    error, done = None, {}
    try:
        done = _part(own, order)
    except HybridError as raised:
        error = workers.described(raised)
    rows = own.batch_rows if isinstance(own, Divisible) else 0
    return _Answer(done, error, rows, tuple(getattr(own, "warnings", ())))


def _part(own: Backend, order: dict[str, Any]) -> dict[int, Completion]:
    requests, sampling, adapter = order["requests"], order["sampling"], order["adapter"]
    part, parts = workers.rank(), workers.world_size()
    if isinstance(own, Divisible):
        own.batch_rows = order["rows"]
        return own.generate_part(requests, sampling, adapter, part, parts)
    places = range(part, len(requests), parts)
    completions = own.generate([requests[place] for place in places], sampling, adapter) if places else []
    return dict(zip(places, completions, strict=True))
