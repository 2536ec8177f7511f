"""What this machine can run: packages, device, precision, threads, room, and whether the configured model answers.

    for finding in examine(None): print(finding.status, finding.name, finding.detail)

Nothing here raises for a broken machine: every problem is a finding with its fix. Does not: install or change anything
(except that examining a configured GGUF model fills the cache, as a run would), or print.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from hybrid.backends.base import Backend, Request, Sampling
from hybrid.backends.build import build_backend, default_cache_dir
from hybrid.backends.device import choose_device, physical_cores
from hybrid.capability.types import Message
from hybrid.config.schema import ModelConfig, OpenAIBackendConfig, ScriptedBackendConfig
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from hybrid.config.loader import LoadedConfig

Status = Literal["ok", "warn", "fail"]

PYTHON_WINDOW = ("3.11", "3.14")
WINDOWS: dict[str, tuple[str, str | None]] = {
    "torch": ("2.11", "2.14"),
    "transformers": ("5.17", "6"),
    "trl": ("1.16", "1.17"),
    "peft": ("0.21", "0.22"),
    "accelerate": ("1.15", None),
    "datasets": ("4.7", None),
    "safetensors": ("0.8", None),
    "cma": ("4.0", "5"),
}
"""Supported versions of the training stack: from the first, below the second. They equal the extra `train`."""
OPTIONAL: dict[str, tuple[str, str | None]] = {"bitsandbytes": ("0.50", "0.51"), "vllm": ("0.22", "0.31.1")}
"""The same for packages that only some settings need. vLLM pins torch exactly: its newer releases leave TRL's window."""
_LEAST_MEMORY_GIB, _LEAST_DISK_GIB = 2.0, 2.0


