"""Known-ness of facts: does the model already know the answer to a training row?

The four classes of SliCK (Gekhman et al. 2024, 2405.05904, section 3), from one greedy answer and k samples instead of
ten prompts of each. Training on unknown facts teaches a model to make facts up; the paper's remedy is to leave them out or
to teach "I do not know" for them. Pure. Does not: ask a model (see `hybrid.pipeline.known`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Known = Literal["highly", "maybe", "weakly", "unknown"]


def known(greedy: bool, samples: Sequence[bool]) -> Known:
    """`highly`: the greedy answer and every sample pass. `maybe`: the greedy one does, not every sample. `weakly`: only some
    sample does. `unknown`: none."""
    if greedy:
        return "highly" if all(samples) else "maybe"
    return "weakly" if any(samples) else "unknown"


class KnownFacts(BaseModel):
    """Counts over the `n` training rows of one training. `supplied` are unknown rows that a text makes known."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    policy: Literal["keep", "drop", "relabel"]
    n: int
    samples: int
    highly: int
    maybe: int
    weakly: int
    unknown: int
    supplied: int | None
    """None where there was no text to read."""
    dropped: int
    relabelled: int
