"""Coefficients over experts -> one LoRA folder that computes exactly their weighted sum.

    materialise(experts, (0.7, -0.2, 0.9), out, base_fingerprint)      # rank: the sum of the ranks
    materialise(experts, (0.7, 0.3, 0.0), out, base_fingerprint, rank=16).error

The weight change of a mixture is sum_i c_i s_i B_i A_i, with s_i the scaling that expert i is applied at. Stacking the A_i and
the scaled B_i (what PEFT calls `cat`) is that sum, up to rounding; where all experts have the same A (a frozen one, 2308.03303)
the B_i are added and the rank stays as it is. A smaller rank is the best one of that rank in the Frobenius norm (Eckart and
Young), and how far it is off is reported. Tensors are written as float32. The same experts, coefficients and rank give the same
bytes.

Does not: need PEFT or a base, judge a mixture, or offer the combinations that are not this sum (see `combine`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.backends.adapters import CONFIG, WEIGHTS, inspect_adapter, write_manifest
from hybrid.backends.base import Adapter
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_bytes, write_json
from hybrid.weights.compose.experts import Expert, Factors, module_name

if TYPE_CHECKING:
    import torch

Modules = dict[str, Factors]
"""Factors by the module's name in an adapter file."""


@dataclass(frozen=True)
class Materialised:
    """A mixture on disk. `error` is the norm of what a smaller rank left out over that of the whole change; 0 when exact."""

    adapter: Adapter
    rank: int
    error: float


