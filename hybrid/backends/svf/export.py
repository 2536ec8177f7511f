"""An SVF adapter as a LoRA, for engines that serve nothing else, with what that loses.

    found = svf_to_lora(folder, loaded, rank=16, out=target)
    found.error                       # of the weight change, relative, over all modules; 0 where `exact`

The change of a matrix is U diag(S d) V': a rank as high as directions are scaled. The directions with the greatest S |d| are
kept, which is the best approximation of that rank (Eckart and Young 1936). An adapter of `k` directions is a LoRA of rank k
exactly. Does not: change the SVF adapter, or need a free GPU: it computes on the CPU in float64.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hybrid.backends.adapters import (
    CONFIG,
    SVF_TENSOR,
    WEIGHTS,
    check_adapter,
    read_config,
    read_tensors,
    write_manifest,
)
from hybrid.backends.loading import LoadedModel
from hybrid.backends.quantization import is_packed, plain_weight
from hybrid.backends.svf.basis import Bases, bases_of
from hybrid.backends.svf.directions import chosen
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_bytes, write_json

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraExport:
    """`rank` of the LoRA; `error`: relative Frobenius error of the weight change over all modules, `errors` of each; `exact`
    where no direction was left out, so that only rounding to float32 is lost."""

    rank: int
    error: float
    errors: dict[str, float]
    exact: bool

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def svf_to_lora(folder: Path, loaded: LoadedModel, rank: int, out: Path) -> LoraExport:
    """Write the SVF adapter in `folder` as a plain LoRA folder `out` of at most `rank`, with a manifest that states the error.

    `loaded` is its base. Raises AdapterError for another kind, another base, or a module that the base does not have.
    """
    facts = check_adapter(folder, loaded.info.fingerprint)
    if facts.kind != "SVF":
        raise AdapterError(f"{folder}: is a {facts.kind} adapter already; only SVF is converted")
    if rank < 1:
        raise AdapterError(f"a LoRA has rank 1 at least, not {rank}")
    config = read_config(folder)
    used = min(rank, facts.rank)
    tensors: dict[str, torch.Tensor] = {}
    lost: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for name, d in sorted(read_tensors(folder).items()):
        module = name.removeprefix(_PREFIX).removesuffix(SVF_TENSOR)
        b, a = _factors(loaded.model, bases_of(loaded.model), module, config, d.double())
        lengths = (b.norm(dim=0) * a.norm(dim=1)).square()
        kept = lengths.argsort(descending=True, stable=True)[:used].sort().values
        sizes[module] = float(lengths.sum())
        lost[module] = float(lengths.sum() - lengths[kept].sum()) if len(kept) < len(lengths) else 0.0
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = _padded(a[kept], used, 0)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = _padded(b[:, kept], used, 1)
    errors = {m: math.sqrt(max(0.0, lost[m]) / sizes[m]) if sizes[m] else 0.0 for m in lost}
    total = sum(sizes.values())
    error = math.sqrt(max(0.0, sum(lost.values())) / total) if total else 0.0
    found = LoraExport(used, error, errors, exact=not any(lost.values()))
    _save(out, tensors, config, used)
    stated = {"converted_from": facts.adapter.sha256, "rank": used, "relative_error": error, "exact": found.exact}
    write_manifest(out, loaded.info.fingerprint, {"method": "svf", **stated})
    return found


def _factors(
    model: Any, bases: Bases, module: str, config: dict[str, Any], d: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, k) and A (k, in) with B A the change of the module's weight, float64; the k terms are orthogonal."""
    try:
        layer = model.get_submodule(module)
    except AttributeError as error:
        raise AdapterError(f"the base has no module {module}") from error
    layer = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    if not (is_packed(layer) or isinstance(layer, torch.nn.Linear)):
        raise AdapterError(f"the base's {module} is a {type(layer).__name__}, no linear layer")
    weight = plain_weight(layer).double().cpu()
    whole = bases.get(module, layer).double()
    picked = chosen(min(weight.shape), config["keep"], config["count"])
    if len(picked) != len(d):
        raise AdapterError(f"{module}: {len(d)} factors for {len(picked)} directions; train it again")
    basis = whole[:, list(picked)]
    if weight.shape[1] <= weight.shape[0]:
        return weight @ basis * d, basis.T
    return basis * d, basis.T @ weight


def _padded(matrix: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """Zeros up to `rank`: a matrix with fewer directions than others."""
    missing = rank - matrix.shape[dim]
    if missing > 0:
        shape = list(matrix.shape)
        shape[dim] = missing
        matrix = torch.cat([matrix, matrix.new_zeros(shape)], dim=dim)
    return matrix.float().contiguous()


def _save(out: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], rank: int) -> None:
    from safetensors.torch import save

    write_bytes(out / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    lora = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.get("base_model_name_or_path"),
        "revision": config.get("revision"),
        "target_modules": config.get("target_modules"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "init_lora_weights": True,
        "fan_in_fan_out": False,
    }
    write_json(out / CONFIG, lora)
