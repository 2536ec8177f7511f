"""A training that goes on from another run's: what is carried over, and under which identity.

    forked = prepare(job, processes=1)       # None unless `job.fork` names the other training's folder

The other folder is only read. Its valid checkpoints are copied and committed again under the new job's identity, with where
they came from in it, so that from then on the job resumes like any other. The copy appears as a whole or not at all.

Does not: train, or touch a run folder (see `hybrid.pipeline.fork`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import RunFolderError
from hybrid.store.atomic import fsync_folder, write_json
from hybrid.store.differences import Difference, differences, list_differences
from hybrid.store.faults import faultpoint
from hybrid.weights.base import TrainJob
from hybrid.weights.batches import resumable
from hybrid.weights.checkpoints import (
    MANIFEST,
    Checkpoint,
    checkpoint_folders,
    commit,
    find_newest,
    read_checkpoint,
    read_sealed,
    seal,
)
from hybrid.weights.jobs import job_identity, machine_identity

FORK = "FORK.json"
_SVF = ("weights.svf.train", "weights.svf.target_modules", "weights.svf.directions.")
_FIXED = ("capability", "method", "processes", "start", "weights.lora.", "weights.warm_start", *_SVF)
"""Fields that a checkpoint cannot be carried over: it would not fit the new job's tensors, streams or start."""


@dataclass(frozen=True)
class Forked:
    """What was carried over: the step (0: nothing), what it adds to the identity, and a sentence for the report."""

    step: int
    identity: Mapping[str, Any]
    remark: str

    @property
    def changed(self) -> bool:
        """Whether the training goes on under other settings than those it began with."""
        return bool(self.identity)


def prepare(job: TrainJob, processes: int, rank: int = 0) -> Forked | None:
    """Carry the training in `job.fork` over into `job.out`, once; None when the job is no fork.

    Raises RunFolderError when that training is one that cannot be gone on from, naming the fields.
    """
    if job.fork is None:
        return None
    done = read_sealed(job.out / FORK)
    if isinstance(done, str):
        if rank > 0:
            raise RunFolderError(
                f"{job.out}: {done}; the first process carries a training over before the others start"
            )
        _carry_over(job, processes)
        done = read_sealed(job.out / FORK)
    if isinstance(done, str):
        raise RunFolderError(f"{job.out}: {done}; start over with --fresh")
    return Forked(int(done["step"]), dict(done["identity"]), str(done["remark"]))


def _carry_over(job: TrainJob, processes: int) -> None:
    assert job.fork is not None
    if job.out.is_symlink() or (job.out.is_dir() and any(job.out.iterdir())):
        raise RunFolderError(f"{job.out} already holds a training that was not forked; start over with --fresh")
    staged = job.out.with_name(f".{job.out.name}.forking")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    newest, skipped = find_newest(
        job.fork, None, processes, lambda c: "" if resumable(c.step, job.iterations) else "it lies within a phase"
    )
    wanted = {**job_identity(job), **machine_identity(processes)}
    if newest is None:
        body = _record(job, 0, {}, "".join(f"; skipped {s}" for s in skipped if s.committed))
    else:
        body = _copy(job, newest, wanted, staged)
        passed_over = [str(s) for s in skipped if s.committed]
        body["remark"] += f"; skipped {', '.join(passed_over)}" if passed_over else ""
    write_json(staged / FORK, seal(body))
    faultpoint("fork.before-rename")
    if job.out.is_dir():
        job.out.rmdir()
    staged.rename(job.out)
    fsync_folder(job.out.parent)
    faultpoint("fork.after-rename")


def _copy(job: TrainJob, newest: Checkpoint, wanted: Mapping[str, Any], staged: Path) -> dict[str, Any]:
    """Copy what lies up to `newest` into `staged`, under the new identity where it differs."""
    assert job.fork is not None
    kept = {"start": newest.identity["start"]} if "start" in newest.identity else {}
    changed = differences(_own(newest.identity), {**wanted, **kept})
    _refuse_fixed(job, changed)
    manifest = hashlib.sha256((newest.path / MANIFEST).read_bytes()).hexdigest()
    # A job that is the same in every field is simply continued: it keeps its identity, and its finished result.
    same = not changed
    added = {} if same else {"forked.step": newest.step, "forked.manifest": manifest}
    for entry in sorted(job.fork.iterdir()):
        if entry.name == "warm-start" or (same and entry.name in ("adapters", "RESULT.json")):
            _copied(entry, staged / entry.name)
    for step, folder in reversed(checkpoint_folders(job.fork)):
        found = read_checkpoint(folder, newest.identity, int(wanted["processes"])) if step <= newest.step else None
        if isinstance(found, Checkpoint):
            _copied(folder, staged / folder.name)
            if not same:
                (staged / folder.name / MANIFEST).unlink()
                commit(staged / folder.name, step=step, identity={**wanted, **kept, **added}, base=found.base)
    what = f"unchanged from step {newest.step}" if same else f"from step {newest.step} with {list_differences(changed)}"
    nothing = "" if newest.step < job.steps else f"; that is its last step ({job.steps}), so nothing more is trained"
    return _record(job, newest.step, added, f"goes on {what}{nothing}")


def _own(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without what an earlier fork added to it."""
    return {key: value for key, value in identity.items() if not key.startswith("forked.")}


def _refuse_fixed(job: TrainJob, changed: tuple[Difference, ...]) -> None:
    fixed = [d for d in changed if d.field.startswith(_FIXED)]
    if fixed:
        raise RunFolderError(
            f"{job.fork}: its checkpoints cannot be gone on from ({list_differences(fixed)}): they do not fit the changed "
            "training. Undo this change, or start a run of its own without --fork"
        )


def _record(job: TrainJob, step: int, identity: Mapping[str, Any], remark: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "from": job.fork.name if job.fork else "",
        "step": step,
        "identity": identity,
        "remark": remark,
    }


def _copied(source: Path, target: Path) -> None:
    """Copy a file or a folder of plain files; links are not followed and not copied."""
    if source.is_symlink():
        return
    if source.is_file():
        shutil.copyfile(source, target)
        return
    target.mkdir()
    for entry in sorted(source.iterdir()):
        _copied(entry, target / entry.name)
