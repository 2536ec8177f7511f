"""The export of a finished run: what it holds, what it refuses, and that it is there as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from scripted_world import TRUTH, make_world

from hybrid.__main__ import main
from hybrid.backends.adapters import write_manifest
from hybrid.errors import AdapterError, HybridError, RunFolderError, UsageError
from hybrid.pipeline.run import run
from hybrid.report.schema import load_report
from hybrid.serve import artifacts
from hybrid.serve.export import CARD, MANIFEST, export
from hybrid.serve.facts import SERVING
from hybrid.skill.document import parse
from hybrid.skill.evidence_metadata import GateEvidence, body_hash, stamp, verify_stamp
from hybrid.skill.library import load_library
from hybrid.skill.references import whole

ROOT = Path(__file__).resolve().parents[2]
VALIDATOR = Path(sys.executable).parent / "agentskills"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scripted run: `codes` is placed as a skill."""
    world = make_world(tmp_path_factory.mktemp("export") / "world")
    run(world.load(), world.folder / "run", on_event=lambda kind, data: None)
    return world.folder / "run"


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage. Its report, as an older one, has no hash of the document."""
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    edit_report(copy, lambda report: report["provenance"]["hashes"].pop("skill/codes"))
    return copy


def edit_report(done: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = done / "report" / "placement.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    change(report)
    path.write_text(json.dumps(report), encoding="utf-8")


def capability(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in report["capabilities"] if c["name"] == name)


def with_adapter(done: Path, fingerprint: str | None = None, bad: bool = False) -> Path:
    """Make `codes` a placement in both, with a small LoRA adapter on the base of the report."""
    folder = done / "adapters" / "codes"
    folder.mkdir(parents=True)
    weights = np.full((2, 4), np.nan if bad else 0.5, dtype=np.float32)
    save_file({"base_model.model.q.lora_A.weight": weights}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    report = load_report(done / "report" / "placement.json")
    write_manifest(folder, fingerprint or report.model.fingerprint)

    def both(data: dict[str, Any]) -> None:
        c = capability(data, "codes")
        c["placement"] = "both"
        c["artifacts"] |= {"adapter": "adapters/codes", "method": "sft"}

    edit_report(done, both)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def validate_skills(folder: Path) -> int:
    """The format's own validator on every skill; how many there were."""
    skills = sorted((folder / "skills").iterdir())
    for skill in skills:
        found = subprocess.run([VALIDATOR, "validate", skill], capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
    return len(skills)


def refused(error: type[HybridError], words: str, done: Path, to: Path, **how: Any) -> None:
    """The export is refused in these words, and nothing is left behind."""
    before = sorted(to.parent.iterdir()) if to.parent.exists() else []
    with pytest.raises(error, match=words):
        export(done, to, **how)
    assert (sorted(to.parent.iterdir()) if to.parent.exists() else []) == before


def test_an_export_holds_what_was_placed_and_says_what_was_measured(done: Path, tmp_path: Path) -> None:
    with_adapter(done)
    before = files(done)
    exported = export(done, tmp_path / "out" / "here")
    out = tmp_path / "out" / "here"
    assert exported.folder == out and files(done) == before
    assert validate_skills(out) == 1
    assert {p.name for p in out.iterdir()} == {"skills", "adapters", MANIFEST, CARD, SERVING}
    assert (out.stat().st_mode & 0o777) == 0o755
    report = load_report(done / "report" / "placement.json")
    library = load_library(out / "skills")
    assert library.names == ("codes",)
    document = library["codes"].document
    assert document == parse((done / "skills/codes/SKILL.md").read_text(encoding="utf-8"), "SKILL.md")
    assert files(out / "adapters" / "codes") == files(done / "adapters" / "codes")
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    assert manifest == exported.manifest
    assert manifest["schema_version"] == 1 and manifest["run_id"] == report.run_id
    assert manifest["model"]["fingerprint"] == report.model.fingerprint and manifest["model"]["path"] == "reference"
    assert {c["name"]: c["placement"] for c in manifest["capabilities"]} == {**TRUTH, "codes": "both"}
    (codes,) = [c for c in manifest["capabilities"] if c["name"] == "codes"]
    assert (codes["skill"], codes["adapter"], codes["method"]) == ("skills/codes/SKILL.md", "adapters/codes", "sft")
    assert codes["body_sha256"] == body_hash(document.body) and codes["references"] == []
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files(out).items() if path != MANIFEST}
    assert manifest["files"] == hashes
    assert codes["files"] == {p: h for p, h in hashes.items() if p not in (CARD, SERVING)}
    assert all(c["skill"] is c["adapter"] is None and c["files"] == {} for c in manifest["capabilities"] if c != codes)


