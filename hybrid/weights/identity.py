"""Is the policy that answers the policy that is trained? A cheap probe at start and at every checkpoint.

Rollouts from the bare base, or from a stale adapter, keep every loss finite and every exit code 0. So: a few tokens
are generated greedily by the model that rollouts come from; their log-probabilities must equal those of the training
forward, adapter on; and once the adapter is not zero they must differ with it off.

Does not: use random numbers (a resumed run stays bit-exact), or judge whether the policy is any good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from hybrid.errors import TrainingError

_TOKENS = 4
_GAP = {torch.float32: 1e-3}
_COARSE_GAP = 0.25
"""Allowed difference of log-probabilities in nats: cached decoding and a full forward round differently in bfloat16."""

Score = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(ids (B, T), mask (B, T), k) -> log-probabilities (B, k) of the last k tokens, as the training loss computes them."""


@dataclass(frozen=True)
class PolicyProbe:
    """`gap`: greatest |generator - trainer| log-probability. `effect`: the same between adapter on and off."""

    gap: float
    effect: float
    adapter_moved: bool


def probe_policy(trainer: Any, prompts: Sequence[Sequence[int]], score: Score) -> PolicyProbe:
    """Compare generator and trainer on `prompts` (token ids). Raises TrainingError when they are not one policy."""
    policy = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    moved = any(bool(p.detach().any()) for name, p in policy.named_parameters() if _is_trained(name))
    with torch.no_grad(), _Branches(policy) as branches:
        ids, mask, logits = _rolled_out(trainer, prompts) or _generate(policy, prompts)
        active = branches.greatest
        width = logits.shape[1]
        chosen = ids[:, -width:]
        generated = torch.log_softmax(logits.float() / _temperature(trainer), dim=-1).gather(2, chosen[..., None])[
            ..., 0
        ]
        trained = score(ids, mask, width).float()
        with policy.disable_adapter():
            bare = score(ids, mask, width).float()
    counted = mask[:, -width:].bool()
    found = PolicyProbe(
        gap=float((generated - trained)[counted].abs().max()),
        effect=float((trained - bare)[counted].abs().max()),
        adapter_moved=moved,
    )
    _judge(found, active, next(policy.parameters()).dtype)
    return found


def _judge(found: PolicyProbe, active: float, dtype: torch.dtype) -> None:
    allowed = _GAP.get(dtype, _COARSE_GAP)
    if not found.gap <= allowed:
        raise TrainingError(
            f"rollouts do not come from the model that is trained: log-probabilities differ by {found.gap:.3g} nats "
            f"(allowed {allowed:g})"
        )
    if found.adapter_moved and active == 0.0:
        raise TrainingError(
            "rollouts come from the bare base: the adapter is not zero, but adds nothing when generating"
        )
    # In bfloat16 the effect of a few small steps can vanish in rounding without anything being wrong.
    if found.adapter_moved and found.effect == 0.0 and dtype == torch.float32:
        raise TrainingError("the adapter is not zero, but the trained model computes the same with it off")


def _is_trained(name: str) -> bool:
    """Whether the parameter is zero in an adapter that changes nothing: LoRA's second matrix, SVF's vector."""
    return ".lora_B." in name or ".svf_d." in name


def _temperature(trainer: Any) -> float:
    return float(getattr(trainer, "temperature", 1.0))


def _rolled_out(
    trainer: Any, prompts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """As `_generate`, from the trainer's own decoder where it has one and uses it."""
    decoder = getattr(trainer, "rollout_logits", None)
    found = decoder(prompts, _TOKENS) if decoder is not None else None
    if found is None:
        return None
    answers, logits = found
    width = max(len(p) for p in prompts)
    rows = [[0] * (width - len(p)) + [*p, *answer] for p, answer in zip(prompts, answers.ids, strict=True)]
    mask = [
        [0] * (width - len(p)) + [1] * (len(p) + len(answer)) for p, answer in zip(prompts, answers.ids, strict=True)
    ]
    return torch.tensor(rows, device=logits.device), torch.tensor(mask, device=logits.device), logits


def _generate(policy: Any, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Greedy continuation: ids (B, P + k), their mask (0 for padding and after an end token), logits (B, k, V)."""
    device = next(policy.parameters()).device
    config = policy.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    width = max(len(p) for p in prompts)
    pad = config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    output = policy.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=_TOKENS,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_logits=True,
            disable_compile=True,
        ),
    )
    answer = output.sequences[:, width:]
    ended = torch.isin(answer, torch.tensor(ends, device=device)).int().cumsum(dim=1)
    before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)
    return output.sequences, torch.cat([mask, (before == 0).long()], dim=1), torch.stack(output.logits, dim=1)


class _Branches(ExitStack):
    """While open, `greatest` is the greatest absolute value that any adapter's branch has added so far."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.greatest = 0.0
        for name, module in policy.named_modules():
            if (".lora_B." in name and not list(module.children())) or name.endswith(".svf_branch"):
                self.callback(module.register_forward_hook(self._note).remove)

    def _note(self, _module: Any, _arguments: Any, output: torch.Tensor) -> None:
        self.greatest = max(self.greatest, float(output.detach().abs().max()))
