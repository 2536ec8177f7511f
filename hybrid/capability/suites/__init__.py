"""The suites that ship with hybrid, by name. A suite is imported when it is asked for, never before.

Does not: make rows, or import what a suite needs.
"""

from __future__ import annotations

_HERE = "hybrid.capability.suites"
SUITES: dict[str, str] = {
    "facts": f"{_HERE}.facts:SUITE",
    "function_calling": f"{_HERE}.function_calling:SUITE",
    "givens": f"{_HERE}.givens:SUITE",
    "items": f"{_HERE}.items:SUITE",
    "numeric_iteration": f"{_HERE}.numeric_iteration:SUITE",
    "reasoning_gym": f"{_HERE}.reasoning_gym:SUITE",
    "routes": f"{_HERE}.routes:SUITE",
    "style": f"{_HERE}.style:SUITE",
}
"""Name -> `module:object`; the object is a `hybrid.capability.suites.base.Suite`."""
