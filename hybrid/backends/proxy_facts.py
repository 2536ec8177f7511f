"""What the configuration of a PROXY adapter may say, and nothing else. Pure: reads no file and loads no model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import AdapterError

PROXY = "PROXY"
MOST_ALPHA = 16.0
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_KEYS = frozenset({"peft_type", "base_model_name_or_path", "alpha", "small", "small_fingerprint", "lora"})


@dataclass(frozen=True)
class ProxyFacts:
    """`alpha` is the strength, `small` the small model's name for people, `lora` its adapter's PEFT configuration."""

    alpha: float
    small: str
    small_fingerprint: str
    lora: Mapping[str, Any]


def proxy_facts(path: Path, config: Mapping[str, Any]) -> ProxyFacts:
    """What the configuration of a PROXY folder says. Raises AdapterError for anything but exactly that."""
    alpha, fingerprint, lora = config.get("alpha"), config.get("small_fingerprint"), config.get("lora")
    unknown = sorted(set(config) - _KEYS)
    if unknown:
        raise AdapterError(f"{path}: {unknown[0]!r} is no key of a proxy; write it with this version of hybrid")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{path}: alpha {alpha!r} is no number; write the proxy again")
    if not 0 <= alpha <= MOST_ALPHA:
        raise AdapterError(f"{path}: alpha {alpha:g} is outside 0 to {MOST_ALPHA:g}; write the proxy again")
    if not isinstance(fingerprint, str) or not FINGERPRINT.match(fingerprint):
        raise AdapterError(f"{path}: small_fingerprint is no fingerprint of a model; write the proxy again")
    if not isinstance(lora, dict) or lora.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: it holds no LoRA of a small model; write the proxy again")
    return ProxyFacts(float(alpha), str(config.get("small", "")), fingerprint, lora)
