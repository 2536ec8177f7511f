"""A base in 4 and 8 bits: what it computes, what it is called, and that adapters train on it and go on to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_tiny import load_tiny, save_adapter, save_tiny
from weights_tiny import hashes, interrupted, load, make_job, train, without_seconds

from hybrid.backends.adapters import check_adapter
from hybrid.backends.base import Request, Sampling
from hybrid.backends.loading import load_base, weights_checksum
from hybrid.backends.quantization import _forward, _try, is_quantised
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import LoraConfig, ModelConfig, QuantizationConfig, TransformersBackendConfig
from hybrid.errors import AdapterError, BackendError, ConfigError
from hybrid.weights.trl_common import RowSampler  # noqa: F401  imports TRL once, outside what is measured

bitsandbytes = pytest.importorskip("bitsandbytes")

NF4: dict[str, Any] = {"type": "nf4"}
INT8: dict[str, Any] = {"type": "int8"}
WIDE = LoraConfig(rank=128, alpha=8)
"""Wide enough that the optimiser's states are above the size from which they are kept in 8 bits."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("quantised") / "model")


def _logits(loaded: Any, rows: int = 3) -> torch.Tensor:
    ids = torch.arange(3, 3 + 8 * rows).reshape(rows, 8)
    with torch.no_grad():
        logits: torch.Tensor = loaded.model(ids, use_cache=False).logits
    return logits


@pytest.mark.parametrize(("quantization", "error"), [(NF4, 0.2), (INT8, 0.03)])
def test_the_reference_model_quantised_answers_nearly_like_the_plain_one(
    quantization: dict[str, Any], error: float
) -> None:
    """Its rows of 160 are no multiple of a block: bitsandbytes' own CPU kernel gives numbers unrelated to the weights."""
    plain = load_base(ModelConfig(path="reference", device="cpu", threads=1), Path, Path("unused"))
    packed = load_base(
        ModelConfig(path="reference", device="cpu", threads=1, quantization=quantization), Path, Path("unused")
    )
    exact, found = _logits(plain), _logits(packed)
    assert float((found - exact).norm() / exact.norm()) < error
    assert packed.info.parameters == plain.info.parameters
    assert _bytes(packed) < _bytes(plain) / (5 if quantization is NF4 else 3)


def _bytes(loaded: Any) -> int:
    state = loaded.model.state_dict()
    return sum(tensor.numel() * tensor.element_size() for name, tensor in state.items() if ".layers." in name)


@pytest.mark.parametrize("quantization", [NF4, INT8])
def test_answering_leaves_the_bytes_of_the_base_and_does_not_depend_on_the_batch(
    folder: Path, quantization: dict[str, Any]
) -> None:
    loaded = load_tiny(folder, quantization=quantization)
    before = weights_checksum(loaded.model)
    together = _logits(loaded)
    assert torch.equal(together[:1], _logits(loaded, rows=1))
    assert weights_checksum(loaded.model) == before
    loaded.model.train()
    assert torch.equal(_logits(loaded), together), "trained is what answers"


def test_the_fingerprint_is_that_of_the_packed_model_and_of_how_it_computes(folder: Path) -> None:
    settings = [None, NF4, {**NF4, "double": False}, {**NF4, "compute_dtype": "bfloat16"}, INT8]
    found = [load_tiny(folder, quantization=q).info.fingerprint for q in settings]
    assert len(set(found)) == len(settings)
    assert load_tiny(folder, quantization=NF4).info.fingerprint == found[1]


@pytest.mark.parametrize("quantization", [NF4, INT8])
def test_gradients_of_a_packed_layer_are_those_of_its_weights(folder: Path, quantization: dict[str, Any]) -> None:
    layer = load_tiny(folder, quantization=quantization).model.model.layers[0].self_attn.q_proj
    weight = _forward(layer, torch.eye(layer.in_features)).T.detach()
    x = torch.randn(5, layer.in_features, requires_grad=True)
    _forward(layer, x).square().sum().backward()
    y = x.detach().clone().requires_grad_(True)
    (y @ weight.T).square().sum().backward()
    assert x.grad is not None and y.grad is not None
    assert torch.allclose(x.grad, y.grad, atol=1e-5)


