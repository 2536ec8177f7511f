"""The server over a scripted model: limits, order of refusals, streams of whole answers, deadlines and cancellation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from hybrid.backends.base import Adapter, Backend, Completion, ModelInfo, Request, Sampling
from hybrid.backends.scripted import ScriptedBackend
from hybrid.config.schema import ModelConfig, ScriptedBackendConfig
from hybrid.errors import BackendError
from hybrid.serve.app import Api, ServerLimits, build_app
from hybrid.serve.engine import Engine, EngineBusy, EngineClosed, EngineLimits, Event, Failed
from hybrid.serve.facts import SERVING, CapabilityFacts, ServingFacts, write_facts
from hybrid.serve.placed import PlacedModel, load
from hybrid.serve.server import ServeOptions, exposure, is_local
from hybrid.skill.document import SkillDocument
from hybrid.skill.evidence_metadata import body_hash
from hybrid.skill.library import save_skill

DOCUMENT = "code alpha doubles.\n"


class Gated:
    """A backend whose answers wait until `gate` is set, and that fails for prompts with `boom` in them."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.gate, self.calls = backend, threading.Event(), 0
        self.gate.set()

    def info(self) -> ModelInfo:
        return self._backend.info()

    def count_tokens(self, text: str) -> int:
        return self._backend.count_tokens(text)

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        self.gate.wait(10)
        self.calls += 1
        if any("boom" in str(r.prompt) for r in requests):
            raise BackendError("the machine is on fire, and here is its secret: hunter2")
        return self._backend.generate(requests, sampling, adapter)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export over a script, written by hand: `greetings` is answered by the base, `codes` by a document."""
    folder = tmp_path_factory.mktemp("app")
    out = folder / "out"
    script = {
        "rules": [
            *({"equals": f"greet te{n:02d}", "answers": [f"hello te{n:02d}"]} for n in range(12)),
            {"equals": f"{DOCUMENT}ask te00 alpha", "answers": ["te00te00"]},
        ],
        "default": "no idea",
    }
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    backend = ScriptedBackend(folder / "script.json")
    save_skill(out / "skills", SkillDocument(name="codes", description="What codes mean.", body=DOCUMENT))
    asked = {"greetings": "greet", "codes": "ask of alpha"}
    rows = [
        CapabilityFacts(name=name, sampling=Sampling(), examples=tuple(f"{text} tr{n}" for n in range(9)))
        for name, text in asked.items()
    ]
    model = ModelConfig(path="reference", device="cpu")
    scripted = ScriptedBackendConfig(type="scripted", script="script.json")
    write_facts(out / SERVING, ServingFacts(model=model, backend=scripted, capabilities=tuple(rows)))
    files = {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.*")}
    nothing = {"skill": None, "adapter": None, "adapter_sha256": None}
    codes = {"skill": "skills/codes/SKILL.md", "body_sha256": body_hash(DOCUMENT)}
    manifest = {
        "schema_version": 1,
        "run_id": "app",
        "model": {"path": "script", "fingerprint": backend.info().fingerprint},
        "capabilities": [
            {"name": "greetings", "placement": "keep", **nothing},
            {"name": "codes", "placement": "skill", **nothing, **codes},
        ],
        "files": files,
    }
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


class Rig:
    """A server without a socket."""

    def __init__(self, folder: Path, key: str | None = None, rows: int = 64, **limits: Any) -> None:
        self.backend = Gated(ScriptedBackend(folder / "script.json"))
        self.model: PlacedModel = load(folder / "out", backend=self.backend)
        self.engine = Engine(self.backend, EngineLimits(rows=rows, waiting=64, window_s=0.01))
        self.log: list[dict[str, Any]] = []
        self.api = Api(self.model, self.engine, ServerLimits(**limits), key=key, log=self.log.append)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(self.api), raise_app_exceptions=False), base_url="http://test"
        )

    async def ask(self, prompt: str = "greet te00", **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"model": "hybrid", "prompt": prompt, **changes})


def post(path: str) -> dict[str, Any]:
    """The scope of a POST, for a client that behaves as no library would."""
    version = {"asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1"}
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "scheme": "http",
        **version,
    }


def play(rig: Rig, scene: Any) -> Any:
    try:
        return asyncio.run(scene(rig))
    finally:
        rig.backend.gate.set()
        assert rig.engine.close(10)


def test_answers_and_streams_of_a_backend_that_gives_whole_texts(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        plain = (await rig.ask()).json()
        assert plain["choices"][0]["text"] == "hello te00" and plain["hybrid"][0]["capability"] == "greetings"
        several = (await rig.ask(["greet te01", "ask te00 alpha"])).json()  # type: ignore[arg-type]
        assert [c["text"] for c in several["choices"]] == ["hello te01", "te00te00"]
        reply = await rig.ask(stream=True, stream_options={"include_usage": True})
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        assert reply.headers["content-type"].startswith("text/event-stream") and events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == "hello te00"
        assert chunks[-1]["usage"]["total_tokens"] > 0 and chunks[0]["hybrid"]["capability"] == "greetings"
        assert rig.api.under_way == 0
        assert all("te00" not in json.dumps(line) for line in rig.log)

    play(Rig(finished), scene)


def test_requests_that_ask_together_share_a_call(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        replies = await asyncio.gather(*(rig.ask(f"greet te{n:02d}") for n in range(12)))
        assert [r.json()["choices"][0]["text"] for r in replies] == [f"hello te{n:02d}" for n in range(12)]
        assert rig.backend.calls < 12

    play(Rig(finished), scene)


def test_a_key_is_asked_for_before_anything_else(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer schl\xfcssel"}):
            sent = {k: v.encode("latin-1") for k, v in headers.items()}
            refused = await rig.client.post("/v1/completions", content=b"{", headers=sent)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert (await rig.client.get("/v1/models")).status_code == 401
        assert (await rig.client.get("/health")).status_code == 200
        good = await rig.client.get("/v1/models", headers={"authorization": "Bearer 0123456789abcdef"})
        assert "greetings" in [m["id"] for m in good.json()["data"]]

    play(Rig(finished, key="0123456789abcdef"), scene)


def test_too_many_requests_are_told_to_come_back(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.backend.gate.clear()
        going = [asyncio.create_task(rig.ask(f"greet te{n:02d}")) for n in range(3)]
        while rig.api.under_way < 3:
            await asyncio.sleep(0.005)
        refused = await rig.ask()
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        rig.backend.gate.set()
        assert {r.status_code for r in await asyncio.gather(*going)} == {200}
        assert (await rig.ask()).status_code == 200

    play(Rig(finished, concurrent=3), scene)


def test_a_request_that_takes_too_long_is_given_up(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.backend.gate.clear()
        whole, streamed = await asyncio.gather(rig.ask(), rig.ask(stream=True))
        assert whole.status_code == streamed.status_code == 504
        assert whole.json()["error"]["type"] == "server_error" and whole.json()["error"]["code"] == "timeout"
        rig.backend.gate.set()
        assert (await rig.ask()).status_code == 200 and rig.api.under_way == 0

    play(Rig(finished, timeout_s=0.2), scene)


def test_a_failure_reaches_the_log_and_not_the_client(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.backend.gate.clear()
        both = asyncio.gather(rig.ask("boom", capability="greetings"), rig.ask("greet te00"))
        await asyncio.sleep(0.1)
        rig.backend.gate.set()
        failed, sound = await both
        assert failed.status_code == 500 and "hunter2" not in failed.text
        assert any("hunter2" in str(line.get("cause")) for line in rig.log)
        assert sound.json()["choices"][0]["text"] == "hello te00", "one bad row does not spoil its call"

    play(Rig(finished), scene)


def test_draining_refuses_what_is_new_and_finishes_what_runs(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        rig.backend.gate.clear()
        going = asyncio.create_task(rig.ask())
        while not rig.api.under_way:
            await asyncio.sleep(0.005)
        rig.api.draining = True
        refused, health = await rig.ask(), await rig.client.get("/health")
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        assert health.status_code == 503 and health.json() == {"status": "draining"}
        rig.backend.gate.set()
        assert (await going).status_code == 200

    play(Rig(finished), scene)


@pytest.mark.parametrize("goes", ["before the head", "after it"])
def test_a_client_that_goes_away_leaves_nothing_behind(finished: Path, goes: str) -> None:
    async def scene(rig: Rig) -> None:
        body = json.dumps({"model": "hybrid", "prompt": "greet te00", "stream": True}).encode()
        received = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return received.pop() if received else await asyncio.sleep(60, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            if goes == "before the head" or message["type"] == "http.response.body":
                raise OSError("the client is gone")

        await build_app(rig.api)(post("/v1/completions"), receive, send)  # type: ignore[arg-type]
        assert rig.api.under_way == 0 and rig.engine.load == (0, 0)
        assert rig.log[-1]["status"] == 499
        assert (await rig.ask()).status_code == 200

    play(Rig(finished), scene)


def test_a_body_that_never_ends_is_given_up(finished: Path) -> None:
    async def scene(rig: Rig) -> None:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return await asyncio.sleep(60, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await build_app(rig.api)(post("/v1/completions"), receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 408 and b"did not arrive in time" in sent[1]["body"]
        assert rig.api.under_way == 0

    play(Rig(finished, timeout_s=0.1), scene)


def test_the_engine_keeps_its_limits_and_tells_everybody_at_its_end(finished: Path) -> None:
    rig = Rig(finished, rows=1)
    rig.backend.gate.clear()
    seen: list[Event] = []
    prepared = rig.model.prepare("greet te00")
    first = rig.engine.submit(prepared, seen.append)
    while rig.engine.load[1]:
        pass
    waiting = [rig.engine.submit(prepared, seen.append) for _ in range(64)]
    with pytest.raises(EngineBusy):
        rig.engine.submit(prepared, seen.append)
    for ticket in (first, *waiting[:-1]):
        ticket.cancel()
    rig.backend.gate.set()
    assert rig.engine.close(10)
    assert len(seen) == 2 and not isinstance(seen[-1], Failed), "only the last one is still waited for"
    assert rig.backend.calls == 2, "what nobody waits for is not computed"
    with pytest.raises(EngineClosed):
        rig.engine.submit(prepared, seen.append)


def test_addresses_that_only_this_machine_reaches() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
    warned = exposure(ServeOptions(host="0.0.0.0"), None)
    assert warned is not None and "no key is set (HYBRID_API_KEY)" in warned
    assert exposure(ServeOptions(host="0.0.0.0"), "0123456789abcdef") is exposure(ServeOptions(), None) is None
