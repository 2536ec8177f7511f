"""The section `weights.memory`: what is checked before a training takes memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.section import Section


class MemoryConfig(Section):
    """Checks before the first step. None of them changes a weight or a random number."""

    preflight: Literal["refuse", "warn", "off"] = "refuse"
    """What to do when the predicted peak is above what is free: not train, with the knob to turn named; say so on the report;
    or predict nothing, in which case `rows_per_device` is never lowered by itself."""
    limit_mib: int | None = Field(default=None, ge=1)
    """Memory that a training may take beside its base, in MiB; default: what the device has free when it starts."""
    rehearse: bool = True
    """Before the first step the largest pass is computed once forwards and backwards, and the longest rows are generated from,
    so that what does not fit shows at once; gradients are dropped and the random state is put back."""
