"""Servers of other processes: the project's own, met by clients that are killed, and `transformers serve` on a real model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid.backends.build import build_backend
from hybrid.backends.chat import ChatRequest
from hybrid.backends.chat_log import LoggedChat
from hybrid.backends.chat_target import TargetChat
from hybrid.backends.endpoint import EndpointChat
from hybrid.capability.types import Message
from hybrid.config.schema import (
    EndpointProposerConfig,
    ModelConfig,
    ProposerBudgetConfig,
    TransformersBackendConfig,
)
from hybrid.errors import BudgetExhausted, EndpointError

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "hybrid" / "assets" / "reference-model"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
START_S = 240

CLIENT = """
import sys
from pathlib import Path
from hybrid.backends.chat import ChatRequest
from hybrid.backends.chat_log import LoggedChat
from hybrid.backends.endpoint import EndpointChat
from hybrid.capability.types import Message
from hybrid.config.schema import EndpointProposerConfig, ProposerBudgetConfig

url, path, questions = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
config = EndpointProposerConfig(type="endpoint", url=url, model="m", key_env="SERVER_KEY")
chat = LoggedChat(EndpointChat(config), path, ProposerBudgetConfig(calls=questions))
for number in range(questions):
    message = Message(role="user", content=f"question {number}")
    print(chat.complete(ChatRequest(purpose="reflect", messages=(message,))).text, flush=True)
"""


def ask(text: str, **changes: object) -> ChatRequest:
    return ChatRequest(purpose="reflect", messages=(Message(role="user", content=text),), **changes)  # type: ignore[arg-type]


@contextmanager
def own_server(folder: Path, faults: Sequence[str] = ()) -> Iterator[tuple[str, Path]]:
    """The project's server as a process of its own: its address, and the file that gets what it was asked."""
    answers, log = folder / "answers.jsonl", folder / "asked.jsonl"
    lines = [{"contains": "question 0", "answer": "zero"}, {"answer": "another"}]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    script = [sys.executable, str(ROOT / "scripts" / "loopback_endpoint.py"), "--port", "0"]
    command = [*script, "--answers", str(answers), "--log", str(log), "--faults", *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], log
        finally:
            process.kill()


def asked(log: Path) -> list[str]:
    return [json.loads(line)["messages"][-1]["content"] for line in log.read_text(encoding="utf-8").splitlines()]


def client(url: str, path: Path, questions: int, fault: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SERVER_KEY": "canary-of-the-server", "HYBRID_FAULT": fault}
    command = [sys.executable, "-c", CLIENT, url, str(path), str(questions)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_second_process_with_every_fault_in_turn(tmp_path: Path) -> None:
    faults = ["slow:30", "429:0.2", "500", "truncate", "garbage", "drop", "cut", "drip:0.2", "ok", "401"]
    with own_server(tmp_path, faults) as (url, log):
        config = EndpointProposerConfig(type="endpoint", url=url, model="m", timeout_s=2, retries=9, deadline_s=120)
        impatient = EndpointChat(config, sleep=lambda seconds: time.sleep(min(seconds, 0.2)))
        chat = LoggedChat(impatient, tmp_path / "replies.jsonl", ProposerBudgetConfig(calls=2))
        began = time.monotonic()
        reply = chat.complete(ask("question 0"))
        assert (reply.text, reply.attempts) == ("zero", 9) and time.monotonic() - began < 60
        with pytest.raises(EndpointError, match="HTTP 401"):
            chat.complete(ask("question 1"))
        assert chat.complete(ask("question 1")).text == "another"
        with pytest.raises(BudgetExhausted):
            chat.complete(ask("question 2"))
        assert asked(log) == ["question 0"] * 9 + ["question 1"] * 2
        assert chat.spent().calls == 2 and chat.spent().attempts == 10


def test_a_killed_client_pays_for_nothing_twice_that_was_stored(tmp_path: Path) -> None:
    replies = tmp_path / "replies.jsonl"
    with own_server(tmp_path) as (url, log):
        for kill in (1, 1, 2):
            assert client(url, replies, 5, f"append.jsonl.after:{kill}").returncode == -signal.SIGKILL
        assert asked(log) == [f"question {n}" for n in range(4)]  # 1 + 1 + 2 stored, nothing asked twice
        # killed with a reply in hand that is not stored yet: this one reply is owed again, and no other
        assert client(url, replies, 5, "append.jsonl.before:1").returncode == -signal.SIGKILL
        done = client(url, replies, 5)
        assert done.returncode == 0 and done.stdout.split() == ["zero"] + ["another"] * 4, done.stderr
        assert asked(log) == [f"question {n}" for n in (0, 1, 2, 3, 4, 4)]
        before = replies.read_bytes()
        assert client(url, replies, 5).stdout == done.stdout and replies.read_bytes() == before
        assert len(asked(log)) == 6 and b"canary" not in before


@contextmanager
def served_model(folder: Path) -> Iterator[str]:
    """`transformers serve` over `folder`, on a free port of this machine, without any network."""
    log = folder.parent / "serve.log"
    program = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    command = [*program, "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out, subprocess.Popen(command, env=env, stdout=out, stderr=out) as process:
        try:
            yield address_in(log, process)
        finally:
            process.kill()


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that the server prints once it listens."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", text)
        if found:
            return f"{found[1]}/v1"
        if process.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"`transformers serve` did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


@pytest.mark.slow
def test_transformers_serve_answers_as_the_same_model_in_this_process(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}), encoding="utf-8")
    row = (ROOT / "data" / "reference" / "known-operations" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0]
    question, gold = json.loads(row)["prompt"], json.loads(row)["reference"]

    model = ModelConfig(path=str(folder), device="cpu", chat=True)
    target = TargetChat(build_backend(model, TransformersBackendConfig(), Path, tmp_path / "cache"), chat=True)
    with served_model(folder) as url:
        config = EndpointProposerConfig(type="endpoint", url=url, model=str(folder), timeout_s=120, retries=0)
        chat = EndpointChat(config)
        for request in (ask(question, max_tokens=14, reply_schema={"type": "object"}), ask(question, max_tokens=2)):
            there, here = chat.complete(request), target.complete(request)
            assert there.text.strip() == here.text.strip()
            assert (there.tokens_in, there.tokens_out, there.finish) == (here.tokens_in, here.tokens_out, here.finish)
            assert there.finish == ("stop" if request.max_tokens == 14 else "length")
            if request.max_tokens == 14:
                assert gold in there.text
        with pytest.raises(EndpointError, match="HTTP 400: Server is pinned"):
            EndpointChat(config.model_copy(update={"model": "another"})).complete(ask(question))
