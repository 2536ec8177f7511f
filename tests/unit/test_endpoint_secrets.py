"""The key of an endpoint: where it comes from, where it goes, and where it never appears."""

from __future__ import annotations

import base64
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from hybrid.backends.chat import ChatRequest
from hybrid.backends.chat_log import LoggedChat
from hybrid.backends.endpoint import EndpointChat
from hybrid.backends.redact import Redactor, plain_url
from hybrid.capability.types import Message
from hybrid.config.schema import EndpointProposerConfig, ProposerBudgetConfig
from hybrid.errors import EndpointError, UsageError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from loopback_endpoint import LoopbackEndpoint

CANARY = "Kanary/7f3+9d-e1_b2=="
ASK = ChatRequest(purpose="reflect", messages=(Message(role="user", content="hello"),))


def config(url: str, **changes: Any) -> EndpointProposerConfig:
    return EndpointProposerConfig(type="endpoint", url=url, model="m", **{"key_env": "CANARY_KEY", **changes})


@pytest.fixture(autouse=True)
def _canary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)


def shown(error: BaseException) -> str:
    """Everything that a traceback or a logger could print of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


def silent(text: str) -> bool:
    return CANARY not in text and CANARY[:8] not in text and base64.b64encode(CANARY.encode()).decode() not in text


def test_the_key_is_sent_and_shown_nowhere() -> None:
    with LoopbackEndpoint(lambda payload: "fine") as server:
        chat = EndpointChat(config(server.url))
        reply = chat.complete(ASK)
    assert server.headers[0]["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in json.dumps(server.requests)
    assert silent(repr(chat) + chat.identity() + repr(reply) + repr(vars(chat)) + repr(vars(chat._place)))


@pytest.mark.parametrize("fault", ["401", "403", "500", "429:999", "garbage"])
def test_a_server_that_repeats_the_key_does_not_get_it_into_the_error(fault: str) -> None:
    with LoopbackEndpoint(lambda payload: "fine", [fault]) as server:
        chat = EndpointChat(config(server.url, retries=0, deadline_s=60))
        with pytest.raises(EndpointError) as caught:
            chat.complete(ASK)
    assert silent(shown(caught.value)) and len(server.requests) == 1
    if fault == "401":
        assert "HTTP 401: status 401 was asked for; you sent Authorization: Bearer [redacted]" in str(caught.value)


@pytest.mark.parametrize(
    "echo",
    [
        CANARY,
        json.dumps(CANARY).replace("/", "\\/"),
        httpx.QueryParams({"key": CANARY}).__str__(),
        base64.b64encode(CANARY.encode()).decode(),
        "x" * 190 + CANARY,
        CANARY[:6] + "\x1b" + CANARY[6:],
        json.dumps({"detail": CANARY}),
        json.dumps({"error": CANARY}),
    ],
)
def test_spellings_of_the_key_are_found_before_the_text_is_cut(echo: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(403, content=echo.encode()))
    chat = EndpointChat(config("https://model.invalid/v1"), transport=transport)
    with pytest.raises(EndpointError) as caught:
        chat.complete(ASK)
    assert silent(shown(caught.value)) and "HTTP 403" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_key_in_a_reply_is_cut_out_before_it_is_stored(tmp_path: Path) -> None:
    with LoopbackEndpoint(lambda payload: f"your key is {CANARY}, dear") as server:
        chat = LoggedChat(EndpointChat(config(server.url)), tmp_path / "replies.jsonl", ProposerBudgetConfig())
        assert chat.complete(ASK).text == "your key is [redacted], dear"
    assert silent((tmp_path / "replies.jsonl").read_text(encoding="utf-8"))


def test_a_placeholder_key_leaves_replies_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", "none")
    with LoopbackEndpoint(lambda payload: "none of them") as server:
        assert EndpointChat(config(server.url)).complete(ASK).text == "none of them"


def test_a_redirect_is_not_followed_and_the_key_does_not_travel() -> None:
    with LoopbackEndpoint(lambda payload: "stolen") as other:
        target = f"{other.url}/chat/completions?token={CANARY}"
        with LoopbackEndpoint(lambda payload: "fine", [f"redirect:{target}"]) as server:
            with pytest.raises(EndpointError, match=r"redirect to http://127\.0\.0\.1") as caught:
                EndpointChat(config(server.url)).complete(ASK)
            assert len(server.requests) == 1
    assert other.requests == [] and silent(shown(caught.value)) and "skill.proposer.url" in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_unset_key_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("CANARY_KEY")
    else:
        monkeypatch.setenv("CANARY_KEY", value)
    with pytest.raises(UsageError, match="environment variable CANARY_KEY is not set"):
        EndpointChat(config("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("value", ["Kanary\nX-Evil: 1", "Kanary two", "Kan\u00e4ry", "Kanary\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CANARY_KEY", value)
    with pytest.raises(UsageError) as caught:
        EndpointChat(config("http://127.0.0.1:9/v1"))
    assert "CANARY_KEY" in str(caught.value) and "Kan" not in shown(caught.value).replace("CANARY", "")


def test_the_key_is_read_once_and_white_space_around_it_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", f" {CANARY}\n")
    with LoopbackEndpoint(lambda payload: "fine") as server:
        chat = EndpointChat(config(server.url))
        monkeypatch.setenv("CANARY_KEY", "changed")
        chat.complete(ASK)
    assert server.headers[0]["authorization"] == f"Bearer {CANARY}"


def test_secrets_in_the_address_are_used_and_not_shown() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(401, content=f"no: {request.url} {request.headers['authorization']}".encode())

    url = "https://ann:pa%24sword9@model.invalid:8443/v1/?version=2024x&code=topsecret1"
    chat = EndpointChat(config(url, key_env=None), transport=httpx.MockTransport(answer))
    assert chat.identity() == "endpoint https://model.invalid:8443/v1 m"
    with pytest.raises(EndpointError) as caught:
        chat.complete(ASK)
    assert str(asked[0].url) == "https://model.invalid:8443/v1/chat/completions?version=2024x&code=topsecret1"
    assert base64.b64decode(asked[0].headers["authorization"].split()[1]) == b"ann:pa$sword9"
    text = shown(caught.value) + repr(vars(chat._place))
    assert not any(part in text for part in ("pa$sword9", "pa%24", "topsecret1", "ann:"))


@pytest.mark.parametrize("url", ["http://", "https:///v1", "http://[::1", "http://host:port/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"skill\.proposer\.url"):
        EndpointChat(config(url, key_env=None))


def test_redaction_by_shape_needs_no_list_of_keys() -> None:
    redact = Redactor([])
    for text in (
        "Authorization: Bearer abc.def-ghi",
        '{"authorization": "Bearer abc.def-ghi"}',
        "BEARER abc.def-ghi",
        "api_key=abc.def-ghi",
        "x-api-key: abc.def-ghi",
        "Incorrect API key provided: sk-abc.def-ghi",
    ):
        assert "abc.def" not in redact(text) and "[redacted]" in redact(text), text
    assert redact("the model has  no\nsuch\x00 name") == "the model has no such name"


def test_a_secret_has_no_repr_and_a_url_no_secrets() -> None:
    assert CANARY not in repr(vars(Redactor([SecretStr(CANARY)])))
    assert plain_url("http://u:Kanary@h:1/v1/?k=Kanary#Kanary") == "http://h:1/v1"
