"""A rough memory estimate from the headers of the model's files: no weight is read and no model library is loaded.

Weights at the configured precision; generation adds the key-value cache of one batch; training adds the adapter with
gradients and Adam's two moments, activations of one pass (about 34 bytes per token, layer and hidden unit in half
precision, twice that in float32; Korthikanti et al. 2022, arXiv 2205.05198, without recomputation) and three copies of
the logits. Right within a factor of about two.

Does not: know the allocator, the device or other processes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hybrid.config.schema import Config

MIB = 1024 * 1024
LARGEST_HEADER = 64 * MIB
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class MemoryPlan(BaseModel):
    """MiB for the weights alone, while generating and while training; None and a note where it cannot be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    parameters: int | None
    weights_mib: int | None
    generate_mib: int | None
    train_mib: int | None
    note: str


def estimate_memory(config: Config, folder: Path | None, longest_tokens: int) -> MemoryPlan:
    """`folder` holds the model, or is None when it is not on this machine; `longest_tokens` is prompt plus answer."""
    if folder is None:
        return _unknown("the model is not on this machine")
    shapes = _shapes(folder)
    shape = _architecture(folder)
    if not shapes or shape is None:
        return _unknown("no safetensors headers or no config.json with the usual keys to read")
    item = _BYTES[config.model.dtype]
    parameters = sum(math.prod(s) for s in shapes.values())
    weights = parameters * item
    batch = getattr(config.backend, "batch_size", 1)
    cache = batch * longest_tokens * shape["layers"] * 2 * shape["kv_width"] * item
    rows = config.weights.rows_per_device or _rows_per_step(config)
    adapter = _adapter_parameters(shapes, config.weights.lora.rank) * 16
    activations = rows * longest_tokens * shape["layers"] * shape["hidden"] * 17 * item
    logits = 3 * rows * longest_tokens * shape["vocabulary"] * 4
    return MemoryPlan(
        parameters=parameters,
        weights_mib=_mib(weights),
        generate_mib=_mib(weights + cache),
        train_mib=_mib(weights + adapter + activations + logits),
        note=f"batches of {batch} rows while generating, {rows} rows at once in training; right to about a factor of 2",
    )


def _unknown(why: str) -> MemoryPlan:
    return MemoryPlan(parameters=None, weights_mib=None, generate_mib=None, train_mib=None, note=f"not known: {why}")


def _mib(size: float) -> int:
    return math.ceil(size / MIB)


def _rows_per_step(config: Config) -> int:
    weights = config.weights
    if not weights.reinforces:
        return weights.supervised.batch
    rows = weights.grpo.prompts_per_step * weights.grpo.generations
    return max(rows, weights.warm_start.batch) if weights.warm_start is not None else rows


def _adapter_parameters(shapes: dict[str, tuple[int, ...]], rank: int) -> int:
    linear = [s for name, s in shapes.items() if len(s) == 2 and "embed" not in name and "lm_head" not in name]
    return sum(rank * sum(s) for s in linear)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, from the JSON headers; empty when a file cannot be read as safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length)) if length <= LARGEST_HEADER else {}
            shapes |= {k: tuple(int(n) for n in v["shape"]) for k, v in header.items() if k != "__metadata__"}
        except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
            return {}
    return shapes


def _architecture(folder: Path) -> dict[str, int] | None:
    """Layers, hidden width, width of the cached keys, vocabulary; None when a key is missing."""
    try:
        data: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        data = data.get("text_config", data)
        heads = int(data["num_attention_heads"])
        head = int(data.get("head_dim") or int(data["hidden_size"]) // heads)
        return {
            "layers": int(data["num_hidden_layers"]),
            "hidden": int(data["hidden_size"]),
            "kv_width": head * int(data.get("num_key_value_heads") or heads),
            "vocabulary": int(data["vocab_size"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
