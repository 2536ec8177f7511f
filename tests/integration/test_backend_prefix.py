"""Shared beginnings: the same answers as without sharing, computed once, and never used where they would be wrong."""

import copy
import itertools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_tiny import ALPHABET, TEMPLATE, in_float64, load_tiny, save_adapter, save_tiny, tiny_tokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
)

from hybrid.backends import decode, prefix
from hybrid.backends.base import Completion, Request, Sampling
from hybrid.backends.loading import LoadedModel, load_base
from hybrid.backends.prefix import BLOCK, Group, PrefixStore, find_groups
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.types import Message
from hybrid.config.schema import ModelConfig, TransformersBackendConfig
from hybrid.errors import BackendError

GREEDY = Sampling(max_new_tokens=12)
SAMPLED = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.9)
LETTERS = ALPHABET[:36]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("prefix") / "tiny", positions=512)


@pytest.fixture(scope="module")
def tiny(folder: Path) -> LoadedModel:
    return load_tiny(folder)


@pytest.fixture(scope="module")
def exact(tiny: LoadedModel) -> LoadedModel:
    """In double precision rounding changes no token: sharing must give every answer to the letter."""
    return in_float64(tiny)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Three layers that see 24 tokens and one that sees all, one key head for four query heads, in double precision."""
    torch.manual_seed(3)
    config = Gemma3TextConfig(
        vocab_size=4 + len(ALPHABET),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=512,
        initializer_range=0.4,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    folder = tmp_path_factory.mktemp("gemma") / "tiny"
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight *= 0.05  # else a token's own embedding decides what follows it
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return in_float64(load_tiny(folder))


def text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(LETTERS, k=length))


def queries(document: str, lengths: Sequence[int], seed: int = 0) -> list[Request]:
    rng = random.Random(seed)
    return [Request(f"{document}\n{text(rng, n)} =", seed=i) for i, n in enumerate(lengths)]


def mixed(count: int = 30) -> list[Request]:
    """Three documents of 200, 90 and 40 tokens in turn, and every fifth prompt on its own."""
    rng = random.Random(1)
    documents = [text(rng, 200), text(rng, 90), text(rng, 40)]
    alone = [Request(text(rng, rng.randint(1, 60)), seed=100 + i) for i in range(count // 5)]
    rows = [r for i, d in enumerate(documents) for r in queries(d, [1 + j % 17 for j in range(count)], seed=i)]
    rng.shuffle(rows)
    return [*rows, *alone]


def backend(loaded: LoadedModel, share: bool = True, batch_size: int = 256, **options: Any) -> TransformersBackend:
    return TransformersBackend(
        loaded, TransformersBackendConfig(batch_size=batch_size), share_prefixes=share, **options
    )


def content(completions: Sequence[Completion]) -> list[tuple[str, int, int, str]]:
    return [(c.text, c.tokens_in, c.tokens_out, c.finish) for c in completions]


def both(
    loaded: LoadedModel, requests: Sequence[Request], sampling: Sampling = GREEDY, adapter: Any = None
) -> tuple[list[tuple[str, int, int, str]], TransformersBackend]:
    """The answers with sharing, after comparing them with those without; and the backend that shared."""
    served = backend(loaded)
    found = content(served.generate(requests, sampling, adapter))
    assert found == content(backend(loaded, share=False).generate(requests, sampling, adapter))
    assert served.warnings == ()
    return found, served


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_are_those_of_whole_prompts(exact: LoadedModel, sampling: Sampling) -> None:
    requests = mixed()
    found, served = both(exact, requests, sampling)
    assert len({text for text, *_ in found}) > 60, "the answers must differ for this test to mean something"
    assert served.prefix_use.rows == 90, "three documents; the other prompts go the plain way"
    assert served.prefix_use.computed == 192 + 80 + 32, "each document once, in whole blocks"
    assert served.prefix_use.spared == 29 * (192 + 80 + 32)
    again = content(backend(exact, batch_size=7).generate(requests[::-1], sampling, None))[::-1]
    assert again == found, "whatever the batches are"


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_sliding_windows_are_counted_in_positions(gemma: LoadedModel, sampling: Sampling) -> None:
    """Suffixes shorter and longer than the window of 24, so that a window ends in the prefix, or past it."""
    rng = random.Random(4)
    requests = queries(text(rng, 120), [1, 2, 5, 9, 14, 19, 20, 21, 22, 23, 24, 25, 26, 30, 41, 60] * 2)
    found, served = both(gemma, requests, sampling)
    assert served.prefix_use.rows == len(requests)
    assert len({text for text, *_ in found}) > 20


def test_the_check_would_see_a_window_that_is_off_by_one(gemma: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        assert prefix.check(gemma.model)[0] is None
        real = decode.SharedRows._hidden_prefix

        def wider(self: Any, first: int, last: int, window: int | None, device: Any) -> Any:
            return real(self, first, last, None if window is None else window + 1, device)

        monkeypatch.setattr(decode.SharedRows, "_hidden_prefix", wider)
        reason, tokens = prefix.check(gemma.model)
    requests = queries(text(random.Random(4), 120), [1, 2, 5, 9, 14, 19] * 4)
    plain = backend(gemma, share=False).generate(requests, GREEDY, None)
    monkeypatch.setattr(prefix, "check", lambda _model: (None, 0))
    assert content(backend(gemma).generate(requests, GREEDY, None)) != content(plain), "and it changes answers"
    assert reason is not None
    assert "scores differ" in reason
    assert tokens < 300


def test_an_adapter_has_its_own_beginnings(tiny: LoadedModel, folder: Path, tmp_path: Path) -> None:
    adapters = [save_adapter(tmp_path / f"a{i}", tiny, seed=i) for i in (1, 2)]
    exact = in_float64(load_tiny(folder))
    requests = queries(text(random.Random(5), 150), range(1, 20))
    served = backend(exact)
    plain = backend(in_float64(load_tiny(folder)), share=False)
    found = {}
    for adapter in (None, adapters[0], adapters[1], None, adapters[0]):
        key = adapter.sha256 if adapter else None
        answers = content(served.generate(requests, GREEDY, adapter))
        assert answers == content(plain.generate(requests, GREEDY, adapter))
        assert found.setdefault(key, answers) == answers
    assert len({tuple(answers) for answers in found.values()}) == 3
    assert served.prefix_use.computed == 3 * 144
    assert served.prefix_use.reused == 2 * 144


def test_chat_prompts_share_their_system_message(folder: Path) -> None:
    loaded = in_float64(load_tiny(folder, chat=True))
    assert "system" in TEMPLATE
    system = Message(role="system", content=text(random.Random(6), 100))
    requests = [Request((system, Message(role="user", content=f"{i * 37}")), seed=i) for i in range(12)]
    _, served = both(loaded, requests)
    assert served.prefix_use.rows == 12


def test_equal_prompts_and_one_that_is_the_beginning_of_the_others(exact: LoadedModel) -> None:
    rng = random.Random(7)
    document = text(rng, 16 * 8 - 1)  # with the begin-of-text token: exactly eight blocks
    requests = [Request(document, 0), *(Request(document + text(rng, n), n) for n in (1, 2, 15, 16, 17))]
    _, served = both(exact, requests)
    assert served.prefix_use.computed == 16 * 7, "the prompt that is all beginning keeps a token after it"
    _, served = both(exact, [Request(document, seed) for seed in range(20)], SAMPLED)
    assert served.prefix_use.computed == 16 * 7


def test_one_row_and_nothing_in_common_go_the_plain_way(exact: LoadedModel) -> None:
    rng = random.Random(8)
    unlike = [Request(f"{letter}{text(rng, 80)}", 0) for letter in "abcdefgh"]
    for requests in ([Request(text(rng, 200), 0)], unlike, []):
        _, served = both(exact, requests)
        assert served.prefix_use == prefix.PrefixUse(), "not even the check is paid"


def test_the_model_is_as_before(tiny: LoadedModel) -> None:
    before = tiny.model.config._attn_implementation
    state = torch.get_rng_state()
    backend(tiny).generate(mixed(), SAMPLED, None)
    assert tiny.model.config._attn_implementation == before != decode.ATTENTION
    assert torch.equal(torch.get_rng_state(), state)
    assert decode._active.get() is None


def test_the_next_call_over_the_same_document_computes_nothing_and_answers_the_same_bits(tiny: LoadedModel) -> None:
    rng = random.Random(9)
    document = text(rng, 200)
    first, second = (queries(document, range(1, 25), seed=i) for i in (1, 2))
    fresh = content(backend(tiny).generate(second, SAMPLED, None))
    served = backend(tiny)
    served.generate(first, SAMPLED, None)
    assert served.prefix_use.computed == 192
    assert content(served.generate(second, SAMPLED, None)) == fresh, "so a resumed run gets the same bytes"
    assert (served.prefix_use.computed, served.prefix_use.reused) == (192, 192)


def test_the_store_is_bounded_and_drops_what_was_used_least(tiny: LoadedModel) -> None:
    rng = random.Random(10)
    documents = [queries(text(rng, 100), range(1, 8), seed=i) for i in range(4)]
    store = PrefixStore(entries=2)
    served = backend(tiny, prefixes=store)

    def computed(i: int) -> int:
        before = served.prefix_use.computed
        served.generate(documents[i], GREEDY, None)
        return served.prefix_use.computed - before

    assert [computed(i) for i in (0, 1, 0, 2, 0, 1)] == [96, 96, 0, 96, 0, 96]
    assert len(store) == 2
    size = store.nbytes // 2
    assert size == 96 * 2 * 2 * 2 * 8 * 4, "tokens, layers, keys and values, key heads, width, bytes"
    small = PrefixStore(limit=size - 1)
    plain = content(backend(tiny, share=False).generate(documents[3], GREEDY, None))
    assert content(backend(tiny, prefixes=small).generate(documents[3], GREEDY, None)) == plain
    assert len(small) == 0, "one that is too large serves its call and goes"


def test_beginnings_of_an_adapter_that_left_the_shelf_are_dropped() -> None:
    store, empty = PrefixStore(), decode.PrefixKeys(1, {})
    for adapter in ("", "one", "two"):
        store.get(adapter, (1, 2), lambda: empty)
    store.retain(["two"])
    assert [store.get(a, (1, 2), lambda: empty)[1] for a in ("", "two", "one")] == [True, True, False]


def spoiled(change: Callable[[decode.PrefixKeys], decode.PrefixKeys]) -> Callable[..., decode.PrefixKeys]:
    return lambda model, tokens: change(decode.read_prefix(model, tokens))


def shifted(keys: decode.PrefixKeys) -> decode.PrefixKeys:
    return decode.PrefixKeys(keys.length, {i: (k.roll(1, dims=1), v) for i, (k, v) in keys.layers.items()})


def not_a_number(keys: decode.PrefixKeys) -> decode.PrefixKeys:
    return decode.PrefixKeys(keys.length, {i: (k, v * torch.nan) for i, (k, v) in keys.layers.items()})


def missing(keys: decode.PrefixKeys) -> decode.PrefixKeys:
    return decode.PrefixKeys(keys.length, {0: keys.layers[0]})


@pytest.mark.parametrize("change", [shifted, not_a_number, missing])
def test_wrong_keys_are_found_out_before_an_answer_is_made(
    exact: LoadedModel, monkeypatch: pytest.MonkeyPatch, change: Callable[[decode.PrefixKeys], decode.PrefixKeys]
) -> None:
    requests = mixed()
    expected = content(backend(exact, share=False).generate(requests, GREEDY, None))
    monkeypatch.setattr(prefix, "read_prefix", spoiled(change))
    served = backend(exact)
    assert content(served.generate(requests, GREEDY, None)) == expected
    (warning,) = served.warnings
    assert "computed in full, row by row" in warning
    checked = served.prefix_use.checked
    assert 0 < checked < 300
    assert content(served.generate(requests, GREEDY, None)) == expected
    assert served.prefix_use == prefix.PrefixUse(checked=checked), "checked once, never shared"
    assert len(served.warnings) == 1


def test_a_model_that_turns_out_different_later_still_gives_every_answer(
    exact: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check passed, and then an attention call looks unlike those of the check."""
    requests = mixed()
    expected = content(backend(exact, share=False).generate(requests, GREEDY, None))
    served = backend(exact, batch_size=40)
    assert served.generate(requests[:20], GREEDY, None)
    calls = itertools.count()

    def fails_at_last(*arguments: Any) -> torch.Tensor:
        if next(calls) > 10:
            raise decode.UnsupportedModelError("its attention takes something new")
        return real(*arguments)

    real = decode._attend_piece
    monkeypatch.setattr(decode, "_attend_piece", fails_at_last)
    assert content(served.generate(requests, GREEDY, None)) == expected
    (warning,) = served.warnings
    assert warning.endswith("its attention takes something new")
    assert exact.model.config._attn_implementation != decode.ATTENTION


