"""The suites that ship with hybrid, by name. A suite is imported when it is asked for, never before.

Does not: make rows, or import what a suite needs.
"""

from __future__ import annotations

SUITES: dict[str, str] = {}
"""Name -> `module:object`; the object is a `hybrid.capability.suites.base.Suite`."""
