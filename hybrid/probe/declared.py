"""Declared terms: how often a capability's truth changes, how often it is asked, whether it has to move between models.

Formula: none; they are what the configuration says (`volatility`, `calls_per_day`, `portable`), carried as values
with n = 0 and without an interval, so that nobody mistakes them for measurements. Control: none. Cost: nothing.
"""

from __future__ import annotations

from hybrid.probe.base import ProbeResult, Terms


def declared_terms(terms: Terms) -> dict[str, ProbeResult]:
    """`volatility` (changes a month), `calls_per_day` and `portable` (1 or 0); only those that were declared."""
    found = {
        "volatility": (terms.volatility, "declared: changes a month"),
        "calls_per_day": (terms.calls_per_day, "declared: calls a day"),
        "portable": (None if terms.portable is None else float(terms.portable), "declared: 1 where it has to move"),
    }
    return {name: ProbeResult(value=value, note=note) for name, (value, note) in found.items() if value is not None}
