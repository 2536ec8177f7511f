"""The OpenAI protocol as data: request bodies read strictly, replies and errors written in its shapes.

    asked = read_chat(parse_body(body), limits)          # raises ApiError, which knows its status and JSON
    chat_reply(asked, ...)

A parameter that would change the answer and is not honoured is refused by name; one that would not is accepted and ignored
(`IGNORED`). Bodies are hostile input: no value of one is trusted before it was checked, and an error repeats none of it but
the names of keys. Pure: does not know of models, engines or HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hybrid.capability.types import Message

Kind = Literal["chat", "text"]
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)
"""Parameters that change no answer. Of `stream_options`, `include_usage` is honoured."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
"""Parameters that are not honoured, with the values that ask for nothing."""
COMMON = frozenset({"model", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "capability"})
MOST_STOPS, MOST_STOP_CHARACTERS, MOST_MESSAGES, MOST_PROMPTS = 4, 256, 512, 64
ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class ApiError(Exception):
    """A request that is not answered: status and what the body says; `cause` is for the server's log alone."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The protocol's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A request that was read. Settings that were not given are None; `capability` is the body's own extension."""

    kind: Kind
    model: str
    prompts: tuple[str | tuple[Message, ...], ...]
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    usage_in_stream: bool
    capability: str | None


@dataclass(frozen=True)
class Said:
    """One answer, for a reply. `applied` is what it got, as plain data."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    applied: Mapping[str, Any]


def require_json(content_type: str) -> None:
    """Raise ApiError unless the body says that it is JSON: a browser asks before it sends such a body to another site, so
    that no page can make a server without a key work."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be sent as content-type: application/json", code="unsupported_media_type")


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises ApiError 400."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return value


def read_chat(body: Mapping[str, Any], most_tokens: int) -> Asked:
    """A chat completion request. Raises ApiError 400."""
    _known(body, {*COMMON, "messages", "max_completion_tokens"})
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise ApiError(400, "give max_completion_tokens or max_tokens, not both", param="max_tokens")
    key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return _asked("chat", body, (_messages(body.get("messages")),), key, most_tokens)


def read_text(body: Mapping[str, Any], most_tokens: int) -> Asked:
    """A completion request. Raises ApiError 400."""
    _known(body, {*COMMON, "prompt"})
    prompt = body.get("prompt")
    many: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if not many or len(many) > MOST_PROMPTS or not all(isinstance(p, str) and _clean(p) for p in many):
        raise ApiError(
            400, f"prompt must be a text, or a list of at most {MOST_PROMPTS} texts (no token ids)", param="prompt"
        )
    return _asked("text", body, tuple(many), "max_tokens", most_tokens)


def _known(body: Mapping[str, Any], honoured: set[str]) -> None:
    for key, value in body.items():
        if key in honoured or key in IGNORED:
            continue
        if key not in NEUTRAL:
            raise ApiError(400, f"unrecognised parameter: {key[:100]!a}", param=key[:100], code="unknown_parameter")
        if not any((value == neutral and type(value) is not bool) or value is neutral for neutral in NEUTRAL[key]):
            raise ApiError(400, f"{key} is not supported here", param=key, code="unsupported_parameter")


