"""What a run placed, checked on the way: a skill against the text in the report, an adapter against manifest and base.

Used by whoever gives a run's artefacts away (`export`) or applies them (`placement`). Does not: write anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from hybrid.backends.adapters import check_adapter
from hybrid.errors import AdapterError, BackendError, DataError, RunFolderError, UsageError
from hybrid.report.render import report_path
from hybrid.report.schema import CapabilityReport, Report, load_report
from hybrid.skill.document import NAME
from hybrid.skill.evidence_metadata import verify_stamp
from hybrid.skill.library import SKILL_FILE, Skill, load_skill
from hybrid.skill.references import whole


def finished_report(run_folder: Path) -> Report:
    """The report of a finished run. UsageError for a folder that is no run, RunFolderError for an unfinished one."""
    path = report_path(run_folder)
    if not path.exists():
        if not (run_folder / "run.json").exists():
            raise UsageError(f"{run_folder} is not a run folder: it has no run.json")
        raise RunFolderError(
            f"{run_folder} has no report yet: its run is not finished; "
            f"`hybrid run CONFIG --out {run_folder}` with the CONFIG that began it finishes it"
        )
    return load_report(path)


def placed_skill(run_folder: Path, report: Report, c: CapabilityReport) -> tuple[Skill, str]:
    """The document that was placed, and the text of it that was measured. Raises RunFolderError where they differ."""
    home = inside(run_folder, c, c.artifacts.skill, f"skills/{c.name}/{SKILL_FILE}").parent
    again = f"`hybrid run CONFIG --out {run_folder}` with the CONFIG that began it puts it back"
    try:
        skill = load_skill(home, any_name=True)
    except DataError as error:
        raise RunFolderError(f"{error}\n{home / SKILL_FILE} was placed and cannot be read; {again}") from None
    recorded = report.provenance.hashes.get(f"skill/{c.name}")
    found = hashlib.sha256((home / SKILL_FILE).read_bytes()).hexdigest()
    body, state = whole(skill.document.body, skill.references), verify_stamp(skill.document, skill.references)
    added = skill.references and body == skill.document.body
    if body != c.skill_text or recorded not in (None, found) or state == "changed" or added:
        raise RunFolderError(f"{home / SKILL_FILE} is not the document that was measured; {again}")
    return skill, body


def placed_adapter(run_folder: Path, c: CapabilityReport) -> Path:
    """The folder of the adapter that was placed. It is there; what it holds is not looked at yet."""
    home = inside(run_folder, c, c.artifacts.adapter, f"adapters/{c.name}")
    if not home.is_dir():
        raise AdapterError(f"{home}: was placed and is missing; the command that began the run puts it back")
    return home


def sound_adapter(folder: Path, fingerprint: str, called: Path | None = None) -> None:
    """Check an adapter: every hash, the base it was trained on, finite numbers. Errors name it as `called`."""
    home = called or folder
    try:
        check_adapter(folder, fingerprint)
    except ImportError as error:
        raise BackendError(
            f"{home}: an adapter is checked with the training stack, and {error.name} is not installed; "
            "pip install 'hybrid-placement[train]'"
        ) from None
    except AdapterError as error:
        raise AdapterError(str(error).replace(str(folder), str(home))) from None


def inside(run_folder: Path, c: CapabilityReport, named: str | None, expected: str) -> Path:
    """The path of an artefact. A report that names another place, and links on the way, are refused."""
    if named != expected or NAME.fullmatch(c.name) is None:
        raise RunFolderError(f"the report of {c.name!a} names {named!a}, and a run keeps it at {expected!a}")
    path = run_folder
    for part in Path(expected).parts:
        path = path / part
        if path.is_symlink():
            raise RunFolderError(f"{path} is a symbolic link; a run folder holds its own files: replace it by a copy")
    return path


def hashes(folder: Path, root: Path | None = None) -> Mapping[str, str]:
    """sha256 (hex) by path, relative to `root`, of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(root or folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
