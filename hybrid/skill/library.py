"""A library of skills on disk: `<folder>/<name>/SKILL.md`, with further texts in `references/` (Agent Skills format).

    library = load_library(Path("skills"))     # every mistake of every file in one DataError
    library["units"].document.body             # what the model reads
    save_skill(Path("skills"), document, {"references/table.md": "One inch is 2.54 cm.\\n"})

Nothing outside the folder is read or written: links that lead out are refused, and a text is only ever found by listing
the folder, never by a path that a document holds. Hidden folders, loose files and what else a skill's folder holds
(`scripts/`, `assets/`, old versions) are left alone.
Does not: choose skills (`select`), split documents (`references`), or follow anything that a document says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from hybrid.config.yaml_strict import MAX_BYTES
from hybrid.errors import DataError, Problem
from hybrid.skill.document import FENCE, SkillDocument, parse
from hybrid.skill.text import hidden
from hybrid.store.atomic import write_text

SKILL_FILE = "SKILL.md"
REFERENCES = "references"
REFERENCE = re.compile(r"references/[A-Za-z0-9][A-Za-z0-9_-]{0,79}\.md")
"""The path of a reference as documents write it: relative to the skill's folder, one level deep."""
_MENTION = re.compile(rf"(?<![\w/.-]){REFERENCE.pattern}(?![\w-])")
_COPY_FIX = "replace it by a copy"
_SENTINELS = range(0xE000, 0xE100)


class Skill(BaseModel):
    """A document and its references: path (`references/<slug>.md`) -> text, kept to the byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    document: SkillDocument
    references: Mapping[str, str] = {}

    @field_validator("references")
    @classmethod
    def _sound(cls, references: Mapping[str, str]) -> Mapping[str, str]:
        lowered = [path.lower() for path in references]
        for path, text in references.items():
            mistake = _reference_mistake(path, text)
            if mistake is not None:
                raise ValueError(f"{path[:100]!a}: {mistake}")
            if lowered.count(path.lower()) > 1:
                raise ValueError(f"{path!a}: differs from another reference by case alone; rename one")
        return dict(sorted(references.items()))

    @property
    def name(self) -> str:
        """The name in the front matter, which is also that of the folder."""
        return self.document.name

    def named(self) -> tuple[str, ...]:
        """The paths of its references that the body names, in the order of the first mention. Others are never opened."""
        found = dict.fromkeys(_MENTION.findall(self.document.body))
        return tuple(path for path in found if path in self.references)


class Library:
    """Skills by name, in the order of their names. Raises ValueError for a name that is used twice."""

    def __init__(self, skills: Iterator[Skill] | tuple[Skill, ...] | list[Skill]) -> None:
        self.skills = tuple(sorted(skills, key=lambda skill: skill.name))
        self._by_name = {skill.name: skill for skill in self.skills}
        if len(self._by_name) < len(self.skills):
            names = [skill.name for skill in self.skills]
            raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} is used twice")

    def __len__(self) -> int:
        return len(self.skills)

    def __iter__(self) -> Iterator[Skill]:
        return iter(self.skills)

    def __getitem__(self, name: str) -> Skill:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Library) and self.skills == other.skills

    def __hash__(self) -> int:
        return hash(tuple(self._by_name))

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, sorted."""
        return tuple(self._by_name)


def load_library(folder: Path) -> Library:
    """Read every sub-folder of `folder` as a skill. Raises DataError with all problems of all files, by line."""
    if not folder.is_dir():
        raise DataError([Problem(str(folder), 0, "", "is not a folder", "name the folder that holds the skills")])
    skills: list[Skill] = []
    problems: list[Problem] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not (entry.is_dir() or entry.is_symlink()):
            continue
        try:
            skills.append(_load(entry, folder.resolve()))
        except DataError as error:
            problems += error.problems
    by_name: dict[str, str] = {}
    for skill in skills:
        if skill.name in by_name:
            place = str(folder / skill.name / SKILL_FILE)
            problems.append(Problem(place, 1, "name", f"the name {skill.name!r} is used twice", "rename one folder"))
        by_name[skill.name] = skill.name
    if problems:
        raise DataError(problems)
    return Library(skills)


def load_skill(folder: Path, *, any_name: bool = False) -> Skill:
    """Read one skill from its own folder. Raises DataError with all problems of its files, by line.

    `any_name` is for a folder that is not called as the skill is, as in a run, where it is called as the capability.
    """
    return _load(folder, folder.parent.resolve(), any_name)


def save_skill(folder: Path, document: SkillDocument, references: Mapping[str, str] | None = None) -> Path:
    """Write a skill into the library `folder` and return the path of its SKILL.md; `load_library` gives it back equal.

    Every file is replaced as a whole: new references first, then SKILL.md, and references of an earlier version are
    removed last, so that a document never names a text that is not there. Other files of the skill's folder stay.
    Raises ValueError for an illegal reference, DataError where a link stands in the way; nothing is written then.
    """
    skill = Skill(document=document, references=references or {})
    home = folder / document.name
    paths = {path: home / path for path in skill.references}
    for place in (home, home / REFERENCES, home / SKILL_FILE, *paths.values()):
        if place.is_symlink():
            raise DataError(
                [Problem(str(place), 0, "", "is a symbolic link; nothing is written through it", _COPY_FIX)]
            )
    for path, text in skill.references.items():
        write_text(paths[path], text)
    write_text(home / SKILL_FILE, portable_text(document))
    kept = {path.name for path in paths.values()}
    for old in sorted((home / REFERENCES).glob("*.md")):
        if old.name not in kept:
            old.unlink()
    return home / SKILL_FILE


