"""From a prompt to token ids, in one place: backends and trainers that use it see the same ids.

    encode(tokenizer, [render(tokenizer, "2 + 2 =", chat=False)], chat=False)     # [[151, 10, ...]]

Does not: add a skill document (see `hybrid.skill`), truncate, pad, or build tensors. The tokenizer is a transformers
tokenizer; nothing of torch or transformers is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from hybrid.capability.types import Message
from hybrid.errors import BackendError


def render(tokenizer: Any, prompt: str | tuple[Message, ...], chat: bool) -> str:
    """The text that the model reads.

    With `chat`, the tokenizer's chat template, opened for the assistant's turn; a text prompt becomes one user
    message. Without `chat`, a text prompt unchanged. Raises BackendError for chat messages without `chat`, for a
    tokenizer without a template, and when the template refuses the messages.
    """
    if not chat:
        if isinstance(prompt, str):
            return prompt
        raise BackendError(
            "a prompt is a list of chat messages, but model.chat is false; set model.chat: true, or give text prompts"
        )
    messages = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
    if not messages or messages[-1].role == "assistant":
        raise BackendError("a chat prompt must end with a user or system message, so that the assistant's turn is next")
    if not getattr(tokenizer, "chat_template", None):
        raise BackendError("model.chat is true, but the tokenizer has no chat template; set model.chat: false")
    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(m.role for m in messages)
        raise BackendError(f"the model's chat template refuses messages with roles ({roles}): {error}") from error
    return str(text)


def encode(tokenizer: Any, texts: Sequence[str], chat: bool) -> list[list[int]]:
    """Token ids of rendered texts.

    Special tokens are added to plain text alone: a chat template writes its own, and a second begin-of-text token
    would be a prompt that the model was never trained on.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=not chat, padding=False, truncation=False)
    return [list(ids) for ids in encoded["input_ids"]]


def count_tokens(tokenizer: Any, text: str) -> int:
    """Number of the model's tokens in `text`, without special tokens."""
    return len(tokenizer(text, add_special_tokens=False, padding=False, truncation=False)["input_ids"])
