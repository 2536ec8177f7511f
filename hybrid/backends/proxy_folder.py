"""The adapter folder of kind PROXY: what a small model learnt, and how strongly it steers the base.

    adapter_config.json            {"peft_type": "PROXY", "alpha": 1.0, "small_fingerprint": "...", "lora": {...}}
    adapter_model.safetensors      the small model's LoRA, under its own names
    hybrid_manifest.json           hashes, and the fingerprint of the base that is steered

The folder says *which* small model by its fingerprint, never where it lies: the path comes from the configuration, and what is
loaded from there has to have this fingerprint. `unpack` gives the LoRA back as a folder that PEFT loads on the small model.

Does not: load a model, or compute anything (see `proxy`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    check_adapter,
    inspect_adapter,
    read_config,
    write_manifest,
)
from hybrid.backends.base import Adapter
from hybrid.backends.proxy_facts import FINGERPRINT, PROXY, proxy_facts
from hybrid.errors import AdapterError
from hybrid.store.atomic import write_bytes, write_json


def is_proxy(adapter: Adapter) -> bool:
    """Whether an adapter is of this kind. Raises AdapterError when its configuration cannot be read."""
    return read_config(adapter.path).get("peft_type") == PROXY


def write_proxy(lora: Path, alpha: float, out: Path, base: tuple[str, str], facts: Mapping[str, Any]) -> Adapter:
    """Make `out` the proxy that steers a base by the LoRA in folder `lora` at strength `alpha`; equal inputs give equal bytes.

    `base` is (name, fingerprint) of the steered base; the small model's fingerprint is read off the LoRA's manifest.
    Raises AdapterError when the LoRA must not be used.
    """
    small = _trained_on(lora)
    check_adapter(lora, small)
    own = {key: value for key, value in read_config(lora).items() if key != "peft_version"}
    own["base_model_name_or_path"] = _label(own.get("base_model_name_or_path"))
    config = {
        "peft_type": PROXY,
        "base_model_name_or_path": base[0],
        "alpha": float(alpha),
        "small": own["base_model_name_or_path"],
        "small_fingerprint": small,
        "lora": own,
    }
    proxy_facts(out, config)
    (out / MANIFEST).unlink(missing_ok=True)
    write_bytes(out / WEIGHTS, (lora / WEIGHTS).read_bytes())
    write_json(out / CONFIG, config)
    write_manifest(out, base[1], {**facts, "alpha": float(alpha), "small_fingerprint": small})
    return inspect_adapter(out)


def unpack(path: Path, into: Path) -> Adapter:
    """The LoRA of the proxy in `path` as an adapter folder of the small model, written to `into`, which has to be empty."""
    facts = proxy_facts(path, read_config(path))
    write_bytes(into / WEIGHTS, (path / WEIGHTS).read_bytes())
    write_json(into / CONFIG, dict(facts.lora))
    write_manifest(into, facts.small_fingerprint)
    return inspect_adapter(into)


def _label(name: object) -> str:
    """A model's name without where it lies: a folder by its last part, a hub id as it is."""
    text = str(name or "")
    return Path(text).name if text.startswith((".", "~")) or Path(text).is_absolute() else text


def _trained_on(lora: Path) -> str:
    """Fingerprint of the model that a LoRA was trained on, from its manifest."""
    try:
        manifest = json.loads((lora / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"{lora / MANIFEST}: cannot be read ({error}); train the adapter with hybrid, or write a manifest for it"
        ) from error
    found = manifest.get("base_fingerprint") if isinstance(manifest, dict) else None
    if not isinstance(found, str) or not FINGERPRINT.match(found):
        raise AdapterError(f"{lora / MANIFEST}: does not say which model the adapter was trained on; train it again")
    return found
