"""Mixtures of SVF experts: the sum of their vectors, which is an SVF adapter again.

    mix([code, maths], [0.7, 0.4], out, loaded.info.fingerprint)

W' = U diag(S (1 + sum_k a_k d_k)) V': linear in the weights, exact up to rounding to float32, and any real weights are
legal (2501.06252, section 3.2, has the same sum; its code then rescales, which makes it not linear). Does not: choose
weights (see `hybrid.weights.svf.mix`), or mix LoRA adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import (
    CONFIG,
    WEIGHTS,
    check_adapter,
    inspect_adapter,
    read_config,
    read_tensors,
    write_manifest,
)
from hybrid.backends.base import Adapter
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_bytes, write_json


def mix(folders: Sequence[Path], weights: Sequence[float], out: Path, base_fingerprint: str) -> Adapter:
    """Write the mixture of the experts in `folders` as an adapter folder `out`, and return it.

    Experts must belong to the base, scale the same directions of the same modules, and be checked ones. Raises AdapterError.
    """
    if not folders or len(folders) != len(weights):
        raise AdapterError(f"{len(folders)} experts and {len(weights)} weights: give one weight per expert")
    if not all(math.isfinite(w) for w in weights):
        raise AdapterError("a weight of the mixture is not finite")
    kinds = [check_adapter(folder, base_fingerprint) for folder in folders]
    for folder, facts in zip(folders, kinds, strict=True):
        if facts.kind != "SVF":
            raise AdapterError(f"{folder}: is a {facts.kind} adapter; only SVF experts add up by their vectors")
    configs = [_comparable(read_config(folder)) for folder in folders]
    tensors = [read_tensors(folder) for folder in folders]
    for folder, config, found in zip(folders, configs, tensors, strict=True):
        if config != configs[0] or {k: v.shape for k, v in found.items()} != {
            k: v.shape for k, v in tensors[0].items()
        }:
            raise AdapterError(f"{folder}: scales other directions or modules than {folders[0]}; train them alike")
    _save(out, tensors, weights, read_config(folders[0]))
    mixed = {"experts": [facts.adapter.sha256 for facts in kinds], "weights": [float(w) for w in weights]}
    write_manifest(out, base_fingerprint, {"method": "svf", **mixed})
    return inspect_adapter(out)


def _save(out: Path, tensors: Sequence[dict[str, Any]], weights: Sequence[float], config: dict[str, Any]) -> None:
    from safetensors.torch import save

    summed = {
        name: sum(w * found[name].double() for w, found in zip(weights, tensors, strict=True)).float().contiguous()
        for name in tensors[0]
    }
    write_bytes(out / WEIGHTS, save(summed, metadata={"format": "pt"}))
    write_json(out / CONFIG, config)


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    targets = config.get("target_modules")
    named = sorted(targets) if isinstance(targets, list) else targets
    return {"keep": config.get("keep"), "count": config.get("count"), "target_modules": named}
