"""Parts of the placement report about generality: does a gain carry over to variants, and what became of unknown facts.

Does not: measure or draw (see `generality_text`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from hybrid.report.parts import Count, Effect, Number, Part, Share, Substrate, Text


class ArmGenerality(Part):
    """How one arm's gain over the base carries over: confirm examples against held variants, at 95 %.

    `tau` is the gain on variants per gain in distribution: about 1 for a procedure, about 0 for a template. It is null where
    there are too few variants or nothing was gained, and has no ends where the gain may be zero; `note` says which.
    """

    arm: Substrate
    tau: Number | None
    low: Number | None
    high: Number | None
    gain: Effect
    variant_gain: Effect
    """`n` counts variants."""
    families: Count
    """Parents that the variants come from: the intervals resample whole families."""
    did: Effect
    """Gain in distribution minus gain on variants (difference in differences)."""
    note: Text = ""

    @model_validator(mode="after")
    def _ordered(self) -> ArmGenerality:
        if self.tau is None and self.low is not None:
            raise ValueError("a ratio that is not measurable has no interval")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self


class VariantPoint(Part):
    """A checkpoint on the watched variants, which are in no other sample. `search` is its mean on that split."""

    step: Count
    search: Share
    mean: Share
    low: Share
    high: Share
    n: Count
    tau: Number | None
    tau_low: Number | None
    tau_high: Number | None


class UnknownFacts(Part):
    """Training rows by whether the model knows them, and what became of the unknown ones (`weights.unknown_facts`)."""

    policy: Literal["keep", "drop", "relabel"]
    n: Count
    samples: Count
    highly: Count
    maybe: Count
    weakly: Count
    unknown: Count
    supplied: Count | None
    """Unknown rows that the best text at hand makes known; null without a text."""
    dropped: Count
    relabelled: Count


class Generality(Part):
    """Everything about one capability's generality. `watched` and `unknown_facts` belong to the training that is reported."""

    arms: tuple[ArmGenerality, ...] = ()
    watched: tuple[VariantPoint, ...] = ()
    """The curve over checkpoints, in step order."""
    unknown_facts: UnknownFacts | None = None
