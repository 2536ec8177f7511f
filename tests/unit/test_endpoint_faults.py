"""An endpoint that misbehaves: what is tried again, how long it is waited for, and when it ends. Over real sockets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybrid.backends.chat import ChatReply, ChatRequest
from hybrid.backends.endpoint import LONGEST_WAIT_S, EndpointChat, backoff
from hybrid.capability.types import Message
from hybrid.config.schema import EndpointProposerConfig
from hybrid.errors import EndpointError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from loopback_endpoint import LoopbackEndpoint  # noqa: E402

SCHEMA = {"type": "object", "properties": {"edits": {"type": "array"}}, "required": ["edits"]}


class FakeTime:
    """A clock that moves by sleeping alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def ask(text: str = "hello", **changes: Any) -> ChatRequest:
    return ChatRequest(purpose="reflect", messages=(Message(role="user", content=text),), **changes)


def config(url: str, **changes: Any) -> EndpointProposerConfig:
    return EndpointProposerConfig(type="endpoint", url=url, model="m", **changes)


def meets(
    faults: Sequence[str], request: ChatRequest | None = None, **changes: Any
) -> tuple[ChatReply | EndpointError, LoopbackEndpoint, FakeTime]:
    """What came of one request to a server with these faults."""
    fake = FakeTime()
    with LoopbackEndpoint(lambda payload: "fine", faults) as server:
        chat = EndpointChat(config(server.url, **changes), clock=fake, sleep=fake.sleep)
        try:
            return chat.complete(request or ask()), server, fake
        except EndpointError as error:
            return error, server, fake


def test_a_good_reply_and_what_was_sent_for_it() -> None:
    reply, server, fake = meets([], ask("hello you", temperature=0.5, max_tokens=77, seed=9))
    assert reply == ChatReply(
        text="fine", tokens_in=3, tokens_out=1, seconds=0.0, attempts=1, finish="stop", served="m"
    )
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello you"}],
            "temperature": 0.5,
            "max_tokens": 77,
            "seed": 9,
        }
    ]
    assert "authorization" not in server.headers[0] and fake.slept == []


@pytest.mark.parametrize(
    "fault", ["500", "502", "503", "408", "409", "429", "garbage", "truncate", "cut", "drop", "empty", "huge"]
)
def test_passing_faults_are_tried_again_until_it_goes_well(fault: str) -> None:
    reply, server, fake = meets([fault, fault])
    assert isinstance(reply, ChatReply) and reply.text == "fine" and reply.attempts == 3
    assert len(server.requests) == 3 and len(fake.slept) == 2
    assert 0.25 <= fake.slept[0] <= 0.5 <= fake.slept[1] <= 1.0
    assert reply.seconds == pytest.approx(sum(fake.slept))


@pytest.mark.parametrize(
    ("fault", "words"), [("500", "HTTP 500"), ("drop", "disconnected"), ("huge", "larger than 4 MiB")]
)
def test_retries_end_and_the_error_says_what_the_last_try_met(fault: str, words: str) -> None:
    error, server, _ = meets([fault] * 9, retries=2)
    assert isinstance(error, EndpointError)
    assert words in str(error) and "after 3 tries" in str(error) and "skill.proposer.retries: 2" in str(error)
    assert "'reflect'" in str(error) and len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_other_client_errors_are_not_tried_again(status: int) -> None:
    error, server, fake = meets([str(status)])
    assert isinstance(error, EndpointError) and f"HTTP {status}" in str(error) and "after 1 try" in str(error)
    assert len(server.requests) == 1 and fake.slept == []


def test_nobody_listens() -> None:
    fake = FakeTime()
    with LoopbackEndpoint(lambda payload: "") as server:
        gone = server.url
    with pytest.raises(EndpointError, match="after 2 tries: ConnectError"):
        EndpointChat(config(gone, retries=1), clock=fake, sleep=fake.sleep).complete(ask())
    assert len(fake.slept) == 1


