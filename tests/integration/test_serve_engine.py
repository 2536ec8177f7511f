"""The engine over a real base: kinds of adapters beside each other, rows that fail, rows that are given up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from backend_tiny import load_tiny, save_adapter, save_tiny
from svf_tiny import save_svf

from hybrid.backends import live
from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.proxy_folder import write_proxy
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import BackendError, PromptError
from hybrid.serve import export
from hybrid.serve.engine import Delta, Done, Engine, EngineLimits, Event, Failed
from hybrid.serve.placed import Applied, Prepared

NOTHING = Applied(None, None, None, None, "a test")


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
    folder = tmp_path_factory.mktemp("engine")
    backend = TransformersBackend(load_tiny(save_tiny(folder / "model")), TransformersBackendConfig())
    backend.shelf.make_room(6)
    return backend


@pytest.fixture(scope="module")
def adapters(backend: TransformersBackend, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter | None]:
    folder = tmp_path_factory.mktemp("adapters")
    loras = [save_adapter(folder / f"lora{seed}", backend.loaded, seed=seed) for seed in (1, 2)]
    base = ("base", backend.info().fingerprint)
    proxy = write_proxy(loras[0].path, 0.5, folder / "proxy", base, {"method": "proxy"})
    return [None, *loras, save_svf(folder / "svf", backend.loaded), proxy]


def prepared(adapter: Adapter | None, number: int, tokens: int = 8) -> Prepared:
    sampling = Sampling(max_new_tokens=tokens, temperature=float(number % 2))
    return Prepared(Request(f"ab{number} =", seed=number), sampling, adapter, None, NOTHING)


class Heard:
    """What one row was told."""

    def __init__(self) -> None:
        self.text, self.last, self.over = "", None, threading.Event()
        self.hook: Callable[[Event], None] = lambda event: None

    def __call__(self, event: Event) -> None:
        self.hook(event)
        if isinstance(event, Delta):
            self.text += event.text
        else:
            self.last = event
            self.over.set()


@pytest.mark.parametrize("mixed", [True, False])
def test_kinds_of_adapters_answer_beside_each_other(
    backend: TransformersBackend, adapters: list[Adapter | None], mixed: bool
) -> None:
    asked = [prepared(adapters[n % 5], n) for n in range(20)]
    expected = [backend.generate([p.request], p.sampling, p.adapter)[0] for p in asked]
    assert len({c.text for c in expected}) > 12
    engine = Engine(backend, EngineLimits(rows=6, window_s=0.02), mixed=mixed)
    heard = [Heard() for _ in asked]
    for p, ear in zip(asked, heard, strict=True):
        engine.submit(p, ear)
    assert engine.close(30)
    assert [h.text for h in heard] == [c.text for c in expected]
    assert [h.last for h in heard] == [Done(c.finish, c.tokens_in, c.tokens_out) for c in expected]
    assert engine.passes < sum(c.tokens_out for c in expected)


def test_a_prompt_that_does_not_fit_fails_alone(backend: TransformersBackend) -> None:
    engine = Engine(backend, EngineLimits(window_s=0.05))
    good, bad = Heard(), Heard()
    long = Prepared(Request("a" * 200, 0), Sampling(max_new_tokens=8), None, None, NOTHING)
    for p, ear in ((prepared(None, 2), good), (long, bad)):
        engine.submit(p, ear)
    assert engine.close(30)
    assert isinstance(good.last, Done) and isinstance(bad.last, Failed) and isinstance(bad.last.error, PromptError)


def test_memory_that_runs_out_fails_the_rows_and_not_the_server(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = live.last_logits, []

    def scarce(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no more")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(live, "last_logits", scarce)
    engine = Engine(backend, EngineLimits(rows=8, window_s=0.05))
    first = [Heard() for _ in range(4)]
    for number, ear in enumerate(first):
        engine.submit(prepared(None, 2 * number), ear)
    assert all(ear.over.wait(30) for ear in first)
    assert {type(ear.last) for ear in first} == {Failed}
    assert all(isinstance(ear.last.error, BackendError) for ear in first if isinstance(ear.last, Failed))
    again = Heard()
    engine.submit(prepared(None, 0), again)
    assert again.over.wait(30) and isinstance(again.last, Done)
    assert engine.close(30)


def test_a_row_that_is_given_up_leaves_the_batch(backend: TransformersBackend) -> None:
    engine = Engine(backend, EngineLimits(window_s=0.05))
    stays, leaves = Heard(), Heard()
    ticket = engine.submit(prepared(None, 1, tokens=60), leaves)

    def give_up(event: Event) -> None:
        if isinstance(event, Delta):
            ticket.cancel()

    leaves.hook = give_up
    engine.submit(prepared(None, 4), stays)
    assert stays.over.wait(30) and engine.close(30)
    assert leaves.last is None and ticket.row is not None and ticket.row.tokens_out < 60


def test_an_svf_adapter_is_given_to_other_engines_as_a_lora(tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model"))
    svf = save_svf(tmp_path / "svf", loaded)
    row = {"name": "a", "source": {"type": "jsonl", "path": "a"}, "grader": {"type": "exact"}}
    model = {"path": str(tmp_path / "model"), "device": "cpu", "threads": 1}
    config = {"name": "run", "model": model, "capabilities": [row]}
    (tmp_path / "config.resolved.json").write_text(json.dumps(config), encoding="utf-8")
    told = export._convert(tmp_path, 4, svf.path, tmp_path / "lora")
    assert told["rank"] == 4 and not told["exact"] and 0 < told["error"] < 1
    whole = export._convert(tmp_path, 64, svf.path, tmp_path / "whole")
    assert whole["exact"]
    backend = TransformersBackend(loaded, TransformersBackendConfig())
    asked = [Request(f"ab{n} =", 0) for n in range(4)]
    original, same = (
        backend.generate(asked, Sampling(max_new_tokens=8), a) for a in (svf, inspect_adapter(tmp_path / "whole"))
    )
    assert [c.text for c in same] == [c.text for c in original]
