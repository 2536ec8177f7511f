"""How the processes of one run come together, and what all of them but the first do until it is over.

Each process loads the base for itself, after the first one has (a conversion into the cache is made once), and all must
hold the same configuration, data, code and base: on several machines these are several copies. Adapters and checkpoints
are read by path: the run folder lies on a file system that all machines share.

Does not: decide what is trained or measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.backends.base import Backend
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.config.schema import OpenAIBackendConfig, ScriptedBackendConfig
from hybrid.errors import BackendError, HybridError, TrainingError
from hybrid.pipeline import judges, workers
from hybrid.pipeline.session import identity_fields
from hybrid.pipeline.sharded import ShardedBackend, serve
from hybrid.pipeline.shared_job import make_shared_job
from hybrid.pipeline.training import cache_folder, make_job, run_job, under
from hybrid.weights import shard

_ANSWER_S = 3600.0


def join(loaded: LoadedConfig) -> None:
    """Join the other processes, where a launcher started any, on the configured device. Raises BackendError,
    and UsageError for a launcher whose settings are refused."""
    shard.take_over(os.environ)
    if shard.asked(os.environ, workers.world_size()):
        shard.refuse(loaded.config)
    if workers.world_size() == 1:
        workers.refuse_launch(os.environ)
        return
    from hybrid.backends.device import pick_device

    config = loaded.config
    elsewhere = isinstance(config.backend, ScriptedBackendConfig | OpenAIBackendConfig)
    device = "cpu" if elsewhere else pick_device(config.model.device)
    workers.join(device, getattr(config.backend, "share_timeout_s", _ANSWER_S))


def open_backend(loaded: LoadedConfig, capabilities: Sequence[Capability], folder: Path) -> Backend:
    """Rank 0's backend: the configured one alone, over all processes where there are several.

    Raises BackendError where another process cannot load it or holds something else.
    """
    own = _build(loaded, folder)
    if workers.world_size() == 1:
        return own
    workers.broadcast({"kind": "load"})
    answers = workers.gather({"identity": identity_fields(loaded, tuple(capabilities), own)})
    for rank, answer in enumerate(answers):
        if "error" in answer:
            raise workers.rebuilt(answer, f"process {rank}: ")
        differing = sorted(k for k, v in answers[0]["identity"].items() if answer["identity"].get(k) != v)
        if differing:
            raise BackendError(
                f"process {rank} has another {' and '.join(differing)} than process 0; give all machines the same "
                "configuration, data, code and model"
            )
    return ShardedBackend(own)


def follow(loaded: LoadedConfig, capabilities: Sequence[Capability], out: Path) -> Path:
    """Do what rank 0 orders until the run is over; returns where it writes its report. Raises the error that ended it."""
    held: _Held | None = None
    while (order := workers.broadcast(None))["kind"] != "stop":
        if order["kind"] == "failed":
            raise workers.rebuilt(order)
        if order["kind"] == "load":
            held = _load(loaded, capabilities, out)
            continue
        assert held is not None  # rank 0 ends the run where a process could not load
        if order["kind"] == "generate":
            serve(held.backend, order)
        else:
            _train(loaded, held.capabilities, out, order)
    return out / "report" / "placement.json"


@dataclass(frozen=True)
class _Held:
    """What a process works with: its own base, and the capabilities by name with judges that can ask."""

    backend: Backend
    capabilities: Mapping[str, Capability]


def _load(loaded: LoadedConfig, capabilities: Sequence[Capability], out: Path) -> _Held | None:
    try:
        own = _build(loaded, out)
        bound = judges.bind(loaded, out, capabilities, workers.rank())
    except HybridError as error:
        workers.gather(workers.described(error))
        return None
    workers.gather({"identity": identity_fields(loaded, tuple(capabilities), own)})
    return _Held(own, {c.name: c for c in bound})


def _train(loaded: LoadedConfig, by_name: Mapping[str, Capability], out: Path, order: dict[str, Any]) -> None:
    if "members" in order:
        job = make_shared_job(loaded, by_name, out, order)
    else:
        job = make_job(loaded, by_name[order["capability"]], out, order)
    with suppress(TrainingError):  # rank 0 raises the same one and decides what it means
        run_job(loaded, under(job, order), cache_folder(out), lambda step, steps, metrics: None)


def _build(loaded: LoadedConfig, folder: Path) -> Backend:
    config = loaded.config
    return build_backend(config.model, config.backend, loaded.resolve, cache_folder(folder), config.small)
