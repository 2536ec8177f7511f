"""Adapters as mixtures read them: their factors by module, each with the scaling that it is truly applied at.

PEFT's own combinations scale some adapters wrongly (0.21.2 merges one rank-stabilised adapter, alone, 2.83 times too strong at
rank 8), so a mixture here never asks PEFT what an adapter does: the scaling is read from the configuration, and whatever this
module does not know how to read is refused by name. Does not: combine anything (see `materialise`), or load a base model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid.backends.adapters import check_adapter, read_config, read_tensors
from hybrid.backends.base import Adapter
from hybrid.errors import AdapterError

if TYPE_CHECKING:
    import torch

_HARMLESS = frozenset(
    {
        "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config",
        "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
        "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
        "runtime_config", "target_modules", "task_type", "use_rslora", "ensure_weight_tying",
    }
)  # fmt: skip
"""Keys of a LoRA's configuration that leave it a plain product of two factors, or that `expert_of` reads."""
_ONLY = "only plain LoRA adapters are mixed here"
_UNKNOWN = "computes something other than a product of two factors, which a mixture would get wrong in silence"


@dataclass(frozen=True)
class Factors:
    """One module's change of its weight: `scaling * b @ a`, with `a` of shape (rank, in) and `b` of shape (out, rank)."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """Rows of `a`."""
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Expert:
    """An adapter to mix. `modules` are its factors by the module's full name in the file; `config` its `adapter_config.json`."""

    adapter: Adapter
    config: Mapping[str, Any]
    modules: Mapping[str, Factors]


def expert_of(adapter: Adapter, base_fingerprint: str) -> Expert:
    """Read a checked adapter of the base `base_fingerprint` (see `check_adapter`).

    Raises AdapterError for an adapter of another base, a damaged one, or one that is no plain LoRA on linear layers: DoRA,
    biases, embeddings, convolutions, and every setting of PEFT that changes what the factors mean.
    """
    facts = check_adapter(adapter.path, base_fingerprint)
    if facts.adapter.sha256 != adapter.sha256:
        raise AdapterError(
            f"{adapter.path}: the files are not those of adapter {adapter.sha256[:12]}...; they were replaced"
        )
    if facts.kind != "LORA":
        raise AdapterError(f"{adapter.path}: is a {facts.kind} adapter; {_ONLY}")
    config = read_config(adapter.path)
    for key in sorted(config):
        if key not in _HARMLESS and config[key]:
            raise AdapterError(f"{adapter.path}: {key} {_UNKNOWN}; train a plain LoRA to mix it")
    return Expert(adapter, config, _factors(adapter, config))


def experts_of(adapters: Sequence[Adapter], base_fingerprint: str) -> tuple[Expert, ...]:
    """`expert_of` for each, in order. Raises AdapterError also where they cannot be one adapter together."""
    found = tuple(expert_of(adapter, base_fingerprint) for adapter in adapters)
    if len({bool(expert.config.get("fan_in_fan_out")) for expert in found}) > 1:
        raise AdapterError(
            "the experts disagree on fan_in_fan_out, so they cannot be of one kind of base; train them again"
        )
    return found


def scaling_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies a module's product by: alpha / rank, or alpha / sqrt(rank) under rsLoRA (2312.03732).

    A pattern of the configuration goes before its plain value, as in PEFT. `rank` is that of the stored factors.
    """
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    key = get_pattern_key(list(patterns), module)
    alpha = float(patterns.get(key, config.get("lora_alpha", 0)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def module_name(tensor: str) -> str:
    """The base's name of the module that a stored factor belongs to."""
    return tensor.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]


def _factors(adapter: Adapter, config: Mapping[str, Any]) -> dict[str, Factors]:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in read_tensors(adapter.path).items():
        head, _, tail = name.rpartition(".lora_")
        if tail not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise AdapterError(f"{adapter.path}: {name} {_UNKNOWN}; adapt linear layers alone to mix it")
        halves.setdefault(head, {})[tail[0]] = tensor.float()
    found = {}
    for head in sorted(halves):
        pair = halves[head]
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise AdapterError(f"{adapter.path}: the factors of {head} do not belong together; train it again")
        scaling = scaling_of(config, module_name(head + ".lora_"), int(pair["A"].shape[0]))
        found[head] = Factors(pair["A"], pair["B"], scaling)
    return found
