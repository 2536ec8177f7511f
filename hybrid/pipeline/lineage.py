"""What a run goes back to: the run that it replaces on a new base, or whose review it carries out.

    DIR/lineage.json                     written once, before the run begins; part of the run's identity
    DIR/previous/<capability>/           what shipped before: SKILL.md, adapter/

`hybrid run DIR/config.resolved.json --out DIR` goes on with such a run like with any other, on several processes too.
Does not: decide (`router.lifecycle`), measure, or touch the run that it goes back to.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter
from hybrid.config.schema import PlacementName
from hybrid.errors import RunFolderError
from hybrid.report.parts import Estimate, ModelFacts, Part, ProbeResult, Text
from hybrid.report.parts_lifecycle import Action, DocumentMove, HistoryEntry
from hybrid.skill.document import SkillDocument, parse
from hybrid.store.atomic import canonical_json, write_text

NAME = "lineage.json"
PREVIOUS = "previous"


class Scores(Part):
    """Scores by example of one candidate on the sealed test of the run gone back to, in the order of its examples."""

    ids: tuple[Text, ...]
    prints: tuple[Text, ...]
    """Fingerprints of the examples: only rows that are the same can be paired."""
    values: tuple[float, ...]


class Before(Part):
    """One capability in the run gone back to, and what is to be done with it."""

    was: PlacementName
    reason: Text
    action: Action
    target: PlacementName
    why: Text
    changed: bool = False
    """Whether the data differ from those of the run gone back to."""
    base: Estimate | None
    shipped: Estimate | None
    base_scores: Scores | None = None
    """Of a `replace` only: answers of another base cannot be asked for again."""
    shipped_scores: Scores | None = None
    profile: dict[Text, ProbeResult] = Field(default={})
    document: DocumentMove | None = None
    note: Text = ""
    history: tuple[HistoryEntry, ...] = ()


class Lineage(Part):
    """`kind` is why this run exists; `identity`, `run_id` and `model` are those of the run gone back to."""

    schema_version: Literal[1] = 1
    kind: Literal["replace", "review"]
    run_id: Text
    identity: Text
    model: ModelFacts
    capabilities: dict[Text, Before]
    target: Text = ""
    """Path of the new base, for a `replace`."""

    def to_json(self) -> str:
        """Canonical text: equal lineages give equal bytes."""
        return canonical_json(self.model_dump(mode="json"), indent=2) + "\n"

    @property
    def sha256(self) -> str:
        """Of `to_json`, for the run's identity."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def before(self, name: str) -> Before | None:
        """The capability where something is to be done about it in this run: not for `keep`, and not on another base."""
        found = self.capabilities.get(name)
        return found if found is not None and self.kind == "review" and found.action != "keep" else None


def read_lineage(run_dir: Path) -> Lineage | None:
    """The lineage of a run folder; None for a run of its own. Raises RunFolderError for one that cannot be read."""
    path = run_dir / NAME
    if path.is_symlink():
        raise RunFolderError(f"{path} is a symbolic link; a run folder holds its own files: replace it by a copy")
    if not path.exists():
        return None
    try:
        return Lineage.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); restore it, or delete the folder") from None


def write_lineage(run_dir: Path, lineage: Lineage) -> None:
    """Write it, or check that the one that is there is the same. Raises RunFolderError where it is another."""
    found = read_lineage(run_dir)
    if found is None:
        write_text(run_dir / NAME, lineage.to_json())
    elif found != lineage:
        raise RunFolderError(
            f"{run_dir} already goes back to {found.run_id} in another way (the run, a document or the data changed since); "
            "give --out another folder"
        )


def previous_folder(run_dir: Path, name: str) -> Path:
    """Where the artefacts lie that shipped before."""
    return run_dir / PREVIOUS / name


def keep_previous(source: Path, run_dir: Path, name: str) -> None:
    """Copy what the run in `source` shipped for a capability. Repeating it after a kill gives the same files."""
    target = previous_folder(run_dir, name)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    document, adapter = source / "skills" / name / "SKILL.md", source / "adapters" / name
    if document.is_file() and not document.is_symlink():
        shutil.copyfile(document, target / "SKILL.md")
    if adapter.is_dir() and not adapter.is_symlink():
        shutil.copytree(adapter, target / "adapter", ignore=_links)


def _links(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(folder) / name).is_symlink()}


def previous_document(run_dir: Path, name: str) -> SkillDocument | None:
    """The document that shipped before; None where none did."""
    path = previous_folder(run_dir, name) / "SKILL.md"
    return parse(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None


def previous_adapter(run_dir: Path, name: str) -> Adapter | None:
    """The adapter that shipped before; None where none did. Raises AdapterError for a damaged one."""
    path = previous_folder(run_dir, name) / "adapter"
    return inspect_adapter(path) if path.is_dir() else None
