"""Bodies of requests: whatever comes, it is read or refused in the protocol's words; stop texts cut where they should."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.capability.types import Message
from hybrid.serve.protocol import ApiError, Asked, StopText, parse_body, read_chat, read_text, reply

GOOD = {"model": "hybrid", "messages": [{"role": "user", "content": "2 ft to m"}]}
KEYS = [
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
    "stream_options", "n", "tools", "logprobs", "logit_bias", "user", "capability", "response_format", "echo",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just("user"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), st.booleans())
def test_any_object_is_read_or_refused(body: dict[str, Any], sound: bool) -> None:
    base = {**GOOD, "prompt": "x"} if sound else {}
    for read, key in ((read_chat, "prompt"), (read_text, "messages")):
        whole = {k: v for k, v in {**base, **body}.items() if k != key}
        try:
            asked = read(whole, 64)
        except ApiError as error:
            assert error.status == 400 and json.loads(json.dumps(error.body()))["error"]["message"]
        else:
            assert asked.max_tokens is None or 1 <= asked.max_tokens <= 64
            assert asked.temperature is None or 0 <= asked.temperature <= 2
            assert all(isinstance(p, str) or p for p in asked.prompts)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_body(body), dict)
    except ApiError as error:
        assert error.status == 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a": NaN}', b"[]", b"\xff", b'{"a": ' + b"9" * 5000 + b"}"])
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_body(body)
    assert refused.value.status == 400


def chat(**changes: Any) -> Asked:
    return read_chat({**GOOD, **changes}, 64)


def test_what_is_honoured_is_read() -> None:
    asked = chat(temperature=0.5, top_p=0.9, seed=-3, stop="\n", stream=True, max_completion_tokens=7, user="someone")
    assert (asked.temperature, asked.top_p, asked.seed, asked.stop, asked.stream) == (0.5, 0.9, -3, ("\n",), True)
    assert asked.max_tokens == 7 and asked.capability is None
    parts = [{"type": "text", "text": "2 ft"}, {"type": "text", "text": " to m"}]
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    assert chat(messages=messages).prompts == (
        (Message(role="system", content="Be short."), Message(role="user", content="2 ft to m")),
    )
    assert read_text({"model": "base", "prompt": ["a", "b"]}, 64).prompts == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"model": ""}, "model"),
        ({"tempratur": 1}, "tempratur"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**changes)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_neutral_values_ask_for_nothing() -> None:
    chat(n=1, tools=[], logprobs=False, frequency_penalty=0, presence_penalty=0.0, response_format={"type": "text"})
    with pytest.raises(ApiError):
        chat(n=True)


@settings(max_examples=100, deadline=None)
@given(st.text("ab#", max_size=24), st.lists(st.text("ab#", min_size=1, max_size=4), max_size=3), st.data())
def test_a_stop_text_cuts_at_its_first_place_however_the_text_arrives(text: str, stops: list[str], data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stop = StopText(stops)
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    cut = min(ends)[1] if ends else len(text)
    shown = ""
    for piece in pieces:
        shown += stop.feed(piece)
        assert text[:cut].startswith(shown)
        if stop.met:
            break
    if not stop.met:
        shown += stop.rest()
    assert (stop.met, shown) == (bool(ends), text[:cut])


def test_a_reply_counts_all_answers() -> None:
    from hybrid.serve.protocol import Said

    said = [Said("a", "stop", 3, 1, {"capability": "x"}), Said("b", "length", 4, 2, {"capability": None})]
    body = reply("text", "cmpl-1", 1, "hybrid", said)
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert [c["text"] for c in body["choices"]] == ["a", "b"] and body["hybrid"][1] == {"capability": None}