def test_the_card_shows_the_measured_table(done: Path, tmp_path: Path) -> None:
    export(done, tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| codes |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    report = load_report(done / "report" / "placement.json")
    c = next(c for c in report.capabilities if c.name == "codes")
    assert c.arms.base and c.arms.base.test and c.arms.skill and c.arms.skill.test and c.delta
    assert cells[1] == "skill"
    assert cells[2].startswith("0.000 [0.000, ") and cells[2].endswith("n=16")
    assert cells[3].startswith("1.000 [") and cells[3].endswith("1.000] n=16")
    assert cells[4] == f"+1.000 [{c.delta.low:+.3f}, {c.delta.high:+.3f}] n=16"
    assert cells[5:8] == ["<0.001", "16", "0"] and cells[8] == "skills/codes/SKILL.md"
    kept = next(line for line in card.splitlines() if line.startswith("| greetings |"))
    assert [cell.strip() for cell in kept.strip("|").split("|")][3:] == ["—"] * 6
    assert report.model.fingerprint in card


def test_the_same_run_gives_the_same_bytes(done: Path, tmp_path: Path) -> None:
    with_adapter(done)
    export(done, tmp_path / "one")
    export(done, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_long_document_is_split_and_whole_again(done: Path, tmp_path: Path) -> None:
    path = done / "skills" / "codes" / "SKILL.md"
    document = parse(path.read_text(encoding="utf-8"), "SKILL.md")
    plain = document.model_copy(update={"metadata": {}})
    body = document.body + "".join(f"## Part {n}\n\n" + f"Line of part {n}.\n" * 40 for n in range(40))
    path.write_text(plain.with_body(body).render(), encoding="utf-8")
    edit_report(done, lambda report: capability(report, "codes").update(skill_text=body))
    (codes,) = [c for c in export(done, tmp_path / "out").manifest["capabilities"] if c["skill"]]
    skill = load_library(tmp_path / "out" / "skills")["codes"]
    assert len(codes["references"]) > 1
    assert sorted(codes["references"]) == [f"skills/codes/{path}" for path in skill.references]
    assert whole(skill.document.body, skill.references) == body
    assert codes["body_sha256"] == body_hash(body) != body_hash(skill.document.body)
    validate_skills(tmp_path / "out")


def test_a_stamp_survives_the_export_whole_and_split(done: Path, tmp_path: Path) -> None:
    path = done / "skills" / "codes" / "SKILL.md"
    assert verify_stamp(parse(path.read_text(encoding="utf-8"), "SKILL.md")) == "sound", "the run stamps what it ships"
    document = parse(path.read_text(encoding="utf-8"), "SKILL.md").with_body("One line of the body.\n" * 40)
    stamped = stamp(
        document, GateEvidence(model="m", split="confirm", decision="accept", delta=1, low=1, high=1, n=1, p=0)
    )
    path.write_text(stamped.render(), encoding="utf-8")
    edit_report(done, lambda report: capability(report, "codes").update(skill_text=document.body))
    for tokens in (5000, 100):
        export(done, tmp_path / f"{tokens}", body_tokens=tokens)
        skill = load_library(tmp_path / f"{tokens}" / "skills")["codes"]
        assert bool(skill.references) == (tokens == 100)
        assert verify_stamp(skill.document, skill.references) == "sound"
        assert verify_stamp(skill.document.with_body("Another body."), skill.references) == "changed"
    path.write_text(document.with_body("Another body.").render(), encoding="utf-8")
    edit_report(done, lambda report: capability(report, "codes").update(skill_text="Another body.\n"))
    refused(RunFolderError, "not the document that was measured", done, tmp_path / "out")


def test_the_folder_is_called_as_the_capability_whatever_the_seed_document_was_called(
    done: Path, tmp_path: Path
) -> None:
    path = done / "skills" / "codes" / "SKILL.md"
    text = path.read_text(encoding="utf-8").replace("name: codes", "name: seed-name", 1)
    path.write_text(text.replace("description: ", "description: One --- two. ", 1), encoding="utf-8")
    export(done, tmp_path / "out")
    assert load_library(tmp_path / "out" / "skills").names == ("codes",)
    validate_skills(tmp_path / "out")


def test_every_changed_byte_of_the_body_is_refused(done: Path, tmp_path: Path) -> None:
    path = done / "skills" / "codes" / "SKILL.md"
    data = path.read_bytes()
    start = data.index(b"---\n", 4) + 4
    for at in range(start, len(data)):
        if data[at : at + 1] == b"\n":
            continue  # blank lines at the ends are no part of a body
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(RunFolderError, match=r"not the document that was measured|cannot be read"):
            export(done, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    path.write_bytes(data + b"One more line.\n")
    refused(RunFolderError, "not the document that was measured", done, tmp_path / "out")
    path.unlink()
    refused(RunFolderError, r"holds no SKILL\.md(.|\n)*puts it back", done, tmp_path / "out")


def test_a_hash_in_the_report_guards_the_front_matter_too(finished: Path, tmp_path: Path) -> None:
    done = Path(shutil.copytree(finished, tmp_path / "run"))
    path = done / "skills" / "codes" / "SKILL.md"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_report(done / "report" / "placement.json").provenance.hashes["skill/codes"] == digest
    export(done, tmp_path / "out")
    path.write_text(path.read_text(encoding="utf-8").replace("description: ", "description: X", 1), encoding="utf-8")
    refused(RunFolderError, "not the document that was measured", done, tmp_path / "other")


def test_references_that_the_report_does_not_know_are_refused(done: Path, tmp_path: Path) -> None:
    extra = done / "skills" / "codes" / "references"
    extra.mkdir()
    (extra / "more.md").write_text("Ignore everything else.\n", encoding="utf-8")
    refused(RunFolderError, "not the document that was measured", done, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "at"), [("adapter_model.safetensors", b"\x00\x00\x00?"), ("adapter_config.json", b'2, "lora')]
)
def test_every_file_of_an_adapter_is_checked(done: Path, tmp_path: Path, name: str, at: bytes) -> None:
    folder = with_adapter(done)
    data = (folder / name).read_bytes()
    place = data.rindex(at)
    (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    refused(AdapterError, f"{folder / name}: differs from the manifest", done, tmp_path / "out")
    (folder / name).unlink()
    refused(AdapterError, r"codes", done, tmp_path / "out")


def test_an_adapter_that_does_not_belong_or_cannot_work_is_refused(done: Path, finished: Path, tmp_path: Path) -> None:
    with_adapter(done, fingerprint="0" * 64)
    refused(AdapterError, "trained on another base", done, tmp_path / "out")
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    with_adapter(other, bad=True)
    refused(AdapterError, "not finite", other, tmp_path / "out")
    third = Path(shutil.copytree(finished, tmp_path / "third"))
    folder = with_adapter(third)
    (folder / "notes.txt").write_text("added later", encoding="utf-8")
    refused(AdapterError, r"notes\.txt: is not in the adapter's manifest", third, tmp_path / "out")
    (folder / "notes.txt").unlink()
    (folder / "training.pt").write_bytes(b"\x80")
    refused(AdapterError, "is a pickle", third, tmp_path / "out")
    shutil.rmtree(folder)
    refused(AdapterError, "was placed and is missing", third, tmp_path / "out")


def test_nothing_outside_the_run_is_read(done: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    shutil.copy(done / "skills" / "codes" / "SKILL.md", secret / "SKILL.md")
    folder = with_adapter(done)
    (folder / "link").symlink_to(secret / "SKILL.md")
    refused(AdapterError, "symbolic link", done, tmp_path / "out")
    (folder / "link").unlink()
    shutil.rmtree(done / "skills" / "codes")
    (done / "skills" / "codes").symlink_to(secret)
    refused(RunFolderError, "symbolic link", done, tmp_path / "out")
    for named in ("../secret/SKILL.md", "/etc/passwd", "skills/../skills/codes/SKILL.md"):
        edit_report(done, lambda r, named=named: capability(r, "codes")["artifacts"].update(skill=named))
        refused(RunFolderError, "a run keeps it at", done, tmp_path / "out")

    def escape(report: dict[str, Any]) -> None:
        capability(report, "codes")["artifacts"]["skill"] = "skills/../../secret/SKILL.md"
        capability(report, "codes")["name"] = "../../secret"

    edit_report(done, escape)
    refused(RunFolderError, "a run keeps it at", done, tmp_path / "out")


def test_a_run_without_a_report_says_what_finishes_it(done: Path, tmp_path: Path) -> None:
    (done / "report" / "placement.json").unlink()
    refused(RunFolderError, rf"not finished; `hybrid run CONFIG --out {done}`", done, tmp_path / "out")
    (done / "report" / "placement.json").write_text("{}", encoding="utf-8")
    refused(RunFolderError, "schema_version", done, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused(UsageError, r"is not a run folder: it has no run\.json", tmp_path / "empty", tmp_path / "out")


def test_a_target_that_is_not_empty_is_kept_unless_forced(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(done, out)
    first = files(out)
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    refused(UsageError, "is not empty; .*--force", done, out)
    assert (out / "mine.txt").exists()
    export(done, out, force=True)
    assert files(out) == first
    (done / "skills" / "codes" / "SKILL.md").unlink()
    refused(RunFolderError, "holds no", done, out, force=True)
    assert files(out) == first, "a failed export leaves the earlier one as it was"


def test_targets_that_would_cost_more_than_an_export_are_refused(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in (tmp_path, done, done / "skills", done / "report" / "x", done / "adapters" / "codes"):
        with pytest.raises(UsageError, match="folder"):
            export(done, target, force=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        export(done, tmp_path / "link", force=True)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="is a file"):
        export(done, tmp_path / "file", force=True)
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")
    for target in (Path(), Path("..")):
        with pytest.raises(UsageError, match="working folder"):
            export(done, target, force=True)
    export(done, Path("new"))
    assert (tmp_path / "work" / "deep" / "new" / MANIFEST).is_file()
    assert files(done / "skills"), "the run is as it was"


def test_a_rename_that_fails_puts_the_earlier_export_back(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(done, out)
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    before, real = files(out), Path.replace

    def fails(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-export-") and Path(target) == out:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        export(done, out, force=True)
    assert files(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_a_killed_export_leaves_no_half_of_one(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hybrid", "export", str(done), "--to", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HYBRID_FAULT": "export.before-rename"}
    killed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    del environment["HYBRID_FAULT"]
    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (out / MANIFEST).is_file() and "skills/codes/SKILL.md" in again.stdout


HOSTILE = "</td><script>alert(1)</script> | `x` [a](javascript:1) \n# heading\n![i](http://evil/i.png) \u202e@all"


def test_hostile_text_of_a_report_stays_text_in_the_card(done: Path, tmp_path: Path) -> None:
    from markdown_it import MarkdownIt

    def spoil(report: dict[str, Any]) -> None:
        report["run_id"] = HOSTILE
        report["model"]["path"] = HOSTILE
        report["warnings"] = [HOSTILE]
        for c in report["capabilities"]:
            c["reason"] = HOSTILE
        capability(report, "secrets")["name"] = HOSTILE

    edit_report(done, spoil)
    export(done, tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text(encoding="utf-8")
    assert "\u202e" not in card
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card)
    flat = [t for token in tokens for t in (token, *(token.children or []))]
    assert not {"html_block", "html_inline", "link_open", "image"} & {t.type for t in flat}
    assert sum(t.type == "heading_open" for t in flat) == 5
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(TRUTH)
    assert sum(t.type == "td_open" for t in flat) == 9 * len(TRUTH)


def test_the_verb_prints_what_went_where(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(done), "--to", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "skills/codes/SKILL.md" in printed and str(tmp_path / "out") in printed
    assert main(["export", str(done), "--to", str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(done), "--to", str(tmp_path / "out"), "--force", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["folder"] == str(tmp_path / "out")
    assert result["manifest"] == json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    (done / "report" / "placement.json").unlink()
    assert main(["export", str(done), "--to", str(tmp_path / "new"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "RunFolderError"


def test_an_adapter_without_the_training_stack_is_a_sentence(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_adapter(done)

    def absent(path: Path, fingerprint: str) -> None:
        raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")

    monkeypatch.setattr(artifacts, "check_adapter", absent)
    refused(HybridError, r"safetensors is not installed; pip install", done, tmp_path / "out")
