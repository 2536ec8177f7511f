"""A model behind an endpoint as the base: the placements of a model in process, nothing trained, nothing paid for twice."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_world import TRUTH, World, make_world

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.doctor import examine
from hybrid.backends.endpoint_backend import EndpointBackend, Pace, at_once
from hybrid.backends.scripted import ScriptedBackend
from hybrid.config.loader import inspect_config, load_config
from hybrid.config.schema import ModelConfig, OpenAIBackendConfig
from hybrid.errors import AdapterError, BudgetExhausted, ConfigError, EndpointError, UsageError
from hybrid.pipeline.plan import plan
from hybrid.pipeline.run import run
from hybrid.pipeline.text_only import text_arms, text_route
from hybrid.pipeline.transfer import transfer_to
from hybrid.report.schema import load_report
from hybrid.router.route import Route
from hybrid.serve.export import card
from hybrid.store.records import RecordLog

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from loopback_endpoint import LoopbackEndpoint

GREEDY = Sampling(max_new_tokens=8)


def built(url: str, **changes: Any) -> EndpointBackend:
    settings = {"retries": 2, **changes}
    return EndpointBackend(ModelConfig(path="m"), OpenAIBackendConfig(type="openai", url=url, **settings))


def questions(count: int) -> list[Request]:
    return [Request(f"question {n}", seed=2**40 + n) for n in range(count)]


def last(payload: dict[str, Any]) -> str:
    return str(payload["messages"][-1]["content"])


def test_answers_come_in_order_however_they_arrive_and_cost_what_the_server_says() -> None:
    def answer(payload: dict[str, Any]) -> str:
        return last(payload).upper()

    with LoopbackEndpoint(answer, ["slow:0.4", "ok", "500", "ok"]) as server:
        backend = built(server.url, concurrency=4)
        done = backend.generate(questions(9), Sampling(max_new_tokens=4, temperature=0.7, top_p=0.9), None)
        assert [c.text for c in done] == [f"QUESTION {n}" for n in range(9)]
        assert all((c.tokens_in, c.tokens_out, c.finish) == (3, 3, "stop") for c in done)
        bodies = {last(payload): payload for payload in server.requests}
    assert len(server.requests) == 10, "one was tried again"
    sent = bodies["question 3"]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["model"]) == (4, 0.7, 0.9, "m")
    assert sent["seed"] == (2**40 + 3) % 2**31


def test_a_cut_answer_a_refusal_and_the_name_of_the_cap() -> None:
    with LoopbackEndpoint(lambda payload: "x" * 100) as server:
        done = built(server.url).generate(questions(1), Sampling(max_new_tokens=100), None)[0]
        assert (done.finish, done.tokens_out) == ("stop", 25)
        built(server.url, length_key="max_completion_tokens").generate(questions(1), GREEDY, None)
    assert server.requests[1]["max_completion_tokens"] == 8 and "max_tokens" not in server.requests[1]
    assert server.requests[1]["seed"] == 0 and server.requests[1]["temperature"] == 0


@pytest.mark.parametrize(
    ("message", "finish", "text"),
    [
        ({"content": None, "refusal": "I cannot."}, "stop", "I cannot."),
        ({"content": None}, "content_filter", ""),
        ({"content": None}, "length", ""),
    ],
)
def test_what_a_model_says_instead_of_an_answer_is_its_answer(message: Any, finish: str, text: str) -> None:
    class Refusing(LoopbackEndpoint):
        def reply(self, payload: dict[str, Any]) -> dict[str, Any]:
            return {
                "choices": [{"message": message, "finish_reason": finish}],
                "model": "m-1",
                "system_fingerprint": "f",
            }

    with Refusing(lambda payload: "") as server:
        backend = built(server.url)
        assert backend.generate(questions(1), GREEDY, None)[0].text == text
    assert len(backend.warnings) == 1, "one model answered"


def test_two_models_under_one_name_are_reported() -> None:
    class Moving(LoopbackEndpoint):
        def reply(self, payload: dict[str, Any]) -> dict[str, Any]:
            return {**super().reply(payload), "model": f"m-{len(self.requests)}"}

    with Moving(lambda payload: "fine") as server:
        backend = built(server.url, concurrency=1)
        backend.generate(questions(2), GREEDY, None)
    assert any("2 models answered under one name: m-1, m-2" in warning for warning in backend.warnings)


def test_an_endpoint_that_fails_ends_the_call_and_the_rest_is_not_asked() -> None:
    with LoopbackEndpoint(lambda payload: "fine", ["401"]) as server:
        with pytest.raises(EndpointError, match="HTTP 401"):
            built(server.url, concurrency=1).generate(questions(50), GREEDY, None)
        assert len(server.requests) <= 2


def test_an_error_is_not_held_up_by_calls_under_way() -> None:
    began = time.monotonic()
    with LoopbackEndpoint(lambda payload: "fine", ["slow:30", "401"]) as server:
        with pytest.raises(EndpointError, match="HTTP 401"):
            built(server.url, concurrency=2).generate(questions(3), GREEDY, None)
        assert time.monotonic() - began < 20


def test_as_many_at_once_as_configured_and_no_more() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def call(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1
        return -number

    assert at_once(call, range(20), 3) == [-n for n in range(20)]
    assert most == 3


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="takes no adapter"):
        built("http://127.0.0.1:9/v1").generate(questions(1), GREEDY, Adapter(tmp_path, "0" * 64))


def test_the_fingerprint_is_of_what_answers_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "canary-of-the-key")
    one, same = built("http://u:canary@h/v1?key=canary"), built("http://h/v1", key_env="A_KEY", timeout_s=3)
    other = built("http://h/v1", served_model="n")
    assert one.info().fingerprint == same.info().fingerprint != other.info().fingerprint
    assert "canary" not in f"{one.info()} {one.warnings} {same.info()}"
    monkeypatch.delenv("A_KEY")
    with pytest.raises(UsageError, match=r"backend\.key_env: the environment variable A_KEY is not set"):
        built("http://h/v1", key_env="A_KEY")


def test_the_pace_is_kept_without_a_burst() -> None:
    slept: list[float] = []
    pace = Pace(120, clock=lambda: 10.0, sleep=slept.append)
    for _ in range(4):
        pace.wait()
    assert slept == [0.5, 1.0, 1.5]
    Pace(None, clock=lambda: 10.0, sleep=slept.append).wait()
    assert len(slept) == 3


class Served:
    """The scripted world's model behind a server: what a document and a question say together decides the answer."""

    def __init__(self, world: World) -> None:
        self.world, self.script = world, ScriptedBackend(world.folder / "script.json")

    def __call__(self, payload: dict[str, Any]) -> str:
        text = "\n".join(message["content"] for message in payload["messages"])
        if last(payload).startswith("guess") and payload["seed"] % 3 == 1:
            return f"unknown-{last(payload).split()[1]}"  # sampled, it sometimes knows
        return self.script.generate([Request(text, seed=0)], Sampling(max_new_tokens=64), None)[0].text


