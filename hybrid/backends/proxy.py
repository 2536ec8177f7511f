"""Proxy-tuning while decoding: the scores of the base plus `alpha` times what tuning did to a small model.

    steering = ProxyLogits(pair, alpha=1.0, mask=attention_mask)        # a new one per `generate` call
    model.generate(input_ids, attention_mask=attention_mask, logits_processor=[steering])

Liu et al. 2024 (arXiv 2401.08565, equation 1): the next token is drawn from softmax(s + alpha (s+ - s-)), with s the scores of
the base, s+ those of the tuned small model and s- those of the same small model before tuning. Where the small model is the
base itself, s- is s, and alpha is the dial of decoding-time realignment (Liu et al. 2024, arXiv 2402.02992). The tuned and the
plain small model are one model with an adapter on half of the rows, and have a cache of their own.

Does not: load models, compare vocabularies or choose alpha (see `proxy_models`), or draw tokens. Beam search is refused.

Legend of axis suffixes: b rows, t tokens, v vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from hybrid.errors import BackendError

Scores = tuple[torch.Tensor, torch.Tensor | None]
"""Next-token scores (b, v) in float32 of the tuned and of the plain small model; None: the plain one is the base."""


class Pair(Protocol):
    """A small model with and without its adapter, for the rows of one `generate` call: it holds their caches."""

    def scores(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, positions_bt: torch.Tensor) -> Scores:
        """Scores of the token after the last column. `ids_bt` and `positions_bt` are the columns since the last call alone,
        `mask_bt` covers the whole rows."""
        ...


Halves = Callable[[int, int], AbstractContextManager[None]]
"""(n, m) -> inside, the first n rows of a pass compute with the adapter and the m others as the bare model."""


class MixedPair:
    """Both halves in one batch: the rows with the adapter, and the same rows again without any."""

    def __init__(self, model: Any, halves: Halves) -> None:
        self._model, self._halves, self._cache = model, halves, None

    def scores(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, positions_bt: torch.Tensor) -> Scores:
        """See `Pair`."""
        rows = ids_bt.shape[0]
        ids, mask, positions = (part.repeat(2, 1) for part in (ids_bt, mask_bt, positions_bt))
        with self._halves(rows, rows):
            both, self._cache = _forward(self._model, ids, mask, positions, self._cache)
        return both[:rows], both[rows:]


class SamePair:
    """The base as its own small model: only the tuned half is computed."""

    def __init__(self, model: Any, halves: Halves) -> None:
        self._model, self._halves, self._cache = model, halves, None

    def scores(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, positions_bt: torch.Tensor) -> Scores:
        """See `Pair`."""
        with self._halves(ids_bt.shape[0], 0):
            tuned, self._cache = _forward(self._model, ids_bt, mask_bt, positions_bt, self._cache)
        return tuned, None


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> tuple[torch.Tensor, Any]:
    """Scores (b, v) of the token after the last column, in float32, and the cache with these columns."""
    known = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "position_ids" in known:
        options["position_ids"] = positions
    if "logits_to_keep" in known:
        options["logits_to_keep"] = 1
    held = "cache" if "cache" in known else "past_key_values"  # its name before transformers 5.24
    options[held] = cache
    output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
    return output.logits[:, -1].float(), getattr(output, held)


class ProxyLogits:
    """A logits processor for one `generate` call, greedy or sampled.

    `pair` is new, `mask` (b, t) that of the left-padded prompts, 1 at tokens. Scores come back in their own dtype; where the two
    vocabularies are padded to different widths, the further columns stay as they are. At `alpha` 0 nothing is computed and
    the scores are returned as they came.

    Raises BackendError when it is called with other rows than before (beam search reorders them) or for a second call of
    `generate`: its caches belong to the rows that it has seen.
    """

    def __init__(self, pair: Pair, alpha: float, mask: torch.Tensor) -> None:
        self._pair, self._alpha, self._mask = pair, alpha, mask
        self._seen: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`input_ids` (b, prompt + step), `scores` (b, v) of the base -> scores (b, v) of the mixture."""
        if self._alpha == 0:
            return scores
        new = self._new_columns(input_ids)
        if new.shape[1] < input_ids.shape[1]:  # every column after the prompt is a token, also where a row has ended
            self._mask = torch.cat([self._mask, torch.ones_like(new)], dim=1)
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new.shape[1] :]
        self._seen = input_ids
        tuned, plain = self._pair.scores(new, self._mask, positions)
        plain = scores.float() if plain is None else plain
        width = min(scores.shape[1], tuned.shape[1], plain.shape[1])
        moved = scores.float().clone()
        moved[:, :width] += self._alpha * (tuned[:, :width] - plain[:, :width])
        return moved.to(scores.dtype)

    def _new_columns(self, input_ids: torch.Tensor) -> torch.Tensor:
        seen = self._seen
        if seen is None:
            if input_ids.shape != self._mask.shape:
                raise BackendError(
                    f"proxy-tuning got {tuple(input_ids.shape)} tokens for a prompt of {tuple(self._mask.shape)}: beam search "
                    "is not possible with it"
                )
            return input_ids
        if input_ids.shape != (seen.shape[0], seen.shape[1] + 1) or not torch.equal(input_ids[:, :-1], seen):
            raise BackendError(
                "proxy-tuning got other rows than in the step before: beam search is not possible with it, and every call "
                "of generate needs a processor of its own"
            )
        return input_ids[:, -1:]
