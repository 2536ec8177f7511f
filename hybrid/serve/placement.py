"""A placement read from disk: what each capability of a run or an export gets, and how its base is loaded.

    placement = read_placement(Path("runs/a"))           # or an export; every file is checked against its hash
    placement.parts["units"].skill                       # the measured text, or "" where none was placed

Does not: load a model, or decide which capability a request belongs to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter, Sampling
from hybrid.config.loader import load_config
from hybrid.config.schema import BackendConfig, ModelConfig
from hybrid.errors import AdapterError, DataError, RunFolderError, UsageError
from hybrid.serve.artifacts import finished_report, hashes, placed_adapter, placed_skill, sound_adapter
from hybrid.serve.facts import SERVING, CapabilityFacts, ServingFacts, read_facts
from hybrid.serve.routing import Described
from hybrid.skill.evidence_metadata import body_hash
from hybrid.skill.library import SKILL_FILE, load_skill
from hybrid.skill.references import whole

MANIFEST = "manifest.json"
ADAPTERS_OF = ("weights", "both")


@dataclass(frozen=True)
class Part:
    """One capability: the text and the adapter that were placed ("" and None for neither), and how it was measured."""

    name: str
    placement: str
    skill: str
    adapter: Adapter | None
    facts: CapabilityFacts

    @property
    def sampling(self) -> Sampling:
        """The decoding settings it was measured with."""
        return self.facts.sampling

    @property
    def described(self) -> Described:
        """What the request router knows of it."""
        return Described(self.name, self.facts.description, self.facts.examples, self.skill)


@dataclass(frozen=True)
class Placement:
    """What a folder says. `fingerprint` and `model_path` are of the base that everything was measured on."""

    folder: Path
    run_id: str
    fingerprint: str
    model_path: str
    model: ModelConfig
    small: ModelConfig | None
    backend: BackendConfig
    resolve: Callable[[str], Path]
    parts: Mapping[str, Part]

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Every placed adapter once, in the order of the capabilities."""
        found = {p.adapter.sha256: p.adapter for p in self.parts.values() if p.adapter is not None}
        return tuple(found.values())


def read_placement(folder: Path) -> Placement:
    """The placement in a run folder or an export.

    Raises UsageError for a folder that is neither, RunFolderError for an unfinished run and for files that are not those
    of the manifest or the report, AdapterError for an adapter that is damaged or belongs to another base.
    """
    if (folder / MANIFEST).is_file() and not (folder / "run.json").exists():
        return _of_export(folder)
    if not (folder / "run.json").exists():
        raise UsageError(f"{folder} is neither a run folder (run.json) nor an export ({MANIFEST})")
    return _of_run(folder)


def _of_run(folder: Path) -> Placement:
    report = finished_report(folder)
    facts = read_facts(folder / "report" / SERVING)
    loaded = load_config(folder / "config.resolved.json")  # its paths are absolute
    parts = {}
    for c in report.capabilities:
        skill = placed_skill(folder, report, c)[1] if c.artifacts.skill is not None else ""
        adapter = None
        if c.artifacts.adapter is not None:
            home = placed_adapter(folder, c)
            sound_adapter(home, report.model.fingerprint)
            adapter = inspect_adapter(home)
        parts[c.name] = Part(c.name, c.placement, skill, adapter, _facts(facts, c.name, folder))
    model = report.model
    return Placement(
        folder,
        report.run_id,
        model.fingerprint,
        model.path,
        loaded.config.model,
        loaded.config.small,
        loaded.config.backend,
        loaded.resolve,
        parts,
    )


def _of_export(folder: Path) -> Placement:
    manifest = _manifest(folder)
    facts = read_facts(folder / SERVING)
    model = manifest["model"]
    parts = {}
    for row in manifest["capabilities"]:
        name = str(row["name"])
        skill = _exported_skill(folder, row) if row["skill"] else ""
        adapter = None
        if row["adapter"]:
            home = folder / "adapters" / name
            sound_adapter(home, model["fingerprint"])
            adapter = inspect_adapter(home)
            if adapter.sha256 != row["adapter_sha256"]:
                raise AdapterError(f"{home}: is not the adapter that the manifest names; export the run again")
        parts[name] = Part(name, str(row["placement"]), skill, adapter, _facts(facts, name, folder))
    here = Path.cwd()
    return Placement(
        folder,
        str(manifest["run_id"]),
        str(model["fingerprint"]),
        str(model["path"]),
        facts.model,
        facts.small,
        facts.backend,
        lambda text: here / text,
        parts,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, once every file is as it says. Links are refused, as are files that it does not name."""
    path = folder / MANIFEST
    again = "export the run again"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files, version = dict(data["files"]), data["schema_version"]
        _ = [(c["name"], c["placement"], c["skill"], c["adapter"], c["adapter_sha256"]) for c in data["capabilities"]]
        _ = data["model"]["fingerprint"], data["model"]["path"], data["run_id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({type(error).__name__}: {error}); {again}") from None
    if version != 1:
        raise RunFolderError(f"{path} has schema_version {version!r} and this version of hybrid reads 1; {again}")
    for place in sorted(folder.rglob("*")):
        if place.is_symlink():
            raise RunFolderError(f"{place} is a symbolic link; an export holds its own files: {again}")
    found = {name: digest for name, digest in hashes(folder).items() if name != MANIFEST}
    wrong = sorted(name for name in files if found.get(name) != files[name])
    if wrong:
        state = "is missing" if wrong[0] not in found else "is not the file that was exported"
        raise RunFolderError(f"{folder / wrong[0]} {state}; {again}")
    listed = {c["name"] for c in data["capabilities"]}
    for place in [*(folder / "skills").glob("*"), *(folder / "adapters").glob("*")]:
        if place.name not in listed:
            raise RunFolderError(f"{place} belongs to no capability of the manifest; remove it")
    return dict(data)


def _exported_skill(folder: Path, row: Mapping[str, Any]) -> str:
    home = folder / "skills" / str(row["name"])
    if row["skill"] != f"skills/{row['name']}/{SKILL_FILE}":
        raise RunFolderError(f"the manifest of {row['name']!a} names {row['skill']!a} as its document")
    try:
        skill = load_skill(home)
    except DataError as error:
        raise RunFolderError(f"{error}\n{home} cannot be read; export the run again") from None
    body = whole(skill.document.body, skill.references)
    if body_hash(body) != row.get("body_sha256"):
        raise RunFolderError(f"{home} does not give the text that was measured; export the run again")
    return body


def _facts(facts: ServingFacts, name: str, folder: Path) -> CapabilityFacts:
    found = facts.of(name)
    if found is None:
        raise RunFolderError(f"{folder}: {SERVING} does not say how {name!a} is asked; make the run's report again")
    return found


def digest(text: str) -> str:
    """sha256 (hex) of a text, as a trace names a document."""
    return hashlib.sha256(text.encode()).hexdigest()