def test_a_kernel_that_computes_something_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = load_tiny(folder, quantization=NF4).model.model.layers[0].self_attn.q_proj
    _try(layer, QuantizationConfig(type="nf4"))
    right = bitsandbytes.functional.dequantize_4bit
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda *a, **k: right(*a, **k).roll(1))
    with pytest.raises(BackendError, match="computes a nf4 layer of 32 x 32 with a relative error"):
        _try(layer, QuantizationConfig(type="nf4"))


def test_without_bitsandbytes_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.backends.quantization.find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"hybrid-placement\[quant\]"):
        load_tiny(folder, quantization=NF4)


def test_an_adapter_belongs_to_the_packed_base_and_is_not_merged_into_it(folder: Path, tmp_path: Path) -> None:
    packed, plain = load_tiny(folder, quantization=NF4), load_tiny(folder)
    adapter = save_adapter(tmp_path / "adapter", packed)
    with pytest.raises(AdapterError, match=r"another base.*quantisation"):
        check_adapter(adapter.path, plain.info.fingerprint)
    before = weights_checksum(packed.model)
    backend = TransformersBackend(packed, TransformersBackendConfig())
    request, sampling = [Request("abc =", seed=0)], Sampling(max_new_tokens=6)
    bare = backend.generate(request, sampling, None)[0].text
    assert backend.generate(request, sampling, adapter)[0].text != bare
    assert backend.generate(request, sampling, None)[0].text == bare
    assert weights_checksum(packed.model) == before
    shelf = AdapterShelf(load_tiny(folder, quantization=NF4))
    with shelf.active(adapter):
        for merge in (shelf.peft.merge_and_unload, shelf.peft.merge_adapter):
            with pytest.raises(AdapterError, match="keep the adapter beside the base"):
                merge()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "quantization", "optimizer"),
    [("grpo", NF4, "adamw_8bit"), ("sft", INT8, "adamw"), ("sft", NF4, "adamw_8bit")],
)
def test_training_on_a_packed_base_resumes_to_the_same_bytes_and_leaves_the_base(
    folder: Path, tmp_path: Path, method: str, quantization: dict[str, Any], optimizer: str
) -> None:
    settings = {"model": {"quantization": quantization}, "weights": {"optimizer": optimizer, "lora": WIDE}}
    whole, torn = (make_job(folder, tmp_path / name, method, **settings) for name in ("whole", "torn"))
    bases: list[Any] = []
    expected = train(whole)
    interrupted(torn, after=5)
    from hybrid.weights.build import build_trainer

    def loading() -> Any:
        bases.append(load(torn))
        return bases[-1]

    resumed = build_trainer(torn.method).train(torn, loading, lambda *_: None)
    assert hashes(resumed) == hashes(expected)
    assert without_seconds(resumed) == without_seconds(expected)
    assert len({sha for _, sha in hashes(expected)}) == 3, "every checkpoint moved"
    assert weights_checksum(bases[0].model) == weights_checksum(load(torn).model)
    assert is_quantised(bases[0].model)
    manifest = json.loads((resumed.checkpoints[-1][1].path / "hybrid_manifest.json").read_text())
    assert manifest["facts"]["base_quantization"]["type"] == quantization["type"]
    assert manifest["base_fingerprint"] == load(torn).info.fingerprint


@pytest.mark.slow
def test_8_bit_states_are_kept_and_another_optimiser_is_another_job(folder: Path, tmp_path: Path) -> None:
    job = make_job(folder, tmp_path / "job", "sft", weights={"optimizer": "adamw_8bit", "lora": WIDE})
    train(job)
    state = torch.load(tmp_path / "job" / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    kinds = {inner["state1"].dtype for outer in state.values() for inner in (outer, *outer.values()) if _holds(inner)}
    assert torch.uint8 in kinds
    from hybrid.errors import RunFolderError

    with pytest.raises(RunFolderError, match=r"weights\.optimizer"):
        train(make_job(folder, tmp_path / "job", "sft", weights={"optimizer": "adamw", "lora": WIDE}))


def _holds(value: Any) -> bool:
    return isinstance(value, dict) and "state1" in value


def test_a_paged_optimiser_is_refused_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    job = make_job(folder, tmp_path / "job", "sft", weights={"optimizer": "paged_adamw_8bit"})
    with pytest.raises(ConfigError, match=r"weights\.optimizer.*on a CPU"):
        train(job)
