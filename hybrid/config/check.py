"""Finds every mistake of a configuration in one pass, also those that another mistake hides.

A validator stops where a section is broken: what stands inside a misspelt section, and every rule over several keys,
goes unchecked. So each mistake found is repaired in a copy (a misspelt key is read as the key that it is near to, a
bad value as its default) and the copy is checked again, until it is valid. Mistakes that only a repair caused are not
reported. The repaired copy is never run; it serves to read on (see `loader.inspect_config`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hybrid.config.problems import explain
from hybrid.config.rules import KeyRuleError
from hybrid.config.schema import Config
from hybrid.config.shape import Spot, choices, find, keys, tags
from hybrid.config.suggest import did_you_mean, nearest, quoted
from hybrid.config.yaml_strict import KeyPath, resolve_scalar

_ROUNDS = 40
_MISTAKES = 200
_UNNAMED = "unnamed"
_GONE = object()
_HARMLESS: dict[KeyPath, Any] = {("model",): {"path": "reference"}, ("model", "path"): "reference"}
_PLACEHOLDERS: dict[str | int, dict[str, str]] = {"source": {"type": "jsonl", "path": "."}, "grader": {"type": "exact"}}
_HEADED = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_]+)*): (?P<rest>.*)", re.DOTALL)
_NAME = re.compile(r"'([^']*)'")


@dataclass(frozen=True)
class Mistake:
    """One mistake, at a key path of the data as the user wrote it (the path of a missing key is where it should be)."""

    path: KeyPath
    message: str
    fix: str


@dataclass(frozen=True)
class Checked:
    """`config` is valid as it stands only without mistakes; else it is what could be read of it, or None.

    `origin` maps every key path of `config`'s data to the path in the user's data. `hollow` are the capabilities (their
    indexes in `config`) whose source or grader could not be read, and is a placeholder.
    """

    config: Config | None
    mistakes: tuple[Mistake, ...]
    origin: Mapping[KeyPath, KeyPath]
    hollow: frozenset[int] = frozenset()


def check(data: Any) -> Checked:
    """Validate `data` (what the YAML reader gave) against the schema. Never raises; at most 200 mistakes."""
    if not isinstance(data, dict):
        fix = "start with `name:`, `model:` and `capabilities:`"
        what = "the file is empty" if data is None else "a configuration is a section of keys"
        return Checked(None, (Mistake((), what, fix),), {})
    return _Check(data).run()


class _Check:
    def __init__(self, data: dict[str, Any]) -> None:
        self.tree: Any = copy.deepcopy(data)
        self.names: dict[KeyPath, str] = {}  # a path of the tree -> the key that the user wrote there
        self.removed: set[KeyPath] = set()
        self.hollow: set[KeyPath] = set()
        self.mistakes: dict[tuple[KeyPath, bool], Mistake] = {}

    def run(self) -> Checked:
        for _ in range(_ROUNDS):
            if len(self.mistakes) >= _MISTAKES:
                break
            origin: dict[KeyPath, KeyPath] = {}
            data = _compact(self.tree, (), (), origin)
            try:
                config = Config.model_validate_json(json.dumps(data), strict=True)
            except ValidationError as error:
                details = error.errors(include_url=False, include_context=True)[:_MISTAKES]
                if not self._round([(dict(d), _at(find(Config, d["loc"]), origin)) for d in details]):
                    break
            else:
                hollow = frozenset(int(path[1]) for path, there in origin.items() if there in self.hollow)
                user = {path: self._original(there) for path, there in origin.items()}
                return Checked(config, self._found(), user, hollow)
        return Checked(None, self._found(), {})

    def _found(self) -> tuple[Mistake, ...]:
        return tuple(self.mistakes.values())[:_MISTAKES]

    def _original(self, path: KeyPath) -> KeyPath:
        return tuple(self.names.get(path[: i + 1], part) for i, part in enumerate(path))

    def _round(self, found: list[tuple[dict[str, Any], Spot]]) -> bool:
        """Report and repair one round of errors; False when nothing could be changed."""
        deepest = {spot.path for _, spot in found}
        changed = False
        for error, spot in sorted(found, key=lambda pair: _order(*pair)):
            kind = error["type"]
            above = any(len(p) > len(spot.path) and p[: len(spot.path)] == spot.path for p in deepest)
            if above and str(kind).endswith("_type"):
                continue  # one member of a union did not fit; the other one's errors say more
            changed = self._one(str(kind), error, spot) or changed
        return changed

    def _one(self, kind: str, error: dict[str, Any], spot: Spot) -> bool:
        if kind == "missing" and _get(self.tree, spot.path) is not None:
            return True  # a misspelt key was read as this one
        if kind == "int_type" and isinstance(error["input"], float) and error["input"].is_integer():
            return self._set(spot.path, int(error["input"]))  # 1e6 is a fine way to write a count
        if kind == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            return False  # pydantic counts only the entries that are valid; each of the others has its own error
        rule = error.get("ctx", {}).get("error")
        if isinstance(rule, KeyRuleError):
            place = (*spot.path, *rule.path)
            unread = (*spot.path, "source") in self.removed  # a suite, perhaps, which needs no grader
            if rule.legal is not None or not (unread or self._is_consequence(place)):
                self._report(place, rule.message, rule.fix)
            return self._fill(place) if rule.legal is None else self._put(place, rule.legal)
        if kind == "value_error" and not spot.path:
            return self._rule_of_the_file(error, spot)
        parent = _get(self.tree, spot.path[:-1])
        siblings = parent if isinstance(parent, dict) else {}
        path = (*spot.path, spot.shape.discriminator or "type") if kind.startswith("union_tag") else spot.path
        if not self._is_consequence(spot.path):
            about_key = kind == "extra_forbidden" or spot.is_key
            self._report(path, *explain(error, spot, Config, siblings), about_key=about_key)
        return self._repair(kind, error["input"], spot, siblings)

    def _report(self, path: KeyPath, message: str, fix: str, about_key: bool = False) -> None:
        """Note a mistake; one per key and one per value, since a repair may leave another at the same place."""
        original = self._original(path)
        self.mistakes.setdefault((original, about_key), Mistake(original, message, fix))

    def _is_consequence(self, path: KeyPath) -> bool:
        return any(gone[: len(path)] == path for gone in self.removed)

    def _repair(self, kind: str, found: Any, spot: Spot, siblings: Mapping[str, Any]) -> bool:
        path, key = spot.path, str(spot.path[-1]) if spot.path else ""
        if kind == "extra_forbidden" or spot.is_key:
            legal = [k for k in keys(spot.parent) if k not in siblings]
            return self._rename(path, nearest(key, legal))
        if kind == "missing":
            return self._fill(path)
        if kind.startswith("union_tag"):
            tag = found.get(spot.shape.discriminator) if isinstance(found, dict) else None
            near = nearest(tag, tags(spot.shape)) if isinstance(tag, str) else None
            return self._set((*path, str(spot.shape.discriminator)), near) if near else self._remove(path)
        if kind == "literal_error" and isinstance(found, str):
            near = nearest(found, choices(spot.shape))
            return self._set(path, near) if near else self._remove(path)
        if kind in ("int_type", "float_type") and isinstance(found, str):
            value = resolve_scalar(found.strip())
            if isinstance(value, int | float) and not isinstance(value, bool):
                return self._set(path, value)
        return self._remove(path)

    def _fill(self, path: KeyPath) -> bool:
        """Give a required key a harmless value where one exists, else drop the section that lacks it."""
        if path[-1] == "name" and len(path) in (1, 3):
            self.removed.add(path)
            return self._set(path, _UNNAMED + "".join(f"-{p}" for p in path if isinstance(p, int)))
        if path in _HARMLESS:
            return self._set(path, copy.deepcopy(_HARMLESS[path]))
        if len(path) == 3 and path[0] == "capabilities" and path[2] in _PLACEHOLDERS:
            self.hollow.add(path[:2])
            return self._set(path, dict(_PLACEHOLDERS[path[2]]))
        return self._remove(path[:-1])

    def _rule_of_the_file(self, error: Mapping[str, Any], spot: Spot) -> bool:
        """The rules over the whole file name their key in front: `router.force: 'x' is not a capability`."""
        message = str(error["msg"]).removeprefix("Value error, ")
        headed, name = _HEADED.match(message), _NAME.search(message)
        entries = _get(self.tree, ("capabilities",))
        names = [e.get("name") if isinstance(e, dict) else None for e in entries] if isinstance(entries, list) else []
        if headed and name and headed["key"] == "capabilities" and names.count(name[1]) > 1:
            last = len(names) - 1 - names[::-1].index(name[1])
            self._report(("capabilities", last, "name"), headed["rest"], "give every capability a name of its own")
            return self._set(("capabilities", last, "name"), f"{_UNNAMED}-{last}")
        if headed and name and headed["key"] == "router.force":
            path: KeyPath = ("router", "force", name[1])
            if not any(gone[:1] == ("capabilities",) and (len(gone) < 3 or gone[2] == "name") for gone in self.removed):
                known = [n for n in names if isinstance(n, str) and not n.startswith(_UNNAMED)]
                fix = did_you_mean(name[1], known, "the capabilities of this file are")
                self._report(path, f"{quoted(name[1])} is not a capability of this file", fix, about_key=True)
            return self._remove(path)
        if headed:
            path = tuple(headed["key"].split("."))
            text, _, fix = headed["rest"].partition("; ")
            self._report(path, text, fix or "change it")
            return self._remove(path)
        self._report((), *explain(error, spot, Config, {}))
        return False

    def _rename(self, path: KeyPath, new: str | None) -> bool:
        if new is None:
            return self._remove(path, quietly=True)
        section = _get(self.tree, path[:-1])
        section[new] = section.pop(path[-1])
        self.names[(*path[:-1], new)] = self.names.pop(path, str(path[-1]))
        return True

    def _set(self, path: KeyPath, value: Any) -> bool:
        section = _get(self.tree, path[:-1])
        if isinstance(section, dict | list):
            section[path[-1]] = value  # type: ignore[index]  # the path was just found in this tree
            return True
        return False

    def _put(self, path: KeyPath, value: Any) -> bool:
        """`_set`, where the sections above may not be written yet: the key stands at its default."""
        section = self.tree
        for part in path[:-1]:
            section = section.setdefault(part, {}) if isinstance(section, dict) else None
        return self._set(path, value)

    def _remove(self, path: KeyPath, quietly: bool = False) -> bool:
        """Take a value away. Loudly: whatever its absence causes further up is not the user's mistake."""
        section = _get(self.tree, path[:-1]) if path else None
        if not quietly:
            self.removed.add(path)
        if isinstance(section, list) and isinstance(path[-1], int):
            section[path[-1]] = _GONE
            return True
        return isinstance(section, dict) and section.pop(path[-1], _GONE) is not _GONE


