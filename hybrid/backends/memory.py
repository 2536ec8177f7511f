"""How much memory generating and training take: predicted from a model's dimensions, measured while it runs.

    a = architecture(model.config.get_text_config().to_dict())
    predict(a, Work(prompt=512, answer=64, rows=8, generated=64, weight_bytes=..., adapter=..., item=4)).peak

The prediction counts what must be there at once: the base, the adapter with gradients and moments, and the larger of
generating (key-value cache, one layer's prefill) and learning (activations that the backward pass needs, the tile of
logits). Activations are counted from the operations of a Llama-like layer with LoRA on its linear layers: per token and
layer 12 hidden widths, 4 of the feed-forward block and 7 ranks (after Korthikanti et al. 2022, 2205.05198, who count plain
training). Right within a factor of two where `scripts/bench_memory.py` looked.

Does not: know an allocator's fragmentation, or what other processes will take. torch is imported only where a device is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.config.schema import WeightsConfig

MIB = 1024 * 1024
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
PACKED_BITS = {"int8": 8.0, "nf4": 4.5, "nf4-double": 4.127}
"""Bits per weight of a quantised linear layer with its scales (blocks of 64; doubly quantised: Dettmers et al. 2023)."""
_TILE, _CHUNK = 4096, 32768
"""Tokens and vocabulary entries of the logits that TRL's fused output layer holds at once (on a CPU: all tokens)."""
FRAGMENTS = 1.5
"""On a CPU: resident memory per byte of activations and logits. glibc's allocator keeps freed pieces that the next tensor does
not fit into; here it was 0.9 to 2.8 (`scripts/bench_memory.py`)."""
SMALLEST_8BIT = 4096
"""Numbers in a tensor from which bitsandbytes keeps its moments in 8 bits."""


