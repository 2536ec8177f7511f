"""The suites that ship with hybrid, by name. A suite is imported when it is asked for, never before.

Does not: make rows, or import what a suite needs.
"""

from __future__ import annotations

SUITES: dict[str, str] = {
    "numeric_iteration": "hybrid.capability.suites.numeric_iteration:SUITE",
}
"""Name -> `module:object`; the object is a `hybrid.capability.suites.base.Suite`."""
