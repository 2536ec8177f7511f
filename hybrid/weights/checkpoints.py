"""The commit protocol over a trainer's `checkpoint-N` folders, and over the finished result.

    commit(folder, step=25, identity=identity, base=base)     # after the trainer wrote its files
    newest, skipped = find_newest(root, identity, processes=1)

The manifest is written last, by atomic replace, over files that were flushed to disk: a checkpoint without a valid
manifest does not exist. Reading hashes every file, so that a torn, swapped or bit-flipped file is found before it
changes a number in silence. Does not: know what the files mean, or delete anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.errors import RunFolderError
from hybrid.store.atomic import canonical_json, fsync_folder, write_json
from hybrid.store.differences import differences, list_differences
from hybrid.store.faults import faultpoint

MANIFEST = "MANIFEST.json"
_SCHEMA = 1
_FOLDER = re.compile(r"checkpoint-([1-9]\d{0,8})")


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint. `base` is what the trained base was: fingerprint and device. `identity` is that of its job."""

    step: int
    path: Path
    base: Mapping[str, str]
    identity: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Skipped:
    """A checkpoint folder that is not used, and why.

    `committed`: its manifest was once written, so its files were whole and something changed them since. Without one, it is
    what a process leaves that was killed while it saved.
    """

    name: str
    why: str
    committed: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def required_files(processes: int) -> tuple[str, ...]:
    """Files without which training goes on to other numbers, or not at all."""
    streams = ("rng_state.pth",) if processes == 1 else tuple(f"rng_state_{rank}.pth" for rank in range(processes))
    fixed = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")
    return (*fixed, *streams)


def seal(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with the sha256 of its canonical form under `seal`."""
    return {**body, "seal": hashlib.sha256(canonical_json(dict(body)).encode()).hexdigest()}


def read_sealed(path: Path) -> dict[str, Any] | str:
    """The body of a sealed file of this schema, or one phrase that says why there is none."""
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return f"{path.name} cannot be read"
    if not isinstance(value, dict):
        return f"{path.name} is not an object"
    found = value.pop("seal", None)
    if found != seal(value)["seal"]:
        return f"{path.name} is damaged"
    return value if value.get("schema") == _SCHEMA else f"{path.name} was written by another version"


def commit(folder: Path, *, step: int, identity: Mapping[str, Any], base: Mapping[str, str]) -> None:
    """Make the files in `folder` a checkpoint: flush and hash them, then write the manifest. An old one is replaced."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name == MANIFEST or not path.is_file() or path.is_symlink():
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = _facts(path)
    fsync_folder(folder)
    faultpoint("checkpoint.before-manifest")
    body = {"schema": _SCHEMA, "step": step, "identity": dict(identity), "base": dict(base), "files": files}
    write_json(folder / MANIFEST, seal(body))
    faultpoint("checkpoint.after-manifest")


def checkpoint_folders(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything under `root` that is named like a checkpoint, newest first, valid or not."""
    if not root.is_dir():
        return []
    named = [(_FOLDER.fullmatch(path.name), path) for path in root.iterdir()]
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def read_checkpoint(folder: Path, identity: Mapping[str, Any] | None, processes: int) -> Checkpoint | Skipped:
    """The checkpoint in `folder` if every byte is as committed, else why not.

    Raises RunFolderError when it is whole but belongs to another job; with `identity` None any job's will do.
    """
    manifest = read_sealed(folder / MANIFEST) if folder.is_dir() and not folder.is_symlink() else "is no folder"
    if isinstance(manifest, str):
        return Skipped(folder.name, manifest, committed=not folder.is_dir() or os.path.lexists(folder / MANIFEST))
    step, files = manifest.get("step"), manifest.get("files")
    if not isinstance(step, int) or f"checkpoint-{step}" != folder.name or not isinstance(files, dict):
        return Skipped(folder.name, f"its manifest is that of step {step}")
    if identity is not None:
        refuse_other(folder, manifest["identity"], identity)
    for name in required_files(processes):
        if name not in files:
            return Skipped(folder.name, f"{name} was never saved")
    for name in sorted(files):
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            return Skipped(folder.name, f"{name} is missing")
        if _facts(path) != files[name]:
            return Skipped(folder.name, f"{name} differs from the manifest")
    return Checkpoint(step, folder, manifest["base"], manifest["identity"])


def _any(_checkpoint: Checkpoint) -> str:
    return ""


def find_newest(
    root: Path, identity: Mapping[str, Any] | None, processes: int, unusable: Callable[[Checkpoint], str] = _any
) -> tuple[Checkpoint | None, tuple[Skipped, ...]]:
    """The newest valid checkpoint under `root`, and the newer ones that were skipped with the reason.

    `unusable` says why a valid one may not be gone on from; empty when it may.
    """
    skipped: list[Skipped] = []
    for _, folder in checkpoint_folders(root):
        found = read_checkpoint(folder, identity, processes)
        if isinstance(found, Checkpoint):
            why = unusable(found)
            if not why:
                return found, tuple(skipped)
            found = Skipped(folder.name, why, committed=False)
        skipped.append(found)
    return None, tuple(skipped)


def refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise RunFolderError naming the fields in which `found` differs from `wanted`; nothing when they agree."""
    differing = differences(found, wanted)
    if differing:
        raise RunFolderError(
            f"{path} belongs to another training job ({list_differences(differing)}). Undo the change; or give another "
            "--out, with --fork to go on from here; or start over with --fresh"
        )


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
