"""Proxy-tuning on the tiny model: the mixture is the formula, rows end where they should, and nothing is followed blindly."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from backend_tiny import load_tiny, save_adapter, save_tiny
from peft import PeftModel
from test_backend_generate import content, some_requests
from transformers import LogitsProcessorList

from hybrid.backends import rendering
from hybrid.backends.adapters import check_adapter, inspect_adapter, write_manifest
from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.proxy import MixedPair, ProxyLogits
from hybrid.backends.proxy_folder import unpack, write_proxy
from hybrid.backends.proxy_models import compare_vocabularies
from hybrid.backends.sampling import SeededChoice
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import AdapterError, BackendError

GREEDY = Sampling(max_new_tokens=10)
SAMPLED = Sampling(max_new_tokens=10, temperature=0.7, top_p=0.9)


class World:
    """A base, a small model of the same vocabulary, and a LoRA on each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base_folder, self.small_folder = save_tiny(root / "base", seed=0), save_tiny(root / "small", seed=5)
        self.base, self.small = load_tiny(self.base_folder), load_tiny(self.small_folder)
        self.lora = save_adapter(root / "lora", self.small, seed=2)
        self.own = save_adapter(root / "own", self.base, seed=3)
        self.loads = 0

    def load_small(self) -> LoadedModel:
        self.loads += 1
        return load_tiny(self.small_folder)

    def backend(self, batch_size: int = 256) -> TransformersBackend:
        config = TransformersBackendConfig(batch_size=batch_size)
        return TransformersBackend(load_tiny(self.base_folder), config, load_small=self.load_small)

    def proxy(self, alpha: float, lora: Adapter | None = None) -> Adapter:
        source = lora or self.lora
        out = self.root / f"proxy-{source.path.name}-{alpha:g}"
        return write_proxy(source.path, alpha, out, ("base", self.base.info.fingerprint), {"method": "proxy"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("proxy"))


def logits(model: object, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()  # type: ignore[operator]


def by_formula(world: World, request: Request, sampling: Sampling, alpha: float, lora: Adapter) -> list[int]:
    """The answer of one row from full passes over three separate models, without a cache, a batch or padding."""
    on_small = lora.sha256 == world.lora.sha256
    plain = load_tiny(world.small_folder if on_small else world.base_folder).model
    tuned = PeftModel.from_pretrained(load_tiny(world.small_folder if on_small else world.base_folder).model, lora.path)
    tuned.eval()
    tokenizer = world.base.tokenizer
    ids = rendering.encode(tokenizer, [rendering.render(tokenizer, request.prompt, False)], False)[0]
    prompt = len(ids)
    for _ in range(sampling.max_new_tokens):
        scores = (logits(world.base.model, ids) + alpha * (logits(tuned, ids) - logits(plain, ids)))[None]
        if sampling.temperature > 0:
            choice = SeededChoice([request.seed], prompt, sampling.temperature, sampling.top_p)
            scores = choice(torch.tensor([ids]), scores)
        ids.append(int(scores.argmax()))
        if ids[-1] in world.base.stop_ids:
            break
    return ids[prompt:]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("same", [False, True], ids=["small", "same"])
def test_answers_are_those_of_the_formula_without_a_cache(world: World, sampling: Sampling, same: bool) -> None:
    requests, lora = some_requests(12), world.own if same else world.lora
    found = world.backend(batch_size=5).generate(requests, sampling, world.proxy(1.5, lora))
    expected = [by_formula(world, r, sampling, 1.5, lora) for r in requests]
    texts = [
        world.base.tokenizer.decode(ids[:-1] if ids[-1] in world.base.stop_ids else ids, skip_special_tokens=True)
        for ids in expected
    ]
    agreeing = sum(f.text == t and f.tokens_out == len(e) for f, t, e in zip(found, texts, expected, strict=True))
    assert agreeing >= 11, "in float32 only a near tie may differ"
    assert {f.finish for f in found} == {"stop", "length"}, (
        "rows must end at different places for this to mean something"
    )
    bare = world.backend().generate(requests, sampling, None)
    assert sum(a.text != b.text for a, b in zip(found, bare, strict=True)) >= 8


def test_at_strength_zero_the_scores_are_the_bases_own(world: World) -> None:
    requests = some_requests(20)
    for sampling in (GREEDY, SAMPLED):
        backend = world.backend()
        assert content(backend.generate(requests, sampling, world.proxy(0.0))) == content(
            backend.generate(requests, sampling, None)
        )
    pair = MixedPair(None, lambda n, m: nullcontext())
    scores = torch.randn(2, 5)
    assert ProxyLogits(pair, 0.0, torch.ones(2, 3, dtype=torch.long))(torch.zeros(2, 3), scores) is scores


def test_scores_equal_a_full_pass_at_every_step(world: World) -> None:
    small, plain = load_tiny(world.small_folder), load_tiny(world.small_folder).model
    tuned = PeftModel.from_pretrained(load_tiny(world.small_folder).model, world.lora.path).eval()
    shelf = AdapterShelf(small)
    rows = [[2, 7, 8, 9, 11], [2, 20], [2, 30, 31, 32]]
    width = max(map(len, rows))
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    ids = torch.tensor([[0] * (width - len(r)) + r for r in rows])
    pair = MixedPair(small.model, lambda n, m: shelf.by_row([world.lora] * n + [None] * m))
    steering = ProxyLogits(pair, 0.7, mask)
    with torch.inference_mode():
        for step in range(4):
            base = torch.randn(3, 44, generator=torch.Generator().manual_seed(step))
            found = steering(ids, base.clone())
            for row, tokens in enumerate(rows):
                own = tokens + ids[row, width:].tolist()
                expected = base[row] + 0.7 * (logits(tuned, own) - logits(plain, own))
                torch.testing.assert_close(found[row], expected, atol=2e-4, rtol=1e-4)
                torch.testing.assert_close(logits(small.model, own), logits(plain, own))
            ids = torch.cat([ids, torch.tensor([[5 + step], [9], [12 + step]])], dim=1)


def test_beam_search_and_a_second_call_are_refused(world: World) -> None:
    backend, proxy = world.backend(), world.proxy(1.0)
    mask = torch.ones(2, 4, dtype=torch.long)
    ids = torch.randint(5, 40, (2, 4), generator=torch.Generator().manual_seed(0))
    model = backend.loaded.model
    with backend._proxies.active(proxy) as steer, torch.inference_mode():
        with pytest.raises(BackendError, match="beam search"):
            model.generate(
                ids,
                attention_mask=mask,
                logits_processor=LogitsProcessorList([steer(mask)]),
                num_beams=2,
                max_new_tokens=2,
            )
        used = steer(mask)
        used(ids, torch.randn(2, 44))
        with pytest.raises(BackendError, match="a processor of its own"):
            used(ids, torch.randn(2, 44))
        swapped = torch.cat([ids.flip(0), ids[:, :1]], dim=1)
        with pytest.raises(BackendError, match="other rows"):
            used(swapped, torch.randn(2, 44))


def test_the_small_model_is_loaded_once_and_only_when_asked(world: World) -> None:
    before = world.loads
    backend = world.backend()
    backend.generate([Request("abc", 0)], GREEDY, None)
    backend.generate([Request("abc", 0)], GREEDY, world.own)
    backend.generate([Request("abc", 0)], GREEDY, world.proxy(1.0, world.own))
    assert world.loads == before
    for alpha in (0.5, 1.0, 1.5):
        backend.generate([Request("abc", 0)], GREEDY, world.proxy(alpha))
    assert world.loads == before + 1


def test_the_base_is_bare_again_after_a_proxy_of_itself(world: World) -> None:
    backend, requests = world.backend(), some_requests(10)
    before = content(backend.generate(requests, GREEDY, None))
    backend.generate(requests, GREEDY, world.proxy(1.5, world.own))
    assert content(backend.generate(requests, GREEDY, None)) == before


def test_strength_one_of_an_adapter_on_the_same_base_is_the_adapter(world: World) -> None:
    backend, requests = world.backend(), some_requests(30)
    dialled = content(backend.generate(requests, GREEDY, world.proxy(1.0, world.own)))
    assert (
        sum(a == b for a, b in zip(dialled, content(backend.generate(requests, GREEDY, world.own)), strict=True)) >= 29
    )


def test_without_a_configured_small_model_nothing_is_loaded(world: World) -> None:
    backend = TransformersBackend(load_tiny(world.base_folder), TransformersBackendConfig())
    with pytest.raises(AdapterError, match=r"none is configured; name it as weights\.proxy\.small"):
        backend.generate([Request("abc", 0)], GREEDY, world.proxy(1.0))


def test_the_configured_small_model_has_to_be_the_one_that_was_trained(world: World, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=9)
    config = TransformersBackendConfig()
    backend = TransformersBackend(load_tiny(world.base_folder), config, load_small=lambda: load_tiny(other))
    with pytest.raises(AdapterError, match="name the small model that it was trained on"):
        backend.generate([Request("abc", 0)], GREEDY, world.proxy(1.0))


def test_a_prompt_has_to_fit_the_small_model_too(world: World, tmp_path: Path) -> None:
    short = save_tiny(tmp_path / "short", seed=5, positions=16)
    small = load_tiny(short)
    lora = save_adapter(tmp_path / "lora", small, seed=2)
    proxy = write_proxy(lora.path, 1.0, tmp_path / "proxy", ("base", world.base.info.fingerprint), {})
    config = TransformersBackendConfig()
    backend = TransformersBackend(load_tiny(world.base_folder), config, load_small=lambda: load_tiny(short))
    with pytest.raises(BackendError, match="limit of 16 positions"):
        backend.generate([Request("abcdefgh", 0)], GREEDY, proxy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": "1.0"}, "is no number"),
        ({"alpha": True}, "is no number"),
        ({"alpha": 1e9}, "outside 0 to 16"),
        ({"small_fingerprint": "../../etc"}, "is no fingerprint"),
        ({"small_path": "/somewhere"}, "'small_path' is no key of a proxy"),
        ({"lora": {"peft_type": "PROXY"}}, "holds no LoRA"),
    ],
)
def test_a_folder_that_says_something_else_is_refused(world: World, tmp_path: Path, change: dict, message: str) -> None:
    folder = tmp_path / "proxy"
    shutil.copytree(world.proxy(1.0).path, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    write_manifest(folder, world.base.info.fingerprint)
    with pytest.raises(AdapterError, match=message):
        check_adapter(folder, world.base.info.fingerprint)


def test_the_small_models_lora_is_held_to_the_rules_of_any_lora(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    shutil.copytree(world.proxy(1.0).path, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora"]["bias"] = "all"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_manifest(folder, world.base.info.fingerprint)
    with pytest.raises(AdapterError, match="bias 'all' overwrites base weights"):
        check_adapter(folder, world.base.info.fingerprint)


def test_a_swapped_folder_or_another_base_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    shutil.copytree(world.proxy(1.0).path, folder)
    with pytest.raises(AdapterError, match="another base"):
        check_adapter(folder, world.small.info.fingerprint)
    swapped = Adapter(folder, world.proxy(0.5).sha256)
    with pytest.raises(AdapterError, match="they were replaced"):
        world.backend().generate([Request("abc", 0)], GREEDY, swapped)


def test_a_proxy_is_identified_by_strength_and_holds_no_path(world: World, tmp_path: Path) -> None:
    placed = tmp_path / "lora"
    shutil.copytree(world.lora.path, placed)
    config = json.loads((placed / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/home/me/small"}
    (placed / "adapter_config.json").write_text(json.dumps(config))
    write_manifest(placed, world.small.info.fingerprint)
    base = ("base", world.base.info.fingerprint)
    first, again, weaker = (
        write_proxy(placed, alpha, tmp_path / name, base, {}) for name, alpha in (("a", 1.0), ("b", 1.0), ("c", 0.5))
    )
    assert first.sha256 == again.sha256 != weaker.sha256
    names = ("adapter_config.json", "adapter_model.safetensors", "hybrid_manifest.json")
    assert all((first.path / n).read_bytes() == (again.path / n).read_bytes() for n in names)
    assert not any(b"/home/me" in (first.path / n).read_bytes() for n in names)
    said = json.loads((first.path / "adapter_config.json").read_text())
    assert (said["small"], said["small_fingerprint"]) == ("small", world.small.info.fingerprint)


def test_the_lora_comes_out_as_it_went_in(world: World, tmp_path: Path) -> None:
    assert (
        unpack(world.proxy(1.0).path, tmp_path).sha256 == world.lora.sha256 == inspect_adapter(world.lora.path).sha256
    )
    assert check_adapter(tmp_path, world.small.info.fingerprint).rank == 4


def altered(loaded: LoadedModel, **changes: object) -> LoadedModel:
    return dataclasses.replace(loaded, **changes)  # type: ignore[arg-type]


def test_vocabularies_that_differ_are_refused_by_their_first_difference(world: World) -> None:
    compare_vocabularies(world.base, world.small)
    other = load_tiny(world.small_folder)
    other.tokenizer.add_tokens(["zz"])
    with pytest.raises(BackendError, match="'zz' is token 44 of the small model and is not a token of the base"):
        compare_vocabularies(world.base, other)
    with pytest.raises(BackendError, match="'zz' is not a token of the small model and is token 44 of the base"):
        compare_vocabularies(other, world.small)


def test_tokens_in_another_order_are_refused(world: World, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "swapped", seed=5)
    text = (folder / "tokenizer.json").read_text()
    data = json.loads(text)
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(BackendError, match="'a' is token 5 of the small model and is token 4 of the base"):
        compare_vocabularies(world.base, load_tiny(folder))


def test_other_ends_of_an_answer_and_other_templates_are_refused(world: World) -> None:
    with pytest.raises(BackendError, match=r"ends answers with tokens \(4,\)"):
        compare_vocabularies(world.base, altered(world.small, stop_ids=(4,)))
    other = load_tiny(world.small_folder)
    other.tokenizer.chat_template = "{{ messages }}"
    compare_vocabularies(world.base, other)
    with pytest.raises(BackendError, match="chat templates differ"):
        compare_vocabularies(altered(world.base, chat=True), other)


def test_padding_of_the_output_layer_may_differ_and_moves_nothing(world: World, tmp_path: Path) -> None:
    padded = load_tiny(world.small_folder)
    padded.model.resize_token_embeddings(64, mean_resizing=False)
    compare_vocabularies(world.base, padded)
    folder = tmp_path / "padded"
    padded.model.save_pretrained(folder)
    padded.tokenizer.save_pretrained(folder)
    small = load_tiny(folder)
    lora = save_adapter(tmp_path / "lora", small, seed=2)
    proxy = write_proxy(lora.path, 1.5, tmp_path / "proxy", ("base", world.base.info.fingerprint), {})
    config = TransformersBackendConfig()
    backend = TransformersBackend(load_tiny(world.base_folder), config, load_small=lambda: load_tiny(folder))
    requests = some_requests(20)
    plain = content(world.backend().generate(requests, GREEDY, world.proxy(1.5)))
    assert content(backend.generate(requests, GREEDY, proxy)) == plain
