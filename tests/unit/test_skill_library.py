from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.errors import DataError
from hybrid.evidence.types import Verdict
from hybrid.skill.document import SkillDocument, new_document, parse
from hybrid.skill.evidence_metadata import GateEvidence, body_hash, read_stamp, stamp, verify_stamp
from hybrid.skill.library import Library, Skill, load_library, load_skill, portable_text, save_skill
from hybrid.skill.text import is_hidden

SLOW_MACHINE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.from_regex(r"\A[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}\Z")
CHARACTERS = st.characters(codec="utf-8").filter(lambda c: not is_hidden(c))
VISIBLE = st.text(CHARACTERS, min_size=1, max_size=60).filter(lambda t: bool(t.strip()))
TRICKY = st.sampled_from(
    [
        "no",
        "1.0",
        "null",
        "- a",
        "a: b",
        "# x",
        "'",
        '"',
        "---",
        "a --- b",
        "a---b",
        "----",
        "é---",
        "\ue000---",
        "{x}",
        "|",
    ]
)
BODIES = st.text(CHARACTERS, max_size=120).filter(lambda t: "protected" not in t)
PATHS = st.from_regex(r"\Areferences/[a-z0-9][a-z0-9_-]{0,9}\.md\Z")


@st.composite
def documents(draw: st.DrawFn) -> SkillDocument:
    return SkillDocument(
        name=draw(NAMES),
        description=draw(VISIBLE | TRICKY),
        license=draw(st.none() | VISIBLE | TRICKY),
        compatibility=draw(st.none() | VISIBLE | TRICKY),
        metadata=draw(
            st.dictionaries((VISIBLE | TRICKY).filter(lambda k: "\n" not in k), VISIBLE | TRICKY, max_size=3)
        ),
        body=draw(BODIES | TRICKY),
    )


SKILLS = st.builds(
    Skill,
    document=documents(),
    references=st.dictionaries(PATHS, VISIBLE.map(lambda t: t + "\n"), max_size=3),
)


def write(root: Path, name: str, text: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def skill_text(name: str, body: str = "x\n") -> str:
    return new_document(name, f"About {name}.", body).render()


def problems(folder: Path) -> list[str]:
    with pytest.raises(DataError) as raised:
        load_library(folder)
    return [str(p).replace(str(folder), "ROOT") for p in raised.value.problems]


@SLOW_MACHINE
@given(st.lists(SKILLS, max_size=3, unique_by=lambda s: s.name))
def test_a_library_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, skills: list[Skill]) -> None:
    folder = tmp_path_factory.mktemp("library")
    for skill in skills:
        save_skill(folder, skill.document, skill.references)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    loaded = load_library(folder)
    assert loaded == Library(skills)
    assert [s.name for s in loaded] == sorted(s.name for s in skills)
    for skill in loaded:
        save_skill(folder, skill.document, skill.references)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@SLOW_MACHINE
@given(documents())
@example(new_document("a", "one --- two", "---\nname: b\n---\n"))
@example(SkillDocument(name="a", description="a---b", metadata={"k---": "-----"}, body=""))
def test_the_reference_reader_of_the_format_sees_the_same_front_matter(document: SkillDocument) -> None:
    from skills_ref.parser import parse_frontmatter
    from skills_ref.validator import validate_metadata

    text = portable_text(document)
    assert parse(text, "SKILL.md") == document
    found, body = parse_frontmatter(text)
    assert body == document.body.strip()
    assert validate_metadata(found) == []
    assert {k: v for k, v in found.items() if k != "metadata"} == {
        k: v for k, v in document.front_matter().items() if k != "metadata"
    }
    assert found.get("metadata", {}) == document.metadata


