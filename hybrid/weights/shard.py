"""The frozen base of a training split over processes by FSDP2 (`torch.distributed.fsdp.fully_shard`), the adapter whole.

    shard_base(model)                       # once, before the trainer wraps the model
    with whole(model): model.generate(...)  # the parameters gathered once, and not for every token

Each process holds its part of every frozen parameter; a layer's parts are gathered for its forward and its backward pass and
freed after it. The adapter stays a plain replica on every process, and DDP averages its gradients as it does without
sharding. So everything that is saved (adapter, optimiser, random states) is what it is under DDP, and the guards hold: each
process proves that its own part of the base did not change.

`take_over` is why accelerate's own way is not used: it would split the adapter too, whose checkpoints are then folders of
shards. Does not: split activations or the base that answers probes, or quantised weights (they are no floating numbers).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hybrid.errors import UsageError

if TYPE_CHECKING:
    from hybrid.config.schema import Config

ASKED = "HYBRID_SHARD_BASE"
"""Set for this process once its launcher's wish was taken over: `reshard` or `keep`, what happens after a forward pass."""
_ON = ("true", "1", "yes")


def take_over(environment: MutableMapping[str, str]) -> None:
    """Read what `accelerate launch` announces of FSDP, and take it out of the environment before accelerate reads it.

    Raises UsageError for version 1 and for parameters on the CPU, which are not offered, naming the file's key.
    """
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() not in _ON:
        return
    if environment.get("FSDP_VERSION", "1") != "2":
        raise UsageError(
            "the launcher asks for FSDP version 1, which hybrid does not support; set fsdp_version: 2 in its file, as "
            "configs/accelerate/fsdp2.yaml does"
        )
    if environment.get("FSDP_OFFLOAD_PARAMS", "false").lower() in _ON:
        raise UsageError("the launcher asks for fsdp_offload_params, which hybrid does not support; set it to false")
    again = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in _ON
    environment[ASKED] = "reshard" if again else "keep"
    del environment["ACCELERATE_USE_FSDP"]


def asked(environment: Mapping[str, str], processes: int) -> bool:
    """Whether trainings split their base: it takes two processes at least."""
    return bool(environment.get(ASKED)) and processes > 1


def refuse(config: Config) -> None:
    """Raise UsageError for a configuration whose trainings cannot split their base."""
    wrong = None
    methods = {config.method_of(c.name) for c in config.capabilities}
    if config.model.quantization is not None:
        wrong = "model.quantization: packed weights cannot be split"
    elif "tree" in methods:
        wrong = "weights.method tree: its search asks the model in ways that are no whole forward passes"
    elif "svf" in methods:
        wrong = "weights.method svf: every process would hold all singular directions, which are as large as the base"
    if wrong is not None:
        raise UsageError(f"{wrong} (FSDP2); launch with configs/accelerate/multi-gpu-ddp.yaml")


def split_if_asked(model: Any, processes: int) -> None:
    """`shard_base` where the launcher of this process asked for it."""
    if asked(os.environ, processes):
        shard_base(model, os.environ[ASKED] == "reshard")


def shard_base(model: Any, reshard: bool = True) -> None:
    """Split every frozen parameter of a PEFT model over all processes, in place: a group per decoder layer, one for the rest.

    With `reshard` a layer's whole parameters are freed after its forward pass and gathered again for the backward pass.
    """
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    base = model.get_base_model()
    mesh = init_device_mesh(next(base.parameters()).device.type, (distributed.get_world_size(),))
    adapter = {p for p in model.parameters() if p.requires_grad}
    for layer in _layers(base):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, ignored_params=adapter)
    fully_shard(base, mesh=mesh, ignored_params=adapter)
    model.resharding = reshard
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)


def _layers(base: Any) -> list[Any]:
    """The decoder layers: the modules of the classes that the model says may not be split further, outermost first."""
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in base.modules() if type(module).__name__ in names]


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Inside, every parameter is whole on every process and no pass gathers anything, so that processes may make passes of
    different numbers. Nothing happens for a model that is not split."""
    groups, again = _groups(model), getattr(model, "resharding", True)
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.reshard()
            group.set_reshard_after_forward(again and group is not groups[0], recurse=False)  # the root's never is


def _groups(model: Any) -> list[Any]:
    """The split modules, the root first."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
