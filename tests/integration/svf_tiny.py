"""SVF adapters with random vectors for the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from backend_tiny import TARGETS
from peft import get_peft_model

from hybrid.backends.adapters import inspect_adapter, write_manifest
from hybrid.backends.base import Adapter
from hybrid.backends.loading import LoadedModel
from hybrid.backends.svf.tuner import SvfSettings


def wrap(loaded: LoadedModel, seed: int | None = 1, scale: float = 0.3, **settings: Any) -> Any:
    """The base under an SVF adapter `default`; without a seed it changes nothing."""
    model = get_peft_model(loaded.model, SvfSettings(target_modules=TARGETS, task_type="CAUSAL_LM", **settings))
    if seed is not None:
        stream = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if ".svf_d." in name:
                parameter.data = scale * torch.randn(parameter.shape, generator=stream)
    return model


def save_svf(folder: Path, loaded: LoadedModel, seed: int = 1, **settings: Any) -> Adapter:
    """Save such an adapter with its manifest; the base is left as it was."""
    model = wrap(loaded, seed, **settings)
    model.save_pretrained(folder)
    model.unload()
    write_manifest(folder, loaded.info.fingerprint, {"method": "test"})
    return inspect_adapter(folder)


def logits(model: Any) -> torch.Tensor:
    """Scores (3, 8, v) on fixed token rows."""
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 27).reshape(3, 8), use_cache=False).logits
    return found
