"""Reads a configuration file: strict YAML (or JSON), the schema, and every mistake with its line.

    loaded = load_config(Path("configs/quickstart.yaml"), ["probe.samples=4"])
    loaded.config.probe.samples  # 4
    loaded.resolve("data/units")  # relative paths start at the folder of the file

Does not: open the files that a configuration names; `check_paths` only looks whether they are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hybrid.config.check import Checked, check
from hybrid.config.overrides import SET, apply_overrides
from hybrid.config.paths import REFERENCE, gguf_missing, missing, references
from hybrid.config.schema import Config
from hybrid.config.source import read_file
from hybrid.config.yaml_strict import Document, KeyPath, format_path
from hybrid.errors import ConfigError, Problem


@dataclass(frozen=True)
class Places:
    """Where the keys of one file stand: its name, 1-based lines, and the paths that the command line set."""

    file: str
    lines: Mapping[KeyPath, int]
    overridden: frozenset[KeyPath] = frozenset()

    def problem(self, path: KeyPath, message: str, fix: str = "") -> Problem:
        """A problem at a key path, with the line of the nearest key at or above it."""
        for cut in range(len(path), -1, -1):
            if path[:cut] in self.overridden:
                return Problem(SET, 0, format_path(path), message, fix)
            if path[:cut] in self.lines:
                return Problem(self.file, self.lines[path[:cut]], format_path(path), message, fix)
        return Problem(self.file, 0, format_path(path), message, fix)


@dataclass(frozen=True)
class LoadedConfig:
    """A valid configuration, where it came from, and the 1-based line of every key path of the file.

    `root` is the absolute folder of the file. `overridden` are the key paths that the command line set.
    """

    config: Config
    path: Path
    root: Path
    lines: Mapping[KeyPath, int]
    overridden: frozenset[KeyPath] = field(default_factory=frozenset)

    def resolve(self, text: str) -> Path:
        """A path of the configuration: relative ones (of `--set` too) start at the folder of the file."""
        return self.root / text

    def problem(self, path: KeyPath, message: str, fix: str = "") -> Problem:
        """A problem at a key path, with the line of the nearest key at or above it."""
        return Places(str(self.path), self.lines, self.overridden).problem(path, message, fix)


@dataclass(frozen=True)
class Inspection:
    """Everything found in one pass. `loaded` is None when the schema was not met; `problems` holds missing files too.

    `readable` is what is left when every mistake is read as what was probably meant and capabilities without data are
    left out: never to be run, only to look at the data files in the same pass. None when nothing is left.
    """

    loaded: LoadedConfig | None
    readable: LoadedConfig | None
    problems: tuple[Problem, ...]
    keys: Mapping[str, str]

    def original(self, problem: Problem) -> Problem:
        """A problem found with `readable`, its key as the user wrote it."""
        return replace(problem, key=self.keys.get(problem.key, problem.key))


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, override and validate. Raises ConfigError with every problem of the file (not of the files it names)."""
    reading = _read(path, overrides)
    if reading.problems or reading.config is None:
        raise ConfigError(reading.problems)
    return reading.loaded(reading.config, reading.places.lines, reading.places.overridden)


def inspect_config(path: Path, overrides: Sequence[str] = ()) -> Inspection:
    """Find every problem of the file and of the paths that it names, and what can be read on. Raises nothing."""
    reading = _read(path, overrides)
    data = reading.document.value if reading.config is None else reading.config.model_dump(mode="json")
    found = list(_path_problems(data, reading.root, reading.places, reading.checked.origin))
    problems = tuple(sorted({*reading.problems, *(problem for _, problem in found)}))
    loaded = None
    if reading.config is not None and not reading.problems:
        loaded = reading.loaded(reading.config, reading.places.lines, reading.places.overridden)
    if loaded is not None and not problems:
        return Inspection(loaded, loaded, problems, {})
    readable, keys = _readable(reading, {key for key, _ in found})
    return Inspection(loaded, readable, problems, keys)


