"""The parts of the configuration that are about generality: variants while training, and facts that the model does not know.

Does not: divide variants (see `hybrid.capability.families`) or measure (see `hybrid.pipeline.generality` and `known`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.section import Section

UnknownFacts = Literal["keep", "drop", "relabel"]
"""What happens to training rows of a factual capability that the model does not know (Gekhman et al. 2024, 2405.05904)."""
TransferBound = Literal["point", "low"]
"""Which end of the transfer ratio meets its floor: the estimate, or the lower end of its 95 % interval."""


class GeneralityConfig(Section):
    """What is done with variants while an adapter is trained."""

    watch: float = Field(default=0.25, ge=0, lt=1)
    """Share of the variants, whole families at a time, that every checkpoint is measured on. The ship gate and the report
    never use these. Below 8 on either side nothing is watched."""
    augment: Literal["none", "variants"] = "none"
    """`variants`: an adapter whose gain does not carry over to the watched variants is trained once more, on training rows
    and the variants of training rows. These are in no other sample."""
    share: float = Field(default=0.25, gt=0, lt=1)
    """Share of variants among the training rows of the second attempt; variants are repeated where there are too few."""


class AbstainConfig(Section):
    """The grader accepts this answer where nothing better is known."""

    answer: str = Field(min_length=1, max_length=1000)
    """What stands for "I do not know", compared after trimming white space and folding case."""
    credit: float = Field(default=0.0, ge=0, lt=1)
    """Score of the answer on a row that has another reference; it never passes there. On a training row that is labelled
    unknown it scores 1 and passes, and nothing else does."""
