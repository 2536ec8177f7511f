"""Who answers a conversation: the `ChatModel` protocol and the plain data that crosses it.

Proposers of edits and judges of open-ended answers ask a chat model; it may be an endpoint, the target model itself or a
recording (`endpoint`, `chat_target`, `chat_log`). Does not: know what is asked, or parse what comes back.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from hybrid.capability.types import Message


class ChatRequest(BaseModel):
    """One question. `purpose` names the step that asks (for ledgers and recordings); `reply_schema` is the JSON schema
    of the wanted reply, for endpoints that can be held to one, and None where free text is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    purpose: str
    messages: tuple[Message, ...]
    reply_schema: dict[str, Any] | None = None
    max_tokens: int = Field(default=2048, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    seed: int = 0

    def key(self, identity: str) -> str:
        """sha256 (hex) of the question and of who is asked: equal keys mean that a stored reply may stand in."""
        content = json.dumps({"who": identity, "what": self.model_dump(mode="json")}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class ChatReply(BaseModel):
    """What came back, and what it cost. `attempts` counts tries, failed ones included; `seconds` is their wall time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str
    tokens_in: int = Field(ge=0)
    tokens_out: int = Field(ge=0)
    seconds: float = Field(default=0.0, ge=0.0)
    attempts: int = Field(default=1, ge=1)
    finish: Literal["stop", "length"] = "stop"
    served: str = ""
    """What the server says that answered (its `model` and `system_fingerprint`), where it says so."""


class ChatModel(Protocol):
    """Answers conversations.

    `complete` returns one reply, or raises `EndpointError` when none can be had (after the retries that make sense) and
    `BudgetExhausted` when a limit leaves nothing to pay it with. The text of a reply is hostile input. `identity` is a
    stable string of everything that a reply depends on besides the request (where, which model); it holds no secret.
    """

    def complete(self, request: ChatRequest) -> ChatReply:
        """One reply to one request."""
        ...

    def identity(self) -> str:
        """Who answers."""
        ...
