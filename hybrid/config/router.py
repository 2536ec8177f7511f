"""The routing policy: thresholds, what is forced, what is built besides, and when evidence is bought.

Does not: decide (see `hybrid.router`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybrid.config.generality import TransferBound
from hybrid.config.section import Identifier, Section


class BuyConfig(Section):
    """The evidence that is bought where the probes leave a choice open: every open arm on a small equal budget."""

    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(8,), min_length=1)
    """Optimiser steps of each rung. After a rung the better half of the adapters goes on; the last one standing is compared
    with the text. The arm that wins is trained on from there: nothing of it is paid twice."""
    examples: int = Field(default=32, ge=8)
    """Examples of `search`, and at most as many watched variants, on which arms are compared. Where `search` has fewer nothing is
    bought."""
    margin: float = Field(default=0.05, ge=0, le=1)
    """A dearer arm has to be ahead of a cheaper one by more than this, lower end against lower end."""

    @model_validator(mode="after")
    def _rising(self) -> BuyConfig:
        if any(b <= a for a, b in pairwise(self.steps)):
            raise ValueError("steps must rise from rung to rung")
        return self


class ConfidenceConfig(Section):
    """Stated confidence = 1 / (1 + exp(-(intercept + slope * logit(weakest link)))) (Platt 1999). The default states the
    weakest link itself. `hybrid router fit` fits both numbers."""

    intercept: float = 0.0
    slope: float = Field(default=1.0, ge=0)


class RouterConfig(Section):
    """Thresholds of the routing policy; shares in [0, 1] unless said otherwise. `hybrid router fit` fits them to a table of
    runs in which every arm was built."""

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
    open_above: float = Field(default=0.15, ge=0, le=1)
    """A gain whose interval reaches up to this is open: not shown, and not excluded either. Where nothing is shown and
    something is open, the placement is `undecided`, not `neither`."""
    buy_below: float = Field(default=0.0, ge=0, le=1)
    """Where the weakest link of the probes is below this probability, the router buys evidence (`buy`) about the arms that are
    open; 0 never buys."""
    buy: BuyConfig = BuyConfig()
    confidence: ConfidenceConfig = ConfidenceConfig()
    tool_slope: float = Field(default=0.5, ge=0)
    """Logits of accuracy lost per step under the best text, at the lower end of its interval, that speak for a tool."""
    horizon_days: float = Field(default=30.0, gt=0)
    """Days over which the document's tokens of a capability with `calls_per_day` are held against the cost of a training."""
    force: dict[Identifier, Literal["keep", "skill", "weights", "both", "neither"]] = Field(default={})
    """Capability -> placement to attempt whatever the probes say; the gates still decide whether it ships."""
    counterfactual: bool = False
    """Train the other arms too, and say what they would have given."""
