"""The vLLM backend against a stand-in that honours vLLM's signatures: what is handed over, and what is refused.

vLLM itself is not run here; it pins another torch.
"""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from backend_tiny import load_tiny, save_adapter, save_tiny
from pydantic import ValidationError
from svf_tiny import save_svf

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.build import build_backend
from hybrid.backends.loading import LoadedModel
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.backends.vllm_backend import VllmBackend
from hybrid.config.loader import load_config
from hybrid.config.schema import ModelConfig, TransformersBackendConfig, VllmBackendConfig
from hybrid.errors import AdapterError, BackendError, ConfigError


@dataclass
class SamplingParams:
    """Those keywords of vLLM's class that are used, and no others."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    detokenize: bool = True


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class Model:
    """Greedy answers of the tiny model, with the adapter in a folder: what a right vLLM computes."""

    def __init__(self, folder: Path) -> None:
        self.loaded = load_tiny(folder)
        self.shelf = AdapterShelf(self.loaded)
        self.ignores_adapters = False

    def answer(
        self, row: list[int], most: int, stops: list[int], lora_path: str | None
    ) -> tuple[list[int], list[float]]:
        from hybrid.backends.adapters import inspect_adapter

        adapter = inspect_adapter(Path(lora_path)) if lora_path and not self.ignores_adapters else None
        ids, logprobs = list(row), []
        with self.shelf.active(adapter), torch.inference_mode():
            while len(logprobs) < most and (ids[-1] not in stops or not logprobs):
                scores = torch.log_softmax(self.loaded.model(torch.tensor([ids])).logits[0, -1], dim=-1)
                ids.append(int(scores.argmax()))
                logprobs.append(float(scores.max()))
        return ids[len(row) :], logprobs


class LLM:
    """The stand-in: constructor keywords are remembered, `generate` has vLLM's signature."""

    made: ClassVar[list[LLM]] = []

    def __init__(self, model: str, *, enable_lora: bool = False, **options: Any) -> None:
        assert enable_lora
        self.options, self.requests = options, []
        self.model = Model(Path(model))
        LLM.made.append(self)

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, use_tqdm: Any = True, lora_request: Any = None
    ) -> list[Any]:
        assert len(prompts) == len(sampling_params)
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            self.requests.append((prompt, params, lora_request))
            path = lora_request.lora_path if lora_request else None
            ids, logprobs = self.model.answer(
                prompt["prompt_token_ids"], params.max_tokens, params.stop_token_ids, path
            )
            found = [{i: types.SimpleNamespace(logprob=v)} for i, v in zip(ids, logprobs, strict=True)]
            finish = "stop" if ids[-1] in params.stop_token_ids else "length"
            output = types.SimpleNamespace(token_ids=ids, logprobs=found, finish_reason=finish)
            outputs.append(types.SimpleNamespace(outputs=[output]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    LLM.made = []
    request = types.SimpleNamespace(LoRARequest=LoRARequest)
    lora = types.SimpleNamespace(request=request)
    module = types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams, lora=lora)
    for name, value in {"vllm": module, "vllm.lora": lora, "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, value)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("vllm") / "model")


@pytest.fixture(scope="module")
def plain(folder: Path) -> LoadedModel:
    return load_tiny(folder)


@pytest.fixture(scope="module")
def adapter(folder: Path, plain: LoadedModel) -> Adapter:
    return save_adapter(folder.parent / "adapter", plain)


REQUESTS = [Request(text, seed=3) for text in ("abc =", "x1 =", "a longer prompt: 12 =")]
SAMPLING = Sampling(max_new_tokens=6)


def _build(folder: Path, **settings: Any) -> VllmBackend:
    model = ModelConfig(path=str(folder), device="cpu", threads=1)
    config = VllmBackendConfig(type="vllm", **settings)
    backend = build_backend(model, config, Path, folder.parent / "cache")
    assert isinstance(backend, VllmBackend)
    return backend


def _expected(plain: LoadedModel, adapter: Adapter | None) -> list[tuple[str, int, int, str]]:
    backend = TransformersBackend(plain, TransformersBackendConfig())
    return [(c.text, c.tokens_in, c.tokens_out, c.finish) for c in backend.generate(REQUESTS, SAMPLING, adapter)]


def _told(backend: VllmBackend, adapter: Adapter | None) -> list[tuple[str, int, int, str]]:
    return [(c.text, c.tokens_in, c.tokens_out, c.finish) for c in backend.generate(REQUESTS, SAMPLING, adapter)]


def test_answers_are_those_of_the_base_and_of_the_adapted_model(
    vllm: None, folder: Path, plain: LoadedModel, adapter: Adapter
) -> None:
    backend = _build(folder, batch_size=2)
    assert _told(backend, None) == _expected(plain, None)
    assert _told(backend, adapter) == _expected(plain, adapter) != _expected(plain, None)
    assert _told(backend, None) == _expected(plain, None)
    assert backend.info().fingerprint == plain.info.fingerprint
    (engine,) = LLM.made
    assert engine.options["generation_config"] == "vllm" and engine.options["trust_remote_code"] is False
    names = {lora.lora_name for _, _, lora in engine.requests if lora is not None}
    assert names == {f"a{adapter.sha256[:24]}"}, "handed over beside the base, under its own name"


def test_seeds_go_over_only_where_something_is_drawn(vllm: None, folder: Path) -> None:
    backend = _build(folder)
    backend.generate(REQUESTS[:1], SAMPLING, None)
    backend.generate(REQUESTS[:1], Sampling(max_new_tokens=2, temperature=0.7, top_p=0.9), None)
    greedy, drawn = LLM.made[0].requests[-2][1], LLM.made[0].requests[-1][1]
    assert greedy.seed is None and greedy.temperature == 0
    assert (drawn.seed, drawn.temperature, drawn.top_p, drawn.max_tokens) == (3, 0.7, 0.9, 2)


def test_a_vllm_that_leaves_the_adapter_out_is_refused(vllm: None, folder: Path, adapter: Adapter) -> None:
    backend = _build(folder)
    LLM.made[0].model.ignores_adapters = True
    with pytest.raises(AdapterError, match=r"does not serve the adapter .* that is trained"):
        backend.generate(REQUESTS, SAMPLING, adapter)


def test_a_vllm_with_another_base_is_refused(vllm: None, folder: Path, tmp_path: Path) -> None:
    backend = _build(folder)
    LLM.made[0].model = Model(save_tiny(tmp_path / "other", seed=5))
    with pytest.raises(BackendError, match="does not serve the base that is trained"):
        backend.generate(REQUESTS, SAMPLING, None)


def test_an_adapter_of_another_base_never_reaches_vllm(vllm: None, folder: Path, tmp_path: Path) -> None:
    other = load_tiny(save_tiny(tmp_path / "other", seed=5))
    with pytest.raises(AdapterError, match="another base"):
        _build(folder).generate(REQUESTS, SAMPLING, save_adapter(tmp_path / "adapter", other))


def test_singular_values_never_reach_vllm(vllm: None, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="LoRA adapters alone"):
        _build(folder).generate(REQUESTS, SAMPLING, save_svf(tmp_path / "svf", load_tiny(folder)))
    text = "name: a\nmodel: {path: reference}\nbackend: {type: vllm}\ncapabilities:\n  - name: b\n"
    text += "    source: {type: jsonl, path: b}\n    grader: {type: exact}\nweights: {method: svf}\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="LoRA adapters alone"):
        load_config(tmp_path / "c.yaml")


def test_without_vllm_the_message_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(BackendError, match=r"install `vllm>=0\.22,<=0\.31`.*docs/memory\.md"):
        _build(folder)


@pytest.mark.parametrize("settings", [{"mode": "server"}, {"mode": "colocate", "url": "http://localhost:8000/v1"}])
def test_an_address_belongs_to_a_server(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="url belongs to mode server"):
        VllmBackendConfig(type="vllm", **settings)


class _Server(BaseHTTPRequestHandler):
    """`vllm serve` as far as it is asked: completions from token ids, adapters loaded at run time."""

    model: Model
    paths: dict[str, str]
    seen: list[dict[str, Any]]
    broken = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"path": self.path, **body})
        if self.path == "/v1/load_lora_adapter":
            self.paths[body["lora_name"]] = body["lora_path"]
            return self._say(200, {})
        if body["model"] not in ("base", *self.paths):
            return self._say(404, {"message": f"The model {body['model']} does not exist."})
        choices = []
        for index, row in enumerate(body["prompt"]):
            stops = body["stop_token_ids"]
            ids, logprobs = self.model.answer(row, body["max_tokens"], stops, self.paths.get(body["model"]))
            finish = "stop" if ids[-1] in stops else "length"
            told: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": {"token_logprobs": logprobs}}
            choices.append(told if self.broken else {**told, "token_ids": ids})
        return self._say(200, {"choices": choices[::-1]})

    def _say(self, status: int, value: Any) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[tuple[str, type[_Server]]]:
    handler = type("Handler", (_Server,), {"model": Model(folder), "paths": {}, "seen": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", handler
    httpd.shutdown()
    httpd.server_close()


def test_a_server_is_held_to_the_same(
    server: tuple[str, type[_Server]], folder: Path, plain: LoadedModel, adapter: Adapter
) -> None:
    url, handler = server
    backend = _build(folder, mode="server", url=url, served_model="base")
    assert _told(backend, None) == _expected(plain, None)
    assert _told(backend, adapter) == _expected(plain, adapter)
    assert _told(backend, adapter) == _expected(plain, adapter)
    assert [s["lora_path"] for s in handler.seen if s["path"] == "/v1/load_lora_adapter"] == [str(adapter.path)]
    drawn = Sampling(max_new_tokens=2, temperature=1.0)
    backend.generate(REQUESTS, drawn, None)
    assert [(len(s["prompt"]), s["seed"]) for s in handler.seen[-3:]] == [(1, 3)] * 3, "a request has one seed"


def test_a_server_that_is_none_of_ours_is_named(server: tuple[str, type[_Server]], folder: Path) -> None:
    url, handler = server
    with pytest.raises(BackendError, match=r"answers 404.*does not exist"):
        _build(folder, mode="server", url=url, served_model="other").generate(REQUESTS, SAMPLING, None)
    handler.broken = True
    with pytest.raises(BackendError, match="returns token ids"):
        _build(folder, mode="server", url=url, served_model="base").generate(REQUESTS, SAMPLING, None)
    with pytest.raises(BackendError, match="is `vllm serve` running there"):
        _build(folder, mode="server", url="http://127.0.0.1:9/v1").generate(REQUESTS, SAMPLING, None)