@dataclass(frozen=True)
class Architecture:
    """Dimensions of a decoder. `queries` and `keys` are the widths of the query and of the key projection."""

    layers: int
    hidden: int
    feed: int
    queries: int
    keys: int
    vocabulary: int
    positions: int = 0
    """The longest sequence; 0 when it is not told."""

    def linear(self) -> dict[str, tuple[int, int]]:
        """(in, out) of a layer's linear maps by the name that Llama-like models give them."""
        h, f = self.hidden, self.feed
        feeds = {"gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h)}
        attention = {"q_proj": (h, self.queries), "k_proj": (h, self.keys), "v_proj": (h, self.keys)}
        return {**attention, "o_proj": (self.queries, h), **feeds}


def architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Dimensions from a `config.json`; None when one is missing or no number."""
    data = config.get("text_config") or config
    try:
        heads, hidden = int(data["num_attention_heads"]), int(data["hidden_size"])
        head = int(data.get("head_dim") or hidden // heads)
        return Architecture(
            layers=int(data["num_hidden_layers"]),
            hidden=hidden,
            feed=int(data.get("intermediate_size") or 4 * hidden),
            queries=head * heads,
            keys=head * int(data.get("num_key_value_heads") or heads),
            vocabulary=int(data["vocab_size"]),
            positions=int(data.get("max_position_embeddings") or 0),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Work:
    """What is trained. `rows` are in one forward pass, `generated` in one generation (0: none), both of the longest prompt.

    Sizes in tokens; `weight_bytes` of the base in memory; `adapter` are bytes with gradients and moments; `item` bytes of a
    number in activations and cache. `packed`: the largest linear layer is unpacked for each use. `full_logits`: the whole
    (answer tokens, vocabulary) matrix is kept for the loss.
    """

    prompt: int
    answer: int
    rows: int
    generated: int
    weight_bytes: int
    adapter: int
    item: int
    rank: int
    packed: bool = False
    recompute: bool = False
    full_logits: bool = False
    cuda: bool = False


@dataclass(frozen=True)
class Predicted:
    """Bytes by part. `peak` is the greatest sum that is there at once, `above_base` the same without the base's weights."""

    weights: int
    adapter: int
    generating: int
    activations: int
    logits: int

    @property
    def above_base(self) -> int:
        """What training adds to a process that holds the base."""
        return self.adapter + max(self.generating, self.activations + self.logits)

    @property
    def peak(self) -> int:
        """Everything, the base included."""
        return self.weights + self.above_base


def predict(a: Architecture, w: Work) -> Predicted:
    """Memory of one optimiser step, in bytes."""
    tokens = w.rows * (w.prompt + w.answer)
    layers = _layer_bytes(a, w)
    unpacked = max(i * o for i, o in a.linear().values()) * w.item * 2 if w.packed else 0
    kept = a.layers * a.hidden * w.item + layers if w.recompute else a.layers * layers
    masks = w.rows * (w.prompt + w.answer) ** 2
    gradients = tokens * (4 * a.hidden + 2 * a.feed) * w.item  # of the layer that the backward pass is in
    waste = 1.0 if w.cuda else FRAGMENTS
    return Predicted(
        weights=w.weight_bytes,
        adapter=w.adapter,
        generating=_generating(a, w) + (unpacked if w.generated else 0),
        activations=int(waste * (tokens * kept + masks + gradients + unpacked)),
        logits=int(waste * _logits(a, w)),
    )


def _layer_bytes(a: Architecture, w: Work) -> int:
    """Bytes per token that the backward pass needs of one layer."""
    kept = w.item * (12 * a.hidden + 4 * a.feed) + 4 * 7 * w.rank
    if w.item < 4:  # inputs of the adapter are copied to float32: of q, k, v, gate and up, of o, and of down
        kept += 4 * (5 * a.hidden + a.queries + a.feed)
    return kept


def _generating(a: Architecture, w: Work) -> int:
    length = w.prompt + w.answer
    cache = w.generated * length * 2 * a.keys * w.item * (a.layers + 1)  # one layer's is copied while it grows
    prefill = w.generated * w.prompt * (4 * a.hidden + 3 * a.feed) * w.item
    return cache + prefill + w.generated * (w.prompt**2 + 3 * a.vocabulary * 4)


def _logits(a: Architecture, w: Work) -> int:
    tokens = w.rows * w.answer
    if w.full_logits:
        return 4 * tokens * a.vocabulary * 4
    at_once = min(tokens, _TILE) if w.cuda else tokens
    return 3 * at_once * min(a.vocabulary, _CHUNK) * 4


def adapter_bytes(a: Architecture, rank: int, optimizer: str, targets: str | tuple[str, ...] = "all-linear") -> int:
    """The adapter in float32 with its gradients and the optimiser's two moments."""
    sizes = [rank * width for shape in _targeted(a, targets) for width in shape]
    return a.layers * sum(size * (8 + _moments(size, optimizer)) for size in sizes)


@dataclass(frozen=True)
class AdapterSize:
    """`trained` bytes of the adapter with gradients and moments, `directions` bytes of what SVF computes with, and the `rank`
    that its activations are as large as."""

    trained: int
    directions: int
    rank: int


def adapter_size(a: Architecture, weights: WeightsConfig, item: int) -> AdapterSize:
    """Of the adapter that `weights` trains; `item` bytes of a number of the base."""
    if weights.method != "svf":
        lora = weights.lora
        return AdapterSize(adapter_bytes(a, lora.rank, weights.optimizer, lora.target_modules), 0, lora.rank)
    shapes = _targeted(a, weights.svf.target_modules)
    counts = [
        min(shape) if weights.svf.directions.count is None else min(*shape, weights.svf.directions.count)
        for shape in shapes
    ]
    trained = a.layers * sum(count * (8 + _moments(count, weights.optimizer)) for count in counts)
    directions = a.layers * item * sum(min(shape) * count for shape, count in zip(shapes, counts, strict=True))
    return AdapterSize(trained, directions, math.ceil(sum(counts) / len(counts)))


def _targeted(a: Architecture, targets: str | tuple[str, ...]) -> list[tuple[int, int]]:
    wanted = a.linear().items()
    return [s for name, s in wanted if targets == "all-linear" or name in targets] or [s for _, s in wanted]


def _moments(size: int, optimizer: str) -> int:
    return 2 if optimizer != "adamw" and size >= SMALLEST_8BIT else 8


def packed_kind(type_: str, double: bool) -> str:
    """The key of `PACKED_BITS`."""
    return "nf4-double" if type_ == "nf4" and double else type_


def most_rows(a: Architecture, work: Work, free: int) -> int:
    """The most rows, at most `work.rows`, whose training fits into `free` bytes beside the base; 0 when not even one does."""
    from dataclasses import replace

    low, high = 0, work.rows
    while low < high:
        middle = (low + high + 1) // 2
        fits = predict(a, replace(work, rows=middle)).above_base <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def free_bytes(device: str) -> int | None:
    """Memory that this process could still take: of the GPU, or of the machine and its container; None when not told."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info()
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(free + cached)
    found = [amount for amount in (_proc_bytes("/proc/meminfo", "MemAvailable"), _cgroup_room()) if amount is not None]
    return min(found) if found else None


def _cgroup_room() -> int | None:
    """Room below the limit of a container (cgroup version 2); inactive file pages count as free, as they can be reclaimed."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((root / "memory.current").read_text(encoding="ascii"))
        inactive = re.search(r"^inactive_file (\d+)", (root / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
        return max(0, int(limit) - used + (int(inactive[1]) if inactive else 0))
    except (OSError, ValueError):
        return None


class PeakMeter:
    """The greatest memory of this process since it was made, above what it held then.

    On CUDA what torch allocated; on a CPU the resident memory, where the system lets the mark be reset (Linux). `above` is
    None where it cannot be told.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._start: int | None
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._start = int(torch.cuda.memory_allocated())
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._start = _proc_bytes("/proc/self/status", "VmRSS")
        except OSError:
            self._start = None

    def above(self) -> int | None:
        """Bytes above the start at the highest point so far."""
        if self._cuda:
            import torch

            top: int | None = int(torch.cuda.max_memory_allocated())
        else:
            top = _proc_bytes("/proc/self/status", "VmHWM")
        return None if top is None or self._start is None else max(0, top - self._start)


def _proc_bytes(path: str, key: str) -> int | None:
    """The entry `key` of a table of Linux's /proc, in bytes; None where there is none."""
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def mib(size: float) -> int:
    """Bytes in MiB, rounded up."""
    return math.ceil(size / MIB)
