"""Loading the base: identity, refusals with a reason, the end of an answer, and the frozen-model trap."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from backend_tiny import load_tiny, save_gguf, save_tiny, tiny_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from hybrid.backends.base import Request, Sampling
from hybrid.backends.loading import end_token_id, fold_lm_head, load_base, model_fingerprint, weights_checksum
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.backends.transformers_files import reference_folder
from hybrid.config.schema import ModelConfig, TransformersBackendConfig
from hybrid.errors import BackendError

REFERENCE = Path(__file__).resolve().parents[2] / "hybrid" / "assets" / "reference-model" / "config.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def test_what_is_loaded_is_described(tiny: Path) -> None:
    loaded = load_tiny(tiny)
    assert loaded.info.parameters == sum(t.numel() for t in load_file(tiny / "model.safetensors").values())
    assert (loaded.info.dtype, loaded.info.device, loaded.device_reason) == ("float32", "cpu", "asked for")
    assert loaded.stop_ids == (3,) == (loaded.tokenizer.eos_token_id,)
    assert loaded.tokenizer.padding_side == "left"
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert torch.get_num_threads() == 1


def test_a_float16_file_is_computed_in_float32(tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "half", dtype=torch.float16))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_fingerprint_is_the_content_wherever_it_lies(tiny: Path, tmp_path: Path) -> None:
    first = load_tiny(tiny)
    copied = load_tiny(Path(shutil.copytree(tiny, tmp_path / "elsewhere")))
    first.tokenizer(["a", "abc"], padding=True)  # the padding of a call is no part of the identity
    assert model_fingerprint(first.model, first.tokenizer) == copied.info.fingerprint == first.info.fingerprint
    copied.model.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    copied.tokenizer.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors.index.json").exists()
    assert load_tiny(tmp_path / "again").info.fingerprint == first.info.fingerprint


def test_fingerprint_changes_with_anything_that_changes_answers(tiny: Path, broken: Path) -> None:
    loaded = load_tiny(tiny)
    seen = {loaded.info.fingerprint}

    def expect_new(value: str) -> None:
        assert value not in seen
        seen.add(value)

    expect_new(load_tiny(tiny, dtype="bfloat16").info.fingerprint)
    expect_new(load_tiny(tiny, end_of_answer="\n").info.fingerprint)
    loaded.tokenizer.chat_template = "{{ messages[0].content }}"
    expect_new(model_fingerprint(loaded.model, loaded.tokenizer))
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    expect_new(model_fingerprint(loaded.model, loaded.tokenizer))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    expect_new(load_tiny(broken).info.fingerprint)
    vocabulary = (broken / "tokenizer.json").read_text()
    (broken / "tokenizer.json").write_text(vocabulary.replace('"a"', '"A"'))
    expect_new(load_tiny(broken).info.fingerprint)


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def reshape_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lose_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (truncate, "cannot be loaded"),
        (drop_weight, r"1 weights are missing from the file, first model\.layers\.0\.mlp\.up_proj\.weight"),
        (reshape_weight, r"model\.norm\.weight has another shape"),
        (pickle_weights, r"pytorch_model\.bin, a pickle"),
        (lose_shard, r"model-1\.safetensors is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda f: (f / "config.json").unlink(), r"config\.json: cannot be read"),
        (write("config.json", "{"), r"config\.json: is not JSON"),
        (write("config.json", "[]"), r"config\.json: must hold a JSON object"),
        (write("config.json", '{"model_type": "unheard-of"}'), "unheard-of|model type"),
        (write("tokenizer.json", "{}"), "tokenizer"),
        (write("tokenizer.json", "{"), "tokenizer"),
        (write("adapter_config.json", "{}"), "holds an adapter"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_reason(
    broken: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(broken)
    with pytest.raises(BackendError, match=reason) as caught:
        load_tiny(broken)
    assert str(broken) in str(caught.value)


def test_code_in_a_model_folder_is_never_run(broken: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    (broken / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((broken / "config.json").read_text())
    config.update(
        model_type="evil", auto_map={"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    )
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError):
        load_tiny(broken)
    assert not marker.exists()


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "a/b/c", "../up"])
def test_a_path_that_is_no_hub_id_is_a_missing_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="there is no folder"):
        load_base(ModelConfig(path=path, device="cpu", threads=1), lambda text: tmp_path / text, tmp_path)


def test_a_file_is_no_model_folder(tiny: Path) -> None:
    with pytest.raises(BackendError, match="is a file"):
        load_tiny(tiny / "model.safetensors")


def test_a_hub_id_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    started = time.monotonic()
    with pytest.raises(BackendError, match="give a local folder"):
        load_base(ModelConfig(path="someone/some-model", device="cpu", threads=1), lambda t: tmp_path / t, tmp_path)
    assert time.monotonic() - started < 20


def test_a_gguf_that_is_not_there_or_outside_is_refused(tiny: Path) -> None:
    for name in ("absent.gguf", "../tiny/config.json"):
        with pytest.raises(BackendError, match="is no file in"):
            load_tiny(tiny, gguf_file=name)


def test_a_gguf_is_unpacked_once_to_the_weights_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="reading GGUF files needs the package gguf")
    expected = save_gguf(tmp_path / "packed")
    loaded = load_tiny(tmp_path / "packed", gguf_file="tiny.gguf")
    for name, parameter in expected.named_parameters():
        assert torch.allclose(loaded.model.get_parameter(name), parameter, atol=1e-6), name
    assert loaded.stop_ids == (3,)
    (cached,) = (tmp_path / "cache").iterdir()
    assert (cached / "model.safetensors").is_file(), "nothing half-written is left beside it"

    def never(*_: object) -> None:
        raise AssertionError("converted a second time")

    monkeypatch.setattr("hybrid.backends.transformers_files._convert", never)
    again = load_tiny(Path(shutil.copytree(tmp_path / "packed", tmp_path / "copy")), gguf_file="tiny.gguf")
    assert again.info.fingerprint == loaded.info.fingerprint
    with pytest.raises(BackendError, match="a second time"):
        load_tiny(tmp_path / "packed", gguf_file="tiny.gguf", dtype="bfloat16")
    assert len(list((tmp_path / "cache").iterdir())) == 1, "a conversion that fails leaves nothing"


def test_a_file_that_is_no_gguf_is_refused_with_its_name(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "odd"))
    (folder / "odd.gguf").write_bytes(b"not a model")
    with pytest.raises(BackendError, match=r"odd\.gguf cannot be dequantised"):
        load_tiny(folder, gguf_file="odd.gguf")


def test_settings_that_come_with_the_model_do_not_change_greedy_answers(tiny: Path, broken: Path) -> None:
    GenerationConfig(
        eos_token_id=[3, 5], repetition_penalty=5.0, suppress_tokens=list(range(10, 30)), min_new_tokens=9, num_beams=3
    ).save_pretrained(broken)
    plain, odd = load_tiny(tiny, end_of_answer=";"), load_tiny(broken, end_of_answer=";")
    requests = [Request(f"{letter} =", 0) for letter in "abcdefgh"]
    answers = [
        [
            c.text
            for c in TransformersBackend(m, TransformersBackendConfig()).generate(
                requests, Sampling(max_new_tokens=12), None
            )
        ]
        for m in (plain, odd)
    ]
    assert answers[0] == answers[1]
    assert load_tiny(broken).stop_ids == (3, 5), "the model's own ends are all kept when none is configured"


def test_the_configured_end_is_the_only_one_everywhere(tiny: Path) -> None:
    loaded = load_tiny(tiny, end_of_answer="\n")
    newline = loaded.tokenizer.convert_tokens_to_ids("\n")
    assert loaded.stop_ids == (newline,)
    assert loaded.tokenizer.eos_token_id == loaded.model.generation_config.eos_token_id == newline
    assert (
        loaded.tokenizer("a\nb;", add_special_tokens=False)["input_ids"]
        == tiny_tokenizer()("a\nb;", add_special_tokens=False)["input_ids"]
    ), "naming an end must not change how text is read"


@pytest.mark.parametrize(("text", "reason"), [("ab", "2 tokens"), ("", "0 tokens"), ("é", "not in the vocabulary")])
def test_an_end_that_is_no_single_token_is_refused(tiny: Path, text: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        load_tiny(tiny, end_of_answer=text)


def test_an_end_is_found_behind_the_space_that_a_tokenizer_puts_in_front() -> None:
    inner = Tokenizer(models.BPE({"<unk>": 0, "▁": 1, "\n": 2, "a": 3}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert tokenizer("\n", add_special_tokens=False)["input_ids"] == [1, 2]
    assert end_token_id(tokenizer, "\n") == 2


def test_an_end_is_found_where_the_vocabulary_spells_it_otherwise() -> None:
    inner = Tokenizer(models.BPE({"Ċ": 0, "a": 1}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert end_token_id(tokenizer, "\n") == 0


def test_folding_changes_shapes_inside_and_no_result(tiny: Path) -> None:
    loaded = load_tiny(tiny)
    model = loaded.model
    head = model.get_output_embeddings()
    hooks = len(head._forward_hooks)
    fold_lm_head(model)
    assert len(head._forward_hooks) == hooks, "folding twice is folding once"
    seen: list[tuple[int, ...]] = []
    probe = head.register_forward_pre_hook(lambda _m, a: seen.append(tuple(a[0].shape)))
    ids = torch.randint(4, 40, (6, 9), generator=torch.Generator().manual_seed(0))
    folded_logits = model(ids).logits
    folded = model.generate(ids, max_new_tokens=10, do_sample=False)
    probe.remove()
    assert {len(shape) for shape in seen} == {2}
    head._forward_hooks.clear()
    head._forward_pre_hooks.clear()
    assert model(ids).logits.shape == folded_logits.shape
    assert torch.allclose(model(ids).logits, folded_logits, atol=1e-5)
    assert torch.equal(model.generate(ids, max_new_tokens=10, do_sample=False), folded)


def test_the_checksum_sees_every_bit_of_the_base(tiny: Path) -> None:
    model = load_tiny(tiny).model
    before = weights_checksum(model)
    weight = model.model.layers[0].self_attn.q_proj.weight
    original = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(10.0))
    assert weights_checksum(model) != before
    with torch.no_grad():
        weight[0, 0] = original
    assert weights_checksum(model) == before


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference model is not in this tree")
def test_the_reference_model_loads_fast_and_answers_the_same_in_any_company(tmp_path: Path) -> None:
    assert reference_folder() == REFERENCE.parent
    loaded = load_base(ModelConfig(path="reference", device="cpu", threads=1), Path, tmp_path)
    started = time.process_time()
    assert model_fingerprint(loaded.model, loaded.tokenizer) == loaded.info.fingerprint
    assert time.process_time() - started < 1.0
    requests = [Request(f"q @rev {'abcdefghijklm'[i % 9 : i % 9 + 2 + i % 4]} =", seed=i) for i in range(100)]
    sampling = Sampling(max_new_tokens=12, temperature=1.0)
    one, other = (TransformersBackend(loaded, TransformersBackendConfig(batch_size=n)) for n in (100, 16))
    first = [c.text for c in one.generate(requests, sampling, None)]
    second = [c.text for c in other.generate(requests[::-1], sampling, None)][::-1]
    assert sum(a == b for a, b in zip(first, second, strict=True)) >= 99
    assert not any(";" in text for text in first)