class Finding(BaseModel):
    """One thing looked at. `fix` says what to do and is empty when the status is `ok`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(loaded: LoadedConfig | None, cache_dir: Path | None = None) -> list[Finding]:
    """Everything worth knowing before a run, in a fixed order; with a configuration, the model is loaded and asked (one
    behind an endpoint costs one request).

    `warn` is something that a run can live with, `fail` something that stops it. Without a configuration a missing
    training stack is a warning: runs over scripts and endpoints need none of it.
    """
    local = loaded is None or not isinstance(loaded.config.backend, ScriptedBackendConfig | OpenAIBackendConfig)
    needed = loaded is not None and local
    model = loaded.config.model if loaded is not None else ModelConfig(path="reference")
    findings = [
        _python(),
        *_packages(needed),
        _processes(os.environ),
        *_extras(loaded),
        *_machine(model, needed, cache_dir or default_cache_dir()),
    ]
    if loaded is not None:
        findings.append(_answer(loaded, cache_dir or default_cache_dir()))
    return findings


def _python() -> Finding:
    found = platform.python_version()
    if _inside(found, PYTHON_WINDOW):
        return Finding(name="python", status="ok", detail=f"{found} at {sys.executable}")
    fix = f"use Python {PYTHON_WINDOW[0]} or newer, below {PYTHON_WINDOW[1]}"
    return Finding(name="python", status="fail", detail=f"{found} is not supported", fix=fix)


def _packages(needed: bool) -> Iterator[Finding]:
    """Versions are read from the installed metadata: importing trl alone takes seconds."""
    for name, window in WINDOWS.items():
        wanted = f">={window[0]}" + (f",<{window[1]}" if window[1] else "")
        fix = f"pip install '{name}{wanted}'"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name=name, status="fail" if needed else "warn", detail="not installed", fix=fix)
            continue
        if _inside(found, window):
            yield Finding(name=name, status="ok", detail=found)
        else:
            yield Finding(name=name, status="warn", detail=f"{found} is outside {wanted}, untested", fix=fix)


def _extras(loaded: LoadedConfig | None) -> Iterator[Finding]:
    """Packages that only some settings need, when this configuration has such a setting."""
    if loaded is None:
        return
    config = loaded.config
    wanted = {
        "bitsandbytes": config.model.quantization is not None or config.weights.optimizer != "adamw",
        "vllm": getattr(config.backend, "mode", None) == "colocate",
    }
    for name in (name for name, needed in wanted.items() if needed):
        window = OPTIONAL[name]
        try:
            found = version(name)
        except PackageNotFoundError:
            fix = f"pip install '{name}>={window[0]},<{window[1]}'"
            yield Finding(name=name, status="fail", detail="not installed, and this configuration needs it", fix=fix)
            continue
        inside = _inside(found, window)
        detail = found if inside else f"{found} is outside >={window[0]},<{window[1]}, untested"
        fix = "" if inside else f"pip install '{name}>={window[0]},<{window[1]}'"
        yield Finding(name=name, status="ok" if inside else "warn", detail=detail, fix=fix)


def _machine(model: ModelConfig, needed: bool, cache_dir: Path) -> Iterator[Finding]:
    if find_spec("torch") is not None:
        yield from _torch(model, needed)
    wanted = model.threads or physical_cores()
    detail = f"{wanted} CPU threads ({physical_cores()} physical cores for this process)"
    over = wanted > physical_cores()
    fix = "set model.threads to the physical cores or leave it out" if over else ""
    yield Finding(name="threads", status="warn" if over else "ok", detail=detail, fix=fix)
    yield _room("memory", _free_memory_gib(), _LEAST_MEMORY_GIB, "close other programs")
    place = next(folder for folder in [cache_dir, *cache_dir.parents] if folder.exists())
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", place)):
        free = shutil.disk_usage(folder).free / 2**30
        yield _room(name, free, _LEAST_DISK_GIB, f"free some space under {folder}")


def _torch(model: ModelConfig, needed: bool) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "reinstall torch for this machine"
        yield Finding(
            name="torch build", status="fail" if needed else "warn", detail=f"does not import: {error}", fix=fix
        )
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding(name="torch build", status="ok", detail=f"{torch.__version__}, {build}")
    try:
        choice = choose_device(model.device)
    except HybridError as error:
        yield Finding(name="device", status="fail", detail=str(error), fix="set model.device: cpu, or repair CUDA")
        return
    yield Finding(name="device", status="ok", detail=f"{choice.device}: {choice.reason}")
    if choice.device == "cuda":
        free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info())
        yield _room("GPU memory", free, _LEAST_MEMORY_GIB, f"end other programs on the GPU ({total:.0f} GiB in all)")
        fast, how = torch.cuda.is_bf16_supported(including_emulation=False), "in hardware"
    else:
        fast, how = _cpu_has_bf16(), "in hardware (avx512_bf16 or amx_bf16)"
    slow = model.dtype == "bfloat16" and not fast
    yield Finding(
        name="bfloat16",
        status="warn" if slow else "ok",
        detail=how if fast else "emulated: it works, and is slower than float32",
        fix="set model.dtype: float32 on this machine" if slow else "",
    )


def _answer(loaded: LoadedConfig, cache_dir: Path) -> Finding:
    """Load the configured backend as a run would, and generate a few tokens."""
    config = loaded.config
    try:
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_dir, config.small)
        info, steering = backend.info(), _steering(backend)
        if isinstance(config.backend, ScriptedBackendConfig):
            return Finding(name="model", status="ok", detail=f"{info.path}: the script reads well; no model is loaded")
        prompt = (Message(role="user", content="1 + 1 ="),) if config.model.chat else "1 + 1 ="
        completion = backend.generate([Request(prompt, seed=0)], Sampling(max_new_tokens=4), None)[0]
    except HybridError as error:
        what, _, fix = str(error).rpartition("; ")
        return Finding(name="model", status="fail", detail=what or fix, fix=fix)
    size = f"{info.parameters:,} parameters, {info.dtype}" if info.parameters else "a model of unknown size"
    facts = f"{info.path}: {size} on {info.device}"
    work = f"{completion.tokens_out} tokens in {completion.seconds:.2f} s"
    return Finding(name="model", status="ok", detail=f"{facts}, {work}, fingerprint {info.fingerprint[:12]}{steering}")


def _steering(backend: Backend) -> str:
    """The small model of proxy-tuning, loaded and compared with the base; empty where none is configured."""
    load = getattr(backend, "small", None)
    small = None if load is None else load()
    return "" if small is None else f"; steered by {small.info.path}, {small.info.parameters:,} parameters"


def _room(name: str, free_gib: float | None, least_gib: float, fix: str) -> Finding:
    if free_gib is None:
        return Finding(name=name, status="warn", detail="cannot be read on this system", fix="check it by hand")
    enough = free_gib >= least_gib
    return Finding(
        name=name, status="ok" if enough else "warn", detail=f"{free_gib:.1f} GiB free", fix="" if enough else fix
    )


def _free_memory_gib() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", lines, re.MULTILINE)
    return int(found[1]) / 2**20 if found else None


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) is not None


def _processes(environment: Mapping[str, str]) -> Finding:
    """How many processes a launcher started, and how many of them on this machine."""
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1:
        return Finding(name="processes", status="ok", detail="1, without a launcher or alone under one")
    here = int(environment.get("LOCAL_WORLD_SIZE", str(count)))
    place = "all on this machine" if here == count else f"{here} on this machine"
    split = "; the base of a training is split over them" if environment.get("ACCELERATE_USE_FSDP") == "true" else ""
    return Finding(name="processes", status="ok", detail=f"{count}, {place}; rank 0 leads{split}")


def _inside(found: str, window: tuple[str, str | None]) -> bool:
    """Whether the release numbers of `found` lie in [low, high); local and pre-release parts do not count."""
    number = _release(found)
    return _release(window[0]) <= number and (window[1] is None or number < _release(window[1]))


def _release(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
