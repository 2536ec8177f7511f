"""Completions of a training step from the product's own decoder: every prompt is read once, whatever its group's size.

    found = roll_out(policy, prompts, seeds, max_new_tokens=64, stop_ids=(2,), temperature=1.0)
    found.ids[0], found.entropies[0]

A beginning that several prompts share (a skill document) is read once for all of them, the rest of each prompt once for
its group, and the rows decode over these keys and values (`backends.decode`). The policy is the trainer's own model with
its adapter on. Each row draws from a random stream of its own (`backends.sampling`), so that a completion is a function
of the weights, its prompt and its seed: a resumed training samples what an uninterrupted one does.

Does not: check that a model may be used this way (`backends.prefix.check`), or reward.

Legend of axis suffixes: b rows, v vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional

from hybrid.backends import prefix
from hybrid.backends.decode import PrefixKeys, SharedRows, decode, extend_prefix, read_prefix
from hybrid.backends.sampling import draw, uniforms
from hybrid.backends.svf.tuner import SvfLinear

Tokens = tuple[int, ...]

_BLOCK = 2048
"""Rows of the output layer in one product on a CPU: whole, a tall float32 matrix is repacked for every few tokens."""


@dataclass(frozen=True)
class RolledOut:
    """`ids`: new tokens of every row, the end token included. `entropies`: in nats, of the distribution of each."""

    ids: list[list[int]]
    entropies: list[list[float]]


def row_seeds(seed: int, step: int, first: int, count: int) -> list[int]:
    """A seed for each of `count` rows of a step, the first of which has the number `first` among all processes' rows."""
    texts = (f"{seed}:{step}:{row}" for row in range(first, first + count))
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]


def roll_out(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int] | None,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float,
    logits: list[torch.Tensor] | None = None,
    fold: bool = True,
) -> RolledOut:
    """One completion per prompt (two tokens each at least), in order; without `seeds` the most likely token is taken.

    Top-k, top-p and penalties are not offered. `logits`, where given, collects the scores (b, v) of every step, rows in
    the order of `prompts`; rows then have to end together. `fold`: see `folded`. Raises `decode.UnsupportedModelError`.
    """
    order, segments = _segments(policy, [tuple(ids) for ids in prompts])
    entropies: list[list[float]] = [[] for _ in prompts]

    def choose(scores_bv: torch.Tensor, going: Sequence[int], step: int) -> torch.Tensor:
        rows = [order[i] for i in going]
        if logits is not None:
            logits.append(scores_bv[torch.tensor(_inverse(rows), device=scores_bv.device)])
        z_bv = (scores_bv - scores_bv.amax(dim=-1, keepdim=True)) / temperature
        weights_bv = torch.exp(z_bv)
        total_b = weights_bv.sum(dim=-1)
        entropy_b = torch.log(total_b) - torch.linalg.vecdot(weights_bv, z_bv.clamp(min=-1e30)) / total_b
        for row, value in zip(rows, entropy_b.tolist(), strict=True):
            entropies[row].append(value)
        if seeds is None:
            return scores_bv.argmax(dim=-1)
        u_b = torch.from_numpy(uniforms([seeds[row] for row in rows], step)).to(scores_bv.device)
        return draw(weights_bv, u_b[:, None])[:, 0]

    with torch.no_grad(), evaluating(policy), folded(policy) if fold else nullcontext():
        rows = SharedRows(segments(), [prompts[row][-1:] for row in order])
        answers = decode(policy, rows, max_new_tokens=max_new_tokens, stop_ids=stop_ids, choose=choose)
    ids = [answers[place] for place in _inverse(order)]
    # A row that has ended stays in the batch for a while; what was drawn for it then is no token of its answer.
    return RolledOut(ids, [found[: len(answer)] for found, answer in zip(entropies, ids, strict=True)])


@contextmanager
def evaluating(policy: Any) -> Iterator[None]:
    """Evaluation mode inside, in which a cache is used also where training recomputes activations; the mode before afterwards."""
    training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)


@contextmanager
def folded(policy: Any) -> Iterator[None]:
    """Inside, layers that are adapted compute one product with the sum of weight and adapter, held in a copy, and a large
    output layer on a CPU is computed in blocks.

    Three small products and their bookkeeping per layer are most of decoding on a small model. The base is not touched. Only
    where the sum keeps the adapter's digits (float32 and wider), and only plain LoRA and SVF layers; others compute as always.
    """
    changed = []
    for module in policy.modules():
        whole = _whole(module)
        if whole is None:
            continue
        module.forward = partial(functional.linear, weight=whole, bias=module.get_base_layer().bias)
        changed.append(module)
    head = policy.get_output_embeddings()
    tall = isinstance(head, nn.Linear) and head.bias is None and head.weight.shape[0] > 4 * _BLOCK
    if tall and head.weight.device.type == "cpu" and head.weight.dtype == torch.float32:
        head.forward = partial(_in_blocks, head.weight)
        changed.append(head)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _whole(module: Any) -> torch.Tensor | None:
    """Weight and adapter in one, for a layer that may be folded."""
    if type(module) not in (Linear, SvfLinear) or module.merged or module.disable_adapters:
        return None
    weight = module.get_base_layer().weight
    if weight.dtype not in (torch.float32, torch.float64):
        return None
    if type(module) is SvfLinear:
        return module.whole_weight()
    name = module.active_adapters[0]
    plain = len(module.active_adapters) == 1 and not module.use_dora.get(name) and not module.lora_bias.get(name)
    if not plain or module.fan_in_fan_out:
        return None
    whole: torch.Tensor = weight + module.get_delta_weight(name).to(weight.dtype)
    return whole


def _in_blocks(weight: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([functional.linear(hidden, block) for block in weight.split(_BLOCK)], dim=-1)


def _segments(policy: Any, prompts: Sequence[Tokens]) -> tuple[list[int], Any]:
    """Rows sorted so that equal prompts lie together, and a call that computes their (prefix, rows) in that order."""
    members: dict[Tokens, list[int]] = {}
    for row, ids in enumerate(prompts):
        members.setdefault(ids, []).append(row)
    distinct = list(members)

    def compute() -> list[tuple[PrefixKeys, int]]:
        keys = _read(policy, distinct)
        return [(keys[ids], len(members[ids])) for ids in distinct]

    return [row for ids in distinct for row in members[ids]], compute


def _read(policy: Any, distinct: Sequence[Tokens]) -> dict[Tokens, PrefixKeys]:
    """Keys and values of every prompt but its last token; what several prompts begin with is computed once."""
    found: dict[Tokens, PrefixKeys] = {}
    for group in prefix.find_groups(distinct):
        shared = read_prefix(policy, distinct[group.members[0]][: group.length])
        longer = []
        for ids in (distinct[i] for i in group.members):
            if len(ids) - 1 == group.length:
                found[ids] = shared
            else:
                longer.append(ids)
        rest = extend_prefix(policy, shared, [ids[group.length : -1] for ids in longer]) if longer else []
        found |= dict(zip(longer, rest, strict=True))
    for ids in distinct:
        if ids not in found:
            found[ids] = read_prefix(policy, ids[:-1])
    return found


def _inverse(order: Sequence[int]) -> list[int]:
    """Places by ascending value."""
    return sorted(range(len(order)), key=order.__getitem__)
