"""Candidates of proxy-tuning: from a tuned small model's adapter and a strength to an adapter folder of the base.

    steering = candidate(lora, 1.0, settings, base, out, facts)

`apply: logits` writes a proxy (`backends.proxy_folder`). `apply: weights` scales the adapter itself, for comparison: B is
multiplied by alpha, so that the change of every weight matrix is alpha times the adapter's, which is exact and costs nothing
while decoding, but is another function of alpha than scaling the change of the logits.

Does not: train, measure or choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    inspect_adapter,
    read_config,
    read_tensors,
    write_manifest,
)
from hybrid.backends.base import Adapter
from hybrid.backends.proxy_folder import write_proxy
from hybrid.config.schema import ProxyConfig
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_bytes, write_json


def candidate(
    lora: Adapter, alpha: float, settings: ProxyConfig, base: tuple[str, str], out: Path, facts: Mapping[str, Any]
) -> Adapter:
    """The adapter folder `out` that applies `lora` at strength `alpha`; `base` is (name, fingerprint) of the base.

    Equal inputs give equal bytes, so a resumed run finds the same candidate. Raises AdapterError when the LoRA must not be used.
    """
    if settings.apply == "weights":
        return scaled(lora, alpha, out, base[1], facts)
    return write_proxy(lora.path, alpha, out, base, facts)


def scaled(lora: Adapter, alpha: float, out: Path, fingerprint: str, facts: Mapping[str, Any]) -> Adapter:
    """The LoRA with every B multiplied by `alpha`. Raises AdapterError for one that is not linear in its B."""
    from safetensors.torch import save

    config = read_config(lora.path)
    if config.get("use_dora"):
        raise AdapterError(f"{lora.path}: a weight-decomposed LoRA does not scale with its B; train a plain one")
    tensors = {
        name: (tensor * alpha).contiguous() if ".lora_B." in name or ".lora_embedding_B" in name else tensor
        for name, tensor in sorted(read_tensors(lora.path).items())
    }
    (out / MANIFEST).unlink(missing_ok=True)
    write_bytes(out / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_json(out / CONFIG, config)
    write_manifest(out, fingerprint, {**facts, "alpha": float(alpha), "scaled_from": lora.sha256})
    return inspect_adapter(out)