def endpoint_world(folder: Path, url: str, *replaced: tuple[str, str]) -> World:
    world = make_world(folder)
    text = world.config.read_text(encoding="utf-8").replace(", device: cpu", "").replace("path: reference", "path: m")
    text = text.replace("{type: scripted, script: script.json}", f"{{type: openai, url: '{url}', concurrency: 4}}")
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    world.config.write_text(text, encoding="utf-8")
    return world


def silent(kind: str, data: dict[str, Any]) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Sequence[dict[str, Any]], Path]:
    """A run that an empty budget stopped once and that went on."""
    folder = tmp_path_factory.mktemp("endpoint")
    served = Served(make_world(folder / "model"))
    with LoopbackEndpoint(served) as server:
        world = endpoint_world(folder / "world", server.url)
        with pytest.raises(BudgetExhausted):
            run(world.load("budget.calls=100"), folder / "run", on_event=silent)
        path = run(world.load("backend.concurrency=3"), folder / "run", on_event=silent)
        return world, list(server.requests), path


def test_a_whole_run_places_by_document_alone(finished: tuple[World, Sequence[dict[str, Any]], Path]) -> None:
    _, asked, path = finished
    report = load_report(path)
    assert {c.name: c.placement for c in report.capabilities} == TRUTH
    assert report.ledger.calls == len(asked), "every answer was asked for once"
    assert report.ledger.tokens_in > 0 and report.model.device == "remote"
    read = [p for p in asked if p["messages"][0]["role"] == "system"]
    assert read and all([m["role"] for m in p["messages"]] == ["system", "user"] for p in read)
    assert any("code alpha doubles." in p["messages"][0]["content"] for p in read)
    markdown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "without notice" in markdown and "0 parameters" not in markdown


def test_what_would_want_weights_is_tried_as_text_and_says_so(
    finished: tuple[World, Sequence[dict[str, Any]], Path],
) -> None:
    report = load_report(finished[2])
    secrets = next(c for c in report.capabilities if c.name == "secrets")
    assert secrets.reason.startswith("skill was attempted")
    assert any(w.startswith("secrets: the probes say weights") for w in report.warnings)
    assert all(getattr(secrets.arms, arm) is None for arm in ("weights", "both"))


