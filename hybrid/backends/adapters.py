"""Adapters on disk: identity, manifest, and the checks that must pass before one is loaded.

    write_manifest(folder, info.fingerprint)      # once, by whoever trained it
    check_adapter(folder, info.fingerprint)       # before every load; raises AdapterError

PEFT itself loads an adapter that belongs to another base, misses half of its tensors or holds NaN, with a warning at
most. What kind an adapter is, `peft_type` of its configuration says; `_KINDS` has the rules of each. Does not: attach
adapters to a model (see `transformers_adapters`), train or merge them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hybrid.backends.base import Adapter
from hybrid.backends.proxy_facts import PROXY, proxy_facts
from hybrid.errors import AdapterError
from hybrid.store.atomic import canonical_json, write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "hybrid_manifest.json"
_PLACE_KEYS = frozenset({"base_model_name_or_path", "peft_version", "revision", "inference_mode"})
"""Keys of adapter_config.json that say where and when it was made, not what it computes."""
KEEPS = ("all", "top", "bottom", "spread")
"""Which singular directions an SVF adapter scales (`hybrid.backends.svf`)."""
SVF_TENSOR = ".svf_d"
"""What the name of every tensor of an SVF adapter ends with."""
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_SAFE_INIT = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base weights alone; others (pissa, olora, loftq, corda) rewrite them at loading."""


@dataclass(frozen=True)
class AdapterFacts:
    """What is known of a checked adapter. `targets` are the module names that it adapts, sorted.

    `kind` is its `peft_type`. `rank` of an SVF adapter is the most directions that it scales in one matrix, its `alpha` 0.
    Of a PROXY, rank, alpha, targets and tensors are those of the small model's LoRA; whoever computes with it has to compare the
    small model (`proxy_models`).
    """

    adapter: Adapter
    kind: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    tensors: int
    parameters: int


def inspect_adapter(path: Path) -> Adapter:
    """The adapter in folder `path`, identified by its weights' bytes and its configuration.

    Equal adapters have equal hashes wherever they lie: paths, versions and the order of module names do not count.
    Raises AdapterError when a file is missing or the configuration is no JSON object.
    """
    digest = hashlib.sha256(canonical_json(_canonical(read_config(path))).encode())
    digest.update(_file_sha256(path, WEIGHTS).encode())
    return Adapter(path=path, sha256=digest.hexdigest())


def write_manifest(path: Path, base_fingerprint: str, facts: Mapping[str, Any] | None = None) -> Path:
    """Write `hybrid_manifest.json` into an adapter folder and return its path.

    It holds the sha256 and size of every file, the fingerprint of the base that the adapter was trained on, library
    versions, and `facts` (JSON values: method, step, capability). Call it last: a later change
    of a file fails the check.
    """
    adapter = inspect_adapter(path)
    content = {
        "schema_version": 1,
        "adapter_sha256": adapter.sha256,
        "base_fingerprint": base_fingerprint,
        "files": {
            name: {"sha256": _file_sha256(path, name), "bytes": (path / name).stat().st_size} for name in _files(path)
        },
        "versions": {name: _version(name) for name in ("torch", "transformers", "peft", "trl", "safetensors")},
        "facts": dict(facts or {}),
    }
    write_json(path / MANIFEST, content)
    return path / MANIFEST


def check_adapter(path: Path, base_fingerprint: str) -> AdapterFacts:
    """Check an adapter folder before loading; raises AdapterError with the reason.

    Checked: the manifest and every hash in it, the base it was trained on, that only safetensors hold weights, that the
    configuration is of a known kind which leaves the base weights alone, and that every tensor is finite and of that kind.
    """
    manifest = _read_object(path, MANIFEST, "train it with hybrid, or write a manifest for it")
    config = read_config(path)
    _check_files(path, manifest)
    trained_on = manifest.get("base_fingerprint")
    if trained_on != base_fingerprint:
        raise AdapterError(
            f"{path}: was trained on another base: {str(trained_on)[:12]}..., while the loaded model is "
            f"{base_fingerprint[:12]}...; use that base (same weights, precision, quantisation and end of answer), or train again"
        )
    kind = kind_of(path, config)
    rules = _KINDS[kind]
    rules.settings(path, config)
    tensors = read_tensors(path)
    for name in sorted(tensors):
        if not bool(tensors[name].isfinite().all()):
            raise AdapterError(f"{path}: {name} holds a value that is not finite; use an earlier checkpoint")
    shape = config["lora"] if kind == PROXY else config
    targets = shape.get("target_modules")
    return AdapterFacts(
        adapter=inspect_adapter(path),
        kind=kind,
        rank=rules.rank(path, config, tensors),
        alpha=float(shape.get("lora_alpha", 0)),
        targets=tuple(sorted(targets)) if isinstance(targets, list) else (str(targets),),
        tensors=len(tensors),
        parameters=sum(int(t.numel()) for t in tensors.values()),
    )


def kind_of(path: Path, config: Mapping[str, Any] | None = None) -> str:
    """The kind of the adapter in folder `path`: a key of `_KINDS`. Raises AdapterError for any other."""
    kind = (read_config(path) if config is None else config).get("peft_type")
    if kind not in _KINDS:
        raise AdapterError(f"{path}: is a {kind} adapter; only {', '.join(_KINDS)} are supported")
    return str(kind)


