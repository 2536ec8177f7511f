"""What goes over the wire and what comes back, as pure functions: payload, reply, waiting time, an error's own words.

Field names are those of OpenAI's chat completions. Does not: send anything. Everything that comes back is hostile: a
body that cannot be read as a reply raises `Failed`, and nothing in it can raise anything else.
"""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias

from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.backends.endpoint_http import Failed
from hybrid.backends.redact import Redactor

Form: TypeAlias = Literal["schema", "object", "none"]
"""How a reply is held to JSON: by its schema, as any object, or not at all."""
CHARACTERS_PER_TOKEN = 4
MOST_TOKENS = 10**9
"""A count above this is no count."""
SAID_BYTES, SAID_CHARACTERS = 65_536, 200


def payload(model: str, request: ChatRequest, form: Form) -> dict[str, Any]:
    """The body of the request. A request without a schema wants free text, so it gets no response format."""
    out: dict[str, Any] = {
        "model": model,
        "messages": [m.model_dump(mode="json") for m in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
    }
    if request.reply_schema is None or form == "none":
        return out
    if form == "object":
        return {**out, "response_format": {"type": "json_object"}}
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request.purpose)[:64] or "reply"
    schema = {"name": name, "strict": True, "schema": request.reply_schema}
    return {**out, "response_format": {"type": "json_schema", "json_schema": schema}}


def read_reply(body: bytes, request: ChatRequest) -> ChatReply:
    """The first choice of a reply. Raises Failed for a body without one. Counts that are missing are estimated."""
    value = _json(body)
    if not isinstance(value, dict):
        raise Failed("the reply is not a JSON object")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failed("the reply has no choices")
    message = choices[0].get("message")
    text = message.get("content") if isinstance(message, dict) else None
    finish = choices[0].get("finish_reason")
    cut = finish == "length"
    if text is None and isinstance(message, dict) and isinstance(message.get("refusal"), str):
        text = message["refusal"]  # what it says instead of an answer is its answer
    if text is None and finish in ("length", "content_filter"):
        text = ""  # a model that thinks aloud may use up its tokens before it says anything; a filter takes all of it
    if not isinstance(text, str):
        raise Failed("the reply's first choice has no text")
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell half a character; a file cannot hold it
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    asked = sum(len(m.content) for m in request.messages)
    return ChatReply(
        text=text,
        tokens_in=_count(counts.get("prompt_tokens"), asked),
        tokens_out=_count(counts.get("completion_tokens"), len(text)),
        finish="length" if cut else "stop",
        served=_served(value),
    )


def _served(value: dict[str, Any]) -> str:
    """The model and the state of the backend that the reply names; "" where it names none."""
    named = [value.get(key) for key in ("model", "system_fingerprint")]
    return " ".join(text[:SAID_CHARACTERS] for text in named if isinstance(text, str) and text.isprintable())


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3): a number, or a date, counted from the server's
    own `Date` where it gives one. None without a header that can be read; never negative."""
    value = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return None
    now = _timestamp(date or "")
    return max(0.0, until - (time.time() if now is None else now))


def said(body: bytes, redact: Redactor) -> str:
    """The server's own words in an error body, redacted before they are cut, so that no part of a key is left."""
    body = body[:SAID_BYTES]
    try:
        value = _json(body)
    except Failed:
        value = None
    words = _words(value)
    return redact(words or body.decode("utf-8", "replace"))[:SAID_CHARACTERS] or "no explanation"


def _words(value: Any) -> str:
    """The message in the places where servers put it: `error.message`, `error`, `message`, `detail`."""
    if isinstance(value, dict):
        for name in ("error", "message", "detail"):
            inner = value.get(name)
            if isinstance(inner, dict):
                inner = inner.get("message")
            if isinstance(inner, str) and inner.strip():
                return inner
    return ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # ValueError: broken JSON, broken UTF-8, numbers too long to read
        raise Failed("the reply is not JSON") from None


def _count(value: Any, characters: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return -(-characters // CHARACTERS_PER_TOKEN)


def _timestamp(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
