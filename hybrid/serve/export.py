"""A finished run as a folder to give away: skills, adapters, a manifest and a model card.

    export(Path("runs/a"), Path("out/a")).manifest["capabilities"]

What ships is what the report says, and every byte is checked on the way: a skill against the text in the report, an
adapter against its own manifest and the base model of the report. The folder is built beside its target and renamed, so
it is there as a whole or not at all; the same run gives the same bytes. Nothing outside the run folder is read.
Does not: change the run folder, load a model, or hold what was not placed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hybrid import __version__
from hybrid.backends.adapters import MANIFEST as ADAPTER_MANIFEST
from hybrid.backends.adapters import inspect_adapter
from hybrid.config.loader import load_config
from hybrid.errors import AdapterError, RunFolderError, UsageError
from hybrid.report.markdown import esc, table
from hybrid.report.proxy_text import how_read
from hybrid.report.schema import CapabilityReport, Estimate, Report
from hybrid.report.text import ABSENT, interval, limits, num, placed_arm, pvalue, sealed, signed
from hybrid.serve.artifacts import finished_report, hashes, placed_adapter, placed_skill, sound_adapter
from hybrid.serve.facts import SERVING, ServingFacts, read_facts, write_facts
from hybrid.serve.formats import Format, Pack, Written, front_matter, write_format
from hybrid.serve.formats_vllm import describe
from hybrid.skill.document import SkillDocument
from hybrid.skill.evidence_metadata import body_hash
from hybrid.skill.library import load_library, load_skill, save_skill
from hybrid.skill.references import split, whole
from hybrid.store.atomic import fsync_folder, write_bytes, write_json, write_text
from hybrid.store.faults import faultpoint
from hybrid.store.folder import FOLDERS

SCHEMA_VERSION = 1
MANIFEST, CARD = "manifest.json", "README.md"
SVF_RANK = 64
ENGINES: Mapping[Format, str] = {"hub": "PEFT, from the Hugging Face hub", "vllm": "vLLM", "ollama": "Ollama"}
BODY_TOKENS = 5000
"""Most tokens of an exported SKILL.md, as the format recommends; a longer body is split into references."""


@dataclass(frozen=True)
class Exported:
    """Where an export lies, and its manifest."""

    folder: Path
    manifest: dict[str, Any]


def about_tokens(text: str) -> int:
    """Tokens of a text without a tokenizer: four characters each, which English takes about."""
    return -(-len(text) // 4)


def export(
    run_folder: Path,
    to: Path,
    *,
    force: bool = False,
    body_tokens: int = BODY_TOKENS,
    fmt: Format | None = None,
    svf_rank: int = SVF_RANK,
) -> Exported:
    """Write the export of a finished run to `to`; with `fmt`, also what another engine needs to serve it (see `formats`).

    `svf_rank` is the most rank of the LoRA that an SVF adapter becomes for an engine that knows no SVF; the base is loaded then.

    Raises UsageError for a target that is not empty (without `force`, which replaces it), is a link, or holds the run;
    RunFolderError for a run without a sound report, or a skill that differs from it; AdapterError for an adapter that
    fails its checks. Nothing is left behind then, and an earlier export stays as it was.
    """
    report = finished_report(run_folder)
    _check_target(run_folder, to, force)
    parent = to.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".tmp-export-", dir=parent))
    try:
        manifest = _build(run_folder, report, staging, body_tokens, fmt, svf_rank)
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the export from colleagues
        faultpoint("export.before-rename")
        _put(staging, to, parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    fsync_folder(parent)
    return Exported(to, manifest)


def launch_of(manifest: Mapping[str, Any]) -> list[str]:
    """How an export with a format is served, and what that cannot express, in lines; none for a plain one."""
    told = manifest.get("format")
    if told is None:
        return []
    return [told["launch"], *(f"not expressed: {text}" for text in told["not_expressed"])]


def card(report: Report) -> str:
    """The model card, drawn from the report alone: equal reports give equal text. Names and texts are escaped."""
    m = report.model
    size = (
        f"{m.parameters:,} parameters, {esc(m.dtype)}" if m.device != "remote" else "size unknown, behind an endpoint"
    )
    lines = [f"# {esc(report.run_id)}: skills and adapters", ""]
    lines += [
        f"Made for the base model {esc(m.path)} ({size}), fingerprint "
        f"{esc(m.fingerprint)}. On another model nothing below is known to hold; an adapter does not fit another one.",
        "",
        "## What was measured",
        "",
    ]
    head = ("capability", "placed", "base", "placed arm", "delta", "p", "improved", "regressed", "files")
    lines += table(head, [_row(c) for c in report.capabilities])
    lines += [
        "Means on the sealed test, which was opened once, with their intervals; delta is placed arm minus base, paired by "
        f"example; p is one-sided. {ABSENT}: not measured, or nothing was placed.",
        "",
        "## How it is read",
        "",
        "A skill is `skills/NAME/SKILL.md` in the Agent Skills format. What was measured is the body, below the front "
        "matter, put before the prompt (as the system message in a chat). Where a body was split, its references belong "
        "to it: reading all of them in the order of the index gives the measured text. An adapter is a PEFT folder for "
        "the base model above. `manifest.json` has the sha256 of every file.",
        "",
        *(f"{esc(told, 1000)}\n" for c in report.capabilities if (told := how_read(c))),
        "## Why",
        "",
        *(f"- {esc(c.name)}: {c.placement}; {esc(c.reason, 2000)}" for c in report.capabilities),
        "",
        "## Limits",
        "",
        *(f"- {text}" for text in limits(report)),
        *(f"- Warning: {esc(text, 2000)}" for text in report.warnings),
        "",
    ]
    return "\n".join(lines)


def _row(c: CapabilityReport) -> tuple[str, ...]:
    arm, d = placed_arm(c), c.delta
    change = (
        (f"{signed(d.mean)} {interval(d, sign=True)} n={d.n}", pvalue(d.p), str(d.improved), str(d.regressed))
        if d
        else (ABSENT,) * 4
    )
    files = ", ".join(esc(path) for path in (c.artifacts.skill, c.artifacts.adapter) if path) or ABSENT
    after = _estimate(sealed(c, arm)) if arm != "base" else ABSENT
    return (esc(c.name), c.placement, _estimate(sealed(c, "base")), after, *change, files)


def _estimate(found: Estimate | None) -> str:
    return ABSENT if found is None else f"{num(found.mean)} {interval(found)} n={found.n}"


def _check_target(run_folder: Path, to: Path, force: bool) -> None:
    if to.is_symlink():
        raise UsageError(f"{to} is a symbolic link; name the folder itself")
    target, run, here = to.resolve(), run_folder.resolve(), Path.cwd().resolve()
    if run.is_relative_to(target) or here.is_relative_to(target):
        raise UsageError(f"{to} holds the run or the working folder; give --to a folder of its own")
    if any(target.is_relative_to(run / name) for name in FOLDERS):
        raise UsageError(f"{to} lies where the run keeps its own files; give --to a folder outside it")
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file; give --to a folder")
    if to.is_dir() and any(to.iterdir()) and not force:
        raise UsageError(f"{to} is not empty; give --to another folder, or --force to replace everything in it")


def _put(staging: Path, to: Path, parent: Path) -> None:
    """Rename the built folder to its target; what was there goes aside first and is removed last."""
    if not to.exists() or not any(to.iterdir()):
        staging.replace(to)  # over an empty folder too
        return
    aside = Path(tempfile.mkdtemp(prefix=".tmp-replaced-", dir=parent))
    to.replace(aside)
    try:
        staging.replace(to)
    except BaseException:
        aside.replace(to)
        raise
    shutil.rmtree(aside)


def _build(
    run_folder: Path, report: Report, staging: Path, body_tokens: int, fmt: Format | None, svf_rank: int
) -> dict[str, Any]:
    capabilities = [_capability(run_folder, report, c, staging, body_tokens) for c in report.capabilities]
    if (staging / "skills").is_dir():
        load_library(staging / "skills")  # every export is readable by the strict reader as a whole
    served = run_folder / "report" / SERVING
    facts = read_facts(served) if served.exists() or fmt is not None else None
    if facts is not None:
        write_facts(staging / SERVING, facts)
    head, tail, formatted = "", "", {}
    if fmt is not None and facts is not None:
        packs = [_pack(report, row, facts) for row in capabilities]
        written = write_format(fmt, staging, packs, facts, partial(_convert, run_folder, svf_rank))
        head = front_matter(facts, packs) if fmt == "hub" else ""
        tail, formatted = _served_by(fmt, written), {"format": written.as_json(fmt)}
    write_text(staging / CARD, head + card(report) + tail)
    manifest = {
        **formatted,
        "schema_version": SCHEMA_VERSION,
        "run_id": report.run_id,
        "created": report.created,
        "model": report.model.model_dump(mode="json"),
        "versions": {**report.provenance.versions, "exported by hybrid": __version__},
        "capabilities": capabilities,
        "files": hashes(staging),
    }
    write_json(staging / MANIFEST, manifest)
    return manifest


def _pack(report: Report, row: Mapping[str, Any], facts: ServingFacts) -> Pack:
    """What a format needs of one capability."""
    c = next(c for c in report.capabilities if c.name == row["name"])
    asked = facts.of(c.name)
    if asked is None:
        raise RunFolderError(f"{SERVING} does not say how {c.name!a} is asked; make the run's report again")
    skill = (c.skill_text or "") if row["skill"] else ""
    return Pack(c.name, c.placement, skill, row["adapter"], asked.sampling, asked.turns)


def _convert(run_folder: Path, rank: int, folder: Path, out: Path) -> dict[str, Any]:
    """An SVF adapter as a LoRA, over the run's base, which is loaded for it."""
    from hybrid.backends.build import default_cache_dir
    from hybrid.backends.loading import load_base
    from hybrid.backends.svf.export import svf_to_lora

    config = load_config(run_folder / "config.resolved.json")
    loaded = load_base(config.config.model, config.resolve, default_cache_dir())
    return svf_to_lora(folder, loaded, rank, out).as_json()


