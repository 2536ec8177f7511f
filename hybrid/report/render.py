"""Drawing the report of a run folder: `placement.json` in, `placement.md`, `placement.html` and terminal text out.

Files are replaced atomically, and the same JSON gives the same bytes. A report folder or file that is a symbolic link
is refused: nothing outside the run folder is read or written. Does not: change `placement.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hybrid.config.suggest import did_you_mean
from hybrid.errors import RunFolderError, UsageError
from hybrid.report.explain import find, to_text
from hybrid.report.html import to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.schema import Report, load_report
from hybrid.store.atomic import write_text

DRAWERS: Mapping[str, Callable[[Report], str]] = {"md": to_markdown, "html": to_html}
FORMATS = ("json", *DRAWERS)


def report_path(run_dir: Path, extension: str = "json") -> Path:
    """Where a form of the report lies. Raises RunFolderError when it, or its folder, is a symbolic link."""
    folder = run_dir / "report"
    path = folder / f"placement.{extension}"
    for place in (folder, path):
        if place.is_symlink():
            raise RunFolderError(f"{place} is a symbolic link; a run folder holds its own files: replace it by a copy")
    return path


def write_report(run_dir: Path, formats: Iterable[str]) -> dict[str, Path]:
    """Draw the forms asked for beside `placement.json`; format -> path. `json` is there already and is only checked.

    Raises UsageError for an unknown format, and RunFolderError when the report is absent, damaged or a link; nothing
    is written then.
    """
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(f"unknown report format {name!r}; {did_you_mean(name, FORMATS, 'the formats are')}")
    report = load_report(report_path(run_dir))
    paths = {name: report_path(run_dir, name) for name in wanted}
    drawn = {name: DRAWERS[name](report) for name in wanted if name in DRAWERS}
    for name, text in drawn.items():
        write_text(paths[name], text)
    return paths


def explain(run_dir: Path, capability: str) -> str:
    """Why a capability went where it went, in plain text. UsageError: unknown name; RunFolderError: no sound report."""
    report = load_report(report_path(run_dir))
    return to_text(report, find(report, capability))
