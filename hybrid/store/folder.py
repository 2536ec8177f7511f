"""The run folder: identity, lock, paths and events.

A folder belongs to one identity: the hash of the resolved configuration, the data, the code version and the base
model. The same command on the same folder goes on; another identity is refused with the fields that differ.
Does not: know what a stage computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hybrid.errors import RunFolderError
from hybrid.store.atomic import canonical_json, write_json, write_text
from hybrid.store.differences import differences, list_differences
from hybrid.store.records import RecordLog

SCHEMA_VERSION = 1
FOLDERS = ("rollouts", "skills", "adapters", "checkpoints", "report", "previous", "seeds")
FILES = ("events.jsonl", "config.resolved.json", "lineage.json", "run.json")
"""What a run writes at the top of its folder. The identity goes last when all is cleared: as long as anything is left,
the folder belongs to the run that wrote it."""


class EventLog:
    """`events.jsonl`: what happened, in order. `seq` numbers events from 1 over all attempts; `t` is Unix seconds."""

    def __init__(self, path: Path) -> None:
        self._log = RecordLog(path)
        self._log.repair()
        self._events = list(self._log.read())

    def append(self, kind: str, **data: Any) -> dict[str, Any]:
        """Record one event durably and return it."""
        event = {"seq": len(self._events) + 1, "t": round(time.time(), 3), "kind": kind, "data": data}
        self._log.append([event])
        self._events.append(event)
        return event

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._events)

    def last(self, kind: str, **match: Any) -> dict[str, Any] | None:
        """The newest event of `kind` whose data hold all of `match`; None when there is none."""
        for event in reversed(self._events):
            if event["kind"] == kind and all(event["data"].get(k) == v for k, v in match.items()):
                return dict(event)
        return None

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every event of `kind`, oldest first."""
        return [e for e in self._events if e["kind"] == kind]

    def wall_seconds(self) -> float:
        """Seconds from the start of each attempt to its last event, summed over attempts: pauses are not counted."""
        total, started, newest = 0.0, None, 0.0
        for event in self._events:
            if event["kind"] == "attempt.started":
                total += newest - started if started is not None else 0.0
                started = event["t"]
            newest = event["t"]
        return total + (newest - started if started is not None else 0.0)


def identity_hash(fields: Mapping[str, Any]) -> str:
    """sha256 (hex) of the identity fields."""
    return hashlib.sha256(canonical_json(dict(fields)).encode()).hexdigest()


class RunFolder:
    """A locked run folder. Use as a context manager; a second process is refused with the owner's pid."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """`fresh` clears the folder once it is locked, before anything in it is read."""
        self.path = path
        self._fresh = fresh
        self._lock = FileLock(str(path / "LOCK"), mode=0o644)
        self.events: EventLog

    def __enter__(self) -> RunFolder:
        if self.path.is_symlink():
            raise RunFolderError(f"{self.path} is a symbolic link; name the folder itself")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            owner = self._owner.read_text(encoding="utf-8").strip() if self._owner.exists() else "unknown"
            raise RunFolderError(
                f"{self.path} is in use by process {owner}; wait for it, or give --out another folder"
            ) from None
        try:
            self._owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
            if self._fresh:
                self.clear()
            self._refuse_links()
            self.events = EventLog(self.path / "events.jsonl")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._owner.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _owner(self) -> Path:
        return self.path / "OWNER"

    def clear(self) -> None:
        """Remove everything that a run writes (`--fresh`); the lock stays held. Other files are left alone."""
        for name in (*FOLDERS, *FILES):
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self.events = EventLog(self.path / "events.jsonl")

    def _refuse_links(self) -> None:
        for name in (*FOLDERS, *FILES):
            if (self.path / name).is_symlink():
                raise RunFolderError(f"{self.path / name} is a symbolic link; a run writes only inside its own folder")

    def claim(self, fields: Mapping[str, Any], resolved_config: str, parent: Mapping[str, Any] | None = None) -> bool:
        """Bind the folder to an identity. True when it already held this one (a resume). Raises on any other.

        `parent` is recorded beside the identity: the run that this one was forked from.
        """
        path = self.path / "run.json"
        wanted = {"schema_version": SCHEMA_VERSION, "identity": identity_hash(fields), "fields": dict(fields)}
        if parent is not None:
            wanted["parent"] = dict(parent)
        if path.exists():
            self._refuse_other(path, wanted)
            return True
        write_text(self.path / "config.resolved.json", resolved_config)
        write_json(path, wanted)
        return False

    def _refuse_other(self, path: Path, wanted: Mapping[str, Any]) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            identity, fields = found["identity"], found["fields"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} cannot be read ({error}); start over with --fresh or another --out") from None
        if found.get("schema_version") != SCHEMA_VERSION:
            raise RunFolderError(
                f"{path} was written by another version (schema {found.get('schema_version')}, this is {SCHEMA_VERSION}); "
                "use that version, or start over with --fresh"
            )
        if identity != wanted["identity"]:
            shown = list_differences(differences(fields, wanted["fields"])) or "the identity itself differs"
            raise RunFolderError(
                f"{self.path} belongs to another run ({shown}). Give --out another folder, with --fork {self.path} to go on "
                "from what this one has; or --fresh to start over"
            )
