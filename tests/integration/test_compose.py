"""Mixtures of adapters: exactly the weighted sum, equal to PEFT where PEFT is exact, refused where they would be wrong."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from backend_tiny import TARGETS, in_float64, load_tiny, save_tiny, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from svf_tiny import save_svf

from hybrid.backends.adapters import inspect_adapter, write_manifest
from hybrid.backends.base import Adapter, Mixture, Request, Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.config.swarm import Combination, SwarmConfig
from hybrid.errors import AdapterError
from hybrid.weights.compose.combine import combine
from hybrid.weights.compose.experts import Expert, expert_of, experts_of
from hybrid.weights.compose.materialise import compress, gates, materialise, mix, stack
from hybrid.weights.compose.mixer import mixer_of

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


def test_mixtures_in_one_batch_answer_as_they_do_one_by_one(base: LoadedModel, tmp_path: Path) -> None:
    """In double precision, where batching changes no token; experts of several ranks and targets, and a gate for each."""
    settings = (KINDS[0], KINDS[2], KINDS[3], KINDS[4])
    adapters = [lora(tmp_path / str(i), base, i, **kind) for i, kind in enumerate(settings)]
    experts = experts_of(adapters, base.info.fingerprint)
    together, ranks = stack(experts, tmp_path / "stack", base.info.fingerprint)
    assert ranks == (4, 6, 4, 4)
    rng = random.Random(0)
    points = [tuple(round(rng.uniform(-1, 1.5), 3) for _ in experts) for _ in range(5)]
    mixtures = []
    for i, point in enumerate(points):
        found = materialise(experts, point, tmp_path / f"m{i}", base.info.fingerprint).adapter
        mixtures.append(Mixture(found.path, found.sha256, together, gates(point, ranks)))
    backend = TransformersBackend(in_float64(base), TransformersBackendConfig(batch_size=7))
    asked = [(Request(f"{c}{i} =", i), mixtures[i % 5]) for i in range(20) for c in "ab"]
    rng.shuffle(asked)
    sampling = Sampling(max_new_tokens=8, temperature=0.7)
    found_all = backend.generate_mixed([r for r, _ in asked], sampling, [m for _, m in asked])
    alone = [backend.generate([request], sampling, mixture)[0] for request, mixture in asked]
    assert [c.text for c in found_all] == [c.text for c in alone]
    assert len({c.text for c in found_all}) > 10, "the mixtures answer differently"
    bare = backend.generate([r for r, _ in asked], sampling, None)
    assert [c.text for c in bare] != [c.text for c in alone]
    again = backend.generate([r for r, _ in asked[:7]], sampling, None)
    assert [c.text for c in again] == [c.text for c in bare[:7]], "nothing of the gates is left"


def test_one_batch_holds_mixtures_of_one_stack(base: LoadedModel, tmp_path: Path) -> None:
    first = lora(tmp_path / "one", base, 1)
    backend = TransformersBackend(base, TransformersBackendConfig())
    stacks = [
        Mixture(first.path, first.sha256, Adapter(first.path, sha), (1.0,) * 4) for sha in (first.sha256, "0" * 64)
    ]
    with pytest.raises(ValueError, match="one stack"):
        backend.generate_mixed([Request("a", 0)] * 2, Sampling(), stacks)


@pytest.mark.filterwarnings("ignore:The density")
@pytest.mark.parametrize("how", ["linear", "ties", "dare_linear", "dare_ties"])
def test_the_other_combinations_are_those_of_peft(base: LoadedModel, tmp_path: Path, how: Combination) -> None:
    """Without DARE's draws (density 1) PEFT's own numbers come out; they are far from the weighted sum."""
    adapters = [lora(tmp_path / str(i), base, i, use_rslora=False) for i in range(2)]
    weights, density = (0.6, -0.4), 1.0 if how.startswith("dare") else 0.5
    model = PeftModel.from_pretrained(tiny_model(), str(adapters[0].path), adapter_name="0")
    model.load_adapter(str(adapters[1].path), adapter_name="1")
    model.add_weighted_adapter(["0", "1"], list(weights), "out", combination_type=how, density=density)
    experts = experts_of(adapters, base.info.fingerprint)
    mine = combine(experts, weights, how, density=density, seed=0)
    assert {f.rank for f in mine.values()} == {4}
    exact = mix(experts, weights)
    lost = whole = 0.0
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            factors = mine[name]
            assert torch.allclose(module.get_delta_weight("out"), factors.b @ factors.a, atol=1e-4), name
            wanted = exact[name].b @ exact[name].a
            lost += float(((factors.b @ factors.a - wanted) ** 2).sum())
            whole += float((wanted**2).sum())
    assert math.sqrt(lost / whole) > 0.5, "not the weighted sum"


def test_what_dare_keeps_is_its_seed(base: LoadedModel, tmp_path: Path) -> None:
    experts = experts_of([lora(tmp_path / str(i), base, i) for i in range(2)], base.info.fingerprint)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one, same, other = (combine(experts, (0.5, 0.5), "dare_linear", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    name = next(iter(one))
    assert torch.equal(one[name].b, same[name].b) and not torch.equal(one[name].b, other[name].b)
    assert all(torch.equal(f.b, combine(experts, (0.5, 0.5), "cat")[n].b) for n, f in mix(experts, (0.5, 0.5)).items())


def test_svf_experts_are_mixed_by_their_vectors_and_not_with_lora(base: LoadedModel, tmp_path: Path) -> None:
    svf = [save_svf(tmp_path / f"s{seed}", base, seed=seed) for seed in (1, 2)]
    fingerprint = base.info.fingerprint
    mixer = mixer_of(svf, fingerprint, SwarmConfig(), 0)
    assert mixer.stack(tmp_path / "stack") is None
    made = mixer.write((0.5, -2.0), tmp_path / "mix").adapter
    vectors = [load_file(a.path / "adapter_model.safetensors") for a in (*svf, made)]
    for name in vectors[2]:
        assert torch.allclose(vectors[2][name], 0.5 * vectors[0][name] - 2.0 * vectors[1][name], atol=1e-6)
    with pytest.raises(AdapterError, match="LORA and SVF"):
        mixer_of([*svf, lora(tmp_path / "lora", base, 1)], fingerprint, SwarmConfig(), 0)
    with pytest.raises(AdapterError, match="combination"):
        mixer_of(svf, fingerprint, SwarmConfig(combination="ties"), 0)
