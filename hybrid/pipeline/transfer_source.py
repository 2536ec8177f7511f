"""What a transfer starts from: a finished run, its documents, its data, and the other model's section.

Does not: measure, or write anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.capability.sources import load_capability
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig, load_config
from hybrid.config.schema import ModelConfig
from hybrid.errors import DataError, RunFolderError, UsageError
from hybrid.report.render import report_path
from hybrid.report.schema import Report, load_report
from hybrid.skill.document import parse

FREE = ("budget", "backend.batch_size", "model.threads")
"""Keys of the run's configuration that `--set` may change for a transfer: none changes what is measured."""


@dataclass(frozen=True)
class Source:
    """A finished run: its configuration, its report, its identity and the identity's fields."""

    path: Path
    loaded: LoadedConfig
    report: Report
    identity: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """A document of the run. `path` is relative to the run folder; `shipped` tells SKILL.md from an optimised version."""

    name: str
    path: str
    body: str
    shipped: bool

    @property
    def sha256(self) -> str:
        """Of the body."""
        return hashlib.sha256(self.body.encode()).hexdigest()


def read_source(run_dir: Path, overrides: Sequence[str] = ()) -> Source:
    """The run, checked. `overrides` (`key=value`) may set the budget, the batch size and the threads."""
    file = run_dir / "run.json"
    if not file.is_file():
        raise UsageError(f"{run_dir} is not a run folder: it has no run.json; name the folder given to --out")
    for key in (override.partition("=")[0].strip() for override in overrides):
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise UsageError(
                f"--set {key}: a transfer measures what the run measured; only {', '.join(FREE)} can be set"
            )
    report = load_report(report_path(run_dir))
    loaded = load_config(run_dir / "config.resolved.json", overrides)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        fields = {**found["fields"], "data": dict(found["fields"]["data"])}
        source = Source(run_dir, loaded, report, str(found["identity"]), fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{file} cannot be read ({error}); restore it from a copy") from None
    unreported = {c.name for c in loaded.config.capabilities} - {c.name for c in report.capabilities}
    if unreported:
        raise RunFolderError(f"{run_dir}: the report says nothing of {min(unreported)}; restore the folder from a copy")
    return source


def choose_model(source: Source, path: str, settings: Mapping[str, Any]) -> ModelConfig:
    """The other model's section. `settings` are keys of `model`; those absent or None are the run's, where they can apply.

    The run's revision applies to its own model alone, its GGUF name where the folder has such a file. `end_of_answer`
    "" means the model's own end token.
    """
    own = source.loaded.config.model
    local = Path(path).absolute()
    here = str(local) if path != "reference" and local.exists() else path
    gguf = own.gguf_file if own.gguf_file is not None and (local / own.gguf_file).is_file() else None
    given = {key: value for key, value in settings.items() if value is not None}
    if given.get("end_of_answer") == "":
        given["end_of_answer"] = None
    revision = own.revision if here == own.path else None
    return own.model_copy(update={"path": here, "gguf_file": gguf, "revision": revision, **given})


def find_documents(source: Source) -> list[Document]:
    """Every document of the run, in the order of its capabilities: what shipped, else the newest optimised version.

    A capability whose document was never changed has none. Raises DataError for one that cannot be parsed.
    """
    found = []
    for settings in source.loaded.config.capabilities:
        folder = source.path / "skills" / settings.name
        if (folder / "SKILL.md").is_file():
            found.append(_read_document(source, settings.name, folder / "SKILL.md"))
            continue
        versions = sorted(p for p in (folder / "versions").glob("*.md") if p.stem.isdigit())
        read = [_read_document(source, settings.name, path) for path in versions[:1] + versions[-1:]]
        if read and read[-1].body.strip() and read[-1].body != read[0].body:
            found.append(read[-1])
    return found


def _read_document(source: Source, name: str, path: Path) -> Document:
    refuse_link(path)
    body = parse(path.read_text(encoding="utf-8"), str(path)).body
    return Document(name, path.relative_to(source.path).as_posix(), body, path.name == "SKILL.md")


def refuse_link(path: Path) -> None:
    """Raise RunFolderError for a symbolic link: what it points to is not the run's."""
    if path.is_symlink():
        raise RunFolderError(f"{path} is a symbolic link; a run folder holds its own files: replace it by a copy")


def load_capabilities(source: Source, wanted: Sequence[Document]) -> tuple[Capability, ...]:
    """The capabilities of the documents, with the run's data. Raises DataError, and RunFolderError when they changed."""
    settings, resolve = {c.name: c for c in source.loaded.config.capabilities}, source.loaded.resolve
    known, out = source.fields["data"], []
    for name in (d.name for d in wanted):
        capability, problems = load_capability(settings[name], resolve, source.loaded.config.seed)
        if capability is None:
            raise DataError(problems)
        if known.get(name) != capability.fingerprint():
            where = settings[name].source.path or "a suite"
            raise RunFolderError(
                f"{name}: the data at {where}, or what grades them, changed since the run; a transfer "
                "needs the same examples: restore them, or run again"
            )
        out.append(capability)
    return tuple(out)
