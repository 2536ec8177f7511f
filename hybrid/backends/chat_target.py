"""The target model itself as a chat model: it is asked to improve the document that it reads.

Does not: log, budget or retry (see `chat_log`), or add an adapter: the bare base model answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.backends.base import Backend, Request, Sampling
from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.capability.types import Message

MAX_TEMPERATURE, MAX_NEW_TOKENS = 5.0, 32_768
"""What `Sampling` allows."""
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


class TargetChat:
    """A `ChatModel` over a `Backend`.

    With `chat` the model gets the messages; without, a plain rendering of the turns (`rendered`). `max_new_tokens` caps
    the tokens of a reply whatever a request asks for. A reply schema is not enforced. Errors are the backend's: a
    prompt beyond the model's context is a BackendError.
    """

    def __init__(self, backend: Backend, chat: bool, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        self._backend = backend
        self._chat = chat
        self._cap = min(max_new_tokens, MAX_NEW_TOKENS)

    def identity(self) -> str:
        """The base model's fingerprint, how it is prompted, and the cap."""
        form = "chat" if self._chat else "text"
        return f"target {self._backend.info().fingerprint} {form} at most {self._cap} tokens"

    def complete(self, request: ChatRequest) -> ChatReply:
        """One completion of the conversation, in one try."""
        sampling = Sampling(
            max_new_tokens=min(request.max_tokens, self._cap), temperature=min(request.temperature, MAX_TEMPERATURE)
        )
        prompt = request.messages if self._chat else rendered(request.messages)
        completion = self._backend.generate([Request(prompt, request.seed)], sampling, None)[0]
        return ChatReply(
            text=completion.text,
            tokens_in=completion.tokens_in,
            tokens_out=completion.tokens_out,
            seconds=completion.seconds,
            finish=completion.finish,
        )


def rendered(messages: Sequence[Message]) -> str:
    """The turns as a text that a base model can go on with: a single message as it is, several under their speakers."""
    if len(messages) == 1:
        return messages[0].content
    turns = [f"{_SPEAKERS[m.role]}:\n{m.content}" for m in messages]
    return "\n\n".join([*turns, "Assistant:\n"])
