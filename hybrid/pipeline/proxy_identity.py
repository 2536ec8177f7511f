"""What of proxy-tuning makes a run this run: the small model, and an adapter that it was tuned to before."""

from __future__ import annotations

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
