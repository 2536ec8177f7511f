"""Values given on the command line: `a.b.c=value` on top of a file.

The value is YAML of the project's dialect; a number in the path indexes a list (`capabilities.0.name` or
`capabilities[0].name`). Sections that the file leaves out are made. Does not: know the schema; a wrong key or value is
found like any other mistake, with `--set` in place of the file name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hybrid.config.suggest import quoted, shown
from hybrid.config.yaml_strict import KeyPath, format_path, parse_yaml
from hybrid.errors import Problem

SET = "--set"
_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\[[0-9]{1,6}\])*(?:\.[A-Za-z0-9_-]+(?:\[[0-9]{1,6}\])*)*\Z")
_LONGEST = 200
_FORM = "write `--set key=value`, for example `--set probe.samples=4`"


def apply_overrides(data: Any, overrides: Sequence[str]) -> tuple[list[KeyPath], list[Problem]]:
    """Change `data` in place, in the order given. Returns the paths that the overrides brought, and what could not be.

    Everything at or under a returned path comes from the command line: a section made on the way is returned whole.
    """
    paths: list[KeyPath] = []
    problems: list[Problem] = []
    for text in overrides:
        key, separator, written = text.partition("=")
        key = key.strip()
        if not separator or not _KEY.match(key) or len(key) > _LONGEST:
            problems.append(Problem(SET, 0, "", f"{quoted(text)} is not an assignment", _FORM))
            continue
        value, _, wrong = parse_yaml(written, SET)
        if wrong:
            problems += [Problem(SET, 0, key, f"{p.message} in {quoted(written)}", p.fix) for p in wrong]
            continue
        result = _assign(data, re.findall(r"[A-Za-z0-9_-]+", key), value)
        if isinstance(result, Problem):
            problems.append(result)
        else:
            paths.append(result)
    return paths, problems


def _assign(data: Any, steps: list[str], value: Any) -> KeyPath | Problem:
    path: KeyPath = ()
    made: KeyPath | None = None
    here = data
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        if isinstance(here, list):
            if not step.isdecimal() or int(step) >= len(here):
                fix = f"use an index from 0 to {len(here) - 1}" if here else "the list is empty"
                return Problem(SET, 0, format_path(path), f"{step!r} is not an entry of this list", fix)
            part: str | int = int(step)
        elif isinstance(here, dict):
            part = step
        else:
            message = f"{step!r} cannot be set inside {shown(here)}"
            return Problem(
                SET, 0, format_path(path), message, f"set {format_path(path) or 'the file'} to a section first"
            )
        path = (*path, part)
        if last:
            here[part] = value
        elif isinstance(here, dict) and here.get(step) is None:
            here[part] = {}
            made = path if made is None else made
        here = here[part]
    return path if made is None else made
