"""How much is measured before routing.

Does not: measure (see `hybrid.probe`).
"""

from __future__ import annotations

from pydantic import Field

from hybrid.config.section import Section


class ProbeConfig(Section):
    """How much is measured before routing."""

    examples: int = Field(default=64, ge=8)
    """Examples of `search` per probe."""
    samples: int = Field(default=8, ge=2, le=256)
    """k of pass@k."""
    temperature: float = Field(default=1.0, gt=0)
    worked_examples: int = Field(default=4, ge=0)
    """Train rows shown as worked examples in the context-headroom probe; 0 leaves that arm out."""
    variants: int = Field(default=64, ge=0)
    """Examples of `variant` measured; 0 leaves the probe out."""
    contexts: int = Field(default=2, ge=0)
    """Sets of two worked examples under which known-ness is asked again, besides no text and the texts of the context probe."""
    paraphrases: int = Field(default=64, ge=0)
    """Most rows of `search` beyond `examples` that are asked so that groups of paraphrases are whole."""
    stop: bool = True
    """Leave out what the decision no longer waits for; false measures everything (`docs/probes.md` has the rules)."""
