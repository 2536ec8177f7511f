"""The offline proposer's data file: which part of a prompt names its topic, and which lines may be worth adding.

```yaml
slots: ["^(?:q|ask) (?P<name>[A-Z][a-z]+)"]       # regular expressions over the prompt; named groups fill {name}
rules: ["rule {name}: reverse.", "Answer briefly."] # candidate lines; one without a slot concerns every example
facts: ["fact {name}: {reference}."]               # filled from training rows
examples: ["{prompt} {reference}"]                 # worked examples, filled from training rows
```

`^` and `$` match at every line of the prompt. A template holds plain `{names}`; `{{` and `}}` are braces. Data are
hostile: values lose hidden characters and line ends, and a line that would be too long is not made at all.
Does not: decide which lines help (`proposer`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hybrid.config.suggest import did_you_mean
from hybrid.config.yaml_strict import format_path, parse_yaml
from hybrid.errors import DataError, Problem
from hybrid.skill.text import has_marker, hidden, single_line

Slot: TypeAlias = tuple[tuple[str, str], ...]
"""(group name, value) pairs of one match, sorted by name. The empty slot stands for every example."""
KEYS = ("slots", "rules", "facts", "examples")
FROM_ROW = ("prompt", "reference")
LONGEST_LINE, LONGEST_VALUE = 400, 200
MOST_LINES, MOST_MATCHES, MOST_PROMPT = 500, 16, 4000
_TOKEN = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}|[{}]", re.ASCII)


@dataclass(frozen=True)
class Template:
    """A candidate line with plain `{name}` placeholders."""

    text: str

    @property
    def fields(self) -> frozenset[str]:
        """The names of the placeholders."""
        return frozenset(m.group(1) for m in _TOKEN.finditer(self.text) if m.group(1))

    def fill(self, values: Mapping[str, str]) -> str | None:
        """The line with every placeholder filled once, or None when a value is missing, empty or too long."""
        clean = {name: single_line(values.get(name, ""), LONGEST_VALUE + 1) for name in self.fields}
        if any(not 0 < len(value) <= LONGEST_VALUE for value in clean.values()):
            return None
        line = _TOKEN.sub(lambda m: clean[m.group(1)] if m.group(1) else m.group(0)[0], self.text)
        return line if len(line) <= LONGEST_LINE else None

    def stem(self, values: Mapping[str, str]) -> str:
        """The filled line up to the end of its first placeholder: what lines about one thing share; may be ""."""
        first = next((m for m in _TOKEN.finditer(self.text) if m.group(1)), None)
        return (Template(self.text[: first.end()]).fill(values) or "") if first is not None else ""


@dataclass(frozen=True)
class Vocabulary:
    """Slots and candidate lines, in the order of the file, which is the order in which they are tried."""

    slots: tuple[str, ...]
    rules: tuple[Template, ...]
    facts: tuple[Template, ...]
    examples: tuple[Template, ...]

    def slots_of(self, prompt: str) -> tuple[Slot, ...]:
        """What a prompt is about: its distinct matches, patterns in the order of the file, left to right; at most 16.

        Only the first 4,000 characters are read. Groups that matched nothing are left out.
        """
        return _matches(self.slots, prompt[:MOST_PROMPT])


@lru_cache(maxsize=16_384)
def _matches(patterns: tuple[str, ...], prompt: str) -> tuple[Slot, ...]:
    found: dict[Slot, None] = {}
    for pattern in patterns:
        for match in re.finditer(pattern, prompt, re.MULTILINE):
            values = {name: single_line(text or "", LONGEST_VALUE) for name, text in match.groupdict().items()}
            slot = tuple(sorted((name, text) for name, text in values.items() if text))
            if slot and len(found) < MOST_MATCHES:
                found[slot] = None
    return tuple(found)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary. Raises DataError with every mistake of the file, or when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(str(path), 0, "", f"the vocabulary cannot be read ({error})", "name a YAML file in UTF-8")
        raise DataError([problem]) from error
    return parse_vocabulary(text, str(path))


def parse_vocabulary(text: str, file: str) -> Vocabulary:
    """The vocabulary in `text`; `file` is only named in problems. Raises DataError with every mistake."""
    values, lines, problems = parse_yaml(text, file)
    if problems:
        raise DataError(problems)
    mistakes = _Checker().check(values)
    if mistakes:
        raise DataError([Problem(file, lines.get(p, 1), format_path(p), m, fix) for p, m, fix in mistakes])
    return Vocabulary(
        slots=tuple(values.get("slots", ())),
        rules=tuple(Template(t) for t in values.get("rules", ())),
        facts=tuple(Template(t) for t in values.get("facts", ())),
        examples=tuple(Template(t) for t in values.get("examples", ())),
    )


class _Checker:
    """Collects everything that is wrong with a vocabulary as (key path, message, fix)."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[tuple[str | int, ...], str, str]] = []
        self.groups: set[str] = set()

    def check(self, values: Any) -> list[tuple[tuple[str | int, ...], str, str]]:
        """Every mistake, in the order of the keys."""
        if not isinstance(values, dict):
            self._add((), "a vocabulary is a mapping", f"write some of the keys {', '.join(KEYS)}")
            return self.mistakes
        for key in values:
            if key not in KEYS:
                self._add((key,), f"unknown key {key!r}", did_you_mean(key, KEYS, "the keys here are"))
        for index, pattern in enumerate(self._texts(values, "slots")):
            self._slot(("slots", index), pattern)
        for key in ("rules", "facts", "examples"):
            self._lines(key, self._texts(values, key))
        if not self.mistakes and not any(values.get(key) for key in ("rules", "facts", "examples")):
            self._add((), "there is no candidate line", "add lines under rules, facts or examples")
        return self.mistakes

    def _add(self, path: tuple[str | int, ...], message: str, fix: str) -> None:
        self.mistakes.append((path, message, fix))

    def _texts(self, values: Mapping[str, Any], key: str) -> Sequence[str]:
        items = values.get(key, [])
        if not isinstance(items, list):
            self._add((key,), f"{key} is not a list of texts", "write one quoted line per item")
            return []
        if len(items) > MOST_LINES:
            self._add((key,), f"{len(items)} lines, at most {MOST_LINES} are allowed", "keep those that may help")
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self._add((key, index), "this is not text", "put it in quotes")
            elif item in items[:index]:
                self._add((key, index), "this line is there twice", "keep one of the two")
            elif not item.strip():
                self._add((key, index), "this is empty", "remove it")
        # What is not text is reported; an empty text keeps the numbers of the others right.
        return [item if isinstance(item, str) else "" for item in items]

    def _slot(self, path: tuple[str | int, ...], pattern: str) -> None:
        try:
            groups = re.compile(pattern, re.MULTILINE).groupindex
        except (re.error, OverflowError, RecursionError) as error:
            self._add(path, f"not a regular expression ({error})", "escape special characters with a backslash")
            return
        if pattern and not groups:
            self._add(path, "the pattern has no named group", "write (?P<name>...) around what lines are about")
        for name in sorted(set(groups) & set(FROM_ROW)):
            self._add(path, f"the group name {name!r} is taken by the training row", "choose another name")
        self.groups |= set(groups)

    def _lines(self, key: Literal["rules", "facts", "examples"] | str, items: Sequence[str]) -> None:
        wanted = {"facts": {"reference"}, "examples": {"prompt", "reference"}}.get(key, set())
        legal = self.groups | (set() if key == "rules" else set(FROM_ROW))
        for index, text in enumerate(items):
            self._line((key, index), text)
            fields = Template(text).fields
            for name in sorted(fields - legal):
                fix = did_you_mean(name, sorted(legal), "the names here are") if legal else "add a slot with that group"
                self._add((key, index), f"the placeholder {{{name}}} is not a named group of a slot", fix)
            for name in sorted(wanted - fields) if text else ():
                self._add((key, index), f"a line of {key} needs {{{name}}}", f"write {{{name}}} where it belongs")

    def _line(self, path: tuple[str | int, ...], text: str) -> None:
        if "\n" in text or len(text) > LONGEST_LINE:
            self._add(path, "this is not one line of text", f"write one line of at most {LONGEST_LINE} characters")
        if hidden(text) or has_marker(text) or "\t" in text:
            self._add(path, "the line holds a hidden character or a marker of a protected section", "remove it")
        if any(m.group(0) in ("{", "}") for m in _TOKEN.finditer(text)):
            self._add(path, "a placeholder is a plain {name}", "write {{ and }} for braces")