def test_the_command_of_the_format_validates_what_is_saved(tmp_path: Path) -> None:
    save_skill(tmp_path, new_document("units", "Lengths --- and weights: all of them."), {"references/a.md": "b\n"})
    command = Path(sys.executable).parent / "agentskills"
    done = subprocess.run([command, "validate", tmp_path / "units"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    read = subprocess.run([command, "read-properties", tmp_path / "units"], capture_output=True, text=True)
    assert '"description": "Lengths --- and weights: all of them."' in read.stdout


def test_every_problem_of_every_file_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "good/SKILL.md", skill_text("good"))
    write(tmp_path, "units/SKILL.md", "---\ndescription: d\nname: other\n---\n\nx\n")
    write(tmp_path, "broken/SKILL.md", "---\nname: broken\nsize: 3\n---\nx\n")
    write(tmp_path, "bytes/SKILL.md", b"---\nname: bytes\ndescription: \xff\n---\n")
    write(tmp_path, "refs/SKILL.md", skill_text("refs"))
    write(tmp_path, "refs/references/a.md", "one\ntwo\u202e\n")
    write(tmp_path, "refs/references/b.md", b"one\n\xfe\n")
    write(tmp_path, "refs/references/deep/c.md", "c\n")
    write(tmp_path, "refs/references/bad name.md", "c\n")
    (tmp_path / "empty").mkdir()
    write(tmp_path, "README.md", "not a skill\n")
    write(tmp_path, ".git/config", "not a skill\n")
    found = problems(tmp_path)
    for wanted in (
        "ROOT/units/SKILL.md:3: name: the name 'other' is not that of its folder, 'units'",
        "ROOT/broken/SKILL.md:3: size: unknown key 'size'",
        "ROOT/broken/SKILL.md:1: description: the key 'description' is missing",
        "ROOT/bytes/SKILL.md:3: is not UTF-8",
        "ROOT/refs/references/a.md:2: hidden character U+202E",
        "ROOT/refs/references/b.md:2: is not UTF-8",
        "ROOT/refs/references/deep: references are one level deep",
        "ROOT/refs/references/bad name.md:1: is no path of a reference",
        "ROOT/empty: holds no SKILL.md",
    ):
        assert any(line.startswith(wanted) for line in found), (wanted, found)
    assert len(found) == 9
    with pytest.raises(DataError, match="is not a folder"):
        load_library(tmp_path / "README.md")


def test_names_and_folders_are_compared_in_nfkc(tmp_path: Path) -> None:
    write(tmp_path, "\ufb01le/SKILL.md", skill_text("file"))
    assert load_library(tmp_path).names == ("file",)
    write(tmp_path, "file/SKILL.md", skill_text("file"))
    assert ["is used twice" in line for line in problems(tmp_path)] == [True]


def test_links_out_of_the_library_are_refused_and_links_inside_are_not(tmp_path: Path) -> None:
    root = tmp_path / "library"
    secret = write(tmp_path, "secret/SKILL.md", skill_text("secret"))
    write(root, "a/SKILL.md", skill_text("a"))
    write(root, "a/references/r.md", "r\n")
    (root / "secret").symlink_to(secret.parent)
    (root / "b").mkdir()
    (root / "b" / "SKILL.md").symlink_to(secret)
    (root / "a" / "references" / "s.md").symlink_to(secret)
    (root / "c").mkdir()
    (root / "c" / "SKILL.md").write_text(skill_text("c"))
    (root / "c" / "references").symlink_to(tmp_path / "secret")
    (root / "d").mkdir()
    (root / "d" / "SKILL.md").symlink_to(tmp_path / "nothing")
    found = problems(root)
    assert [line.split(":")[0] for line in found] == [
        "ROOT/a/references/s.md", "ROOT/b/SKILL.md", "ROOT/c/references", "ROOT/d/SKILL.md", "ROOT/secret",
    ]  # fmt: skip
    assert all("leads out of the library" in line for line in found)
    for name in ("secret", "b/SKILL.md", "a/references/s.md", "c/references", "d/SKILL.md"):
        (root / name).unlink()
    (root / "b" / "SKILL.md").write_text(skill_text("b"))
    (root / "d" / "SKILL.md").write_text(skill_text("d"))
    (root / "a" / "references" / "s.md").symlink_to("r.md")
    assert load_library(root)["a"].references == {"references/r.md": "r\n", "references/s.md": "r\n"}


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "library"
    root.mkdir()
    (root / "a").symlink_to(outside)
    with pytest.raises(DataError, match="nothing is written through it"):
        save_skill(root, new_document("a", "d"), {"references/r.md": "r\n"})
    (root / "a").unlink()
    (root / "a").mkdir()
    (root / "a" / "references").symlink_to(outside)
    with pytest.raises(DataError, match="nothing is written through it"):
        save_skill(root, new_document("a", "d"), {"references/r.md": "r\n"})
    assert list(outside.iterdir()) == [] and not (root / "a" / "SKILL.md").exists()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("references/../x.md", "x\n"),
        ("../x.md", "x\n"),
        ("/etc/x.md", "x\n"),
        ("references/a/b.md", "x\n"),
        ("references/a.md\n", "x\n"),
        ("references/.hidden.md", "x\n"),
        ("references/a.txt", "x\n"),
        ("references/a.md", "x"),
        ("references/a.md", " \n"),
        ("references/a.md", "x\u200b\n"),
        ("references/a.md", "x\r\n"),
    ],
)
def test_references_that_no_skill_may_have(tmp_path: Path, path: str, text: str) -> None:
    with pytest.raises(ValidationError):
        save_skill(tmp_path, new_document("a", "d"), {path: text})
    assert list(tmp_path.iterdir()) == []


