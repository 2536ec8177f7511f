"""Whole-file writes that either happen completely or not at all.

Temp file in the same folder (O_EXCL), fsync, os.replace, fsync of the folder. Accepted trade-offs: two fsyncs per
write; a killed writer may leave a `.tmp-` file, which nothing reads. Does not: lock (see `folder`).
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hybrid.store.faults import faultpoint


def fsync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, durably. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide a report from colleagues
            os.fsync(file.fileno())
        faultpoint("atomic.before-replace")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    faultpoint("atomic.after-replace")


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text; newlines are kept as they are."""
    write_bytes(path, text.encode("utf-8"))


def canonical_json(value: Any, *, indent: int | None = None) -> str:
    """JSON with sorted keys and no NaN: equal values give equal bytes."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=indent, separators=separators)


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON, indented, with a final newline."""
    write_text(path, canonical_json(value, indent=2) + "\n")
