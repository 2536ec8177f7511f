"""Replies that were paid for: stored before they are used, counted against hard limits, and played back.

    chat = LoggedChat(EndpointChat(config), folder / "replies.jsonl", config.budget)
    chat.complete(request)      # asked and stored; the same question after a restart costs nothing

Does not: talk to a model, or store a key: what it is given holds none.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hybrid.backends.chat import ChatModel, ChatReply, ChatRequest
from hybrid.config.schema import ProposerBudgetConfig
from hybrid.errors import BudgetExhausted, EndpointError, RunFolderError
from hybrid.store.atomic import canonical_json
from hybrid.store.records import RecordLog

BYTES_PER_TOKEN = 2
"""Fewest bytes per token that a prompt is expected to take; English takes about four."""
MESSAGE_TOKENS = 16
"""Room for what a chat template adds to a message."""


class StoredReply(BaseModel):
    """One line of the log. `usd` is what the reply cost at the prices of the day it was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    identity: str
    purpose: str
    request: ChatRequest
    reply: ChatReply
    usd: float = Field(ge=0)


class Spent(BaseModel):
    """What replies cost. `calls` counts replies, `attempts` also the tries that failed before them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    attempts: int = 0

    @classmethod
    def of(cls, stored: Iterable[StoredReply]) -> Spent:
        """The sum over stored replies, whatever their order."""
        rows = list(stored)
        return cls(
            calls=len(rows),
            tokens_in=sum(r.reply.tokens_in for r in rows),
            tokens_out=sum(r.reply.tokens_out for r in rows),
            usd=math.fsum(r.usd for r in rows),
            attempts=sum(r.reply.attempts for r in rows),
        )


class LoggedChat:
    """A `ChatModel` that pays for no question twice and never goes beyond `budget`, over any number of restarts.

    A question whose key is stored is answered from `path`. Any other is checked against the limits first, with the most
    that it may cost, over everything stored, and raises BudgetExhausted when a limit could be passed; the reply is on
    disk before it is returned. A request that ends in an error is not counted: nothing is known of its cost. One
    question at a time, from any thread; one instance per file at a time (the run folder's lock sees to processes).
    Raises RunFolderError for a damaged file; a torn last line is cut off and its question asked again.
    """

    def __init__(
        self, inner: ChatModel, path: Path, budget: ProposerBudgetConfig, section: str = "skill.proposer"
    ) -> None:
        self._inner, self._section = inner, section
        self._budget = budget
        self._log = RecordLog(path)
        self._lock = threading.Lock()
        self._log.repair()
        self._stored = {entry.key: entry for entry in _read(self._log)}

    def identity(self) -> str:
        """Who answers: the inner model."""
        return self._inner.identity()

    def complete(self, request: ChatRequest) -> ChatReply:
        """The stored reply, or a new one, stored."""
        identity = self._inner.identity()
        key = request.key(identity)
        with self._lock:
            known = self._stored.get(key)
            if known is not None:
                return known.reply
            check(self.spent(), request, self._budget, self._section)
            reply = self._inner.complete(request)
            entry = StoredReply(
                key=key, identity=identity, purpose=request.purpose, request=request, reply=reply,
                usd=price(self._budget, reply.tokens_in, reply.tokens_out),
            )  # fmt: skip
            self._log.append([entry.model_dump(mode="json")])
            self._stored[key] = entry
            return reply

    def spent(self) -> Spent:
        """The total over everything stored."""
        return Spent.of(self._stored.values())

    def by_purpose(self) -> dict[str, Spent]:
        """The totals of each purpose, by name."""
        rows = list(self._stored.values())
        return {name: Spent.of(r for r in rows if r.purpose == name) for name in sorted({r.purpose for r in rows})}


class ReplayChat:
    """A `ChatModel` that only repeats a recording, the log of another run.

    A question is found by its purpose, messages, reply schema and seed; who answered it, and at which temperature and
    length, is the recording's affair. Of several recorded replies to one question the first counts. Raises EndpointError
    for a missing file and for a question that was not recorded, RunFolderError for a damaged file. Nothing is written.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise EndpointError(f"{path}: there is no such recording; skill.proposer.path must name a file of replies")
        self._path = path
        self._replies: dict[str, ChatReply] = {}
        for entry in _read(RecordLog(path)):
            self._replies.setdefault(question(entry.request), entry.reply)

    def identity(self) -> str:
        """The content of the recording; where the file lies does not count."""
        content = canonical_json({key: reply.model_dump(mode="json") for key, reply in self._replies.items()})
        return f"replay {hashlib.sha256(content.encode()).hexdigest()}"

    def complete(self, request: ChatRequest) -> ChatReply:
        """The recorded reply."""
        reply = self._replies.get(question(request))
        if reply is None:
            last = request.messages[-1].content[:80] if request.messages else ""
            raise EndpointError(
                f"{self._path}: no reply to this question of {request.purpose!r} was recorded: {last!r}; "
                "record it again with the proposer that answers it"
            )
        return reply


def question(request: ChatRequest) -> str:
    """sha256 (hex) of what is asked, without who is asked and how the reply is sampled."""
    content = request.model_dump(mode="json", include={"purpose", "messages", "reply_schema", "seed"})
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def price(budget: ProposerBudgetConfig, tokens_in: int, tokens_out: int) -> float:
    """Money for so many tokens, in US dollars."""
    return (tokens_in * budget.usd_per_million_in + tokens_out * budget.usd_per_million_out) / 1e6


def most_tokens_in(request: ChatRequest) -> int:
    """Tokens that the question will hardly exceed: half a token per byte, about twice what English takes."""
    schema = canonical_json(request.reply_schema) if request.reply_schema is not None else ""
    texts = [*(m.content for m in request.messages), schema]
    return sum(len(text.encode()) // BYTES_PER_TOKEN + MESSAGE_TOKENS for text in texts)


def check(spent: Spent, request: ChatRequest, budget: ProposerBudgetConfig, section: str = "skill.proposer") -> None:
    """Raise BudgetExhausted unless the dearest reply to `request` still fits every limit of `budget` of `section`."""
    tokens_in = most_tokens_in(request)
    tokens, used = tokens_in + request.max_tokens, spent.tokens_in + spent.tokens_out
    dearest = price(budget, tokens_in, request.max_tokens)
    if budget.calls is not None and spent.calls >= budget.calls:
        raise _exhausted(section, "calls", f"{spent.calls} of {budget.calls} calls are used")
    if budget.tokens is not None and used + tokens > budget.tokens:
        raise _exhausted(
            section, "tokens", f"{used} of {budget.tokens} tokens are used and the next call may take {tokens}"
        )
    if budget.usd is not None and spent.usd + dearest > budget.usd:
        raise _exhausted(
            section, "usd", f"{spent.usd:.6g} of {budget.usd:g} are spent and the next call may cost {dearest:.6g}"
        )


def _exhausted(section: str, limit: str, facts: str) -> BudgetExhausted:
    return BudgetExhausted(f"{section}.budget.{limit}: {facts}; raise it and give the same command to go on")


def stored_replies(path: Path) -> tuple[StoredReply, ...]:
    """Every reply of a log, in order. Raises RunFolderError for a damaged file."""
    return tuple(_read(RecordLog(path)))


def _read(log: RecordLog) -> Iterable[StoredReply]:
    for number, record in enumerate(log.read(), start=1):
        try:
            yield StoredReply(**record)
        except ValidationError as error:
            raise RunFolderError(
                f"{log.path}:{number}: this record is no reply ({error.errors(include_url=False)[0]['msg']}); "
                "restore the file from a copy, or start over with --fresh"
            ) from None
