"""A memory estimate from the headers of the model's files: no weight is read and no model library is loaded.

The weights as they will be stored (quantised where `model.quantization` says so), a batch while generating, and a training
step on the longest rows (see `hybrid.backends.memory`). While an adapter is trained the run holds the base twice: the one
that answers and the one that is trained.

Does not: know the allocator, the device or other processes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hybrid.backends.memory import (
    ITEM,
    MIB,
    PACKED_BITS,
    Architecture,
    Predicted,
    Work,
    adapter_size,
    architecture,
    mib,
    packed_kind,
    predict,
)
from hybrid.config.schema import Config, WeightsConfig

LARGEST_HEADER = 64 * MIB


class MemoryPlan(BaseModel):
    """MiB for the weights alone, while generating and while training; None and a note where it cannot be told.

    `parts_mib` is what training consists of; generating and learning take turns, so that the larger counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    parameters: int | None
    weights_mib: int | None
    generate_mib: int | None
    train_mib: int | None
    parts_mib: dict[str, int] = {}
    note: str


def estimate_memory(config: Config, folder: Path | None, longest_tokens: int, answer_tokens: int = 0) -> MemoryPlan:
    """`folder` holds the model, or is None when it is not on this machine; `longest_tokens` is prompt plus answer, of which
    `answer_tokens` are generated."""
    if folder is None:
        return _unknown("the model is not on this machine")
    shapes = _shapes(folder)
    found = _architecture(folder)
    if not shapes or found is None:
        return _unknown("no safetensors headers or no config.json with the usual keys to read")
    longest_tokens = min(longest_tokens, found.positions or longest_tokens)  # longer rows are refused
    item = ITEM[config.model.dtype]
    weights = _weight_bytes(config, shapes, item)
    batch = getattr(config.backend, "batch_size", 1)
    cache = batch * longest_tokens * found.layers * 2 * found.keys * item
    ways = [config.weights_of(c.name) for c in config.capabilities]
    tokens = (max(0, longest_tokens - answer_tokens), answer_tokens)
    trained, rows = max((_training(config, way, found, weights, tokens) for way in ways), key=lambda pair: pair[0].peak)
    answering = weights + max(adapter_size(found, way, item).directions for way in ways)
    parts = {
        "the base that answers": answering,
        "the base that is trained": trained.weights,
        "adapter, gradients, moments": trained.adapter,
        "generating": trained.generating,
        "activations": trained.activations,
        "logits": trained.logits,
    }
    return MemoryPlan(
        parameters=sum(math.prod(s) for s in shapes.values()),
        weights_mib=mib(weights),
        generate_mib=mib(weights + cache),
        train_mib=mib(answering + trained.peak),
        parts_mib={name: mib(size) for name, size in parts.items()},
        note=f"batches of {batch} rows while generating, {rows} rows at once in training; right to about a factor of 2",
    )


def with_small(base: MemoryPlan, small: MemoryPlan, base_is_trained: bool) -> MemoryPlan:
    """The plan of a base that a small model steers, from the plans of both alone: while the base answers, the small model does
    for twice the rows; while the small one is trained, the base stays in memory."""
    if None in (
        base.weights_mib,
        base.generate_mib,
        base.train_mib,
        small.weights_mib,
        small.generate_mib,
        small.train_mib,
    ):
        return base if base.weights_mib is None else _unknown(f"of the small model: {small.note}")
    assert base.weights_mib is not None and base.generate_mib is not None and base.train_mib is not None
    assert small.weights_mib is not None and small.generate_mib is not None and small.train_mib is not None
    train = base.weights_mib + small.train_mib
    names = {
        "the base that answers": "the small model that answers",
        "the base that is trained": "the small model in training",
    }
    parts = {names.get(name, name): size for name, size in small.parts_mib.items()}
    return base.model_copy(
        update={
            "generate_mib": base.generate_mib + 2 * small.generate_mib - small.weights_mib,
            "train_mib": max(train, base.train_mib) if base_is_trained else train,
            "parts_mib": base.parts_mib if base_is_trained else {"the base": base.weights_mib, **parts},
            "note": f"with the small model, {small.parameters or 0:,} parameters; {base.note}",
        }
    )


def _training(
    config: Config, chosen: WeightsConfig, a: Architecture, weights: int, tokens: tuple[int, int]
) -> tuple[Predicted, int]:
    """Of one way to train, and its rows in a pass."""
    rows = chosen.rows_per_device or _rows_per_step(chosen)
    size = adapter_size(a, chosen, ITEM[config.model.dtype])
    predicted = predict(
        a,
        Work(
            prompt=tokens[0],
            answer=tokens[1],
            rows=rows,
            generated=_rows_per_step(chosen) if chosen.reinforces else 0,
            weight_bytes=weights,
            adapter=size.trained + size.directions,
            item=ITEM[config.model.dtype],
            rank=size.rank,
            packed=config.model.quantization is not None,
            full_logits=chosen.method == "distill" and chosen.distill.targets == "logits",
            cuda=config.model.device == "cuda",
        ),
    )
    return predicted, rows


def _weight_bytes(config: Config, shapes: dict[str, tuple[int, ...]], item: int) -> int:
    """Bytes of the base in memory. Quantised: two-dimensional weights but embeddings and output layer."""
    wanted = config.model.quantization
    bits = PACKED_BITS[packed_kind(wanted.type, wanted.double)] if wanted is not None else 8.0 * item

    def packed(name: str, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and "embed" not in name and "lm_head" not in name

    return math.ceil(sum(math.prod(s) * (bits / 8 if packed(n, s) else item) for n, s in shapes.items()))


def nothing_here() -> MemoryPlan:
    """The plan of a model behind an endpoint, which takes no memory of this machine."""
    return MemoryPlan(
        parameters=None, weights_mib=None, generate_mib=None, train_mib=None, note="the model is behind an endpoint"
    )


def _unknown(why: str) -> MemoryPlan:
    return MemoryPlan(parameters=None, weights_mib=None, generate_mib=None, train_mib=None, note=f"not known: {why}")


def _rows_per_step(weights: WeightsConfig) -> int:
    if not weights.reinforces:
        return weights.supervised.batch
    rows = weights.grpo.prompts_per_step * weights.grpo.generations
    return max(rows, weights.warm_start.batch) if weights.warm_start is not None else rows


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


def _architecture(folder: Path) -> Architecture | None:
    """Dimensions of the model in `folder`; None when a key is missing."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return architecture(data) if isinstance(data, dict) else None
