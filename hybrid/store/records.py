"""Append-only JSONL whose every line carries a checksum.

A torn or corrupt *last* line is what a killed writer leaves: it is dropped and its content is owed again. A corrupt
line in the middle is damage, and reading stops with its number: numbers are never computed from a damaged file.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hybrid.errors import RunFolderError
from hybrid.store.atomic import canonical_json, fsync_folder
from hybrid.store.faults import faultpoint


def _checksum(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(canonical_json(record).encode('utf-8')):08x}"


def encode(record: dict[str, Any]) -> str:
    """One line, newline included. `record` must not hold the key `crc`."""
    return canonical_json({**record, "crc": _checksum(record)}) + "\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(record, dict):
        return None
    crc = record.pop("crc", None)
    return record if crc == _checksum(record) else None


class RecordLog:
    """A checksummed JSONL file. One writer at a time; the run folder's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole record in order. Raises RunFolderError on damage before the last line."""
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        last = max((i for i, line in enumerate(lines) if line), default=-1)
        for number, line in enumerate(lines):
            if not line:
                continue
            record = _decode(line)
            if record is None:
                if number == last:
                    return
                raise RunFolderError(
                    f"{self.path}:{number + 1}: this line is damaged (its checksum does not match); "
                    "restore the file from a copy, or start over with --fresh"
                )
            yield record

    def repair(self) -> bool:
        """Cut a torn last line off, so that appending starts on a line of its own. True when something was cut.

        Only one: a kill tears one line, so another damaged one before it is left for `read` to refuse.
        """
        if not self.path.exists():
            return False
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            body = data.rstrip(b"\n")
            start = body.rfind(b"\n") + 1
            if not body or _decode(body[start:]) is not None:
                return False
            whole = start
        elif _decode(data[whole:]) is not None:  # whole record, only its newline is missing
            with self.path.open("ab") as file:
                file.write(b"\n")
            return False
        before = data[:whole].rstrip(b"\n")
        if before and _decode(before[before.rfind(b"\n") + 1 :]) is None:
            return False
        with self.path.open("r+b") as file:
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())
        return True

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write records durably: when this returns they survive a power cut."""
        data = "".join(encode(r) for r in records).encode("utf-8")
        if not data:
            return
        fresh = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            faultpoint(f"append.{self.path.suffix[1:]}.before")
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            fsync_folder(self.path.parent)
        faultpoint(f"append.{self.path.suffix[1:]}.after")
