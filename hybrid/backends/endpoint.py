"""A chat model behind an OpenAI-compatible endpoint: one request, a few tries, and an end to waiting.

    chat = EndpointChat(EndpointProposerConfig(type="endpoint", url="http://127.0.0.1:8000/v1", model="m"))
    chat.complete(ChatRequest(purpose="reflect", messages=(Message(role="user", content="..."),)))

Does not: stream, follow redirects, log, count budgets (see `chat_log`), or read what a reply says.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.backends.endpoint_http import Failed, Refused, Reply, post
from hybrid.backends.endpoint_wire import Form, payload, read_reply, retry_after, said
from hybrid.backends.redact import Redactor, plain_url
from hybrid.config.schema import EndpointProposerConfig
from hybrid.errors import EndpointError, UsageError
from hybrid.store.atomic import canonical_json

if TYPE_CHECKING:
    import httpx

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LEAST_SECRET = 8
"""A key shorter than this is a placeholder such as `EMPTY`: it is kept out of errors, but not cut from replies."""
_WEAKER: dict[Form, Form] = {"schema": "object", "object": "none"}
_RETRIED = frozenset({408, 409, 429})


class EndpointChat:
    """A `ChatModel` over HTTP.

    Tried again, after a growing wait or the one that the server asks for: broken connections, timeouts, the statuses
    408, 409, 429 and 5xx, and replies that cannot be read. Everything else, redirects included, ends the request at
    once. `retries` and `deadline_s` end it too; one try takes at most `timeout_s`, however slowly bytes drip in (looking
    up the host's name is the one wait that only the system limits). Waits are drawn from the request, so they repeat.

    A server that answers 400 to a reply schema is asked again for any JSON object and then for plain text; what worked
    is remembered. The request, not the configuration, says the temperature and the length of a reply.

    Raises UsageError when the variable of the key is unset or the address cannot be used, EndpointError when there is no
    reply. No error, identity, repr or reply holds the key. `clock` and `sleep` time the deadline and the waits. `section` is
    the part of the configuration that errors speak of. `extra` goes into every body; `length_key` is what the server calls
    the longest reply.
    """

    def __init__(
        self,
        config: EndpointProposerConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
        section: str = "skill.proposer",
        extra: Mapping[str, Any] = MappingProxyType({}),
        length_key: str = "max_tokens",
    ) -> None:
        self._config, self._section = config, section
        self._clock, self._sleep, self._transport = clock, sleep, transport
        self._extra, self._length_key = dict(extra), length_key
        key = _key(config, section)
        self._place = _Place(config, key, section)
        self._redact = Redactor(self._place.secrets)
        secret = key is not None and len(key.get_secret_value()) >= LEAST_SECRET
        self._clean = Redactor([key] if key is not None and secret else []).secrets_only
        self._form: Form = config.structured

    def identity(self) -> str:
        """Where, and which model."""
        return f"endpoint {self._place.shown} {self._config.model}"

    def __repr__(self) -> str:
        return f"EndpointChat({self.identity()!r})"

    def complete(self, request: ChatRequest) -> ChatReply:
        """One reply, after as many tries as make sense."""
        started = self._clock()
        form: Form = self._form if request.reply_schema is not None else "none"
        tries = failures = 0
        while True:
            left = self._config.deadline_s - (self._clock() - started)
            if left <= 0:
                raise self._error(request, tries, f"the deadline has passed ({self._deadline})")
            tries += 1
            try:
                reply = self._try(request, form, min(self._config.timeout_s, left))
            except Refused as refusal:
                if refusal.status != 400 or form not in _WEAKER:
                    raise self._error(request, tries, refusal.why) from None
                form = _WEAKER[form]
            except Failed as failure:
                failures += 1
                self._wait(request, tries, failures, failure, started)
            else:
                if request.reply_schema is not None:
                    self._form = form
                return reply.model_copy(
                    update={"text": self._clean(reply.text), "attempts": tries, "seconds": self._clock() - started}
                )

    def _try(self, request: ChatRequest, form: Form, limit_s: float) -> ChatReply:
        """One request over the wire."""
        body = {**payload(self._config.model, request, form), **self._extra}
        body[self._length_key] = body.pop("max_tokens")
        content = canonical_json(body).encode()
        reply = post(self._place.target, self._place.headers, content, limit_s, self._transport)
        self._judge(reply)
        return read_reply(reply.body, request)

    def _judge(self, reply: Reply) -> None:
        """Raise unless the status is a success."""
        if 200 <= reply.status < 300:
            return
        if 300 <= reply.status < 400:
            target = plain_url(reply.headers.get("location", ""))
            raise Refused(
                f"HTTP {reply.status}, a redirect to {target}; it is not followed, so that no key travels: "
                f"set {self._section}.url to the final address",
                reply.status,
            )
        why = f"HTTP {reply.status}: {said(reply.body, self._redact)}"
        if reply.status in _RETRIED or reply.status >= 500:
            wait = retry_after(reply.headers.get("retry-after"), reply.headers.get("date"))
            raise Failed(why, wait)
        raise Refused(why, reply.status)

    def _wait(self, request: ChatRequest, tries: int, failures: int, failure: Failed, started: float) -> None:
        """Sleep before the next try, or raise when there is to be none."""
        if failures > self._config.retries:
            raise self._error(request, tries, f"{failure.why} ({self._section}.retries: {self._config.retries})")
        wait = failure.wait_s or backoff(request, self.identity(), failures)
        left = self._config.deadline_s - (self._clock() - started)
        if wait >= left:
            who = "the server asks to wait" if failure.wait_s else "the next try would wait"
            raise self._error(
                request, tries, f"{failure.why}; {who} {wait:.3g} s, beyond the deadline ({self._deadline})"
            )
        self._sleep(wait)

    @property
    def _deadline(self) -> str:
        return f"{self._section}.deadline_s: {self._config.deadline_s:g}"

    def _error(self, request: ChatRequest, tries: int, why: str) -> EndpointError:
        said = why.replace("skill.proposer.", f"{self._section}.")
        counted = f"{tries} {'try' if tries == 1 else 'tries'}"
        return EndpointError(
            self._redact(
                f"{self.identity()}: no reply to {request.purpose!r} after {counted}: {said}; "
                "see to it and give the same command to go on"
            )
        )


def backoff(request: ChatRequest, identity: str, failures: int) -> float:
    """Seconds to wait after so many failures: doubling, capped, less up to half by chance, the same for equal requests."""
    seed = hashlib.sha256(f"{request.key(identity)} {failures}".encode()).digest()
    full = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (failures - 1))
    return full * (0.5 + 0.5 * random.Random(seed).random())


class _Place:
    """Where requests go and with which headers; the secrets among them; and the address as it may be shown."""

    def __init__(self, config: EndpointProposerConfig, key: SecretStr | None, section: str) -> None:
        try:
            parts = urlsplit(config.url)
            host, _ = parts.hostname, parts.port
            self.shown = plain_url(config.url)
        except ValueError:
            host = None
        if not host:
            raise UsageError(f"{section}.url: this is no address; write one like http://127.0.0.1:8000/v1")
        path = f"{parts.path.rstrip('/')}/chat/completions"
        self.target = SecretStr(parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, fragment="").geturl())
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        self.secrets = [SecretStr(value) for _, _, value in (p.partition("=") for p in parts.query.split("&"))]
        if parts.username or parts.password:
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers["authorization"] = f"Basic {basic}"
            self.secrets += [SecretStr(password), SecretStr(basic)]
        if key is not None:
            headers["authorization"] = f"Bearer {key.get_secret_value()}"
            self.secrets.append(key)
        self.headers = {name: SecretStr(value) for name, value in headers.items()}


def _key(config: EndpointProposerConfig, section: str) -> SecretStr | None:
    """The key from the environment, checked to be one that a header can carry."""
    if config.key_env is None:
        return None
    value = os.environ.get(config.key_env, "").strip()
    if not value:
        raise UsageError(f"{section}.key_env: the environment variable {config.key_env} is not set; set it to the key")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise UsageError(
            f"{section}.key_env: the environment variable {config.key_env} holds characters that no key has; "
            "set it to the key alone"
        )
    return SecretStr(value)
