"""What differs between two identities, field by field, with the old and the new value.

    list_differences(differences({"seed": 0}, {"seed": 1}))      # "seed: 0 -> 1"

Pure. Does not: decide whether a difference matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ABSENT = object()
_DIGEST = re.compile(r"[0-9a-f]{40,64}")
_SHOWN, _WIDTH = 8, 60


@dataclass(frozen=True)
class Difference:
    """One field, as a dotted path with list places in brackets, and its value on both sides, as text for people."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


def differences(old: Any, new: Any, prefix: str = "") -> tuple[Difference, ...]:
    """Every leaf in which two values of JSON differ, in order of the fields. Lists of other lengths differ as a whole."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new})
        inner = [
            (f"{prefix}.{key}" if prefix else str(key), old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in keys
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        inner = [(f"{prefix}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return (
            () if old == new and (old is _ABSENT) == (new is _ABSENT) else (Difference(prefix, shown(old), shown(new)),)
        )
    return tuple(found for name, a, b in inner for found in differences(a, b, name))


def shown(value: Any) -> str:
    """A value on one short line: JSON, a digest by its first characters, nothing that a terminal would obey."""
    if value is _ABSENT:
        return "absent"
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:12]}..."
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def list_differences(found: Sequence[Difference]) -> str:
    """The first eight differences in one sentence, and how many more there are."""
    listed = "; ".join(map(str, found[:_SHOWN]))
    return listed if len(found) <= _SHOWN else f"{listed}; and {len(found) - _SHOWN} more"
