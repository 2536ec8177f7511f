"""Many callers, one base: a thread that collects requests and answers them together.

    engine = Engine(model.backend, EngineLimits())
    ticket = engine.submit(prepared, deliver)      # deliver(event) is called in the engine's thread: Delta, Done, Failed
    ticket.cancel()                                # its row leaves the batch before the next token
    engine.close()                                 # what was submitted is answered first

Over a base in this process, rows with different adapters, settings and ages share passes, token by token
(`hybrid.backends.live`); a new request waits for the pass under way and, when nothing runs, for `window_s` so that those
who ask together are answered together. Other backends, adapters that work on logits and models whose attention cannot be
replaced get whole calls of `generate`, one group of equal adapter and settings after the other, and their answers come in
one piece. Only this thread uses the backend. Does not: speak HTTP, or know of stop texts and deadlines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hybrid.backends.base import Adapter, Backend, Completion
from hybrid.errors import AdapterError, BackendError, HybridError
from hybrid.serve.placed import Prepared

if TYPE_CHECKING:
    from hybrid.backends.live import LiveBatch, LiveRow


@dataclass(frozen=True)
class EngineLimits:
    """`rows` are answered at a time at most, `waiting` more may wait; `window_s` is how long the first of several waits."""

    rows: int = 64
    waiting: int = 256
    window_s: float = 0.004


@dataclass(frozen=True)
class Delta:
    """What a row has said since the last event; tokens of its prompt, and of its answer so far."""

    text: str
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Done:
    """The row has ended; the last event."""

    finish: Literal["stop", "length"]
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Failed:
    """The row cannot be answered; the last event."""

    error: HybridError


_ADMIT_EVERY = 2
"""Tokens after which rows that wait are let in, where fewer wait than are answered."""
Event = Delta | Done | Failed
Deliver = Callable[[Event], None]


class EngineBusy(HybridError):  # noqa: N818  # a limit that did its work, not a fault
    """As many requests as may wait are waiting."""


class EngineClosed(HybridError):  # noqa: N818  # a state, not a fault
    """The engine takes no more requests."""


@dataclass(eq=False)
class Ticket:
    """A request that was handed in. `cancel` may be called from any thread; no event follows the one being delivered."""

    prepared: Prepared
    deliver: Deliver
    row: LiveRow | None = None
    sent: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Nobody waits for this answer any more."""
        self.cancelled.set()

    def tell(self, event: Event) -> None:
        """Deliver, unless it was cancelled."""
        if not self.cancelled.is_set():
            self.deliver(event)