def test_names_that_differ_by_case_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="by case alone"):
        save_skill(tmp_path, new_document("a", "d"), {"references/a.md": "x\n", "references/A.md": "x\n"})
    save_skill(tmp_path, new_document("a", "d"), {"references/a.md": "x\n"})
    (tmp_path / "a" / "references" / "A.md").write_text("y\n")
    if len(list((tmp_path / "a" / "references").iterdir())) == 2:
        assert ["by case alone" in line for line in problems(tmp_path)] == [True]


def test_saving_again_removes_stale_references_and_nothing_else(tmp_path: Path) -> None:
    path = save_skill(tmp_path, new_document("a", "d"), {"references/old.md": "x\n", "references/kept.md": "x\n"})
    write(tmp_path, "a/scripts/run.py", "print()\n")
    write(tmp_path, "a/references/table.csv", "1\n")
    save_skill(tmp_path, new_document("a", "e"), {"references/kept.md": "y\n"})
    names = sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*") if p.is_file())
    assert names == ["SKILL.md", "references/kept.md", "references/table.csv", "scripts/run.py"]
    assert load_skill(path.parent).references == {"references/kept.md": "y\n"}


def test_a_folder_may_have_another_name_only_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "capability/SKILL.md", skill_text("seed"))
    assert load_skill(tmp_path / "capability", any_name=True).name == "seed"
    with pytest.raises(DataError, match="not that of its folder"):
        load_skill(tmp_path / "capability")


def test_windows_line_ends_and_huge_files(tmp_path: Path) -> None:
    write(tmp_path, "a/SKILL.md", skill_text("a", "one\ntwo\n").replace("\n", "\r\n"))
    write(tmp_path, "a/references/r.md", "r\r\n")
    assert load_library(tmp_path)["a"].references == {"references/r.md": "r\n"}
    write(tmp_path, "a/references/r.md", "r" * 1_000_001)
    assert ["at most 1,000,000 bytes" in line for line in problems(tmp_path)] == [True]
    (tmp_path / "a" / "references" / "r.md").unlink()
    os.mkfifo(tmp_path / "a" / "references" / "r.md")
    assert ["is no file" in line for line in problems(tmp_path)] == [True]


def test_a_body_names_its_references_and_opens_nothing_else() -> None:
    body = "See references/b.md, (references/a.md), references/b.md and ../x/references/c.md or references/../d.md.\n"
    references = {f"references/{name}.md": "x\n" for name in "abc"}
    skill = Skill(document=new_document("s", "d", body), references=references)
    assert skill.named() == ("references/b.md", "references/a.md")


def test_two_skills_of_one_name_make_no_library() -> None:
    skills = [Skill(document=new_document("a", "d", body)) for body in ("x", "y")]
    with pytest.raises(ValueError, match="used twice"):
        Library(skills)


EVIDENCE = GateEvidence(
    model="f" * 64, split="confirm", decision="accept", delta=0.25, low=0.0123456789, high=0.5, n=48, p=3.2e-9
)
EVIDENCES = st.builds(
    lambda decision, delta, spread, n, p, split: GateEvidence(
        model="a" * 64, split=split, decision=decision, delta=delta, low=delta - spread, high=delta + spread, n=n, p=p
    ),
    st.sampled_from(["accept", "reject", "undecided"]),
    st.floats(-1, 1),
    st.floats(0, 1),
    st.integers(0, 10**6),
    st.floats(0, 1),
    st.sampled_from(["search", "confirm", "test of 2"]),
)