def test_retry_after_is_waited_for_in_seconds_and_as_a_date() -> None:
    reply, _, fake = meets(["429:7", "503:2.5", "429:0"])
    assert isinstance(reply, ChatReply) and fake.slept[:2] == [7.0, 2.5]
    assert 1.0 <= fake.slept[2] <= 2.0  # zero seconds is no advice: the usual wait after a third failure
    reply, _, fake = meets(["429@9"])
    assert isinstance(reply, ChatReply) and 8.0 <= fake.slept[0] <= 9.0


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    error, server, fake = meets(["429:31"], deadline_s=30)
    assert isinstance(error, EndpointError) and fake.slept == [] and len(server.requests) == 1
    assert "the server asks to wait 31 s" in str(error) and "skill.proposer.deadline_s: 30" in str(error)
    assert isinstance(meets(["429:29"], deadline_s=30)[0], ChatReply)


def test_the_deadline_ends_the_tries_before_the_retries_do() -> None:
    error, server, fake = meets(["500"] * 30, deadline_s=10, retries=20)
    assert isinstance(error, EndpointError) and "skill.proposer.deadline_s: 10" in str(error)
    assert 2 < sum(fake.slept) < 10 and 4 <= len(server.requests) <= 7


def test_waits_repeat_for_equal_requests_differ_for_others_and_are_bounded() -> None:
    waits = [backoff(ask(), "me", failures) for failures in range(1, 21)]
    assert waits == [backoff(ask(), "me", failures) for failures in range(1, 21)]
    assert waits != [backoff(ask("other"), "me", failures) for failures in range(1, 21)]
    assert max(waits) <= LONGEST_WAIT_S and all(wait > 0 for wait in waits)
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(waits[:6]))


@pytest.mark.parametrize("fault", ["slow:20", "drip:0.1", "ooze:0.1"])
def test_one_try_ends_on_time_however_the_bytes_come(fault: str) -> None:
    began = time.monotonic()
    reply, server, _ = meets([fault], timeout_s=0.7)
    took = time.monotonic() - began
    assert isinstance(reply, ChatReply) and reply.attempts == 2 and len(server.requests) == 2
    assert 0.6 <= took < 15  # the drips alone would take 20 s, and every byte comes within the time limit of a read


def test_a_drip_that_is_fast_enough_is_read_to_the_end() -> None:
    reply, _, _ = meets(["drip:0.0005"], timeout_s=20)
    assert isinstance(reply, ChatReply) and reply.text == "fine" and reply.attempts == 1


@pytest.mark.parametrize("fault", ["slow:20", "drip:0.1", "ooze:0.1"])
def test_a_timeout_names_its_key(fault: str) -> None:
    error, _, _ = meets([fault], timeout_s=0.3, retries=0)
    assert isinstance(error, EndpointError) and "0.3 s (skill.proposer.timeout_s)" in str(error)


def test_a_real_clock_keeps_the_deadline() -> None:
    began = time.monotonic()
    with LoopbackEndpoint(lambda payload: "late", ["slow:20"] * 9) as server:
        chat = EndpointChat(config(server.url, timeout_s=5, deadline_s=1, retries=9))
        with pytest.raises(EndpointError, match="deadline"):
            chat.complete(ask())
    assert 0.9 <= time.monotonic() - began < 15 and len(server.requests) == 1


def test_a_reply_that_was_cut_says_so() -> None:
    with LoopbackEndpoint(lambda payload: "x" * 1000) as server:
        reply = EndpointChat(config(server.url)).complete(ask(max_tokens=10))
    assert (reply.text, reply.tokens_out, reply.finish) == ("x" * 40, 10, "length")


def test_missing_counts_are_estimated_from_characters() -> None:
    reply, _, _ = meets(["nousage"], ask("x" * 401))
    assert isinstance(reply, ChatReply) and (reply.tokens_in, reply.tokens_out) == (101, 1)


def kinds(server: LoopbackEndpoint) -> list[str | None]:
    return [(payload.get("response_format") or {}).get("type") for payload in server.requests]


