"""On a CPU, score only positions from the first label on: prompts never reach the output layer.

TRL's fused head skips unlabelled positions on a GPU alone; on a CPU it multiplies every prompt token with the whole
vocabulary, forwards and backwards. With a skill document in the prompt and a large vocabulary that is most of a step.
Log-probabilities, entropies and gradients are the same. Does not: touch generation, or calls without labels.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

_IGNORED = -100


def score_labelled_only(base: torch.nn.Module) -> None:
    """Wrap the forward of a causal model that TRL has given its fused head. `base` is the model under the adapter.

    A fused call then returns per-token values from the first column on in which any row has a label; its callers read
    the last columns, or sums.
    """
    fused = base.forward
    cut = _Cut()
    base.base_model.register_forward_hook(cut.after)

    @functools.wraps(fused)
    def forward(*arguments: Any, **options: Any) -> Any:
        labels = options.get("labels")
        if not options.get("fused_lm_head") or labels is None:
            return fused(*arguments, **options)
        columns = (labels != _IGNORED).any(dim=0).nonzero()
        # The hidden state of the position before a label predicts it.
        start = max(int(columns[0]) - 1, 0) if len(columns) else 0
        cut.start = start
        try:
            return fused(*arguments, **{**options, "labels": labels[:, start:]})
        finally:
            cut.start = 0

    base.forward = forward


class _Cut:
    """A hook on the backbone that drops the hidden states before `start`."""

    def __init__(self) -> None:
        self.start = 0

    def after(self, _module: Any, _arguments: Any, output: Any) -> Any:
        if self.start:
            output.last_hidden_state = output.last_hidden_state[:, self.start :]
        return output
