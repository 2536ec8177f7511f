"""`hybrid serve` as a process, with the `openai` package as its client: right answers under load, refusals, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from backend_tiny import load_tiny
from serve_tiny import PLACED, asked, backend_over, save_export

import hybrid
from hybrid.serve.placed import PlacedModel

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-that-is-long-enough"


@dataclass(frozen=True)
class Served:
    """A server in a process of its own, and the same placed model in this one."""

    url: str
    process: subprocess.Popen[str]
    model: PlacedModel
    log: Path

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    save_export(folder)
    command = [sys.executable, "-m", "hybrid", "serve", str(folder / "export"), "--port", "0", "--json"]
    command += ["--max-body", "4096", "--max-tokens", "64", "--max-concurrent", "24"]
    env = {**os.environ, "HYBRID_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
        assert process.stdout is not None
        text = ""
        for line in process.stdout:  # one JSON document, over several lines
            text += line
            if line.rstrip() == "}":
                break
        assert text, log.read_text()
        model = hybrid.load(folder / "export", backend=backend_over(load_tiny(folder / "model")))
        yield Served(json.loads(text)["url"], process, model, log)
        process.kill()
        process.wait()


def expected(served: Served, name: str, number: int) -> str:
    return served.model.generate(asked(name, number), capability=name, seed=number)[0].text


def test_the_openai_client_chats_completes_and_lists(served: Served) -> None:
    client = served.client()
    assert {m.id for m in client.models.list()} == {"hybrid", "base", *PLACED}
    assert client.models.retrieve("plums").id == "plums"
    question = asked("stones", 1)
    reply = client.chat.completions.create(model="hybrid", messages=[{"role": "user", "content": question}])
    answer = served.model.generate(question)[0]
    assert reply.choices[0].message.content == answer.text and answer.applied.capability == "stones"
    assert reply.choices[0].finish_reason == answer.finish
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (answer.tokens_in, answer.tokens_out)
    applied: dict[str, Any] = (reply.model_extra or {})["hybrid"]
    assert applied == answer.applied.as_json()
    raw = client.completions.with_raw_response.create(model="rivers", prompt=asked("plums", 1))
    assert raw.headers["x-hybrid-applied"].startswith("capability=rivers; skill=-; adapter=")
    assert raw.parse().choices[0].text == served.model.generate(asked("plums", 1), capability="rivers")[0].text
    bare = client.completions.create(model="hybrid", prompt=question, max_tokens=9, extra_body={"capability": "base"})
    assert bare.choices[0].text == served.model.generate(question, capability="base", max_new_tokens=9)[0].text


def test_a_stream_comes_token_by_token_and_stop_texts_end_it(served: Served) -> None:
    client = served.client()
    whole = expected(served, "clouds", 5)
    options: dict[str, Any] = {"model": "clouds", "prompt": asked("clouds", 5), "seed": 5, "stream": True}
    pieces = list(client.completions.create(**options, stream_options={"include_usage": True}))
    said = [c.choices[0].text for c in pieces if c.choices and c.choices[0].text]
    assert "".join(said) == whole and len(said) == len(whole), "the tiny model has a token per character"
    assert pieces[-1].usage is not None and pieces[-1].usage.completion_tokens >= len(whole)
    assert [c.choices[0].finish_reason for c in pieces if c.choices][-1] in ("stop", "length")
    stop = whole[4:6]
    cut = client.completions.create(**{**options, "stream": False, "stop": [stop]}).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    chat = client.chat.completions.create(
        model="plums", messages=[{"role": "user", "content": asked("plums", 5)}], stream=True
    )
    assert "".join(c.choices[0].delta.content or "" for c in chat) == expected(served, "plums", 5)


def test_many_clients_get_the_answers_of_their_own_adapters(served: Served) -> None:
    jobs = [(name, number) for number in range(20) for name in PLACED]
    client = served.client()
    right = {job: expected(served, *job) for job in jobs}
    assert len({right[name, 0] for name in PLACED}) == len(PLACED), "answers must tell adapters apart"

    def ask(job: tuple[str, int]) -> tuple[str, str]:
        name, number = job
        done = client.completions.create(model="hybrid", prompt=asked(name, number), seed=number)
        return done.choices[0].text, (done.model_extra or {})["hybrid"][0]["capability"]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, jobs))
    assert [text for text, _ in found] == [right[job] for job in jobs]
    assert [name for _, name in found] == [name for name, _ in jobs]


def test_what_is_refused_has_the_errors_of_the_protocol(served: Served) -> None:
    client, messages = served.client(), [{"role": "user", "content": "plum 1 ="}]
    with pytest.raises(openai.AuthenticationError) as wrong:
        served.client("a-key-that-is-wrong-here").models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as absent:
        client.chat.completions.create(model="gpt-4", messages=messages)  # type: ignore[arg-type]
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as several:
        client.chat.completions.create(model="hybrid", messages=messages, n=2)  # type: ignore[arg-type]
    assert several.value.param == "n" and several.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="hybrid", prompt="a" * 300, max_tokens=8)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model="hybrid", prompt="a" * 5000)
    assert large.value.status_code == 413 and large.value.code == "body_too_large"
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json; charset=utf-8"}
    chunked = httpx.post(f"{served.url}/completions", content=(b"x" * 1000 for _ in range(9)), headers=headers)
    assert chunked.status_code == 413, "a body without a length is counted as it comes"
    broken = httpx.post(f"{served.url}/completions", content=b'{"model": ', headers=headers)
    assert broken.status_code == 400 and broken.json()["error"]["type"] == "invalid_request_error"
    plain = httpx.post(f"{served.url}/completions", content=b"{}", headers=headers | {"content-type": "text/plain"})
    assert plain.status_code == 415 and plain.json()["error"]["code"] == "unsupported_media_type"
    assert httpx.get(f"{served.url}/nothing", headers=headers).json()["error"]["code"] == "unknown_url"
    assert httpx.get(f"{served.url.removesuffix('/v1')}/health").json() == {"status": "ok"}


def test_the_log_names_what_was_applied_and_holds_no_text_of_anybody(served: Served) -> None:
    served.client().completions.create(model="rivers", prompt="secretword 77 =")
    text = served.log.read_text()
    assert "secretword" not in text
    last = json.loads(text.splitlines()[-1])
    assert last["status"] == 200 and last["applied"][0]["capability"] == "rivers" and last["tokens_out"] > 0


def test_a_signal_lets_what_runs_finish_and_ends_the_process_with_0(served: Served) -> None:
    client = served.client()
    stream = client.completions.create(model="clouds", prompt=asked("clouds", 9), seed=9, stream=True, max_tokens=60)
    pieces = iter(stream)
    first = next(pieces)
    threading.Timer(0.01, served.process.send_signal, [signal.SIGTERM]).start()
    rest = [c.choices[0] for c in pieces if c.choices]
    assert first.choices and rest[-1].finish_reason in ("stop", "length")
    full = served.model.generate(asked("clouds", 9), capability="clouds", seed=9, max_new_tokens=60)[0].text
    assert "".join(c.text for c in rest) == full
    assert served.process.wait(timeout=30) == 0
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
