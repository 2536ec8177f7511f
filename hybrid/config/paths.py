"""Checks that the files which a configuration names are there.

A hub id is not a path: `model.path` and the path of an `hf` source may be one, and are only checked when they can be
nothing but a local path. Does not: open any of the files (`hybrid.capability.sources` and the other readers do).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hybrid.config.proxy import SAME
from hybrid.config.suggest import nearest, quoted
from hybrid.config.yaml_strict import KeyPath

REFERENCE = "reference"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_DATA_FILES = (".json", ".jsonl", ".parquet", ".csv", ".arrow")
_GLOB = set("*?[")
_LISTED = 1000

Want = Literal["file", "folder", "either", "hub"]


@dataclass(frozen=True)
class Reference:
    """A path named in a configuration. `hub` may also be the id of something on the hub."""

    path: KeyPath
    text: str
    want: Want
    what: str


def references(data: Any) -> Iterator[Reference]:
    """Every path in a configuration's data (mappings and lists, valid or not; what is not text is left out)."""
    model = _section(data, "model")
    backend = _section(data, "backend")
    if backend.get("type") != "openai":  # there it is a name that only the endpoint knows
        yield from _one(model, ("model", "path"), "hub", "model folder")
    if backend.get("type") == "scripted":
        yield from _one(backend, ("backend", "script"), "file", "script")
    proxy = _section(_section(data, "weights"), "proxy")
    if proxy.get("small") != SAME:
        yield from _one(proxy, ("weights", "proxy", "small"), "hub", "small model")
    yield from _one(proxy, ("weights", "proxy", "adapter"), "folder", "adapter")
    proposer = _section(_section(data, "skill"), "proposer")
    yield from _one(proposer, ("skill", "proposer", "vocabulary"), "file", "vocabulary")
    if proposer.get("type") == "replay":
        yield from _one(proposer, ("skill", "proposer", "path"), "file", "recording")
    capabilities = data.get("capabilities") if isinstance(data, dict) else None
    yield from _experts(_section(_section(data, "weights"), "swarm"), capabilities)
    for index, entry in enumerate(capabilities if isinstance(capabilities, list | tuple) else ()):
        at: KeyPath = ("capabilities", index)
        source = _section(entry, "source")
        if source.get("type") in ("jsonl", "hf"):
            want: Want = "folder" if source["type"] == "jsonl" else "hub"
            yield from _one(source, (*at, "source", "path"), want, "data")
        elif source.get("type") == "suite":
            yield from _one(source, (*at, "source", "path"), "file", "suite")
        for key, what in (("skill", "skill document"), ("oracle", "oracle text"), ("vocabulary", "vocabulary")):
            yield from _one(entry if isinstance(entry, dict) else {}, (*at, key), "file", what)


def _experts(swarm: dict[str, Any], capabilities: Any) -> Iterator[Reference]:
    """Experts to mix that are no capabilities of the file."""
    listed = swarm.get("experts")
    entries = [e for e in capabilities if isinstance(e, dict)] if isinstance(capabilities, list | tuple) else []
    names = [entry.get("name") for entry in entries]
    for index, text in enumerate(listed if isinstance(listed, list | tuple) else ()):
        if isinstance(text, str) and text not in names:
            yield Reference(("weights", "swarm", "experts", index), text, "folder", "adapter folder")


def missing(reference: Reference, root: Path) -> tuple[str, str] | None:
    """The message and the fix for a path that cannot be used, or None. Relative paths start at `root`."""
    text = reference.text
    if reference.want == "hub" and (text == REFERENCE or _is_remote(text, root)):
        return None
    target = root / text
    try:
        if target.is_dir():
            return (
                (f"{quoted(text)} is a folder", f"name the {reference.what} file in it")
                if reference.want == "file"
                else None
            )
        if target.exists():
            if reference.want != "folder":
                return None
            holds = "train.jsonl, search.jsonl, ..." if reference.what == "data" else "its files"
            return f"{quoted(text)} is a file, expected a folder", f"name the folder that holds {holds}"
    except (OSError, ValueError) as error:  # ValueError: a NUL byte; OSError: too long, or no right to look
        return f"{quoted(text)} cannot be looked up ({_reason(error)})", "correct the path"
    message = f"there is no {reference.what} at {quoted(text)}"
    return message, _nearest_path(text, root)


def gguf_missing(data: Any, root: Path) -> tuple[str, str] | None:
    """The message and the fix for `model.gguf_file` that is not inside a local `model.path`, or None."""
    model = _section(data, "model")
    folder, name = model.get("path"), model.get("gguf_file")
    if not isinstance(folder, str) or not isinstance(name, str) or folder == REFERENCE:
        return None
    try:
        if not (root / folder).is_dir() or (root / folder / name).is_file():
            return None
    except (OSError, ValueError) as error:
        return f"{quoted(name)} cannot be looked up ({_reason(error)})", "correct the file name"
    near = nearest(name, _names(root / folder, ".gguf"))
    fix = f"did you mean {near!r}?" if near else "name a .gguf file of that folder"
    return f"there is no file {quoted(name)} in {quoted(folder)}", fix


def _is_remote(text: str, root: Path) -> bool:
    """Whether the text may be a hub id: it has the form of one, and nothing here suggests that a folder was meant."""
    if _GLOB & set(text):
        return True  # a pattern is for the reader of the data to expand
    if not _HUB_ID.match(text) or text.endswith(_DATA_FILES):
        return False
    if (root / text).exists():
        return False
    first, _, rest = text.partition("/")
    return not rest or nearest(rest, _names(root / first)) is None


def _nearest_path(text: str, root: Path) -> str:
    """Follow the path as far as it exists and suggest the nearest name there."""
    parts = Path(text).parts
    here = root
    for index, part in enumerate(parts):
        if (here / part).exists():
            here = here / part
            continue
        near = nearest(part, _names(here))
        if near is None:
            shown = "/".join(parts[:index]) or "."
            return f"paths start at the folder of this file; look in {quoted(shown)}"
        guess = Path(*parts[:index], near, *parts[index + 1 :])
        whole = (root / guess).exists()
        return f"did you mean {guess.as_posix()!r}?" if whole else f"did you mean {near!r} in place of {part!r}?"
    return "correct the path"


def _names(folder: Path, suffix: str = "") -> list[str]:
    """Names in a folder, sorted, a thousand at most; none where there is no folder or no right to look."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(suffix))[:_LISTED]
    except (OSError, ValueError):
        return []


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)


def _section(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _one(section: dict[str, Any], path: KeyPath, want: Want, what: str) -> Iterator[Reference]:
    text = section.get(str(path[-1]))
    if isinstance(text, str):
        yield Reference(path, text, want, what)