SMALL: dict[str, Any] = {"vocab_size": 44, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "recurrent state": (
        lambda: MambaForCausalLM(MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=2, **SMALL)),
        "recurrent state",
    ),
    "no positions": (
        lambda: BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=2, n_head=2, **SMALL)),
        "attention cannot be replaced|positions cannot be given",
    ),
    "capped scores": (
        lambda: Gemma2ForCausalLM(
            Gemma2Config(
                hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, head_dim=8, attn_logit_softcapping=1.0, **SMALL,
            )
        ),
        "its attention takes softcap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_models_that_keep_something_else_take_the_plain_way(name: str, tmp_path: Path) -> None:
    build, reason = OTHERS[name]
    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    loaded = load_tiny(tmp_path / "model")
    requests = queries(text(random.Random(11), 80), range(1, 9))
    served = backend(loaded)
    expected = content(backend(loaded, share=False).generate(requests, GREEDY, None))
    assert content(served.generate(requests, GREEDY, None)) == expected
    assert served.prefix_use.rows == 0
    (warning,) = served.warnings
    assert re.search(reason, warning), warning


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "type dynamic"),
        ("rope_parameters", {"sliding_attention": {"rope_type": "longrope"}}, "type longrope"),
        ("layer_types", ["full_attention", "chunked_attention"], "kind chunked_attention"),
    ],
)
def test_what_depends_on_a_prompts_length_is_not_shared(tiny: LoadedModel, key: str, value: Any, reason: str) -> None:
    model = copy.copy(tiny.model)
    model.config = copy.deepcopy(tiny.model.config)
    assert prefix.unsupported(model) is None
    setattr(model.config, key, value)
    assert reason in str(prefix.unsupported(model))


