"""From configuration to a backend. torch and transformers are imported only for the backend that needs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hybrid.backends.base import Backend
from hybrid.config.schema import (
    BackendConfig,
    ModelConfig,
    OpenAIBackendConfig,
    ScriptedBackendConfig,
    VllmBackendConfig,
)


def default_cache_dir() -> Path:
    """Where dequantised models are kept: `$XDG_CACHE_HOME/hybrid`, or `~/.cache/hybrid`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "hybrid"


def build_backend(
    model: ModelConfig,
    backend: BackendConfig,
    resolve: Callable[[str], Path],
    cache_dir: Path,
    small: ModelConfig | None = None,
) -> Backend:
    """The configured backend, ready to generate.

    `resolve` turns a path of the configuration into a path on disk. `small` is the small model of proxy-tuning
    (`Config.small`), which is loaded when a proxy needs it. Raises BackendError when the model or script cannot
    be used, and when the training stack is not installed.
    """
    if isinstance(backend, ScriptedBackendConfig):
        from hybrid.backends.scripted import ScriptedBackend

        return ScriptedBackend(resolve(backend.script))
    if isinstance(backend, OpenAIBackendConfig):
        from hybrid.backends.endpoint_backend import EndpointBackend

        return EndpointBackend(model, backend)
    require_stack()
    if isinstance(backend, VllmBackendConfig):
        return _vllm(model, backend, resolve, cache_dir)
    from hybrid.backends.loading import load_base
    from hybrid.backends.transformers_backend import TransformersBackend

    load_small = None if small is None else partial(load_base, small, resolve, cache_dir)
    return TransformersBackend(load_base(model, resolve, cache_dir), backend, load_small=load_small)


def _vllm(model: ModelConfig, backend: VllmBackendConfig, resolve: Callable[[str], Path], cache_dir: Path) -> Backend:
    from hybrid.backends.loading import load_base, model_folder
    from hybrid.backends.vllm_backend import VllmBackend
    from hybrid.backends.vllm_engines import Colocated, Engine, Served, import_vllm

    if backend.mode == "colocate":
        import_vllm()  # before a model is loaded in vain
    loaded = load_base(model.model_copy(update={"device": "cpu"}), resolve, cache_dir)
    engine: Engine
    if backend.mode == "server":
        engine = Served(model, backend, loaded.stop_ids)
    else:
        engine = Colocated(model, backend, model_folder(model, resolve, cache_dir), loaded.stop_ids)
    return VllmBackend(loaded, engine, backend, "cuda" if model.device == "auto" else model.device)


def require_stack() -> None:
    """Raises BackendError naming the packages of in-process generation that are not installed."""
    from importlib.util import find_spec

    from hybrid.errors import BackendError

    absent = [name for name in ("torch", "transformers", "peft", "safetensors") if find_spec(name) is None]
    if absent:
        raise BackendError(
            f"generating with a model needs {', '.join(absent)}; install torch for your machine and then "
            "`pip install 'hybrid-placement[train]'`"
        )