def _asked(
    kind: Kind, body: Mapping[str, Any], prompts: tuple[str | tuple[Message, ...], ...], key: str, most_tokens: int
) -> Asked:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model must be the id of a model; GET /v1/models lists them", param="model")
    capability = body.get("capability")
    if capability is not None and not isinstance(capability, str):
        raise ApiError(400, "capability must be a name", param="capability")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise ApiError(400, "stream must be true or false", param="stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    most = _whole(body, key, 1, most_tokens)
    return Asked(
        kind=kind,
        model=model,
        prompts=prompts,
        max_tokens=most,
        temperature=_number(body, "temperature", 0.0, 2.0),
        top_p=_number(body, "top_p", 0.0, 1.0, above=True),
        seed=_whole(body, "seed", -(2**63), 2**63 - 1),
        stop=_stops(body.get("stop")),
        stream=bool(stream),
        usage_in_stream=options.get("include_usage") is True,
        capability=capability,
    )


def _whole(body: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ApiError(400, f"{key} must be a whole number from {low} to {high}", param=key)
    return value


def _number(body: Mapping[str, Any], key: str, low: float, high: float, *, above: bool = False) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    sound = not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high
    if not sound or (above and value == low):
        raise ApiError(400, f"{key} must be a number {'above' if above else 'from'} {low:g} to {high:g}", param=key)
    return float(value)


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    many = [value] if isinstance(value, str) else value
    sound = isinstance(many, list) and len(many) <= MOST_STOPS
    if not sound or not all(isinstance(s, str) and 0 < len(s) <= MOST_STOP_CHARACTERS for s in many):
        raise ApiError(
            400,
            f"stop must be a text or at most {MOST_STOPS} texts of 1 to {MOST_STOP_CHARACTERS} characters",
            param="stop",
        )
    return tuple(many)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_MESSAGES:
        raise ApiError(400, f"messages must be a list of 1 to {MOST_MESSAGES} messages", param="messages")
    return tuple(_message(m, f"messages[{i}]") for i, m in enumerate(value))


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise ApiError(400, f"{place} must be an object with role and content", param=place)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(400, f"{place}.role must be one of {', '.join(ROLES)}", param=f"{place}.role")
    odd = sorted(k for k, v in value.items() if k not in ("role", "content", "name") and v not in (None, [], ""))
    if odd:
        raise ApiError(
            400, f"{place}.{odd[0][:100]!a} is not supported here", param=place, code="unsupported_parameter"
        )
    return Message(role=ROLES[role], content=_content(value.get("content"), f"{place}.content"))


def _content(value: Any, place: str) -> str:
    """A text, or the texts of a list of text parts, joined as they are."""
    if isinstance(value, list) and value:
        parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in value]
        value = "".join(p for p in parts if isinstance(p, str)) if all(isinstance(p, str) for p in parts) else None
    if not isinstance(value, str) or not _clean(value):
        raise ApiError(400, f"{place} must be a text, or a list of text parts", param=place)
    return value


def _clean(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can smuggle in halves of surrogate pairs."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


class StopText:
    """Cuts a text that comes in pieces before the first stop text, and holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.met = False

    def feed(self, piece: str) -> str:
        """What may be shown now. Once `met`, nothing more is."""
        if self.met or not self._stops:
            return "" if self.met else piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that ends first, as it would for a model that stops by itself
            self.met, self._held = True, ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def reply(kind: Kind, ident: str, created: int, model: str, said: Sequence[Said]) -> dict[str, Any]:
    """A whole reply, in order of the prompts. `hybrid` says what each answer got."""
    choices = []
    for index, one in enumerate(said):
        shown: dict[str, Any] = {"index": index, "finish_reason": one.finish, "logprobs": None}
        if kind == "chat":
            shown["message"] = {"role": "assistant", "content": one.text, "refusal": None}
        else:
            shown["text"] = one.text
        choices.append(shown)
    head = _head(kind, ident, created, model, streamed=False)
    applied = [dict(one.applied) for one in said]
    return {**head, "choices": choices, "usage": usage(said), "hybrid": applied[0] if kind == "chat" else applied}


def chunk(
    kind: Kind,
    ident: str,
    created: int,
    model: str,
    index: int,
    text: str,
    *,
    first: bool = False,
    finish: str | None = None,
    applied: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One piece of a streamed reply. `first` opens a choice, `finish` closes it."""
    shown: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
    if kind == "chat":
        shown["delta"] = {**({"role": "assistant"} if first else {}), **({"content": text} if text or first else {})}
    else:
        shown["text"] = text
    extra = {"hybrid": dict(applied)} if applied is not None else {}
    return {**_head(kind, ident, created, model, streamed=True), "choices": [shown], **extra}


def usage_chunk(kind: Kind, ident: str, created: int, model: str, said: Sequence[Said]) -> dict[str, Any]:
    """The last piece of a stream whose caller asked for usage."""
    return {**_head(kind, ident, created, model, streamed=True), "choices": [], "usage": usage(said)}


def usage(said: Sequence[Said]) -> dict[str, int]:
    """Tokens of prompts (documents included) and answers."""
    given, made = sum(s.tokens_in for s in said), sum(s.tokens_out for s in said)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def _head(kind: Kind, ident: str, created: int, model: str, *, streamed: bool) -> dict[str, Any]:
    name = "text_completion" if kind == "text" else "chat.completion.chunk" if streamed else "chat.completion"
    return {"id": ident, "object": name, "created": created, "model": model}