def test_the_same_run_again_asks_nothing(finished: tuple[World, Sequence[dict[str, Any]], Path]) -> None:
    world, asked, path = finished
    before = path.read_bytes()
    run(world.load(), path.parents[1], on_event=silent)  # nobody listens at that address any more
    assert path.read_bytes() == before
    keys = [row["key"] for file in (path.parents[1] / "rollouts").glob("*.jsonl") for row in RecordLog(file).read()]
    assert max(Counter(keys).values()) == 1 and len(keys) == len(asked)


def test_its_documents_are_taken_to_another_name_at_the_endpoint(
    finished: tuple[World, Sequence[dict[str, Any]], Path],
) -> None:
    world, _, path = finished
    port = int(world.load().config.backend.url.rpartition(":")[2].removesuffix("/v1"))
    with LoopbackEndpoint(Served(make_world(world.folder.parent / "again")), port=port) as server:
        options: dict[str, Any] = {"everything": False, "overrides": (), "on_event": silent}
        report, _ = transfer_to(path.parents[1], "other", {}, **options)
        assert {payload["model"] for payload in server.requests} == {"other"}
    codes = next(entry for entry in report.capabilities if entry.name == "codes")
    assert codes.verdict is not None and report.model.path.endswith(" other")
    assert "0 parameters" not in card(load_report(path))


def test_routes_and_arms_without_weights() -> None:
    both = text_route(Route("both", ("why",), 0.7, None))
    assert (both.placement, both.fallback, len(both.reasons)) == ("skill", None, 2)
    assert text_route(Route("skill", (), 0.7, "weights")) == Route("skill", (), 0.7, None)
    assert text_route(Route("keep", (), 0.7)) == Route("keep", (), 0.7)
    assert text_arms(("skill", "weights", "both")) == ("skill",)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (
            "router: {force: {codes: weights}}",
            "router.force.codes: `weights` placements cannot be built on an endpoint",
        ),
        ("router: {force: {codes: both}}", "router.force.codes: `both` placements cannot be built on an endpoint"),
        ("weights: {method: sft}", "weights.method: nothing can be trained on an endpoint"),
        ("weights: {lora: {rank: 4}}", "weights.lora: nothing can be trained on an endpoint"),
    ],
)
def test_weights_are_refused_by_name(tmp_path: Path, line: str, where: str) -> None:
    world = endpoint_world(tmp_path / "world", "http://127.0.0.1:9/v1")
    world.config.write_text(world.config.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        world.load()
    assert where in str(error.value)
    assert len(inspect_config(world.config).problems) == 1, "one mistake, said once"


def test_settings_of_a_model_in_process_are_refused(tmp_path: Path) -> None:
    world = endpoint_world(tmp_path / "world", "http://127.0.0.1:9/v1", ("path: m", "path: m, dtype: bfloat16"))
    with pytest.raises(ConfigError, match=r"model\.dtype: the endpoint decides this itself"):
        world.load()
    fine = endpoint_world(tmp_path / "fine", "http://127.0.0.1:9/v1", ("path: m", "path: 'org/m:free', chat: true"))
    weights = "weights: {monitors: {formats: [{name: mark, pattern: '!'}]}, rewards: {confidence_pattern: tag}}\n"
    fine.config.write_text(fine.config.read_text(encoding="utf-8") + weights, encoding="utf-8")
    assert inspect_config(fine.config).problems == (), (
        "a name is no path, and monitors also read answers that are measured"
    )


def test_plan_counts_no_training_and_doctor_asks_once(tmp_path: Path) -> None:
    with LoopbackEndpoint(lambda payload: "4") as server:
        world = endpoint_world(tmp_path / "world", server.url)
        findings = {f.name: f for f in examine(load_config(world.config), tmp_path)}
        assert len(server.requests) == 1
    assert findings["model"].status == "ok" and "unknown size on remote" in findings["model"].detail
    assert all(findings[name].status != "fail" for name in ("torch", "trl"))
    planned = plan(load_config(world.config))
    assert planned.training_steps.upper == 0 and planned.calls.typical > 100
    assert all(stage.calls.upper == 0 for c in planned.capabilities for stage in c.stages if stage.stage == "weights")
    assert "endpoint" in planned.memory.note
    gone = {f.name: f for f in examine(load_config(world.config, ["backend.retries=0"]), tmp_path)}
    assert gone["model"].status == "fail" and "no reply" in gone["model"].detail