def materialise(
    experts: Sequence[Expert],
    coefficients: Sequence[float],
    out: Path,
    base_fingerprint: str,
    *,
    rank: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Materialised:
    """Write the mixture into the folder `out`, replacing one that is there. See `mix` for the errors."""
    return written(mix(experts, coefficients), experts, coefficients, out, base_fingerprint, rank=rank, facts=facts)


def written(
    modules: Modules,
    experts: Sequence[Expert],
    coefficients: Sequence[float],
    out: Path,
    base_fingerprint: str,
    *,
    rank: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Materialised:
    """Write modules that were made of these experts, compressed to `rank` where one is given, with what they are made of."""
    error = 0.0
    if rank is not None:
        modules, error = compress(modules, rank)
    told = [
        {"sha256": expert.adapter.sha256, "coefficient": float(c)}
        for expert, c in zip(experts, coefficients, strict=True)
    ]
    whole = {**(facts or {}), "experts": told}
    adapter = save(modules, [e.config for e in experts], out, base_fingerprint, whole)
    return Materialised(adapter, max(f.rank for f in modules.values()), error)


def mix(experts: Sequence[Expert], coefficients: Sequence[float]) -> Modules:
    """The weighted sum as one product per module, at scaling 1.

    Experts with coefficient 0 take no part. Raises ValueError for other numbers of both or when nothing is left, and
    AdapterError for experts whose modules have other shapes.
    """
    taking = [(e, float(c)) for e, c in zip(experts, coefficients, strict=True) if c != 0.0]
    if not taking:
        raise ValueError("every coefficient is 0: that mixture is the base itself")
    names = sorted({name for expert, _ in taking for name in expert.modules})
    parts = {name: [(e.modules[name], c) for e, c in taking if name in e.modules] for name in names}
    for name, own in parts.items():
        if len({(f.a.shape[1], f.b.shape[0]) for f, _ in own}) > 1:
            raise AdapterError(
                f"{module_name(name + '.lora_')}: the experts adapt it in different shapes; use experts of one base"
            )
    frozen = all(_shared(own) and len(own) == len(taking) for own in parts.values())
    found = {name: _added(own) if frozen else _stacked(own) for name, own in parts.items()}
    most = max(f.rank for f in found.values())
    return {name: padded(factors, most) for name, factors in found.items()}


def stack(experts: Sequence[Expert], out: Path, base_fingerprint: str) -> tuple[Adapter, tuple[int, ...]]:
    """All experts side by side in one adapter, and how many rows of its rank are whose (see `gates`).

    Every module holds every expert, with zeros where it has none or less of it. Raises AdapterError as `mix` does.
    """
    import torch

    ranks = tuple(max(f.rank for f in expert.modules.values()) for expert in experts)
    mix(experts, [1.0] * len(experts))  # refuses experts of other shapes
    shapes = {name: f for expert in experts for name, f in expert.modules.items()}
    found: Modules = {}
    for name, like in sorted(shapes.items()):
        none = Factors(like.a.new_zeros(0, like.a.shape[1]), like.b.new_zeros(like.b.shape[0], 0), 1.0)
        own = [padded(e.modules.get(name, none), rank) for e, rank in zip(experts, ranks, strict=True)]
        b = torch.cat([f.scaling * f.b for f in own], dim=1)
        found[name] = Factors(torch.cat([f.a for f in own], dim=0), b, 1.0)
    facts = {"stack": [expert.adapter.sha256 for expert in experts]}
    return save(found, [e.config for e in experts], out, base_fingerprint, facts), ranks


def gates(coefficients: Sequence[float], ranks: Sequence[int]) -> tuple[float, ...]:
    """The factors on a stack's rank that make it the mixture of these coefficients."""
    return tuple(float(c) for c, rank in zip(coefficients, ranks, strict=True) for _ in range(rank))


def compress(modules: Modules, rank: int) -> tuple[Modules, float]:
    """The best change of at most `rank` per module, and the relative Frobenius error over all modules together.

    Never forms a whole weight: both factors are reduced to triangles first. Raises ValueError for a rank below 1.
    """
    import torch

    if rank < 1:
        raise ValueError(f"a rank of {rank} holds nothing")
    found: Modules = {}
    lost = whole = 0.0
    for name, factors in sorted(modules.items()):
        left, left_core = torch.linalg.qr(factors.b.double() * factors.scaling)
        right, right_core = torch.linalg.qr(factors.a.double().T)
        u, s, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
        kept = min(rank, int(s.shape[0]))
        root = s[:kept].sqrt()
        b = (left @ u[:, :kept]) * root
        a = root[:, None] * (v[:kept] @ right.T)
        found[name] = padded(Factors(a.float(), b.float(), 1.0), rank)
        lost += float((s[kept:] ** 2).sum())
        whole += float((s**2).sum())
    return found, (lost / whole) ** 0.5 if whole > 0 else 0.0


def save(
    modules: Modules,
    configs: Sequence[Mapping[str, Any]],
    out: Path,
    base_fingerprint: str,
    facts: Mapping[str, Any],
) -> Adapter:
    """Write factors of one rank as a plain LoRA at scaling 1, with its manifest; `configs` are those of what it is made of."""
    from safetensors.torch import save as dump

    tensors: dict[str, torch.Tensor] = {}
    for name, factors in modules.items():
        tensors[f"{name}.lora_A.weight"] = factors.a.contiguous()
        tensors[f"{name}.lora_B.weight"] = (factors.b * factors.scaling).contiguous()
    if out.is_symlink():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)
    write_bytes(out / WEIGHTS, dump(tensors, metadata={"format": "pt"}))
    write_json(out / CONFIG, _config(modules, configs))
    write_manifest(out, base_fingerprint, facts)
    return inspect_adapter(out)


def _config(modules: Modules, configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A plain LoRA's configuration: what the first expert says of its base, and nothing of how it was scaled or begun."""
    rank = max(f.rank for f in modules.values())
    kept = ("base_model_name_or_path", "fan_in_fan_out", "peft_version", "revision", "task_type")
    return {
        **{key: configs[0][key] for key in kept if key in configs[0]},
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": _targets(modules, configs),
    }


def _targets(modules: Modules, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short names where all experts name the same modules with them, as servers like them; otherwise every module in full."""
    listed = [_short(config) for config in configs]
    if listed[0] and all(names == listed[0] for names in listed):
        return listed[0]
    return sorted(module_name(name + ".lora_") for name in modules)


def _short(config: Mapping[str, Any]) -> list[str]:
    """The listed target modules of one expert, sorted; none where something else decides too."""
    names = config.get("target_modules")
    whole = not any(config.get(key) for key in ("exclude_modules", "layers_to_transform"))
    return sorted(map(str, names)) if isinstance(names, list) and whole else []


def _shared(parts: Sequence[tuple[Factors, float]]) -> bool:
    """Whether all have the same A, number by number."""
    first = parts[0][0].a
    return len(parts) > 1 and all(f.a.shape == first.shape and bool((f.a == first).all()) for f, _ in parts[1:])


def _added(parts: Sequence[tuple[Factors, float]]) -> Factors:
    b = sum((c * f.scaling * f.b for f, c in parts[1:]), parts[0][1] * parts[0][0].scaling * parts[0][0].b)
    return Factors(parts[0][0].a, b, 1.0)


def _stacked(parts: Sequence[tuple[Factors, float]]) -> Factors:
    import torch

    a = torch.cat([f.a for f, _ in parts], dim=0)
    b = torch.cat([c * f.scaling * f.b for f, c in parts], dim=1)
    return Factors(a, b, 1.0)


def padded(factors: Factors, rank: int) -> Factors:
    """The same product at a higher rank: rows and columns of zeros."""
    import torch

    missing = rank - factors.rank
    if missing <= 0:
        return factors
    a = torch.cat([factors.a, factors.a.new_zeros(missing, factors.a.shape[1])], dim=0)
    b = torch.cat([factors.b, factors.b.new_zeros(factors.b.shape[0], missing)], dim=1)
    return Factors(a, b, factors.scaling)