def check_files(path: Path) -> None:
    """Raise AdapterError unless the folder has a manifest and every file in it is as that says. Reads no tensors."""
    _check_files(path, _read_object(path, MANIFEST, "train it with hybrid, or write a manifest for it"))


def read_config(path: Path) -> dict[str, Any]:
    """The adapter's `adapter_config.json`. Raises AdapterError."""
    return _read_object(path, CONFIG, "give the folder of an adapter saved by PEFT")


def read_tensors(path: Path) -> dict[str, Any]:
    """Every tensor of the adapter, on the CPU, by its name in the file. Raises AdapterError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path / WEIGHTS, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path / WEIGHTS}: cannot be read ({error}); use an earlier checkpoint") from error
    if not tensors:
        raise AdapterError(f"{path / WEIGHTS}: holds no tensors; use an earlier checkpoint")
    return tensors


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    listed = manifest.get("files")
    if manifest.get("schema_version") != 1 or not isinstance(listed, dict):
        raise AdapterError(f"{path / MANIFEST}: is not a manifest of this version of hybrid; train the adapter again")
    for name in (WEIGHTS, CONFIG):
        if name not in listed:
            raise AdapterError(f"{path / MANIFEST}: does not list {name}; write the manifest again after training")
    present = _files(path)
    for name, entry in sorted(listed.items()):
        if name not in present:
            raise AdapterError(f"{path}: {name!r} is in the manifest but not in the folder; copy the adapter again")
        if not isinstance(entry, dict) or entry.get("sha256") != _file_sha256(path, name):
            raise AdapterError(f"{path / name}: differs from the manifest; copy the adapter again or train it again")


@dataclass(frozen=True)
class _Kind:
    """Rules of a kind: `settings` raises AdapterError for a configuration that must not be used, `rank` for tensors that
    are not of the kind."""

    settings: Callable[[Path, Mapping[str, Any]], None]
    rank: Callable[[Path, Mapping[str, Any], Mapping[str, Any]], int]


def _leaves_base(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias {config['bias']!r} overwrites base weights; train with bias none")
    for key in ("modules_to_save", "layer_replication", "trainable_token_indices"):
        if config.get(key):
            raise AdapterError(f"{path}: {key} replaces parts of the base; train without it")


def _check_lora(path: Path, config: Mapping[str, Any]) -> None:
    _leaves_base(path, config)
    if config.get("init_lora_weights", True) not in _SAFE_INIT:
        raise AdapterError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} rewrites base weights; "
            "convert it to a plain LoRA"
        )


def _lora_rank(_path: Path, config: Mapping[str, Any], _tensors: Mapping[str, Any]) -> int:
    return int(config.get("r", 0))


def _check_svf(path: Path, config: Mapping[str, Any]) -> None:
    _leaves_base(path, config)
    keep, count = config.get("keep"), config.get("count")
    if keep not in KEEPS or not (count is None or (type(count) is int and count > 0)):
        raise AdapterError(f"{path}: directions keep {keep!r}, count {count!r} are not known; train it again")


def _svf_rank(path: Path, _config: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
    for name, tensor in sorted(tensors.items()):
        if not name.endswith(SVF_TENSOR) or tensor.dim() != 1:
            raise AdapterError(f"{path}: {name} is no vector of singular values; train it again")
    return max(int(tensor.numel()) for tensor in tensors.values())


def _check_proxy(path: Path, config: Mapping[str, Any]) -> None:
    _check_lora(path, proxy_facts(path, config).lora)


def _proxy_rank(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
    return _lora_rank(path, config["lora"], tensors)


_KINDS = {
    "LORA": _Kind(_check_lora, _lora_rank),
    "SVF": _Kind(_check_svf, _svf_rank),
    PROXY: _Kind(_check_proxy, _proxy_rank),
}
"""By `peft_type`. A new kind is an entry here, and whatever `transformers_adapters` needs to compute with it."""


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that counts. PEFT writes module names from a set, so their order is not the adapter's."""
    kept = {key: value for key, value in config.items() if key not in _PLACE_KEYS}
    return {
        key: sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
        for key, value in kept.items()
    }


def _files(path: Path) -> list[str]:
    """Names of the folder's files, sorted, without the manifest. Raises AdapterError for links and for pickles."""
    names = []
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            raise AdapterError(f"{entry}: is a symbolic link; an adapter folder holds its own files")
        if entry.suffix in _PICKLES:
            raise AdapterError(f"{entry}: is a pickle, which can run code when it is read; keep safetensors only")
        if entry.is_file() and entry.name != MANIFEST and not entry.name.startswith(".tmp-"):
            names.append(entry.name)
    return names


def _file_sha256(path: Path, name: str) -> str:
    try:
        with (path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterError(
            f"{path / name}: cannot be read ({error.strerror or error}); train the adapter again"
        ) from error


def _read_object(path: Path, name: str, fix: str) -> dict[str, Any]:
    try:
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError(f"{path / name}: cannot be read ({error.strerror or error}); {fix}") from error
    except ValueError as error:
        raise AdapterError(f"{path / name}: is not JSON ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path / name}: must hold a JSON object; {fix}")
    return value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