def _compact(value: Any, there: KeyPath, here: KeyPath, origin: dict[KeyPath, KeyPath]) -> Any:
    """A copy without the removed items of lists; `origin` learns where in the tree each path of the copy stands."""
    origin[here] = there
    if isinstance(value, dict):
        return {k: _compact(v, (*there, k), (*here, k), origin) for k, v in value.items()}
    if isinstance(value, list):
        kept = [(i, v) for i, v in enumerate(value) if v is not _GONE]
        return [_compact(v, (*there, i), (*here, n), origin) for n, (i, v) in enumerate(kept)]
    return value


def _at(spot: Spot, origin: Mapping[KeyPath, KeyPath]) -> Spot:
    """The same spot in the coordinates of the tree. A missing key stands under its parent."""
    for cut in range(len(spot.path), -1, -1):
        if spot.path[:cut] in origin:
            return Spot((*origin[spot.path[:cut]], *spot.path[cut:]), spot.shape, spot.parent, spot.is_key)
    return spot


def _get(tree: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree


def _order(error: Mapping[str, Any], spot: Spot) -> tuple[int, int]:
    """Keys before values, so that a key that is only misspelt is not also missing; deep before shallow."""
    first = 0 if error["type"] == "extra_forbidden" or spot.is_key else 2 if error["type"] == "missing" else 1
    return first, -len(spot.path)