class Engine:
    """The thread. Raises EngineBusy and EngineClosed from `submit`; everything else comes as an event."""

    def __init__(self, backend: Backend, limits: EngineLimits | None = None, *, mixed: bool = True) -> None:
        """`mixed=False` gives every adapter a batch of its own."""
        self.limits = limits or EngineLimits()
        self._backend, self._mixed = backend, mixed
        self._waiting: deque[Ticket] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._lanes: dict[str, LiveBatch] = {}
        self._running: dict[str, list[Ticket]] = {}
        self._held = 0
        self._known: dict[str, str | None] = {}
        self._most_rows = self.limits.rows
        self.passes = 0
        """Passes over the model, or calls of `generate`, so far."""
        self._thread = threading.Thread(target=self._run, name="hybrid-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def load(self) -> tuple[int, int]:
        """Requests that are being answered, and that wait."""
        return sum(map(len, self._running.values())), len(self._waiting)

    def submit(self, prepared: Prepared, deliver: Deliver) -> Ticket:
        """Hand a request in; `deliver` is called in the engine's thread and must not block."""
        ticket = Ticket(prepared, deliver)
        with self._condition:
            if self._closing or not self.alive:
                raise EngineClosed("the engine takes no more requests")
            if len(self._waiting) >= self.limits.waiting:
                raise EngineBusy(f"{self.limits.waiting} requests are waiting already")
            self._waiting.append(ticket)
            self._condition.notify()
        return ticket

    def close(self, timeout_s: float | None = None) -> bool:
        """Take no more, answer what was handed in, and stop; True once the thread has ended."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self.alive

    def _run(self) -> None:
        try:
            while self._wait():
                if self._admits():
                    self._admit(self._take())
                for key in [key for key, tickets in self._running.items() if tickets]:
                    self._step(key)
        finally:  # whatever ended the thread: nobody waits for ever
            with self._condition:
                self._closing = True
            left = [t for tickets in self._running.values() for t in tickets] + list(self._waiting)
            for ticket in left:
                ticket.tell(Failed(BackendError("the engine stopped before this request was answered")))

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._condition:
            busy = any(self._running.values())
            while not busy and not self._waiting:
                if self._closing:
                    return False
                self._condition.wait()
            if not busy and self.limits.window_s > 0:  # the first of perhaps several that ask together
                until = time.monotonic() + self.limits.window_s
                while not self._closing and len(self._waiting) < self._most_rows:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._condition.wait(left)
        return True

    def _admits(self) -> bool:
        """Whether new rows enter before this token. Their prompts are a pass of their own, so that a few wait for one another."""
        running, waiting = self.load
        self._held += 1
        if running and self._held < _ADMIT_EVERY and waiting < running:
            return False
        self._held = 0
        return True

    def _take(self) -> list[Ticket]:
        """As many of those that wait as there is room for."""
        room = self._most_rows - sum(map(len, self._running.values()))
        taken: list[Ticket] = []
        with self._condition:
            while self._waiting and len(taken) < room:
                ticket = self._waiting.popleft()
                if not ticket.cancelled.is_set():
                    taken.append(ticket)
        return taken

    def _admit(self, tickets: Sequence[Ticket]) -> None:
        """Start what was taken: in a running batch where that is possible, else as a whole call."""
        whole: list[Ticket] = []
        lanes: dict[str, list[Ticket]] = {}
        for ticket in tickets:
            try:
                key = self._lane(ticket.prepared.adapter)
            except AdapterError as error:
                ticket.tell(Failed(error))
                continue
            if key is None:
                whole.append(ticket)
            else:
                lanes.setdefault(key, []).append(ticket)
        for key, members in lanes.items():
            self._enter(key, members)
        self._generate(whole)

    def _lane(self, adapter: Adapter | None) -> str | None:
        """Which running batch an adapter's rows belong to; None where it has to be a whole call."""
        sha256 = adapter.sha256 if adapter else ""
        if sha256 not in self._known:
            self._known[sha256] = self._find_lane(adapter)
        return self._known[sha256]

    def _find_lane(self, adapter: Adapter | None) -> str | None:
        can = getattr(self._backend, "can_share", None)
        if can is None or not can():
            return None
        from hybrid.backends import live

        if not live.streams(adapter):
            return None
        key = live.lane(adapter)
        return (adapter.sha256 if adapter else "") if key == live.MIXED and not self._mixed else key

    def _enter(self, key: str, tickets: list[Ticket]) -> None:
        """Let rows into their batch. One that cannot be answered does not keep the others out."""
        from hybrid.backends import live

        backend: Any = self._backend
        batch = self._lanes.get(key)
        if batch is None:
            shares = live.lane(tickets[0].prepared.adapter) == live.MIXED
            batch = self._lanes[key] = live.LiveBatch(backend, mixed=shares)
        asked = [
            live.LiveRequest(p.request, p.sampling, p.adapter, p.document, p.shrink)
            for p in (t.prepared for t in tickets)
        ]
        try:
            rows = batch.admit(asked)
        except HybridError as error:
            if len(tickets) == 1:
                tickets[0].tell(Failed(error))
            else:
                for ticket in tickets:
                    self._enter(key, [ticket])
            return
        self.passes += 1
        for ticket, row in zip(tickets, rows, strict=True):
            ticket.row = row
        self._running.setdefault(key, []).extend(tickets)
        self._tell(key)

    def _step(self, key: str) -> None:
        batch = self._lanes[key]
        left = [t for t in self._running[key] if t.cancelled.is_set()]
        if left:
            batch.drop([t.row for t in left if t.row is not None])
            self._running[key] = [t for t in self._running[key] if not t.cancelled.is_set()]
        try:
            if batch.rows:
                batch.step()
                self.passes += 1
        except HybridError as error:  # these rows are lost; fewer are let in from now on, in case it was the memory
            for ticket in self._running.pop(key):
                ticket.tell(Failed(error))
            del self._lanes[key]
            self._most_rows = max(1, self._most_rows // 2)
            return
        self._tell(key)

    def _tell(self, key: str) -> None:
        """Deliver what is new of every row of a batch; those that ended are forgotten."""
        going = []
        for ticket in self._running[key]:
            row = ticket.row
            if row is None:
                continue
            if len(row.text) > ticket.sent:
                ticket.tell(Delta(row.text[ticket.sent :], row.tokens_in, row.tokens_out))
                ticket.sent = len(row.text)
            if row.finish is None:
                going.append(ticket)
            else:
                ticket.tell(Done(row.finish, row.tokens_in, row.tokens_out))
        self._running[key] = going

    def _generate(self, tickets: Sequence[Ticket]) -> None:
        """Whole answers, one call per group of equal adapter and settings."""
        groups: dict[tuple[str, str], list[Ticket]] = {}
        for ticket in tickets:
            p = ticket.prepared
            groups.setdefault((p.adapter.sha256 if p.adapter else "", p.sampling.model_dump_json()), []).append(ticket)
        for members in groups.values():
            self._call(members)

    def _call(self, tickets: list[Ticket]) -> None:
        first = tickets[0].prepared
        try:
            found = self._backend.generate([t.prepared.request for t in tickets], first.sampling, first.adapter)
        except HybridError as error:
            if len(tickets) == 1:
                tickets[0].tell(Failed(error))
            else:
                for ticket in tickets:
                    self._call([ticket])
            return
        self.passes += 1
        for ticket, completion in zip(tickets, found, strict=True):
            _whole(ticket, completion)


def _whole(ticket: Ticket, completion: Completion) -> None:
    if completion.text:
        ticket.tell(Delta(completion.text, completion.tokens_in, completion.tokens_out))
    ticket.tell(Done(completion.finish, completion.tokens_in, completion.tokens_out))
