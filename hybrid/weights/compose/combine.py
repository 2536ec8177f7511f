"""PEFT's combinations that work on factors instead of weight changes: `linear`, `ties`, `dare_linear`, `dare_ties`.

    combine(experts, (0.5, 0.5), "ties", density=0.5, seed=0)      # modules at one rank, as `mix` gives them

They add up (or vote on) the A and the B of the experts separately, each with the root of its coefficient. The product of two
sums is not the sum of the products, so none of them is the weighted sum of the weight changes: of two random experts with
weights .6 and .4 they are off by about .95 (`linear`), .96 (`ties`) and more than 2 (`dare_linear`) of its norm; `mix` is exact.
TIES (Yadav et al. 2023, 2306.01708) keeps the `density` largest numbers and lets signs vote, DARE (Yu et al. 2023, 2311.03099)
keeps a random share and rescales it. What they are worth is for a gate to say. The arithmetic is PEFT's own; scalings are read
as `experts` does.

Does not: need a base, or touch torch's global random state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hybrid.config.swarm import Combination
from hybrid.weights.compose.experts import Expert, Factors
from hybrid.weights.compose.materialise import Modules, mix, padded

if TYPE_CHECKING:
    import torch


def combine(
    experts: Sequence[Expert], coefficients: Sequence[float], how: Combination, *, density: float = 0.5, seed: int = 0
) -> Modules:
    """The combination `how` of the experts with a coefficient other than 0; `cat` is `mix`, and exact. Errors are those of `mix`.

    `density` is the share of numbers that `ties` and `dare_*` keep; `seed` draws what DARE keeps.
    """
    modules = mix(experts, coefficients)
    if how == "cat":
        return modules
    taking = [(e, float(c)) for e, c in zip(experts, coefficients, strict=True) if c != 0.0]
    most = max(f.rank for e, _ in taking for f in e.modules.values())
    return {
        name: _one(
            [(padded(e.modules[name], most), c) for e, c in taking if name in e.modules], how, density, name, seed
        )
        for name in modules
    }


def _one(parts: Sequence[tuple[Factors, float]], how: Combination, density: float, name: str, seed: int) -> Factors:
    import torch

    whole = [c * f.scaling for f, c in parts]
    roots = [math.sqrt(abs(w)) for w in whole]
    signed = torch.tensor([math.copysign(r, w) for r, w in zip(roots, whole, strict=True)])
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn)
        a = _joined([f.a for f, _ in parts], signed, how, density)
        b = _joined([f.b for f, _ in parts], torch.tensor(roots), how, density)
    return Factors(a, b, 1.0)


def _joined(tensors: list[torch.Tensor], weights: torch.Tensor, how: Combination, density: float) -> torch.Tensor:
    from peft.utils import merge_utils

    if how == "linear":
        found: Any = merge_utils.task_arithmetic(tensors, weights)
    else:
        ways = {"ties": merge_utils.ties, "dare_linear": merge_utils.dare_linear, "dare_ties": merge_utils.dare_ties}
        found = ways[how](tensors, weights, density)
    joined: torch.Tensor = found
    return joined
