"""Install the torch build that fits this machine: CUDA where a CUDA device answers, CPU otherwise.

    python scripts/install_torch.py            # into the environment of this interpreter

An installed torch inside the supported window is left alone. Without a CUDA device the CPU build (`+cpu`) is taken from
the package sources that pip is configured with; name a source that has it in TORCH_CPU_INDEX when they do not. Only when
there is none is the ordinary build taken, which on Linux brings CUDA libraries of several GB along: it works, and says so.

Does not: touch any other package, or look for accelerators other than CUDA.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata

VERSION = "2.13.0"
LOWEST, TOO_NEW = (2, 11), (2, 14)


def installed() -> str | None:
    """The installed version when it is inside the window."""
    try:
        found = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    release = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    return found if LOWEST <= release < TOO_NEW else None


def has_cuda_device() -> bool:
    """Whether the NVIDIA driver lists a device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    return listed.returncode == 0 and "GPU" in listed.stdout


def pip(*arguments: str) -> bool:
    """Run pip install; whether it succeeded."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    """Install, and say what was taken."""
    found = installed()
    if found is not None:
        print(f"torch {found} is installed and supported")
        return 0
    if has_cuda_device():
        print(f"a CUDA device answers: installing torch {VERSION} with CUDA")
        return 0 if pip(f"torch=={VERSION}") else 1
    extra = os.environ.get("TORCH_CPU_INDEX")
    source = ["--extra-index-url", extra] if extra else []
    print(f"no CUDA device: installing torch {VERSION} for the CPU")
    if pip(f"torch=={VERSION}+cpu", *source):
        return 0
    print("no CPU build in the configured package sources (set TORCH_CPU_INDEX to one): taking the ordinary build")
    return 0 if pip(f"torch=={VERSION}") else 1


if __name__ == "__main__":
    sys.exit(main())
