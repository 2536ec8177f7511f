"""The part of the configuration that says whether one merged adapter may stand in for several."""

from __future__ import annotations

from pydantic import Field, field_validator

from hybrid.config.section import Section


class MergeConfig(Section):
    """One adapter instead of several: sums of the adapters that were trained, each against the separate ones by the gate.

    It ships only where it is not shown to be worse than each capability's own adapter (`gate.ship.minimum_effect`) and passes
    everything that an adapter of its own has to pass; the separate adapters stay otherwise.
    """

    scales: tuple[float, ...] = Field(default=(1.0, 0.7, 0.5), min_length=1)
    """What every adapter is multiplied by before they are added; the best one on `search` meets the gate."""

    @field_validator("scales")
    @classmethod
    def _scales_are_different_and_not_zero(cls, found: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(found)) < len(found) or any(not -10 <= s <= 10 or s == 0 for s in found):
            raise ValueError("scales are different numbers between -10 and 10, and none is 0")
        return found
