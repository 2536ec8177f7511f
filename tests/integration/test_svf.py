"""SVF adapters: what they compute, merging, the kept directions, loading beside LoRA, export as LoRA, mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from backend_tiny import load_tiny, save_adapter, save_tiny
from safetensors.torch import save_file
from svf_tiny import logits, save_svf, wrap

from hybrid.backends.adapters import check_adapter, inspect_adapter, read_config, read_tensors, write_manifest
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.loading import LoadedModel, weights_checksum
from hybrid.backends.svf.basis import bases_of, decompose
from hybrid.backends.svf.directions import chosen
from hybrid.backends.svf.export import svf_to_lora
from hybrid.backends.svf.mixing import mix
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("svf") / "model")


@pytest.fixture
def base(folder: Path) -> LoadedModel:
    return load_tiny(folder)


def test_an_untrained_adapter_is_the_base_bit_for_bit_and_trains_its_vectors_alone(base: LoadedModel) -> None:
    bare = logits(base.model)
    model = wrap(base, seed=None)
    assert torch.equal(logits(model), bare)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(".svf_d." in name for name in trained)
    assert sum(trained.values()) == 2 * (32 + 16 + 16 + 32 + 32 + 32 + 32)  # of each matrix, its shorter side


def test_the_singular_values_are_scaled_and_the_singular_vectors_stay(base: LoadedModel) -> None:
    for path in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.0.mlp.up_proj"):
        weight = base.model.get_submodule(path).weight.detach().double()
        basis = decompose(weight).double()
        assert float((basis.T @ basis - torch.eye(len(basis))).abs().max()) < 1e-6
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        d = torch.linspace(-0.5, 0.5, len(s)).double()
        wanted = u @ torch.diag(s * (1 + d)) @ vt
        inside = weight.shape[1] <= weight.shape[0]
        change = (weight @ basis * d) @ basis.T if inside else (basis * d) @ (basis.T @ weight)
        assert float((weight + change - wanted).norm() / wanted.norm()) < 1e-5, path


def test_merged_equals_unmerged_and_unmerging_restores_the_bytes(base: LoadedModel) -> None:
    before = weights_checksum(base.model)
    model = wrap(base)
    apart = logits(model)
    for _ in range(3):
        model.merge_adapter()
        assert float((logits(model) - apart).abs().max()) < 1e-4 * float(apart.abs().max())
        model.unmerge_adapter()
    assert torch.equal(logits(model), apart)
    assert weights_checksum(model.unload()) == before
    merged = wrap(base).merge_and_unload()
    assert float((logits(merged) - apart).abs().max()) < 1e-4 * float(apart.abs().max())


def test_bfloat16_is_restored_to_the_byte_too(folder: Path) -> None:
    base = load_tiny(folder, dtype="bfloat16")
    before = weights_checksum(base.model)
    model = wrap(base)
    for _ in range(20):
        model.merge_adapter()
        model.unmerge_adapter()
    apart = logits(model)
    model.merge_adapter()
    assert float((logits(model) - apart).norm() / apart.norm()) < 0.1
    model.unmerge_adapter()
    assert weights_checksum(model.unload()) == before


def test_which_directions_are_scaled() -> None:
    assert chosen(8, "top", 3) == (0, 1, 2)
    assert chosen(8, "bottom", 3) == (5, 6, 7)
    assert chosen(9, "spread", 3) == (0, 4, 8)
    assert chosen(4, "spread", 9) == chosen(4, "all", None) == (0, 1, 2, 3)
    assert all(len(set(chosen(17, "spread", k))) == k for k in range(1, 18))


def test_directions_are_kept_found_again_and_made_again_where_they_are_damaged(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    first, second = load_tiny(folder), load_tiny(folder)
    expected = logits(wrap(first))
    assert (bases_of(first.model).computed, bases_of(first.model).read) == (14, 0)
    assert torch.equal(logits(wrap(second)), expected)
    assert (bases_of(second.model).computed, bases_of(second.model).read) == (0, 14)

    files = sorted((tmp_path / "cache" / "svf").rglob("*.safetensors"))
    flipped, torn = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(flipped[:-40] + bytes([flipped[-40] ^ 1]) + flipped[-39:])
    files[1].write_bytes(torn[:100])
    files[2].write_bytes(files[3].read_bytes())  # another module's, of the same shape or not
    third = load_tiny(folder)
    backend = TransformersBackend(third, TransformersBackendConfig())
    assert torch.equal(logits(wrap(third)), expected)
    assert (bases_of(third.model).computed, bases_of(third.model).read) == (3, 11)
    told = " ".join(backend.warnings)
    assert "is damaged" in told and "cannot be read" in told and "belongs to something else" in told
    assert files[0].read_bytes() == flipped and files[1].read_bytes() == torn
    other = load_tiny(save_tiny(tmp_path / "other", seed=7))
    wrap(other)
    assert bases_of(other.model).read == 0, "another base has directions of its own"


def test_svf_and_lora_are_held_beside_each_other(base: LoadedModel, tmp_path: Path) -> None:
    lora = save_adapter(tmp_path / "lora", base)
    svf, again = save_svf(tmp_path / "svf", base), save_svf(tmp_path / "again", base, seed=5)
    alone = {}
    for adapter in (lora, svf, again):
        with AdapterShelf(load_tiny(Path(base.info.path))).active(adapter):
            pass
        fresh = load_tiny(Path(base.info.path))
        with AdapterShelf(fresh).active(adapter):
            alone[adapter.sha256] = logits(fresh.model)
    bare, before = logits(base.model), weights_checksum(base.model)
    shelf = AdapterShelf(base, capacity=3)
    for adapter in (svf, lora, again, svf, again, lora, svf):
        with shelf.active(adapter):
            assert torch.equal(logits(base.model), alone[adapter.sha256])
        assert torch.equal(logits(base.model), bare)
    assert len(shelf.attached) == 3
    small = AdapterShelf(load_tiny(Path(base.info.path)), capacity=1)
    for adapter in (svf, lora, svf, again):
        with small.active(adapter):
            assert small.attached == (adapter.sha256,)
    assert weights_checksum(base.model) == before


def test_requests_with_and_without_an_expert_get_their_own_answers(base: LoadedModel, tmp_path: Path) -> None:
    backend = TransformersBackend(base, TransformersBackendConfig())
    requests, sampling = [Request(f"ab{i} =", seed=i) for i in range(4)], Sampling(max_new_tokens=8)
    kinds: list[Adapter | None] = [None, save_svf(tmp_path / "s", base), save_adapter(tmp_path / "l", base)]
    first = [[c.text for c in backend.generate(requests, sampling, adapter)] for adapter in kinds]
    second = [[c.text for c in backend.generate(requests, sampling, adapter)] for adapter in reversed(kinds)]
    assert first == second[::-1]
    assert first[0] != first[1] != first[2]


def test_an_expert_of_another_base_or_of_other_directions_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    adapter = save_svf(tmp_path / "svf", base)
    other = load_tiny(save_tiny(tmp_path / "other", seed=3))
    with pytest.raises(AdapterError, match="another base"), AdapterShelf(other).active(adapter):
        pass
    few = save_svf(tmp_path / "few", base, keep="top", count=4)
    with pytest.raises(AdapterError, match="other directions"):
        mix([adapter.path, few.path], [0.5, 0.5], tmp_path / "mixed", base.info.fingerprint)
    with pytest.raises(AdapterError, match="only SVF"):
        lora = save_adapter(tmp_path / "lora", base)
        mix([adapter.path, lora.path], [0.5, 0.5], tmp_path / "mixed", base.info.fingerprint)


def test_an_expert_that_would_touch_the_base_or_is_none_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], dict[str, torch.Tensor], str]] = [
        ({"bias": "all"}, {}, "bias 'all' overwrites"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save replaces"),
        ({"keep": "some"}, {}, "keep 'some'"),
        ({"count": -1}, {}, "count -1"),
        ({}, {"base_model.model.model.norm.bias": torch.zeros(2)}, "no vector of singular values"),
        ({}, {"base_model.model.model.norm.svf_d": torch.ones(2, 2)}, "no vector of singular values"),
        ({}, {"base_model.model.model.norm.svf_d": torch.full((2,), float("inf"))}, "not finite"),
    ]
    for number, (config, tensors, message) in enumerate(wrong):
        adapter = save_svf(tmp_path / str(number), base)
        write_json(adapter.path / "adapter_config.json", read_config(adapter.path) | config)
        save_file(read_tensors(adapter.path) | tensors, adapter.path / "adapter_model.safetensors")
        write_manifest(adapter.path, base.info.fingerprint)
        with pytest.raises(AdapterError, match=message):
            check_adapter(adapter.path, base.info.fingerprint)
    odd = save_svf(tmp_path / "odd", base)
    save_file({"base_model.model.model.norm.svf_d": torch.ones(4)}, odd.path / "adapter_model.safetensors")
    write_manifest(odd.path, base.info.fingerprint)
    with pytest.raises(AdapterError, match="matches nothing"), AdapterShelf(base).active(inspect_adapter(odd.path)):
        pass
    with pytest.raises(AdapterError, match="no linear layer"):
        svf_to_lora(odd.path, base, 4, tmp_path / "lora")


def test_an_expert_works_over_a_packed_base_and_is_not_merged_into_it(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    packed = load_tiny(folder, quantization={"type": "nf4"})
    before = weights_checksum(packed.model)
    bare = logits(packed.model)
    assert torch.equal(logits(wrap(packed, seed=None)), bare)
    packed = load_tiny(folder, quantization={"type": "nf4"})
    adapter = save_svf(tmp_path / "svf", packed)
    shelf = AdapterShelf(packed)
    with shelf.active(adapter):
        moved = logits(packed.model)
        with pytest.raises(AdapterError, match="quantised"):
            shelf.peft.merge_adapter()
    assert float((moved - bare).abs().max()) > 0.1
    assert torch.equal(logits(packed.model), bare) and weights_checksum(packed.model) == before
    # The same change of the unpacked weights: the scores of a LoRA that is exactly it.
    found = svf_to_lora(adapter.path, packed, 64, tmp_path / "lora")
    assert found.exact
    assert _scores(load_tiny(folder, quantization={"type": "nf4"}), tmp_path / "lora", moved) < 1e-4


def _scores(base: LoadedModel, folder: Path, wanted: torch.Tensor) -> float:
    """Relative difference of the scores with the adapter in `folder` from `wanted`."""
    adapter = check_adapter(folder, base.info.fingerprint).adapter
    with AdapterShelf(base).active(adapter):
        found = logits(base.model)
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("keep", ["top", "bottom", "spread"])
def test_as_a_lora_an_expert_of_k_directions_is_exact_at_rank_k(folder: Path, tmp_path: Path, keep: str) -> None:
    base = load_tiny(folder)
    adapter = save_svf(tmp_path / "svf", base, keep=keep, count=6)
    with AdapterShelf(load_tiny(folder)).active(adapter):
        pass
    fresh = load_tiny(folder)
    with AdapterShelf(fresh).active(adapter):
        wanted = logits(fresh.model)
    found = svf_to_lora(adapter.path, base, 6, tmp_path / "lora")
    assert (found.exact, found.rank, found.error) == (True, 6, 0.0)
    assert _scores(base, tmp_path / "lora", wanted) < 1e-5


def test_as_a_lora_of_less_rank_the_stated_error_is_the_error(base: LoadedModel, tmp_path: Path) -> None:
    adapter = save_svf(tmp_path / "svf", base)
    errors = []
    for rank in (4, 16, 32):
        found = svf_to_lora(adapter.path, base, rank, tmp_path / f"lora-{rank}")
        tensors = read_tensors(tmp_path / f"lora-{rank}")
        name = "model.layers.0.self_attn.q_proj"
        lora = tensors[f"base_model.model.{name}.lora_B.weight"] @ tensors[f"base_model.model.{name}.lora_A.weight"]
        d = read_tensors(adapter.path)[f"base_model.model.{name}.svf_d"]
        weight = base.model.get_submodule(name).weight.detach()
        basis = bases_of(base.model).get(name, base.model.get_submodule(name))
        change = (weight @ basis * d) @ basis.T
        assert abs(float((change - lora).norm() / change.norm()) - found.errors[name]) < 1e-4
        errors.append(found.error)
    assert errors[0] > errors[1] > errors[2] == 0.0


def test_a_mixture_is_the_sum_of_vectors_and_an_adapter_like_others(base: LoadedModel, tmp_path: Path) -> None:
    experts = [save_svf(tmp_path / f"e{i}", base, seed=i) for i in range(2)]
    mixed = mix([e.path for e in experts], [0.7, -0.4], tmp_path / "mixed", base.info.fingerprint)
    parts = [read_tensors(e.path) for e in experts]
    for name, tensor in read_tensors(mixed.path).items():
        assert torch.allclose(tensor, 0.7 * parts[0][name] - 0.4 * parts[1][name], atol=1e-7)
    same = mix([e.path for e in experts], [1.0, 0.0], tmp_path / "same", base.info.fingerprint)
    shelf = AdapterShelf(base)
    with shelf.active(experts[0]):
        wanted = logits(base.model)
    with shelf.active(same):
        assert torch.equal(logits(base.model), wanted)
    wrong: list[Any] = [([1.0], "one weight per expert"), ([1.0, float("nan")], "not finite")]
    for weights, message in wrong:
        with pytest.raises(AdapterError, match=message):
            mix([e.path for e in experts], weights, tmp_path / "no", base.info.fingerprint)
