"""What of proxy-tuning makes a run this run: the small model, and an adapter that it was tuned to before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import check_adapter
from hybrid.config.loader import LoadedConfig
from hybrid.config.proxy import SAME


def steering(loaded: LoadedConfig, backend: Any) -> dict[str, str]:
    """Fingerprint of the small model and sha256 of the ready adapter; empty without either.

    Loads the small model, so that one that cannot be used stops a run before anything is paid for. Raises BackendError for
    such a model, and AdapterError for an adapter that must not be used on it.
    """
    settings = loaded.config.weights.proxy
    if not loaded.config.steers:
        return {}
    found: dict[str, str] = {}
    trained_on = backend.info().fingerprint
    load = getattr(getattr(backend, "own", backend), "small", None)  # a backend over processes holds its own
    small = load() if load is not None and settings.small != SAME else None
    if small is not None:
        found["small"] = trained_on = small.info.fingerprint
    if settings.adapter is not None:
        found["adapter"] = check_adapter(loaded.resolve(settings.adapter), trained_on).adapter.sha256
    return found


def same_model_there(parent: Mapping[str, Any], capability: str, small: str | None) -> bool:
    """Whether the run that this one was forked from trained `capability` on the same model as this one does: on the small
    model with fingerprint `small`, or on the base for None. A training on another one is no beginning of this one."""
    fields = json.loads((Path(parent["folder"]) / "run.json").read_text(encoding="utf-8"))["fields"]
    config = fields["config"]
    own = next((c.get("method") for c in config["capabilities"] if c["name"] == capability), None)
    steered = (own or config["weights"]["method"]) == "proxy"
    return bool((fields.get("proxy", {}).get("small") if steered else None) == small)
