"""Sampling in which every row has its own random stream: a completion depends on its seed and prompt, not its batch.

At step t of a row with seed s one number u(s, t) in [0, 1) is drawn from a counter-based generator, and the token is
the first one whose cumulative probability, in vocabulary order, exceeds u. The generator is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), applied to the seed and then
to seed state + t times the golden-ratio increment; its top 24 bits make u, so that u is exact in float32.

Does not: change the model's logits beyond temperature and top-p, or keep any state between steps.

Legend of axis suffixes: b rows, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state_b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64-bit words; arithmetic wraps modulo 2**64."""
    state_b = (state_b ^ (state_b >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_b = (state_b ^ (state_b >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state_b ^ (state_b >> np.uint64(31))


def uniforms(seeds: Sequence[int], step: int) -> NDArray[np.float32]:
    """One number in [0, 1) per seed (b,) for this step. Seeds are taken modulo 2**64."""
    words_b = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
    with np.errstate(over="ignore"):
        streams_b = _mix(words_b + _GOLDEN)
        drawn_b = _mix(streams_b + np.uint64(step + 1) * _GOLDEN)
    top_b = (drawn_b >> np.uint64(40)).astype(np.float32)
    return top_b * np.float32(2.0**-24)


def draw(weights_bv: Any, u_b1: Any) -> Any:
    """Tokens (b, 1) by inverse CDF: the first whose cumulative weight, in vocabulary order, exceeds u of the total.

    `weights_bv` are torch tensors >= 0 with a positive sum, which need not be 1; `u_b1` lies in [0, 1).
    """
    import torch

    cumulative_bv = torch.cumsum(weights_bv, dim=-1)
    chosen_b1 = torch.searchsorted(cumulative_bv, u_b1 * cumulative_bv[:, -1:], right=True)
    # u * total can round up to the total: the last token of non-zero probability is meant then.
    last_b1 = torch.searchsorted(cumulative_bv, cumulative_bv[:, -1:].contiguous())
    return torch.minimum(chosen_b1, last_b1)


class SeededChoice:
    """A logits processor for `generate(do_sample=False)` that replaces the scores by the sampled token alone.

    `seeds` has one entry per row, `prompt_tokens` is the padded prompt length, so that the step number can be read off
    the sequence. `temperature` is > 0. `top_p` keeps the smallest set of most probable tokens whose probability
    reaches it (Holtzman et al. 2020), ties in vocabulary order. Softmax and cumulative sums are in float32.
    """

    def __init__(self, seeds: Sequence[int], prompt_tokens: int, temperature: float, top_p: float) -> None:
        if temperature <= 0:
            raise ValueError("SeededChoice needs temperature > 0; greedy decoding needs no processor")
        self._seeds = tuple(seeds)
        self._prompt_tokens = prompt_tokens
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`input_ids` (b, prompt + step), `scores` (b, v) -> scores (b, v) that are 0 at the choice, -inf elsewhere."""
        import torch

        u_b = uniforms(self._seeds, int(input_ids.shape[1]) - self._prompt_tokens)
        u_b1 = torch.from_numpy(u_b).to(scores.device)[:, None]
        logits_bv = scores.to(torch.float32)
        # Dividing the distance to the maximum keeps a tiny temperature from overflowing to inf - inf.
        logits_bv = (logits_bv - logits_bv.amax(dim=-1, keepdim=True)) / self._temperature
        probs_bv = torch.softmax(logits_bv, dim=-1)
        if self._top_p < 1.0:
            probs_bv = self._nucleus(probs_bv)
        return torch.full_like(scores, -torch.inf).scatter_(1, draw(probs_bv, u_b1), 0.0)

    def _nucleus(self, probs_bv: Any) -> Any:
        """Zero outside the smallest set of most probable tokens that reaches `top_p`; the top token always stays."""
        import torch

        sorted_bv, order_bv = torch.sort(probs_bv, dim=-1, descending=True, stable=True)
        before_bv = torch.cumsum(sorted_bv, dim=-1) - sorted_bv
        kept_bv = torch.where(before_bv < self._top_p, sorted_bv, 0.0)
        return torch.zeros_like(probs_bv).scatter_(1, order_bv, kept_bv)