def portable_text(document: SkillDocument) -> str:
    """The text of SKILL.md, equal to `render` but for `---` inside a value of the front matter.

    The format's reference reader ends the front matter at the first `---` wherever it stands; there it is written
    `\\u002d-\\u002d`, which every reader of YAML takes for the same text.
    """
    text = document.render()
    head = text.removesuffix(document.body) if document.body else text
    if head.count(FENCE) == 2:
        return text
    mark = next(chr(code) for code in _SENTINELS if chr(code) not in head)
    values = {key: _marked(value, mark) for key, value in document.model_dump().items() if key != "body"}
    written = SkillDocument(**values).render().replace(mark, "\\u002d-\\u002d")
    return written + ("\n" + document.body if document.body else "")


def _marked(value: object, mark: str) -> object:
    if isinstance(value, str):
        return value.replace(FENCE, mark)
    return {_marked(k, mark): _marked(v, mark) for k, v in value.items()} if isinstance(value, dict) else value


def _load(folder: Path, root: Path, any_name: bool = False) -> Skill:
    """One skill; `root` is the resolved folder that nothing may lead out of."""
    problems: list[Problem] = []
    if not folder.resolve().is_relative_to(root):
        raise DataError([Problem(str(folder), 0, "", "is a link that leads out of the library", _COPY_FIX)])
    path = folder / SKILL_FILE
    if not path.is_file() and not path.is_symlink():
        fix = f"add a {SKILL_FILE}, or move the folder elsewhere"
        raise DataError([Problem(str(folder), 0, "", f"holds no {SKILL_FILE}", fix)])
    text = _read(path, root, problems)
    document = None
    if text is not None:
        try:
            document = parse(text, str(path))
        except DataError as error:
            problems += error.problems
    called = document.name if any_name and document is not None else unicodedata.normalize("NFKC", folder.name)
    if document is not None and called != document.name:
        message = f"the name {document.name!r} is not that of its folder, {folder.name!r}"
        problems.append(Problem(str(path), _line_of_name(text or ""), "name", message, "give both the same name"))
    references = _references(folder, root, problems)
    if problems or document is None:
        raise DataError(problems)
    try:
        return Skill(document=document, references=references)
    except ValueError as error:
        message = str(error).splitlines()[2].strip().removeprefix("Value error, ").split(" [type=")[0]
        raise DataError([Problem(str(folder / REFERENCES), 0, "", message)]) from None


def _references(folder: Path, root: Path, problems: list[Problem]) -> dict[str, str]:
    """The Markdown texts of `references/`; what is wrong with them goes to `problems`."""
    home = folder / REFERENCES
    if not home.resolve().is_relative_to(root):
        problems.append(Problem(str(home), 0, "", "is a link that leads out of the library", _COPY_FIX))
        return {}
    found: dict[str, str] = {}
    for entry in sorted(home.iterdir()) if home.is_dir() else ():
        if entry.is_dir():
            problems.append(Problem(str(entry), 0, "", "references are one level deep", "move its files up"))
        elif entry.suffix == ".md" and not entry.name.startswith("."):
            text = _read(entry, root, problems)
            if text is None:
                continue
            path = f"{REFERENCES}/{entry.name}"
            hiding = hidden(text)
            problems += [Problem(str(entry), i + 1, "", f"hidden character {what}", "remove it") for i, what in hiding]
            mistake = None if hiding else _reference_mistake(path, text)
            if mistake is not None:
                problems.append(Problem(str(entry), 1, "", mistake))
            found[path] = text
    return found


def _reference_mistake(path: str, text: str) -> str | None:
    if REFERENCE.fullmatch(path) is None:
        return "is no path of a reference; use references/NAME.md with letters, digits, hyphens and underscores"
    if not text.strip() or not text.endswith("\n"):
        return "a reference holds text and ends with a line end"
    found = hidden(text)
    return f"line {found[0][0] + 1} holds the hidden character {found[0][1]}" if found else None


def _read(path: Path, root: Path, problems: list[Problem]) -> str | None:
    """The text of one file with plain line ends, or None and a problem."""
    if not path.resolve().is_relative_to(root):
        problems.append(Problem(str(path), 0, "", "is a link that leads out of the library", _COPY_FIX))
        return None
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        problems.append(Problem(str(path), 0, "", f"cannot be read ({error.strerror or error})"))
        return None
    if data is None:
        problems.append(Problem(str(path), 0, "", f"is no file of at most {MAX_BYTES:,} bytes", "split it"))
        return None
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problems.append(Problem(str(path), line, "", "is not UTF-8", "save it as UTF-8"))
        return None


def _line_of_name(text: str) -> int:
    rows = text.split("\n")
    return next((i for i, row in enumerate(rows, 1) if row.lstrip("\"'").startswith("name")), 1)
