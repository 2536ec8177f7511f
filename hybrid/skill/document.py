"""A skill document in the Agent Skills format: YAML front matter between `---` lines, then a Markdown body.

Stricter than the format's own reference reader: unknown keys, malformed YAML and invisible characters are errors with
the line they stand on, never empty metadata. The model reads the body alone; the front matter is for people and tools.
Format: agentskills.io specification (name, description, license, compatibility, metadata, allowed-tools).
Does not: read files, compare the name with the folder's, or edit (`edits`).

    document = parse("---\\nname: units\\ndescription: Converts units.\\n---\\n\\nOne inch is 2.54 cm.\\n", "SKILL.md")
    document.body  # "One inch is 2.54 cm.\\n"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hybrid.config.suggest import did_you_mean
from hybrid.config.yaml_strict import KeyPath, format_path, parse_yaml, resolve_scalar
from hybrid.errors import DataError, Problem
from hybrid.skill.text import hidden, lines_of, normal, sections

FENCE = "---"
KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
LIMITS = {"name": 64, "description": 1024, "compatibility": 500}
LONGEST_KEY = 200
_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9 ,.()/_-]*[A-Za-z0-9.)])?")
_NAME_FIX = "use 1 to 64 lower-case letters, digits and single hyphens"
_HIDDEN_FIX = "remove it: a reader of the document cannot see it"
_MARKER_FIX = "write `<!-- protected:start NAME -->` and `<!-- protected:end -->`, each alone on its line"


class SkillDocument(BaseModel):
    """One skill. `body` is kept in normal form (see `text`); equality ignores the order of `metadata`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    description: str
    license: str | None = None
    compatibility: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    allowed_tools: str | None = None
    body: str = ""

    @model_validator(mode="before")
    @classmethod
    def _normal_body(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("body"), str):
            return {**data, "body": normal(data["body"])}
        return data

    @model_validator(mode="after")
    def _legal(self) -> SkillDocument:
        mistakes = _mistakes(self.front_matter()) + [((), i, m, f) for i, m, f in _body_mistakes(self.body)]
        if mistakes:
            path, _, message, fix = mistakes[0]
            raise ValueError(f"{format_path(path)}: {message}; {fix}".removeprefix(": "))
        return self

    def front_matter(self) -> dict[str, Any]:
        """The front matter as plain data, in the order of the format; absent keys are left out."""
        values: dict[str, Any] = {"name": self.name, "description": self.description}
        for key, value in (("license", self.license), ("compatibility", self.compatibility)):
            if value is not None:
                values[key] = value
        if self.metadata:
            values["metadata"] = dict(sorted(self.metadata.items()))
        if self.allowed_tools is not None:
            values["allowed-tools"] = self.allowed_tools
        return values

    def render(self) -> str:
        """The text of SKILL.md: the same bytes for equal documents, and `parse(d.render(), file) == d`."""
        out = [FENCE]
        for key, value in self.front_matter().items():
            if isinstance(value, dict):
                out += [f"{key}:", *(f"  {_scalar(k)}: {_scalar(v)}" for k, v in value.items())]
            else:
                out.append(f"{key}: {_scalar(value)}")
        out.append(FENCE)
        return "\n".join(out) + "\n" + ("\n" + self.body if self.body else "")

    def with_body(self, body: str) -> SkillDocument:
        """The same skill with another body. Raises ValueError for a body that no document may have."""
        return SkillDocument(**{**self.model_dump(), "body": body})


def new_document(name: str, description: str, body: str = "") -> SkillDocument:
    """A document with the two required keys. Raises ValueError (pydantic's) for an illegal value."""
    return SkillDocument(name=name, description=description, body=body)


