"""A rule over several keys that knows which key it is about.

A plain ValueError of a validator is shown at the section that holds both keys. A `KeyRuleError` is shown at the line of the key
that has to change, and says to what, or that it is missing. Does not: validate anything itself.
"""

from __future__ import annotations

from typing import Any


class KeyRuleError(ValueError):
    """The value at `path` (relative to the section that raises) breaks a rule; `legal` is a value that meets it.

    None stands for a required key that is missing.
    """

    def __init__(self, path: tuple[str, ...], message: str, fix: str, legal: Any) -> None:
        self.path, self.message, self.fix, self.legal = path, message, fix, legal
        super().__init__(f"{'.'.join(path)}: {message}; {fix}")


def multiples_near(value: int, unit: int) -> tuple[int, ...]:
    """The multiples of `unit` (at least 1) that are nearest to `value`: itself, or the ones below and above it.

    >>> multiples_near(25, 2), multiples_near(1, 4), multiples_near(8, 4)
    ((24, 26), (4,), (8,))
    """
    below = value // unit * unit
    if below == value:
        return (value,)
    return (below, below + unit) if below else (unit,)
