"""From `model.path` to a folder that can be loaded: found, complete, safetensors only, dequantised when it is a GGUF.

Does not: load a model into memory (except once, to dequantise) or run code from a model folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

from hybrid.config.schema import ModelConfig
from hybrid.errors import BackendError, HybridError
from hybrid.store.atomic import fsync_folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Translating:
    """Context that turns what a model library raises into a BackendError with the place and the first line of reason.

    Everything is translated, since loaders raise bare `Exception` objects too; hybrid's own errors and interrupts pass.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, HybridError):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = (lines[0] if lines else type(error).__name__)[:300]
            raise BackendError(f"{self._what}: {reason}") from error


def reference_folder() -> Path:
    """The folder of the reference model that ships with hybrid. Raises BackendError when it is not installed."""
    folder = Path(str(files("hybrid"))) / "assets" / "reference-model"
    if not (folder / "config.json").is_file():
        raise BackendError(f"the reference model is missing from this installation ({folder}); reinstall hybrid")
    return folder


def find_model(config: ModelConfig, resolve: Callable[[str], Path]) -> Path:
    """The local folder of the model; a hub id is downloaded, or taken from the hub cache. Raises BackendError."""
    if config.path == "reference":
        return reference_folder()
    local = resolve(config.path)
    if local.is_dir():
        return local
    if local.exists():
        fix = "set model.gguf_file to the file's name and " if local.suffix == ".gguf" else ""
        raise BackendError(f"model.path {config.path!r} is a file; {fix}give the folder that holds it")
    if not _HUB_ID.fullmatch(config.path) or ".." in config.path:
        raise BackendError(f"model.path {config.path!r}: there is no folder {local}; correct the path")
    return _from_hub(config, local)


def _from_hub(config: ModelConfig, local: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    # The errors of whichever HTTP client the hub library uses: a refused connection is one of them.
    client = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    expected: tuple[type[Exception], ...] = (LocalEntryNotFoundError, OSError, ValueError, *client)
    patterns = [*_HUB_FILES, *([config.gguf_file] if config.gguf_file else [])]
    if config.gguf_file:
        patterns = [p for p in patterns if "safetensors" not in p]
    what = f"model.path {config.path!r} is no folder ({local}), and as a hub id it cannot be used"
    try:
        return Path(snapshot_download(config.path, revision=config.revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise BackendError(
            f"{what}: access is gated; accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except expected as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
        fix = "go online, download it beforehand with `hf download`, or give a local folder"
        raise BackendError(f"{what}: {reason}; {fix}") from error


def check_folder(folder: Path, gguf_file: str | None) -> None:
    """Raises BackendError when the folder is no complete base model in safetensors (or the named GGUF is missing)."""
    if (folder / "adapter_config.json").exists():
        raise BackendError(f"{folder} holds an adapter (adapter_config.json); model.path must be a base model")
    if gguf_file is not None:
        if Path(gguf_file).name != gguf_file or not (folder / gguf_file).is_file():
            raise BackendError(f"model.gguf_file {gguf_file!r} is no file in {folder}")
        return
    _read_json(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BackendError(f"{index}: weight_map is missing; download the model again")
        missing = sorted({str(s) for s in shards.values() if not (folder / str(s)).is_file()})
        if missing:
            raise BackendError(f"{folder}: the weight file {missing[0]} is missing; download the model again")
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise BackendError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which can run code when it is read; "
            "convert the model to safetensors"
        )
    raise BackendError(f"{folder}: model.safetensors is missing; give the folder of a model saved by transformers")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BackendError(f"{path}: cannot be read ({error.strerror or error}); is this a model folder?") from error
    except ValueError as error:
        raise BackendError(f"{path}: is not JSON ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise BackendError(f"{path}: must hold a JSON object; download the model again")
    return value


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dequantised(folder: Path, gguf_file: str, dtype: str, cache_dir: Path) -> Path:
    """A folder with the GGUF's model in safetensors at `dtype`, made once per file content and then reused.

    It is written beside its final place and renamed, so that a killed conversion leaves nothing that would be loaded.
    """
    target = cache_dir / f"gguf-{file_sha256(folder / gguf_file)}-{dtype}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-gguf-", dir=cache_dir))
    try:
        # The converter draws its progress on the terminal whatever the library's settings are.
        with Translating(f"{folder / gguf_file} cannot be dequantised"), redirect_stderr(io.StringIO()):
            _convert(folder, gguf_file, dtype, scratch)
        for path in scratch.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # another process may have finished the same conversion first
                raise
        fsync_folder(cache_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(folder: Path, gguf_file: str, dtype: str, target: Path) -> None:
    """Save the GGUF's model and tokenizer as an ordinary transformers folder."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": gguf_file, "local_files_only": True, "trust_remote_code": False}
    own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()
    spare = {key: value for key, value in options.items() if key != "gguf_file"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **(spare if own else options))
    # Releases that can keep a GGUF packed do so unless they are told not to; earlier ones always unpack.
    packed = getattr(transformers, "GgufConfig", None)
    if packed is not None:
        options["quantization_config"] = packed(dequantize=True)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), output_loading_info=True, **options
    )
    absent = sorted(report["missing_keys"])
    if absent:
        raise BackendError(f"{folder / gguf_file}: {len(absent)} weights are missing from the file, first {absent[0]}")
    odd = sorted(name for name, tensor in model.named_parameters() if not tensor.is_floating_point())
    if odd:
        raise BackendError(f"{folder / gguf_file}: {odd[0]} stayed packed; convert the model to safetensors yourself")
    # transformers refuses to save what was loaded quantised, also after everything was unpacked.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