def _served_by(fmt: Format, written: Written) -> str:
    """The card's section on a format."""
    lines = [f"## With {ENGINES[fmt]}", "", "```", written.launch, "```", ""]
    if fmt == "vllm":
        lines += [describe(), ""]
    lines += ["What this cannot express:", "", *(f"- {esc(text, 2000)}" for text in written.not_expressed), ""]
    return "\n".join(["", *lines])


def _capability(
    run_folder: Path, report: Report, c: CapabilityReport, staging: Path, body_tokens: int
) -> dict[str, Any]:
    skill = _skill(run_folder, report, c, staging, body_tokens) if c.artifacts.skill is not None else None
    adapter = _adapter(run_folder, report, c, staging) if c.artifacts.adapter is not None else None
    found = {path: digest for part in (skill, adapter) if part for path, digest in part["files"].items()}
    return {
        "name": c.name,
        "placement": c.placement,
        "skill": skill["path"] if skill else None,
        "body_sha256": skill["body_sha256"] if skill else None,
        "references": skill["references"] if skill else [],
        "adapter": adapter["path"] if adapter else None,
        "adapter_sha256": adapter["sha256"] if adapter else None,
        "method": c.artifacts.method,
        "files": dict(sorted(found.items())),
    }


def _skill(run_folder: Path, report: Report, c: CapabilityReport, staging: Path, body_tokens: int) -> dict[str, Any]:
    """Check a skill against the report and write it; its name becomes the capability's, as the folder's."""
    skill, body = placed_skill(run_folder, report, c)
    parts = split(body, about_tokens, body_tokens)
    shipped = SkillDocument(**{**skill.document.model_dump(), "name": c.name, "body": parts.head})
    path = save_skill(staging / "skills", shipped, parts.references)
    written = load_skill(path.parent)
    if whole(written.document.body, written.references) != body:
        raise RunFolderError(f"{path} does not give back the document that was measured")
    return {
        "path": path.relative_to(staging).as_posix(),
        "body_sha256": body_hash(body),
        "references": [f"skills/{c.name}/{name}" for name in parts.references],
        "files": hashes(path.parent, staging),
    }


def _adapter(run_folder: Path, report: Report, c: CapabilityReport, staging: Path) -> dict[str, Any]:
    """Copy an adapter and check the copy: every hash, the base it was trained on, and that its numbers are finite."""
    home = placed_adapter(run_folder, c)
    target = staging / "adapters" / c.name
    for entry in sorted(home.iterdir()):
        if entry.is_symlink():
            raise AdapterError(f"{entry}: is a symbolic link; an adapter folder holds its own files")
        if entry.is_file() and not entry.name.startswith(".tmp-"):
            write_bytes(target / entry.name, entry.read_bytes())
    sound_adapter(target, report.model.fingerprint, home)
    listed = _listed(target)
    extra = sorted(path.name for path in target.iterdir() if path.name not in listed)
    if extra:
        raise AdapterError(f"{home / extra[0]}: is not in the adapter's manifest; remove it")
    sha256 = inspect_adapter(target).sha256
    return {"path": f"adapters/{c.name}", "sha256": sha256, "files": hashes(target, staging)}


def _listed(folder: Path) -> set[str]:
    files = json.loads((folder / ADAPTER_MANIFEST).read_text(encoding="utf-8"))["files"]
    return {*files, ADAPTER_MANIFEST}
