"""From a `source: {type: suite}` section to rows and grader, every mistake a problem with the key that it is about.

Does not: make rows (suites do), compare splits (`sources` does) or map keys to lines (`pipeline.prepare` does).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from hybrid.capability.rows import ProblemList, Row, row_mistakes
from hybrid.capability.suites import SUITES
from hybrid.capability.suites.base import IN_ORDER, Suite, SuiteData, SuiteError, require
from hybrid.capability.types import SPLITS, Grader, Kind, Split
from hybrid.config.problems import explain
from hybrid.config.schema import SuiteSource
from hybrid.config.shape import find
from hybrid.config.suggest import did_you_mean
from hybrid.errors import Problem


@dataclass(frozen=True)
class Offered:
    """What a suite brings besides rows; the configuration goes first in everything."""

    grader: Grader
    kind: Kind | None
    skill: str | None
    oracle: str | None


def read_suite(
    source: SuiteSource, key: str, resolve: Callable[[str], Path], seed: int, problems: ProblemList
) -> tuple[dict[Split, list[Row]], Offered | None]:
    """The rows of every split and what the suite brings besides; mistakes go to `problems`, below the config key `key`."""
    label = source.name if source.name is not None else Path(str(source.path)).stem
    try:
        suite = load_suite(source, resolve)
        options = checked_options(suite, source.options, f"{key}.options", problems)
        if options is None:
            return {}, None
        made = _built(suite, options, source, seed)
        return _rows(made, label, problems), Offered(made.grader, suite.about.kind, made.skill, made.oracle)
    except SuiteError as error:
        problems.add(Problem("config", 0, f"{key}.{error.key}", str(error), error.fix))
    return {}, None


def load_suite(source: SuiteSource, resolve: Callable[[str], Path]) -> Suite:
    """The suite of a section, everything it needs installed. Raises `SuiteError`."""
    suite = _own(resolve(source.path)) if source.path is not None else named_suite(str(source.name))
    for module, install in (suite.about.needs or {}).items():
        require(module, install, f"the suite {source.name or source.path!r}")
    return suite


def named_suite(name: str) -> Suite:
    """A suite of the registry. Raises `SuiteError` for a name that it does not hold."""
    if name not in SUITES:
        raise SuiteError("name", f"there is no suite {name!r}", did_you_mean(name, SUITES, "the suites are"))
    module, _, attribute = SUITES[name].partition(":")
    return cast(Suite, getattr(importlib.import_module(module), attribute))


def checked_options(suite: Suite, options: dict[str, Any], key: str, problems: ProblemList) -> Any:
    """The options as the suite's model, or None with a problem for every mistake."""
    model: type[BaseModel] = suite.options
    try:
        return model.model_validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=True):
            if found["type"] == "too_short" and len(found["input"]) >= found["ctx"]["min_length"]:
                continue  # pydantic counts only the entries that are valid; each of the others has its own error
            spot = find(model, found["loc"])
            message, fix = explain(dict(found), spot, model, options if len(spot.path) == 1 else {})
            path = ".".join((key, *map(str, spot.path)))
            problems.add(Problem("config", 0, path, message, fix))
    return None


def _built(suite: Suite, options: Any, source: SuiteSource, seed: int) -> SuiteData:
    used = seed if source.seed is None else source.seed
    if source.path is None:
        return suite.build(options, source.sizes, used)
    try:
        return suite.build(options, source.sizes, used)
    except SuiteError:
        raise
    except Exception as error:  # code of the user's: whatever it raises is a mistake in that file
        what = f"{type(error).__name__}: {error}"
        raise SuiteError("path", f"`build` of {source.path} raised {what}", "correct the suite") from error


def _own(file: Path) -> Suite:
    """The object `SUITE` of a file of the user's, whose top level is run once per content."""
    try:
        content = file.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SuiteError("path", f"{file} cannot be read: {reason}", "correct the path") from error
    name = f"hybrid_suite_{hashlib.sha256(str(file.absolute()).encode() + content).hexdigest()[:16]}"
    module = sys.modules.get(name) or _run(file, name)
    suite = getattr(module, "SUITE", None)
    absent = [part for part in ("about", "options", "build") if not hasattr(suite, part)]
    if absent:
        found = f"{file} has no object SUITE" if suite is None else f"SUITE of {file} has no {', '.join(absent)}"
        raise SuiteError("path", found, "docs/suites.md shows a whole suite")
    return cast(Suite, suite)


def _run(file: Path, name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise SuiteError("path", f"{file} is not a Python file", "give it the suffix .py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # pydantic looks types up where their module says it is
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # code of the user's
        del sys.modules[name]
        what = f"{type(error).__name__}: {error}"
        raise SuiteError("path", f"{file} cannot be imported ({what})", "correct the suite") from error
    return module


def _rows(made: SuiteData, label: str, problems: ProblemList) -> dict[Split, list[Row]]:
    """Every row with a place, `SUITE[SPLIT]:NUMBER`, held to the rules that rows of files are held to."""
    rows: dict[Split, list[Row]] = {}
    for split in SPLITS:
        place, seen = f"{label}[{split}]", set[str]()
        examples = made.splits.get(split, [])
        if not examples and split in IN_ORDER:
            problems.add(Problem(place, 0, "", "the suite made no rows", "correct the suite"))
        for number, example in enumerate(examples, 1):
            for field, message, fix in row_mistakes(example.model_dump(mode="json")):
                problems.add(Problem(place, number, field, message, fix))
            if example.id in seen:
                problems.add(Problem(place, number, "id", f"{example.id!r} is used twice", "give every row its own id"))
            seen.add(example.id)
        if examples:
            rows[split] = [Row(example, place, number) for number, example in enumerate(examples, 1)]
    return rows