def load_checked(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """`load_config`, and every path that it names is there. Raises ConfigError with the problems of both."""
    inspection = inspect_config(path, overrides)
    if inspection.loaded is None or inspection.problems:
        raise ConfigError(inspection.problems)
    return inspection.loaded


def check_paths(loaded: LoadedConfig) -> list[Problem]:
    """Named files that are not there: sources, skills, oracles, vocabularies, scripts, local models (not hub ids)."""
    places = Places(str(loaded.path), loaded.lines, loaded.overridden)
    return sorted(p for _, p in _path_problems(loaded.config.model_dump(mode="json"), loaded.root, places, {}))


def config_json_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a configuration file, for editors; field descriptions are the schema's docstrings."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return {**schema, "title": "hybrid configuration"}


def resolved_json(config: Config, root: Path | None = None) -> str:
    """Canonical JSON of a configuration with every default written out; `load_config` reads it back unchanged.

    With `root`, relative paths become absolute from there, so that the file can be run from any folder; without it
    they stay as written, so that the text is the same wherever a project lies.
    """
    data = config.model_dump(mode="json")
    if root is not None:
        for reference in references(data):
            if reference.want != "hub" or (reference.text != REFERENCE and (root / reference.text).exists()):
                _put(data, reference.path, str(root / reference.text))
    return json.dumps(data, sort_keys=True, indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class _Reading:
    path: Path
    root: Path
    document: Document
    places: Places
    checked: Checked
    problems: tuple[Problem, ...]

    @property
    def config(self) -> Config | None:
        return self.checked.config

    def loaded(self, config: Config, lines: Mapping[KeyPath, int], overridden: frozenset[KeyPath]) -> LoadedConfig:
        return LoadedConfig(config, self.path, self.root, MappingProxyType(dict(lines)), overridden)


def _read(path: Path, overrides: Sequence[str]) -> _Reading:
    document = read_file(path)
    root = path.absolute().parent
    if not document.complete:
        return _Reading(
            path, root, document, Places(str(path), document.lines), Checked(None, (), {}), document.problems
        )
    data = {} if document.value is None and overrides else document.value
    assigned, wrong = apply_overrides(data, overrides)
    kept = {at: n for at, n in document.lines.items() if not any(at[: len(new)] == new for new in assigned)}
    places = Places(str(path), kept, frozenset(assigned))
    checked = check(data)
    known = {p.key for p in (*document.problems, *wrong) if p.key}
    schema = [places.problem(m.path, m.message, m.fix) for m in checked.mistakes]
    # A value that could not be read (an alias, a tag) is one mistake, not also a value of the wrong type.
    problems = {*document.problems, *wrong, *(p for p in schema if p.key not in known)}
    whole = replace(document, value=data)
    return _Reading(path, root, whole, places, checked, tuple(sorted(problems)))


def _path_problems(
    data: Any, root: Path, places: Places, origin: Mapping[KeyPath, KeyPath]
) -> Iterator[tuple[KeyPath, Problem]]:
    """Key paths (in `data`) of files that are not there, each with its problem at the key path that the user wrote."""
    for reference in references(data):
        wrong = missing(reference, root)
        if wrong is not None:
            yield reference.path, places.problem(origin.get(reference.path, reference.path), *wrong)
    wrong = gguf_missing(data, root)
    if wrong is not None:
        key: KeyPath = ("model", "gguf_file")
        yield key, places.problem(origin.get(key, key), *wrong)


def _readable(reading: _Reading, absent: set[KeyPath]) -> tuple[LoadedConfig | None, Mapping[str, str]]:
    """The configuration without the files that are not there; and its keys -> the user's keys where they differ."""
    config = reading.config
    if config is None:
        return None, {}
    unusable = reading.checked.hollow | {p[1] for p in absent if p[2:] == ("source", "path")}
    kept = [i for i in range(len(config.capabilities)) if i not in unusable]
    if not kept:
        return None, {}
    capabilities = tuple(
        config.capabilities[i].model_copy(
            update={k: None for k in ("skill", "oracle", "vocabulary") if ("capabilities", i, k) in absent}
        )
        for i in kept
    )
    names = {c.name for c in capabilities}
    force = {name: placement for name, placement in config.router.force.items() if name in names}
    router = config.router.model_copy(update={"force": force})
    smaller = config.model_copy(update={"capabilities": capabilities, "router": router})
    lines: dict[KeyPath, int] = {}
    overridden: set[KeyPath] = set()
    keys: dict[str, str] = {}
    for here, there in reading.checked.origin.items():
        if here[:1] == ("capabilities",) and len(here) > 1:
            if here[1] not in kept:
                continue
            here = ("capabilities", kept.index(int(here[1])), *here[2:])
        if there in reading.places.lines:
            lines[here] = reading.places.lines[there]
        if there in reading.places.overridden:
            overridden.add(here)
        if here != there:
            keys[format_path(here)] = format_path(there)
    return reading.loaded(smaller, lines, frozenset(overridden)), keys


def _put(data: Any, path: KeyPath, value: str) -> None:
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value
