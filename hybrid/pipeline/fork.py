"""A run that goes on from what another one has: `hybrid run CONFIG --out NEW --fork OLD`.

A folder belongs to one identity, so a changed configuration is refused. A fork is a run of its own, with an identity of its
own that holds its parent's. It starts with copies of the parent's rollouts, which are content-addressed and so count only
where they are exactly what is asked for, and its trainings go on from the parent's checkpoints (`hybrid.weights.fork`). What
the parent paid stands in the fork's ledger.

A fork looks at sealed splits again that its parent may have opened: for each of those the report warns.

Does not: change the parent, or carry over a verdict.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hybrid.errors import RunFolderError, UsageError
from hybrid.store.differences import differences, list_differences
from hybrid.store.faults import faultpoint
from hybrid.store.folder import SCHEMA_VERSION, RunFolder
from hybrid.store.records import RecordLog

Parent = dict[str, Any]
"""What `run.json` records of the parent: `identity`, `run_id`, absolute `folder`, `changed` (sentences), `opened` (pairs of
capability and sealed split, of all ancestors)."""


def parent_of(folder: RunFolder, fork: Path | None, fields: Mapping[str, Any]) -> Parent | None:
    """The parent that the folder records or, in a new folder, that `fork` gives it, after copying what is carried over.

    Killed in between, the folder has no identity yet and the same command copies again. Raises RunFolderError, UsageError.
    """
    recorded = folder.path / "run.json"
    if recorded.exists():
        known = _read(recorded).get("parent")
        if fork is not None and known is None:
            raise RunFolderError(
                f"{folder.path} already holds a run that was not forked; go on without --fork, or give --out another folder"
            )
        if fork is not None and known is not None and str(fork.resolve()) != known["folder"]:
            raise RunFolderError(
                f"{folder.path} was forked from another run, {known['run_id']}; go on without --fork, or give --out another "
                "folder"
            )
        return known
    if fork is None:
        return None
    if fork.resolve() == folder.path.resolve():
        raise UsageError("--fork names the run that is gone on from, --out the new one; they must be two folders")
    if not (fork / "run.json").is_file():
        raise UsageError(f"--fork {fork}: is not a run folder: it has no run.json")
    with _locked(fork):
        return _adopt(folder, fork, fields)


def forked_fields(fields: Mapping[str, Any], parent: Parent | None) -> dict[str, Any]:
    """The identity of a run: with a parent, it is another one than that of the same run without."""
    return dict(fields) if parent is None else {**fields, "parent": parent["identity"]}


def training_folder(parent: Parent | None, inside: Path) -> Path | None:
    """The parent's folder of the training that lies at `inside` in a run folder; None without a parent."""
    return None if parent is None else Path(parent["folder"]) / inside


def warnings_of(parent: Parent | None) -> tuple[str, ...]:
    """What a report has to say about having a parent."""
    if parent is None:
        return ()
    changed = f"; changed since: {'; '.join(parent['changed'])}" if parent["changed"] else ""
    told = [f"forked from run {parent['run_id']}; its costs are in the ledger{changed}"]
    told += [
        f"{capability}: the parent run had opened the {split} split: what is read from it here is a second look at the same "
        "examples"
        for capability, split in parent["opened"]
    ]
    return tuple(told)


def _adopt(folder: RunFolder, fork: Path, fields: Mapping[str, Any]) -> Parent:
    found = _read(fork / "run.json")
    old = {key: value for key, value in found["fields"].items() if key not in ("parent", "lineage")}
    changed = differences(old, _as_written(old, fields))
    base = [d for d in changed if d.field.startswith("model.") and d.field != "model.device"]
    if base:
        raise RunFolderError(
            f"{fork}: a fork cannot change the base ({list_differences(base)}): neither answers nor adapters carry over. Give "
            "the command without --fork"
        )
    target = folder.path / "rollouts"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted((fork / "rollouts").glob("*.jsonl")):
        if not path.is_symlink():
            shutil.copyfile(path, target / path.name)
    faultpoint("fork.rollouts-copied")
    events = RecordLog(fork / "events.jsonl").read()
    opened = [[e["data"]["capability"], e["data"]["split"]] for e in events if e["kind"] == "split.opened"]
    earlier = (found.get("parent") or {}).get("opened", [])
    return {
        "identity": found["identity"],
        "run_id": f"{old['config']['name']}-{found['identity'][:12]}",
        "folder": str(fork.resolve()),
        "changed": [str(d) for d in changed],
        "opened": sorted([*earlier, *(pair for pair in opened if pair not in earlier)]),
    }


def _as_written(old: Any, new: Any) -> Any:
    """`new` with every absolute path that ends in the old relative one written as that: a resolved configuration names the
    files of the one that it was resolved from."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        named = {key: next((o for o in old if _same_place(o, key)), key) for key in new}
        return {named[key]: _as_written(old.get(named[key]), value) for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_as_written(a, b) for a, b in zip(old, new, strict=True)]
    return old if _same_place(old, new) else new


def _same_place(old: Any, new: Any) -> bool:
    if not isinstance(old, str) or not isinstance(new, str) or not old or Path(old).is_absolute():
        return False
    return Path(new).is_absolute() and new.endswith(f"/{old}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, _ = found["schema_version"], found["fields"]["config"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); start over with --fresh or another --out") from None
    if version != SCHEMA_VERSION:
        raise RunFolderError(f"{path} was written by another version (schema {version}, this is {SCHEMA_VERSION})")
    return dict(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While open no run writes into `path`; nothing else in it is touched."""
    lock = FileLock(str(path / "LOCK"), mode=0o644)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(f"--fork {path}: a process is writing into that run; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