def test_running_out_of_memory_halves_the_batch(exact: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = queries(text(random.Random(12), 100), [5] * 40)
    expected = content(backend(exact).generate(requests, SAMPLED, None))
    real, sizes = decode.decode, []

    def small(model: Any, rows: decode.SharedRows, **options: Any) -> list[list[int]]:
        sizes.append(len(rows))
        if len(rows) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, rows, **options)

    limited = backend(exact, batch_size=32)
    monkeypatch.setattr("hybrid.backends.transformers_backend.decode", small)
    assert content(limited.generate(requests, SAMPLED, None)) == expected
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    assert "batch size is 8" in limited.warnings[-1]

    def never(*_: Any, **__: Any) -> list[list[int]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("hybrid.backends.transformers_backend.decode", never)
    with pytest.raises(BackendError, match="exceeds the memory"):
        backend(exact).generate(requests, GREEDY, None)


def test_scores_are_computed_in_pieces_of_any_size(exact: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = mixed()
    expected = content(backend(exact).generate(requests, GREEDY, None))
    for limit in (1, 30_000):
        monkeypatch.setitem(decode._SCORES, "cpu", limit)
        assert content(backend(exact).generate(requests, GREEDY, None)) == expected


def test_buffers_grow_and_finished_rows_leave(exact: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One new token, and more than the buffers' first room; with a high temperature rows end at many different steps."""
    both(exact, mixed(), Sampling(max_new_tokens=1))
    widths: list[int] = []
    real = decode.SharedRows.enter

    def seen(self: Any, new: int, device: Any) -> torch.Tensor:
        widths.append(len(self))
        return real(self, new, device)

    monkeypatch.setattr(decode.SharedRows, "enter", seen)
    requests = queries(text(random.Random(13), 100), [1 + i % 9 for i in range(24)])
    found, _ = both(exact, requests, Sampling(max_new_tokens=150, temperature=1.5))
    assert len({tokens for _, _, tokens, _ in found}) > 5
    assert max(tokens for _, _, tokens, _ in found) > 70
    batch = [w for w in widths if w != 3]  # three rows are the check's
    assert batch[0] == 24
    assert batch[-1] < 24


def brute_force(prompts: Sequence[tuple[int, ...]]) -> int:
    """The most prompt tokens that any set of runs of the sorted prompts can save, by trying every cut."""
    order = sorted(prompts)

    def saved(rows: Sequence[tuple[int, ...]]) -> int:
        if len(rows) < 2:
            return 0
        common = min(len(r) for r in rows) - 1
        while any(r[:common] != rows[0][:common] for r in rows):
            common -= 1
        depth = common // BLOCK * BLOCK
        gross = depth * (len(rows) - 1)
        fits = depth >= prefix.SHORTEST and gross * prefix.WORTH >= sum(map(len, rows))
        return max(0, gross - prefix.GROUP_COST) if fits else 0

    cuts = itertools.product([False, True], repeat=len(order) - 1)
    best = 0
    for cut in cuts:
        edges = [0, *(i + 1 for i, c in enumerate(cut) if c), len(order)]
        best = max(best, sum(saved(order[a:b]) for a, b in itertools.pairwise(edges)))
    return best


def test_groups_save_as_much_as_any_cut_could() -> None:
    rng = random.Random(14)
    for _ in range(60):
        stems = [tuple(rng.choices(range(3), k=rng.choice([0, 33, 70, 130]))) for _ in range(3)]
        stems.append(stems[-1] + tuple(rng.choices(range(3), k=60)))
        prompts = [rng.choice(stems) + tuple(rng.choices(range(3), k=rng.randint(1, 40))) for _ in range(9)]
        groups = find_groups(prompts)
        members = [i for group in groups for i in group.members]
        assert len(set(members)) == len(members)
        for group in groups:
            assert len({prompts[i][: group.length] for i in group.members}) == 1
            assert all(len(prompts[i]) > group.length for i in group.members)
        gross = sum(g.length * (len(g.members) - 1) - prefix.GROUP_COST for g in groups)
        assert gross >= 0.9 * brute_force(prompts)


def test_groups_of_documents_are_found_whatever_the_order() -> None:
    rng = random.Random(15)
    documents = [tuple(rng.choices(range(50), k=n)) for n in (300, 100, 50)]
    prompts = [documents[i % 3] + (60 + i, *range(i % 7)) for i in range(30)] + [(1, 2, 3)]
    expected = {frozenset(i for i in range(30) if i % 3 == k) for k in range(3)}
    for seed in range(5):
        order = random.Random(seed).sample(range(31), 31)
        groups = find_groups([prompts[i] for i in order])
        assert {frozenset(order[m] for m in g.members) for g in groups} == expected
        assert sorted(g.length for g in groups) == [48, 96, 288]
    assert find_groups([]) == []
    assert find_groups([(1,) * 500]) == []
    assert find_groups([(1,) * 500] * 2) == [Group(496, (0, 1))]


def test_very_many_nested_beginnings_are_no_problem() -> None:
    prompts = [(7,) * n for n in range(1, 6000, 3)]
    groups = find_groups(prompts)
    assert sum(len(g.members) for g in groups) > 1000


def test_the_reference_model_answers_alike_with_documents(tmp_path: Path) -> None:
    loaded = load_base(ModelConfig(path="reference", device="cpu", threads=1), Path, tmp_path)
    names = ["Ban", "Dam", "Far", "Gal", "Hal", "Kar", "Lim", "Mon"]
    rules = ["@rev", "@sort", "@next", "@prev", "@rotl", "@swap", "@twin", "@head"]
    lines = [f"rule {name} {rule}." for name in names for rule in rules]
    documents = ["\n".join(random.Random(i).sample(lines, 40)) + "\n" for i in range(3)]
    requests = [
        Request(f"{documents[i % 3]}q {'abcdefghij'[i % 5 : i % 5 + 2 + i % 4]} {names[i % 8]} ", i) for i in range(60)
    ]
    for sampling in (GREEDY, Sampling(max_new_tokens=12, temperature=1.0)):
        served = backend(loaded)
        shared = content(served.generate(requests, sampling, None))
        plain = content(backend(loaded, share=False).generate(requests, sampling, None))
        assert sum(a == b for a, b in zip(shared, plain, strict=True)) >= 59, "only near ties may differ"
        assert served.prefix_use.rows == 60
        assert served.warnings == ()
