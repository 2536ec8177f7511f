"""Adapters: applied as trained, never in half, never on another base, and the base stays what it was."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from backend_tiny import in_float64, load_tiny, save_adapter, save_tiny
from safetensors.torch import load_file, save_file

from hybrid.backends.adapters import check_adapter, inspect_adapter, write_manifest
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.loading import LoadedModel, fold_lm_head, weights_checksum
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import AdapterError

GREEDY = Sampling(max_new_tokens=10)
Weights = dict[str, torch.Tensor]
REQUESTS = [Request(f"{a}{b} =", 0) for a in "abcd" for b in "xyz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("adapters") / "tiny")


@pytest.fixture
def base(folder: Path) -> LoadedModel:
    return load_tiny(folder)


@pytest.fixture
def good(base: LoadedModel, tmp_path: Path) -> Adapter:
    return save_adapter(tmp_path / "good", base)


def answers(backend: TransformersBackend, adapter: Adapter | None) -> list[str]:
    return [c.text for c in backend.generate(REQUESTS, GREEDY, adapter)]


def new_backend(loaded: LoadedModel) -> TransformersBackend:
    return TransformersBackend(loaded, TransformersBackendConfig())


def rewrite(adapter: Adapter, base: LoadedModel, change: Callable[[Weights], Weights]) -> Adapter:
    """Other weights under a correct manifest: what a faulty trainer would leave behind."""
    weights = change(load_file(adapter.path / "adapter_model.safetensors"))
    save_file(weights, adapter.path / "adapter_model.safetensors", {"format": "pt"})
    write_manifest(adapter.path, base.info.fingerprint)
    return inspect_adapter(adapter.path)


def test_the_adapter_acts_and_the_base_stays(base: LoadedModel, good: Adapter) -> None:
    backend = new_backend(base)
    checksum = weights_checksum(base.model)
    bare = answers(backend, None)
    tuned = answers(backend, good)
    assert tuned != bare
    assert answers(backend, None) == bare
    assert answers(backend, good) == tuned
    ids = torch.arange(4, 40)[None]
    fresh = load_tiny(Path(base.info.path)).model
    assert torch.equal(base.model(ids).logits, fresh(ids).logits), "between calls the base in memory is the bare base"
    assert weights_checksum(base.model) == checksum, "also under its own names, with the adapter's layers in place"


def test_the_adapter_computes_what_its_file_says(base: LoadedModel, good: Adapter) -> None:
    """Oracle: W + (alpha / r) B A, written into a copy of the base by hand, in double precision."""
    exact = in_float64(base)
    merged = copy.deepcopy(exact.model)
    weights = load_file(good.path / "adapter_model.safetensors")
    with torch.no_grad():
        for key in [k for k in weights if k.endswith("lora_A.weight")]:
            module = merged.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight += 2.0 * weights[key.replace("lora_A", "lora_B")].double() @ weights[key].double()
    fold_lm_head(merged)
    ids = torch.arange(4, 40)[None]
    with torch.inference_mode():
        expected = merged(ids).logits
        with AdapterShelf(exact).active(good):
            found = exact.model(ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (found - in_float64(load_tiny(Path(base.info.path))).model(ids).logits).abs().max() > 0.1


def test_many_adapters_share_one_base(base: LoadedModel, tmp_path: Path) -> None:
    adapters = [save_adapter(tmp_path / f"a{i}", base, seed=i) for i in range(5)]
    expected = [answers(new_backend(load_tiny(Path(base.info.path))), a) for a in adapters]
    assert len({tuple(e) for e in expected}) == 5
    backend = new_backend(base)
    checksum = weights_checksum(base.model)
    order = [0, 1, 2, 3, 4, 0, 4, 2, 1, 3, 3]
    for i in order:
        assert answers(backend, adapters[i]) == expected[i]
    held = backend._shelf.attached
    assert held == tuple(adapters[i].sha256 for i in (4, 2, 1, 3)), "the four used last, oldest first"
    assert sum("lora_A" in n for n, _ in base.model.named_parameters()) == 4 * 14
    assert weights_checksum(base.model) == checksum


def test_loading_an_adapter_moves_no_random_stream(base: LoadedModel, good: Adapter) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    answers(new_backend(base), good)
    assert torch.equal(torch.get_rng_state(), before)


def flip_bit(adapter: Adapter, _: LoadedModel) -> Adapter:
    path = adapter.path / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    return adapter


def replaced(adapter: Adapter, base: LoadedModel) -> Adapter:
    shutil.rmtree(adapter.path)
    save_adapter(adapter.path, base, seed=77)
    return adapter


def remove(name: str) -> Callable[[Adapter, LoadedModel], Adapter]:
    def change(adapter: Adapter, _: LoadedModel) -> Adapter:
        (adapter.path / name).unlink()
        return adapter

    return change


def with_weights(
    change: Callable[[Weights], Weights],
) -> Callable[[Adapter, LoadedModel], Adapter]:
    return lambda adapter, base: rewrite(adapter, base, change)


def with_config(**keys: object) -> Callable[[Adapter, LoadedModel], Adapter]:
    def change(adapter: Adapter, base: LoadedModel) -> Adapter:
        path = adapter.path / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
        write_manifest(adapter.path, base.info.fingerprint)
        return inspect_adapter(adapter.path)

    return change


def other_base(adapter: Adapter, base: LoadedModel) -> Adapter:
    write_manifest(adapter.path, "0" * 64)
    return adapter


def add_pickle(adapter: Adapter, _: LoadedModel) -> Adapter:
    torch.save({}, adapter.path / "adapter_model.bin")
    return adapter


def link_out(adapter: Adapter, _: LoadedModel) -> Adapter:
    path = adapter.path / "adapter_model.safetensors"
    path.rename(adapter.path.parent / "outside.safetensors")
    path.symlink_to(adapter.path.parent / "outside.safetensors")
    return adapter


def escape(adapter: Adapter, _: LoadedModel) -> Adapter:
    path = adapter.path / "hybrid_manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../outside"] = manifest["files"]["adapter_config.json"]
    shutil.copy(adapter.path / "adapter_config.json", adapter.path.parent / "outside")
    path.write_text(json.dumps(manifest))
    return adapter


def half(weights: Weights) -> Weights:
    return {k: weights[k] for k in sorted(weights)[: len(weights) // 2]}


def renamed(weights: Weights) -> Weights:
    return {k.replace("layers", "blocks"): v for k, v in weights.items()}


def one_more(weights: Weights) -> Weights:
    return {**weights, "base_model.model.extra.lora_A.weight": torch.ones(4, 4)}


def wider(weights: Weights) -> Weights:
    return {k: torch.ones(v.shape[0] * 2, v.shape[1] * 2) for k, v in weights.items()}


def without_b(weights: Weights) -> Weights:
    return {k: v * ("lora_A" in k) for k, v in weights.items()}


def not_a_number(weights: Weights) -> Weights:
    weights[sorted(weights)[3]][0, 0] = torch.nan
    return weights


FAULTS: dict[str, tuple[Callable[[Adapter, LoadedModel], Adapter], str]] = {
    "one flipped bit": (flip_bit, "differs from the manifest"),
    "replaced by another good adapter": (replaced, "they were replaced"),
    "no manifest": (remove("hybrid_manifest.json"), r"hybrid_manifest\.json: cannot be read"),
    "no weights": (remove("adapter_model.safetensors"), "in the manifest but not in the folder"),
    "no config": (remove("adapter_config.json"), r"adapter_config\.json: cannot be read"),
    "another base": (other_base, "was trained on another base: 000000000000"),
    "a pickle beside it": (add_pickle, "is a pickle"),
    "a link out of the folder": (link_out, "symbolic link"),
    "a manifest that points outside": (escape, "not in the folder"),
    "not a number": (with_weights(not_a_number), "not finite"),
    "half of the tensors": (with_weights(half), "only a part.*got no weights"),
    "names of no module": (with_weights(renamed), "matches nothing"),
    "one extra tensor": (with_weights(one_more), "only a part.*no place"),
    "another width": (with_weights(wider), "does not fit"),
    "B all zero": (with_weights(without_b), "changes nothing"),
    "targets of no module": (with_config(target_modules=["attention_of_another_model"]), "does not fit"),
    "biases of the base": (with_config(bias="all"), "overwrites base weights"),
    "whole layers": (with_config(modules_to_save=["lm_head"]), "replaces parts of the base"),
    "an initialisation that rewrites the base": (with_config(init_lora_weights="pissa"), "rewrites base weights"),
    "another kind": (with_config(peft_type="IA3"), "only LORA"),
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["as the first adapter", "beside a good one"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_refused_and_leaves_no_trace(
    base: LoadedModel, good: Adapter, tmp_path: Path, fault: str, first: bool
) -> None:
    backend = new_backend(base)
    checksum = weights_checksum(base.model)
    bare = answers(backend, None)
    tuned = answers(new_backend(load_tiny(Path(base.info.path))), good)
    if not first:
        assert answers(backend, good) == tuned
    change, reason = FAULTS[fault]
    faulty = change(save_adapter(tmp_path / "faulty", base, seed=9), base)
    with pytest.raises(AdapterError, match=reason) as caught:
        backend.generate(REQUESTS, GREEDY, faulty)
    assert str(faulty.path) in str(caught.value)
    assert answers(backend, None) == bare
    assert answers(backend, good) == tuned
    assert weights_checksum(base.model) == checksum
    assert sum("lora_A" in n for n, _ in base.model.named_parameters()) == 14, "only the good adapter is attached"


def test_an_adapter_that_was_checked_once_stays_attached_under_its_content(base: LoadedModel, good: Adapter) -> None:
    backend = new_backend(base)
    tuned = answers(backend, good)
    shutil.rmtree(good.path)
    assert answers(backend, good) == tuned, "it is in memory, by its hash"
    with pytest.raises(AdapterError):
        answers(new_backend(load_tiny(Path(base.info.path))), good)


def test_identity_is_weights_and_settings_not_place_or_listing_order(good: Adapter, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(good.path, tmp_path / "elsewhere"))
    config = json.loads((copied / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"], reverse=True)
    config["base_model_name_or_path"] = "/somewhere/else"
    (copied / "adapter_config.json").write_text(json.dumps(config, indent=7))
    assert inspect_adapter(copied).sha256 == good.sha256
    (copied / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    assert inspect_adapter(copied).sha256 != good.sha256


def test_the_manifest_is_complete_and_its_facts_are_read_back(base: LoadedModel, good: Adapter) -> None:
    manifest = json.loads((good.path / "hybrid_manifest.json").read_text())
    files = {p.name for p in good.path.iterdir()} - {"hybrid_manifest.json"}
    assert set(manifest["files"]) == files
    assert manifest["base_fingerprint"] == base.info.fingerprint
    assert manifest["adapter_sha256"] == good.sha256
    assert manifest["facts"] == {"method": "test"}
    assert manifest["versions"]["peft"]
    facts = check_adapter(good.path, base.info.fingerprint)
    assert (facts.adapter, facts.rank, facts.alpha, facts.tensors) == (good, 4, 8.0, 28)
    assert facts.targets == tuple(sorted(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    assert facts.parameters == sum(t.numel() for t in load_file(good.path / "adapter_model.safetensors").values())
    first = (good.path / "hybrid_manifest.json").read_bytes()
    write_manifest(good.path, base.info.fingerprint, {"method": "test"})
    assert (good.path / "hybrid_manifest.json").read_bytes() == first
