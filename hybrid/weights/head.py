"""Log-probabilities and entropies of given tokens without logits in memory, with the gradient found on the way.

The vocabulary is read in chunks with a running maximum. The gradient of log p(label) by the hidden state is
(W[label] - sum_v p_v W[v]) / temperature, so one forward pass that also sums p_v W[v] leaves nothing to recompute: two
matrix products with the vocabulary in all, where recomputing the logits backwards takes three.

Does not: give gradients of the output layer (it is frozen) or of the entropies, or scale, cap or bias scores.

Legend of axis suffixes: n tokens, d hidden width, c vocabulary chunk.
"""

from __future__ import annotations

from typing import Any

import torch

_HELD = 1 << 20
"""Scores that are held at once: what fits a CPU's cache."""


def score_tokens(
    hidden_nd: torch.Tensor, weight_vd: torch.Tensor, labels_n: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n,) of the labels under softmax(hidden weight^T / temperature), and entropies (n,) in nats.

    Sums are in float32 (float64 for float64 input). Entropies carry no gradient.
    """
    found: tuple[torch.Tensor, torch.Tensor] = _Score.apply(hidden_nd, weight_vd, labels_n, temperature)
    return found


class _Score(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden_nd: torch.Tensor, weight_vd: torch.Tensor, labels_n: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        work = torch.float64 if hidden_nd.dtype == torch.float64 else torch.float32
        n, size = hidden_nd.shape[0], weight_vd.shape[0]
        chunk = max(256, _HELD // max(n, 1))
        top_n = hidden_nd.new_full((n,), -torch.inf, dtype=work)
        total_n, moment_n, label_n = (hidden_nd.new_zeros(n, dtype=work) for _ in range(3))
        needed = ctx.needs_input_grad[0]
        # Without the label's own share: near certainty both parts of the gradient are small, and so are their errors.
        others_n = hidden_nd.new_zeros(n, dtype=work)
        pull_nd = hidden_nd.new_zeros(hidden_nd.shape, dtype=work)
        for start in range(0, size, chunk):
            rows_cd = weight_vd[start : start + chunk]
            z_nc = (hidden_nd @ rows_cd.T).to(work)
            if temperature != 1.0:
                z_nc.div_(temperature)
            new_n = torch.maximum(top_n, z_nc.amax(dim=-1))
            shrink_n = torch.exp(top_n - new_n)
            p_nc = torch.exp(z_nc - new_n[:, None])
            total_n = total_n * shrink_n + p_nc.sum(dim=-1)
            moment_n = moment_n * shrink_n + torch.linalg.vecdot(p_nc, z_nc)
            place_n = labels_n - start
            here = ((place_n >= 0) & (place_n < rows_cd.shape[0])).nonzero()[:, 0]
            label_n[here] = z_nc[here, place_n[here]]
            if needed:
                p_nc[here, place_n[here]] = 0.0
                others_n = others_n * shrink_n + p_nc.sum(dim=-1)
                pull_nd.mul_(shrink_n[:, None]).addmm_(p_nc, rows_cd.to(work))
            top_n = new_n
        log_total_n = top_n + torch.log(total_n)
        logps_n, entropies_n = label_n - log_total_n, log_total_n - moment_n / total_n
        if needed:
            own_nd = weight_vd[labels_n].to(work)
            ctx.save_for_backward((own_nd * others_n[:, None] - pull_nd) / (total_n * temperature)[:, None])
        ctx.dtype = hidden_nd.dtype
        ctx.mark_non_differentiable(entropies_n)
        return logps_n, entropies_n

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (slope_nd,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope_nd).to(ctx.dtype), None, None, None
