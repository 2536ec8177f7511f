"""Ranks of given tokens: what greedy decoding would have said has rank 1 throughout, and neighbours change nothing."""

from __future__ import annotations

import pytest
import torch
from backend_tiny import in_float64, load_tiny, save_tiny

from hybrid.backends.base import Request, Sampling
from hybrid.backends.loading import LoadedModel
from hybrid.backends.ranks import Ranks
from hybrid.backends.rendering import encode
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import BackendError


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return in_float64(load_tiny(save_tiny(tmp_path_factory.mktemp("ranks") / "tiny")))


def test_what_the_model_says_greedily_ranks_first(exact: LoadedModel) -> None:
    backend = TransformersBackend(exact, TransformersBackendConfig())
    assert isinstance(backend, Ranks)
    prompts = ["ab =", "abcdefg 12 =", "q", "zz zz"]
    said = backend.generate([Request(p, 0) for p in prompts], Sampling(max_new_tokens=6), None)
    for row, ranked in zip(
        said, backend.target_ranks([(p, c.text) for p, c in zip(prompts, said, strict=True)]), strict=True
    ):
        assert ranked.ranks[: len(row.text)] == (1,) * len(row.text)
        assert (ranked.ranks[-1] == 1) == (row.finish == "stop"), "the end token is the last of every target"


def test_ranks_are_counts_of_likelier_tokens_whatever_the_company(exact: LoadedModel) -> None:
    pairs = [("ab =", "xyz"), ("a much longer prompt 123 =", "q"), ("c", "0123456789")]
    together = TransformersBackend(exact, TransformersBackendConfig(batch_size=1)).target_ranks(pairs)
    for (prompt, target), found in zip(pairs, together, strict=True):
        own = encode(exact.tokenizer, [prompt], False)[0]
        ids = [*own, *found.ids]
        with torch.inference_mode():
            scores = exact.model(input_ids=torch.tensor([ids])).logits[0]
        by_hand = [int((scores[i - 1] > scores[i - 1, ids[i]]).sum()) + 1 for i in range(len(own), len(ids))]
        assert list(found.ranks) == by_hand
        assert len(found.ids) == len(target) + 1


def test_what_does_not_fit_is_an_error(exact: LoadedModel) -> None:
    with pytest.raises(BackendError, match="positions"):
        TransformersBackend(exact, TransformersBackendConfig()).target_ranks([("a" * 120, "b" * 20)])
