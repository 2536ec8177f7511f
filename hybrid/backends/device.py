"""Which device computes and with how many threads; a wanted device that is missing is an error, never a fallback.

    choice = choose_device("auto")     # DeviceChoice(device="cpu", reason="torch 2.13.0+cpu is built without CUDA")

Does not: move models, allocate memory or change settings of the accelerator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from hybrid.errors import BackendError

Wanted = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DeviceChoice:
    """The device that computes (`cpu` or `cuda`) and one phrase that says why, for the first line of output."""

    device: str
    reason: str


def cuda_problem() -> tuple[str, str] | None:
    """None when a CUDA device computes; otherwise what is missing and what to do about it."""
    import torch

    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA",
            "install a CUDA build of torch for your driver, or set model.device to cpu",
        )
    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists():
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
            if hidden is not None:
                return (
                    f"no CUDA device is visible (CUDA_VISIBLE_DEVICES={hidden!r})",
                    "unset or correct CUDA_VISIBLE_DEVICES",
                )
            return (
                f"the NVIDIA driver does not work with torch's CUDA {torch.version.cuda}",
                "update the driver, or install a torch build for an older CUDA",
            )
        return ("no NVIDIA driver is loaded on this machine", "install the driver, or set model.device to cpu")
    try:
        torch.ones(1, device="cuda").add_(1).item()
    except (RuntimeError, AssertionError) as error:
        lines = str(error).splitlines()
        return (f"the CUDA device does not compute: {lines[0] if lines else type(error).__name__}", "run `nvidia-smi`")
    return None


def choose_device(wanted: Wanted) -> DeviceChoice:
    """The device for `wanted`, with the reason. Raises BackendError when `cuda` is wanted and does not work."""
    if wanted == "cpu":
        return DeviceChoice("cpu", "asked for")
    problem = cuda_problem()
    if problem is None:
        import torch

        name = torch.cuda.get_device_name()
        return DeviceChoice("cuda", f"{name}, asked for" if wanted == "cuda" else f"{name} works")
    missing, fix = problem
    if wanted == "cuda":
        raise BackendError(f"model.device is cuda, but {missing}; {fix}")
    return DeviceChoice("cpu", missing)


def pick_device(wanted: Wanted) -> str:
    """`cpu` or `cuda`. Raises BackendError when `cuda` is wanted and does not work, saying what is missing."""
    return choose_device(wanted).device


def physical_cores() -> int:
    """Physical cores for this process: its CPU affinity with hyper-threads counted once, capped by a cgroup quota."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core_of(cpu) for cpu in usable}
    quota = _cgroup_quota()
    return max(1, min(len(cores), quota) if quota else len(cores))


def _core_of(cpu: int) -> tuple[str, str]:
    """(package, core) of a logical CPU; a CPU whose topology cannot be read counts as a core of its own."""
    folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (folder / "physical_package_id").read_text().strip(), (folder / "core_id").read_text().strip()
    except OSError:
        return "logical", str(cpu)


def _cgroup_quota() -> int | None:
    """Whole CPUs that a container may use (cgroup version 2), rounded up; None when there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None


def set_threads(threads: int | None) -> int:
    """Set torch's CPU threads to `threads`, or to this process's share of the physical cores; returns the number set.

    Processes that a launcher started on the same machine share its cores: two busy torch processes with all cores each
    are many times slower than one. For the same reason a user's OMP_NUM_THREADS caps the share.
    """
    import torch

    count = threads or max(1, physical_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and asked.isdecimal() and int(asked) > 0:
        count = min(count, int(asked))
    torch.set_num_threads(count)
    return count