@SLOW_MACHINE
@given(documents(), EVIDENCES)
def test_a_stamp_is_read_back_from_the_file_and_changes_no_byte_of_the_body(
    document: SkillDocument, evidence: GateEvidence
) -> None:
    stamped = stamp(document, evidence)
    again = parse(portable_text(stamped), "SKILL.md")
    found = read_stamp(again)
    assert found is not None
    assert (found.version, found.parent, found.body) == (1, None, body_hash(document.body))
    assert found.evidence == evidence
    assert stamped.body == document.body
    assert {k: v for k, v in stamped.metadata.items() if not k.startswith("hybrid-")} == document.metadata
    assert stamp(stamped, evidence) == stamped
    assert verify_stamp(again) == "sound" and verify_stamp(document) == "absent"


@SLOW_MACHINE
@given(documents(), documents())
def test_a_body_that_was_changed_after_its_stamp_is_told(one: SkillDocument, two: SkillDocument) -> None:
    edited = stamp(one, EVIDENCE).with_body(two.body)
    assert verify_stamp(edited) == ("sound" if one.body == two.body else "changed")


def test_versions_count_changed_bodies_and_name_their_parents() -> None:
    seed = new_document("a", "d", "one")
    first = stamp(seed, EVIDENCE)
    second = stamp(first.with_body("two"), EVIDENCE.model_copy(update={"delta": 0.1}))
    found = read_stamp(second)
    assert found is not None
    assert (found.version, found.parent, found.evidence.delta) == (2, body_hash("one"), 0.1)
    assert found.parent != found.body == body_hash("two\n")
    regated = stamp(second, EVIDENCE.model_copy(update={"split": "test"}))
    assert read_stamp(regated) == found.model_copy(
        update={"evidence": EVIDENCE.model_copy(update={"split": "test"})}
    ), "the same body keeps its version"
    grown = read_stamp(stamp(seed.with_body("two"), EVIDENCE, parent=seed))
    assert grown is not None and (grown.version, grown.parent) == (1, body_hash("one"))
    grown = read_stamp(stamp(seed.with_body("three"), EVIDENCE, parent=second))
    assert grown is not None and (grown.version, grown.parent) == (3, body_hash("two"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hybrid-version", "0"),
        ("hybrid-version", "many"),
        ("hybrid-body", "abc"),
        ("hybrid-parent", "abc"),
        ("hybrid-decision", "perhaps"),
        ("hybrid-delta", "nan"),
        ("hybrid-p", "2"),
        ("hybrid-low", "0.9"),
        ("hybrid-n", None),
    ],
)
def test_a_malformed_stamp_is_an_error_with_its_key_and_counts_as_none(key: str, value: str | None) -> None:
    stamped = stamp(new_document("a", "d", "one"), EVIDENCE)
    metadata = {k: v for k, v in stamped.metadata.items() if k != key} | ({key: value} if value is not None else {})
    broken = stamped.model_copy(update={"metadata": metadata})
    with pytest.raises(DataError, match=r"^s\.md: metadata\.hybrid-[a-z]+: the stamp is malformed"):
        read_stamp(broken, "s.md")
    assert verify_stamp(broken) == "malformed"
    assert stamp(broken, EVIDENCE) == stamped


def test_evidence_comes_from_a_verdict_and_refuses_what_is_no_number() -> None:
    verdict = Verdict(
        decision="reject", delta=-0.1, low=-0.3, high=0.1, p=0.9, n=40, improved=1, regressed=5, reason="no gain"
    )
    found = GateEvidence.of(verdict, "m", "search")
    assert (found.decision, found.delta, found.n, found.model, found.split) == ("reject", -0.1, 40, "m", "search")
    for changes in ({"delta": float("nan")}, {"high": float("inf")}, {"model": "a\nb"}, {"split": "\u202e"}):
        with pytest.raises(ValidationError):
            GateEvidence(**{**found.model_dump(), **changes})
