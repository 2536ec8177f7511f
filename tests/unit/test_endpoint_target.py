"""The target model as a chat model: what it reads, how long it may answer, and who it says it is."""

from __future__ import annotations

import pytest
from fakes import FINGERPRINT, FakeBackend

from hybrid.backends.base import Sampling
from hybrid.backends.chat import ChatRequest
from hybrid.backends.chat_target import TargetChat
from hybrid.capability.types import Message
from hybrid.errors import BackendError

TURNS = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))


class Listening(FakeBackend):
    """Remembers prompts and samplings as they came."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed, adapter: f"seed {seed}")
        self.heard: list[tuple[object, Sampling]] = []

    def generate(self, requests, sampling, adapter):  # type: ignore[no-untyped-def]
        """As the fake, after taking note."""
        assert adapter is None
        self.heard.append((requests[0].prompt, sampling))
        return super().generate(requests, sampling, adapter)


def test_a_chat_model_gets_the_messages_and_a_base_model_a_text() -> None:
    backend = Listening()
    request = ChatRequest(purpose="reflect", messages=TURNS, max_tokens=900, temperature=0.5, seed=3)
    reply = TargetChat(backend, True, 100).complete(request)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.attempts) == ("seed 3", 3, 3, 1)
    TargetChat(backend, False, 2000).complete(request)
    TargetChat(backend, False).complete(request.model_copy(update={"messages": TURNS[1:]}))
    assert [prompt for prompt, _ in backend.heard] == [
        TURNS,
        "System:\nBe brief.\n\nUser:\nWhy?\n\nAssistant:\n",
        "Why?",
    ]
    assert [(s.max_new_tokens, s.temperature) for _, s in backend.heard] == [(100, 0.5), (900, 0.5), (900, 0.5)]


def test_limits_of_sampling_bound_what_a_request_may_ask() -> None:
    backend = Listening()
    TargetChat(backend, True).complete(ChatRequest(purpose="p", messages=TURNS, max_tokens=10**6, temperature=9.0))
    assert backend.heard[0][1] == Sampling(max_new_tokens=32_768, temperature=5.0)


def test_identity_is_the_fingerprint_and_how_it_is_asked() -> None:
    backend = Listening()
    names = {TargetChat(backend, chat, cap).identity() for chat in (True, False) for cap in (10, 20)}
    assert len(names) == 4 and all(FINGERPRINT in name for name in names)


def test_errors_of_the_backend_pass_through() -> None:
    backend = Listening()
    backend.fail_at, backend.error = 1, BackendError("the prompt is too long")
    with pytest.raises(BackendError, match="too long"):
        TargetChat(backend, True).complete(ChatRequest(purpose="p", messages=TURNS))