def parse(text: str, file: str) -> SkillDocument:
    """Read a SKILL.md. Raises DataError with every mistake as `file:line`. Windows line ends are accepted."""
    text = text.replace("\r\n", "\n")
    problems = [Problem(file, i + 1, "", f"hidden character {what}", _HIDDEN_FIX) for i, what in hidden(text)]
    rows = text.split("\n")
    if rows[0].rstrip() != FENCE:
        fix = "begin with `---`, then `name:` and `description:`, then `---`"
        raise DataError([*problems, Problem(file, 1, "", "the document does not begin with front matter", fix)])
    end = next((i for i, row in enumerate(rows[1:], 1) if row.rstrip() == FENCE), None)
    if end is None:
        fix = "end it with a line `---`"
        raise DataError([*problems, Problem(file, 1, "", "the front matter is never closed", fix)])
    # The blank first line keeps YAML's line numbers equal to the file's.
    values, lines, yaml_problems = parse_yaml("\n" + "\n".join(rows[1:end]), file)
    problems += yaml_problems
    body = "\n".join(rows[end + 1 :])
    if not isinstance(values, dict):
        if not yaml_problems:
            problems.append(
                Problem(file, 1, "", "the front matter is not a mapping", "write `name:` and `description:`")
            )
        raise DataError(problems)
    for path, _, message, fix in _mistakes(values):
        problems.append(Problem(file, _line(lines, path), format_path(path), message, fix))
    for index, mistake in sections(rows[end + 1 :])[1]:
        problems.append(Problem(file, end + index + 2, "", mistake, _MARKER_FIX))
    if problems:
        raise DataError(problems)
    fields = {key.replace("-", "_"): value for key, value in values.items()}
    return SkillDocument(**fields, body=body)


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    return lines.get(path, 1)


_Mistake = tuple[KeyPath, int, str, str]


def _mistakes(values: Mapping[str, Any]) -> list[_Mistake]:
    """(key path, 0, message, fix) for everything wrong with the front matter."""
    found: list[_Mistake] = []
    for key in values:
        if key not in KEYS:
            found.append(((key,), 0, f"unknown key {key!r}", did_you_mean(key, KEYS, "the keys here are")))
    for key in ("name", "description"):
        if key not in values:
            found.append(((key,), 0, f"the key {key!r} is missing", f"add `{key}: ...`"))
    for key in KEYS:
        if key in values and key != "metadata":
            found += _text_mistakes(key, values[key])
    metadata = values.get("metadata", {})
    if not isinstance(metadata, dict):
        return [
            *found,
            (("metadata",), 0, "metadata is not a mapping of text to text", "write `metadata:` and indented keys"),
        ]
    for key, value in metadata.items():
        if not isinstance(value, str):
            found.append((("metadata", key), 0, "the value is not text", "put it in quotes"))
        elif not 0 < len(key) <= LONGEST_KEY or "\n" in key:
            found.append(
                (("metadata", key), 0, f"a key of metadata is one line of 1 to {LONGEST_KEY} characters", "shorten it")
            )
        elif hidden(key + value):
            found.append((("metadata", key), 0, "holds a hidden character", _HIDDEN_FIX))
    return found


def _text_mistakes(key: str, value: Any) -> list[_Mistake]:
    path = (key,)
    if not isinstance(value, str):
        return [(path, 0, f"{key} is not text", "put it in quotes")]
    if hidden(value):
        return [(path, 0, "holds a hidden character", _HIDDEN_FIX)]
    if not value.strip():
        return [(path, 0, f"{key} is empty", "say something, or leave the key out")]
    if len(value) > LIMITS.get(key, len(value)):
        return [(path, 0, f"{key} has {len(value)} characters, at most {LIMITS[key]} are allowed", "shorten it")]
    if key == "name" and NAME.fullmatch(value) is None:
        return [(path, 0, f"{value!r} is not a legal name", _NAME_FIX)]
    return []


def _body_mistakes(body: str) -> list[tuple[int, str, str]]:
    """(line index, message, fix) for everything that no body may hold."""
    found = [(i, f"body line {i + 1}: hidden character {what}", _HIDDEN_FIX) for i, what in hidden(body)]
    found += [(i, f"body line {i + 1}: {mistake}", _MARKER_FIX) for i, mistake in sections(lines_of(body))[1]]
    return sorted(found)


def _scalar(value: str) -> str:
    """A YAML scalar that the strict dialect reads back as the same text: bare where that is safe, else as in JSON."""
    if _PLAIN.fullmatch(value) and isinstance(resolve_scalar(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)