@pytest.mark.parametrize(
    ("structured", "known", "first", "then"),
    [
        ("schema", ["json_schema", "json_object"], ["json_schema"], ["json_schema"]),
        ("schema", ["json_object"], ["json_schema", "json_object"], ["json_object"]),
        ("schema", [], ["json_schema", "json_object", None], [None]),
        ("object", ["json_schema"], ["json_object", None], [None]),
        ("none", ["json_schema"], [None], [None]),
    ],
)
def test_a_form_that_the_server_refuses_is_weakened_once_and_remembered(
    structured: str, known: list[str], first: list[str | None], then: list[str | None]
) -> None:
    with LoopbackEndpoint(lambda payload: "{}", formats=known) as server:
        chat = EndpointChat(config(server.url, structured=structured, retries=0))
        reply = chat.complete(ask(reply_schema=SCHEMA))
        assert kinds(server) == first and reply.attempts == len(first)
        chat.complete(ask("again", reply_schema=SCHEMA))
        assert kinds(server)[len(first) :] == then


def test_the_schema_is_sent_by_name_and_strict_and_free_text_is_never_held_to_json() -> None:
    with LoopbackEndpoint(lambda payload: "{}") as server:
        chat = EndpointChat(config(server.url))
        chat.complete(ask(reply_schema=SCHEMA).model_copy(update={"purpose": "merge: final"}))
        chat.complete(ask())
    assert server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "merge__final", "strict": True, "schema": SCHEMA},
    }
    assert kinds(server)[1] is None


def test_a_400_for_another_reason_is_told_and_not_remembered_as_a_refusal_of_the_form() -> None:
    with LoopbackEndpoint(lambda payload: "{}", ["400", "400", "400"]) as server:
        chat = EndpointChat(config(server.url))
        with pytest.raises(EndpointError, match="status 400 was asked for"):
            chat.complete(ask(reply_schema=SCHEMA))
        chat.complete(ask(reply_schema=SCHEMA))
    assert kinds(server) == ["json_schema", "json_object", None, "json_schema"]


def bodies(*answers: bytes) -> Callable[[httpx.Request], httpx.Response]:
    left = list(answers)
    return lambda request: httpx.Response(200, content=left.pop(0))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"choices": [' + b"[" * 50_000,
        b'{"choices": "no"}',
        b'{"choices": [1]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
        b'{"choices": [{"message": {"content": ["parts"]}}]}',
        b'{"usage": ' + b"9" * 5000 + b"}",
        b'{"error": {"message": "overloaded"}}',
    ],
)
def test_a_hostile_body_is_a_failed_try_and_nothing_else(body: bytes) -> None:
    fake = FakeTime()
    good = b'{"choices": [{"message": {"content": "good"}}]}'
    transport = httpx.MockTransport(bodies(body, good))
    chat = EndpointChat(config("http://model.invalid/v1"), clock=fake, sleep=fake.sleep, transport=transport)
    reply = chat.complete(ask())
    assert reply.text == "good" and reply.attempts == 2


@pytest.mark.parametrize("count", ["-1", "1e3", "true", '"7"', "null", "9" * 400])
def test_a_count_that_is_no_count_is_estimated(count: str) -> None:
    usage = f'{{"prompt_tokens": {count}, "completion_tokens": 3}}'
    body = f'{{"choices": [{{"message": {{"content": "good"}}}}], "usage": {usage}}}'
    chat = EndpointChat(config("http://model.invalid/v1"), transport=httpx.MockTransport(bodies(body.encode())))
    reply = chat.complete(ask("x" * 8))
    assert (reply.tokens_in, reply.tokens_out) == (2, 3)


def test_half_a_character_is_replaced_and_thinking_that_used_everything_up_is_an_empty_cut_reply() -> None:
    half = rb'{"choices": [{"message": {"content": "a\ud800b"}}]}'
    thought = b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}'
    chat = EndpointChat(config("http://model.invalid/v1"), transport=httpx.MockTransport(bodies(half, thought)))
    assert chat.complete(ask()).text == "a?b"
    reply = chat.complete(ask())
    assert (reply.text, reply.finish) == ("", "length")


def test_importing_the_endpoint_loads_no_http_library() -> None:
    code = "import hybrid.backends.endpoint, hybrid.backends.chat_log, sys; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
