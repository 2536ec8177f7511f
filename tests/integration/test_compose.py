"""Mixtures of adapters: exactly the weighted sum, equal to PEFT where PEFT is exact, refused where they would be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from backend_tiny import TARGETS, load_tiny, save_tiny, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hybrid.backends.adapters import inspect_adapter, write_manifest
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel
from hybrid.errors import AdapterError
from hybrid.weights.compose.experts import Expert, expert_of, experts_of
from hybrid.weights.compose.materialise import compress, materialise, mix

Deltas = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny(save_tiny(tmp_path_factory.mktemp("base") / "tiny"))


def lora(folder: Path, base: LoadedModel, seed: int, *, frozen_a: bool = False, **settings: object) -> Adapter:
    """A random adapter with the settings given; `frozen_a` gives every seed the same A."""
    torch.manual_seed(0 if frozen_a else seed)
    config = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(tiny_model(), LoraConfig(**config))
    torch.manual_seed(100 + seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or ("lora_A" in name and not frozen_a):
            torch.nn.init.normal_(parameter, std=0.2)
    if frozen_a:
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_manifest(folder, base.info.fingerprint)
    return inspect_adapter(folder)


def deltas(adapter: Adapter) -> Deltas:
    """The change of every weight, as PEFT itself computes it for this adapter."""
    model = PeftModel.from_pretrained(tiny_model(), str(adapter.path))
    return {
        name: module.get_delta_weight("default").detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def logits(adapter: Adapter) -> torch.Tensor:
    """Of a row of tokens under the adapter."""
    model = PeftModel.from_pretrained(tiny_model(), str(adapter.path)).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(4, 36)[None]).logits
    return found


def off(found: Deltas, parts: Sequence[tuple[Deltas, float]]) -> float:
    """Relative Frobenius error against the weighted sum, over all modules."""
    wanted = {name: sum(c * d[name] for d, c in parts if name in d) for name in found}
    lost = math.fsum(float(((found[n] - wanted[n]) ** 2).sum()) for n in found)
    return math.sqrt(lost / math.fsum(float((torch.as_tensor(w) ** 2).sum()) for w in wanted.values()))


KINDS: tuple[dict[str, object], ...] = (
    {"use_rslora": True},
    {"use_rslora": False},
    {"use_rslora": True, "r": 6, "lora_alpha": 5},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 7}, "use_rslora": True},
    {"target_modules": ["q_proj", "down_proj"]},
)


@pytest.mark.parametrize("settings", KINDS)
def test_one_adapter_alone_is_that_adapter(base: LoadedModel, tmp_path: Path, settings: dict[str, object]) -> None:
    adapter = lora(tmp_path / "one", base, 1, **settings)
    mixed = materialise([expert_of(adapter, base.info.fingerprint)], (1.0,), tmp_path / "mix", base.info.fingerprint)
    assert off(deltas(mixed.adapter), [(deltas(adapter), 1.0)]) < 1e-6
    assert torch.allclose(logits(mixed.adapter), logits(adapter), atol=1e-4)
    assert mixed.error == 0.0


def test_the_mixture_is_the_weighted_sum_whatever_the_experts_scale_by(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [lora(tmp_path / str(i), base, i, **settings) for i, settings in enumerate(KINDS)]
    weights = (0.7, -0.4, 1.3, 0.0, 0.2)
    mixed = materialise(experts_of(adapters, base.info.fingerprint), weights, tmp_path / "mix", base.info.fingerprint)
    parts = [(deltas(adapter), c) for adapter, c in zip(adapters, weights, strict=True)]
    assert off(deltas(mixed.adapter), parts) < 1e-6
    assert mixed.rank == 4 + 4 + 6 + 4, "an expert with coefficient 0 takes no part"


def test_where_peft_is_exact_the_mixture_is_what_peft_makes(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [lora(tmp_path / str(i), base, i, use_rslora=False) for i in range(3)]
    weights = [0.6, 0.4, 0.9]
    model = PeftModel.from_pretrained(tiny_model(), str(adapters[0].path), adapter_name="0")
    for i in (1, 2):
        model.load_adapter(str(adapters[i].path), adapter_name=str(i))
    model.add_weighted_adapter(["0", "1", "2"], weights, "cat", combination_type="cat")
    mixed = materialise(experts_of(adapters, base.info.fingerprint), weights, tmp_path / "mix", base.info.fingerprint)
    mine = deltas(mixed.adapter)
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            assert torch.allclose(module.get_delta_weight("cat").double(), mine[name], atol=1e-5)


def test_experts_with_one_frozen_a_keep_their_rank(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [lora(tmp_path / str(i), base, i, frozen_a=True, use_rslora=i == 1) for i in range(3)]
    weights = (0.5, -0.25, 1.5)
    mixed = materialise(experts_of(adapters, base.info.fingerprint), weights, tmp_path / "mix", base.info.fingerprint)
    assert mixed.rank == 4
    assert off(deltas(mixed.adapter), [(deltas(a), c) for a, c in zip(adapters, weights, strict=True)]) < 1e-6


def test_a_smaller_rank_is_as_far_off_as_it_says(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [lora(tmp_path / str(i), base, i) for i in range(2)]
    experts = experts_of(adapters, base.info.fingerprint)
    parts = [(deltas(adapter), c) for adapter, c in zip(adapters, (0.8, -0.5), strict=True)]
    errors = []
    for rank in (1, 4, 8, 12):
        mixed = materialise(experts, (0.8, -0.5), tmp_path / f"{rank}", base.info.fingerprint, rank=rank)
        assert off(deltas(mixed.adapter), parts) == pytest.approx(mixed.error, abs=1e-5)
        assert mixed.rank == rank
        errors.append(mixed.error)
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.3 and errors[2] < 1e-6
    exact = compress(mix(experts, (0.8, -0.5)), 8)[0]
    assert all(f.rank == 8 for f in exact.values())


def test_the_same_mixture_has_the_same_bytes(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [lora(tmp_path / str(i), base, i) for i in range(2)]
    experts = experts_of(adapters, base.info.fingerprint)

    def sha(weights: tuple[float, ...], out: str) -> str:
        return materialise(experts, weights, tmp_path / out, base.info.fingerprint).adapter.sha256

    assert sha((0.3, 0.7), "a") == sha((0.3, 0.7), "b") != sha((0.7, 0.3), "a")


def test_nothing_to_mix_is_an_error(base: LoadedModel, tmp_path: Path) -> None:
    expert = expert_of(lora(tmp_path / "one", base, 1), base.info.fingerprint)
    with pytest.raises(ValueError, match="the base itself"):
        mix([expert], (0.0,))
    with pytest.raises(ValueError):
        mix([expert], (0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"kasa_config": {"x": 1}}, "kasa_config"),
        ({"some_key_of_tomorrow": 1}, "some_key_of_tomorrow"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
    ],
)
def test_what_is_no_product_of_two_factors_is_refused(
    base: LoadedModel, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    adapter = lora(tmp_path / "one", base, 1)
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    (adapter.path / "adapter_config.json").write_text(json.dumps(config | change))
    write_manifest(adapter.path, base.info.fingerprint)
    with pytest.raises(AdapterError, match=reason):
        expert_of(inspect_adapter(adapter.path), base.info.fingerprint)


def test_tensors_that_are_no_linear_factors_are_refused(base: LoadedModel, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "one", base, 1)
    file = adapter.path / "adapter_model.safetensors"
    tensors = load_file(file)
    odd = {"base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector": torch.ones(64)}
    save_file(tensors | odd, file, metadata={"format": "pt"})
    write_manifest(adapter.path, base.info.fingerprint)
    with pytest.raises(AdapterError, match="lora_magnitude_vector"):
        expert_of(inspect_adapter(adapter.path), base.info.fingerprint)


def test_an_expert_of_another_base_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "one", base, 1)
    with pytest.raises(AdapterError, match="another base"):
        experts_of([adapter], "0" * 64)


def test_an_expert_that_was_replaced_is_refused(base: LoadedModel, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "one", base, 1)
    lora(tmp_path / "one", base, 2)
    with pytest.raises(AdapterError, match="replaced"):
        experts_of([adapter], base.info.fingerprint)


def test_the_sum_is_checked_for_shape(base: LoadedModel, tmp_path: Path) -> None:
    first = expert_of(lora(tmp_path / "one", base, 1), base.info.fingerprint)
    name, factors = next(iter(first.modules.items()))
    cut = type(factors)(factors.a[:, :-1], factors.b, factors.scaling)
    other = Expert(first.adapter, first.config, {**first.modules, name: cut})
    with pytest.raises(AdapterError, match="shapes"):
        mix([first, other], (1.0, 1.0))
