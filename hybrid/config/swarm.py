"""The part of the configuration that says how adapters are composed without gradients (`weights.method: swarm`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.section import Section

Combination = Literal["cat", "linear", "ties", "dare_linear", "dare_ties"]


class SwarmConfig(Section):
    """A search over mixture coefficients of finished adapters. What it finds is one adapter, gated like any other."""

    experts: tuple[str, ...] = ()
    """Capabilities of this file, whose adapters without a text are taken as they were built, and folders of adapters of this
    base. None means every other capability that is not itself composed."""
    search: Literal["cma", "swarms", "random"] = "cma"
    """`cma`: CMA-ES, of which the mean is taken. `swarms`: Model Swarms (Feng et al. 2024, 2410.11163) as published, on
    coefficients. `random`: draws around the best start, as a control."""
    evaluations: int = Field(default=150, ge=1)
    """Mixtures that are looked at, the experts themselves and their average included."""
    population: int = Field(default=10, ge=2)
    """Mixtures of one generation; for `swarms` particles, at least one for each expert."""
    sigma: float = Field(default=0.3, gt=0)
    """First standard deviation of a coefficient; for `cma` and `random`."""
    examples: int = Field(default=200, ge=8)
    """At most so many examples of `search` are searched on; what is left of it is the fresh data for the last comparison."""
    block: int = Field(default=40, ge=4)
    """Examples between two looks at a generation: a mixture that is clearly behind by then is not measured further."""
    drop_p: float = Field(default=0.05, ge=0, lt=0.5)
    """Clearly behind: a one-sided sign test below this, against what it has to beat. 0 measures every mixture in full."""
    regularise: float = Field(default=0.02, ge=0)
    """Score that a mean absolute coefficient of 1 costs."""
    combination: Combination = "cat"
    """How coefficients become an adapter. `cat` is exactly the weighted sum of the weight changes; the others are PEFT's, which
    work on the factors and are not that sum."""
    density: float = Field(default=0.5, gt=0, le=1)
    """Share of an expert's numbers that `ties` and `dare_...` keep."""
    rank: int | None = Field(default=None, ge=1)
    """Compress the found mixture to this rank; the report says what was left out. None keeps it exact."""
    inertia: float = Field(default=0.2, ge=0)
    """`swarms`: weight of a particle's velocity."""
    personal: float = Field(default=0.3, ge=0)
    """`swarms`: weight of the way to the best that this particle has seen."""
    social: float = Field(default=0.4, ge=0)
    """`swarms`: weight of the way to the best that any particle has seen."""
    repel: float = Field(default=0.05, ge=0)
    """`swarms`: weight of the way from the worst that any particle has seen."""
    step: float = Field(default=1.0, gt=0)
    """`swarms`: length of a step, times .95 each generation, at least .1."""
    patience: int = Field(default=10, ge=1)
    """`swarms`: generations without a new best after which the search ends; a particle goes back to its own best after half as
    many."""
