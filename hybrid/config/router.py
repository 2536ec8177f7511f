"""The routing policy: thresholds, what is forced, what is built besides.

Does not: decide (see `hybrid.router`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.generality import TransferBound
from hybrid.config.section import Identifier, Section


class RouterConfig(Section):
    """Thresholds of the routing policy; all are shares in [0, 1]."""

    keep_above: float = Field(default=0.9, ge=0, le=1)
    """At or above this base score nothing needs improving."""
    context_gain: float = Field(default=0.1, ge=0, le=1)
    """Least gain of a text over the irrelevant-text control that makes text worth trying."""
    sampling_gain: float = Field(default=0.1, ge=0, le=1)
    """Least pass@k minus pass@1 that makes gradients worth trying."""
    signal_rate: float = Field(default=0.2, ge=0, le=1)
    """Least share of sampled groups with reward variance: below it GRPO has nothing to learn from."""
    lapse_share: float = Field(default=0.5, ge=0, le=1)
    """Least share of failures that break a rule which the document has, at its lower bound, that speaks for weights."""
    transfer: float = Field(default=0.5, ge=0, le=1)
    """Least gain on variants per gain in distribution for an adapter to ship."""
    transfer_bound: TransferBound = "point"
    """What must reach `transfer`: the ratio itself (`point`), or the lower end of its 95 % interval (`low`)."""
    force: dict[Identifier, Literal["keep", "skill", "weights", "both", "neither"]] = Field(default={})
    """Capability -> placement to attempt whatever the probes say; the gates still decide whether it ships."""
    counterfactual: bool = False
    """Train the other arms too, and say what they would have given."""
