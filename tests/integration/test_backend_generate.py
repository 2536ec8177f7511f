"""Generation: a completion depends on its own prompt and seed, ends where it should, and never changes order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from backend_tiny import ALPHABET, in_float64, load_tiny, save_tiny

from hybrid.backends.base import Completion, Request, Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.rendering import encode, render
from hybrid.backends.sampling import SeededChoice, uniforms
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.types import Message
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import BackendError

SAMPLED = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.9)
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("generate") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> LoadedModel:
    return load_tiny(folder)


def backend(loaded: LoadedModel, batch_size: int = 256) -> TransformersBackend:
    return TransformersBackend(loaded, TransformersBackendConfig(batch_size=batch_size))


def some_requests(count: int) -> list[Request]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, count)
    return [Request("".join(rng.choice(list(ALPHABET[:36]), n)), seed=int(i)) for i, n in enumerate(lengths)]


def content(completions: Sequence[Completion]) -> list[tuple[str, int, int, str]]:
    return [(c.text, c.tokens_in, c.tokens_out, c.finish) for c in completions]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_completion_does_not_depend_on_its_company(tiny: LoadedModel, sampling: Sampling) -> None:
    requests = some_requests(100)
    exact = in_float64(tiny)
    alone = content([backend(exact).generate([r], sampling, None)[0] for r in requests])
    assert content(backend(exact).generate(requests, sampling, None)) == alone
    assert content(backend(exact, batch_size=7).generate(requests[::-1], sampling, None))[::-1] == alone
    assert len({c[0] for c in alone}) > 80, "the model must tell these prompts apart for this test to mean something"
    single = content(backend(tiny).generate(requests, sampling, None))
    reverse = content(backend(tiny, batch_size=16).generate(requests[::-1], sampling, None))[::-1]
    assert sum(a == b for a, b in zip(single, reverse, strict=True)) >= 99, "in float32 only near ties may differ"


def test_greedy_answers_are_those_of_transformers_itself(tiny: LoadedModel) -> None:
    requests = some_requests(24)
    exact = in_float64(tiny)
    for request, completion in zip(requests, backend(exact).generate(requests, GREEDY, None), strict=True):
        ids = exact.tokenizer(request.prompt, return_tensors="pt")["input_ids"]
        expected = exact.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        expected = expected[: expected.index(3)] if 3 in expected else expected
        assert completion.text == exact.tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.tokens_in == ids.shape[1]


def test_seeds_make_answers_and_greedy_ignores_them(tiny: LoadedModel) -> None:
    same = [Request("abc =", seed) for seed in (1, 2, 3, 4, 5, 1)]
    sampled = [c.text for c in backend(tiny).generate(same, SAMPLED, None)]
    assert sampled[0] == sampled[-1]
    assert len(set(sampled)) > 2
    assert len({c.text for c in backend(tiny).generate(same, GREEDY, None)}) == 1


def test_a_row_ends_at_its_end_token_or_at_the_limit(tiny: LoadedModel) -> None:
    completions = backend(tiny).generate(some_requests(200), Sampling(max_new_tokens=9, temperature=2.0), None)
    assert {c.finish for c in completions} == {"stop", "length"}
    for completion in completions:
        assert ";" not in completion.text
        letters = len(tiny.tokenizer(completion.text, add_special_tokens=False)["input_ids"])
        special = completion.tokens_out - letters - (completion.finish == "stop")
        assert special >= 0, "only special tokens are left out of the text"
        assert completion.tokens_out <= 9
        assert completion.finish == "stop" or completion.tokens_out == 9
        assert completion.seconds > 0


def test_white_space_is_kept(tiny: LoadedModel) -> None:
    texts = [
        c.text for c in backend(tiny).generate(some_requests(200), Sampling(max_new_tokens=9, temperature=2.0), None)
    ]
    assert any(t != t.strip() for t in texts)


def test_nothing_to_do_is_no_work(tiny: LoadedModel) -> None:
    assert backend(tiny).generate([], GREEDY, None) == []


def test_a_prompt_that_does_not_fit_names_its_length_and_the_limit(tiny: LoadedModel) -> None:
    longest = "a" * (128 - 12 - 1)
    assert len(backend(tiny).generate([Request(longest, 0)], GREEDY, None)) == 1
    with pytest.raises(BackendError, match=r"request 2 of 2: 117 prompt tokens plus max_new_tokens 12 exceed .* 128"):
        backend(tiny).generate([Request("a", 0), Request(longest + "a", 0)], GREEDY, None)


def test_running_out_of_memory_halves_the_batch_and_is_told(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = some_requests(40)
    expected = content(backend(in_float64(tiny)).generate(requests, SAMPLED, None))
    real, sizes = TransformersBackend._run, []

    def small(self: TransformersBackend, batch: Sequence[object], *rest: object) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformersBackend, "_run", small)
    limited = backend(in_float64(tiny), batch_size=32)
    assert content(limited.generate(requests, SAMPLED, None)) == expected
    assert sizes == [32, 16, 8, 8, 8, 8, 8]
    assert len(limited.warnings) == 2
    assert "batch size is 8" in limited.warnings[-1]


def test_one_row_that_exceeds_memory_is_an_error(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersBackend, "_run", never)
    with pytest.raises(BackendError, match="exceeds the memory"):
        backend(tiny).generate(some_requests(5), GREEDY, None)


def test_text_gets_the_special_tokens_and_chat_brings_its_own(tiny: LoadedModel, folder: Path) -> None:
    tokenizer = tiny.tokenizer
    messages = (Message(role="system", content="x"), Message(role="user", content="1"))
    assert encode(tokenizer, [render(tokenizer, "ab", False)], False) == [[2, 4, 5]]
    rendered = render(tokenizer, messages, True)
    assert rendered == "<s>s:x\nu:1\na:"
    (ids,) = encode(tokenizer, [rendered], True)
    assert ids.count(2) == 1
    assert ids == tokenizer.apply_chat_template(
        [m.model_dump() for m in messages], add_generation_prompt=True, return_dict=False
    )
    chat = backend(load_tiny(folder, chat=True))
    (completion,) = chat.generate([Request(messages, 0)], GREEDY, None)
    assert completion.tokens_in == len(ids)
    assert render(tokenizer, "1", True) == "<s>u:1\na:", "a text prompt is one user message"


def test_prompts_that_the_rendering_cannot_serve_are_refused(tiny: LoadedModel) -> None:
    user, system, assistant = (Message(role=r, content="x") for r in ("user", "system", "assistant"))
    with pytest.raises(BackendError, match=r"model\.chat is false"):
        backend(tiny).generate([Request((user,), 0)], GREEDY, None)
    with pytest.raises(BackendError, match="must end with"):
        render(tiny.tokenizer, (user, assistant), True)
    with pytest.raises(BackendError, match="system must come first"):
        render(tiny.tokenizer, (user, system), True)


def test_a_prompt_without_tokens_is_an_error(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.backends.rendering.encode", lambda *_: [[]])
    with pytest.raises(BackendError, match="holds no token"):
        backend(tiny).generate([Request("", 0)], GREEDY, None)


def test_tokens_are_counted_without_special_ones(tiny: LoadedModel) -> None:
    assert backend(tiny).count_tokens("ab c") == 4
    assert backend(tiny).count_tokens("") == 0


def frequencies(logits: list[float], sampling: Sampling, draws: int = 40_000) -> np.ndarray:
    choice = SeededChoice(range(draws), 3, sampling.temperature, sampling.top_p)
    scores = choice(torch.zeros(draws, 5, dtype=torch.long), torch.tensor([logits]).repeat(draws, 1))
    assert torch.equal(torch.isfinite(scores).sum(1), torch.ones(draws, dtype=torch.long)), "exactly one token is left"
    return np.bincount(scores.argmax(1).numpy(), minlength=len(logits)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_softmax(temperature: float) -> None:
    logits = [1.0, -0.5, 0.3, 2.0, -30.0]
    expected = np.exp(np.array(logits) / temperature)
    expected /= expected.sum()
    found = frequencies(logits, Sampling(temperature=temperature))
    assert np.all(np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 40_000) + 1e-9)


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probabilities = np.array([0.05, 0.4, 0.3, 0.25])
    found = frequencies(np.log(probabilities).tolist(), Sampling(temperature=1.0, top_p=0.65))
    expected = np.array([0.0, 0.4, 0.3, 0.0]) / 0.7
    assert found[0] == found[3] == 0.0
    assert np.all(np.abs(found - expected) < 0.012)
    assert frequencies(np.log(probabilities).tolist(), Sampling(temperature=1.0, top_p=0.01))[1] == 1.0


def test_a_tiny_temperature_is_greedy_and_forbidden_tokens_stay_forbidden() -> None:
    assert frequencies([0.0, 3.0, 2.9999], Sampling(temperature=1e-6), 1000)[1] == 1.0
    assert frequencies([-np.inf, 0.0, -np.inf, 0.0, -np.inf], Sampling(temperature=1.0), 5000)[[0, 2, 4]].sum() == 0.0


def test_the_random_stream_is_fixed_uniform_and_independent() -> None:
    assert uniforms([0, 1, 2**64 - 1, -1], 0).tolist()[2] == uniforms([-1], 0).tolist()[0], "seeds wrap modulo 2**64"
    table = np.stack([uniforms(range(2000), step) for step in range(50)])
    assert table.min() >= 0.0
    assert table.max() < 1.0
    assert abs(table.mean() - 0.5) < 4 / np.sqrt(12 * table.size)
    for a, b in ((table[:-1].ravel(), table[1:].ravel()), (table[:, :-1].ravel(), table[:, 1:].ravel())):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size), "neighbouring steps and seeds must not be correlated"


def test_the_random_stream_agrees_with_a_plain_integer_implementation() -> None:
    def mix(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed, step in ((0, 0), (7, 3), (2**63 + 5, 1000)):
        stream = mix((seed + golden) % 2**64)
        drawn = mix((stream + (step + 1) * golden) % 2**64)
        assert uniforms([seed], step)[0] == (drawn >> 40) / 2**24
