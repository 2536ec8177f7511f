"""The part of the configuration that says how a small model steers the base while it decodes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section

SAME = "base"
"""`small`: the base steers itself."""


class ProxyConfig(Section):
    """Proxy-tuning (Liu et al. 2024, 2401.08565): logits of the base + alpha * (those of a tuned small model - those of the small
    model). The base's weights are not touched."""

    small: str = SAME
    """The small model: a local folder, a hub id, or `reference`; it must have the base's vocabulary. `base` is the base
    itself, tuned once and applied at another strength (DeRa, 2402.02992)."""
    revision: str | None = None
    """Revision of a hub id."""
    train: Literal["sft", "grpo"] = "sft"
    """How the small model is tuned; steps, batch and learning rate are those of that section."""
    adapter: str | None = None
    """Folder of a LoRA that the small model was already tuned to, with hybrid's manifest; nothing is trained then."""
    alphas: tuple[Annotated[float, Field(gt=0, le=16)], ...] = Field(default=(0.25, 0.5, 1.0, 1.5), min_length=1)
    """Strengths to try on `search`. Checkpoints are compared at the one nearest to 1, the others are tried on the best one."""
    tolerance: float = Field(default=0.02, ge=0, lt=1)
    """Strengths whose `search` score is within this of the best one count as equally good, and the weakest of them is offered:
    it moves least of what nobody asked to change."""
    apply: Literal["logits", "weights"] = "logits"
    """`weights` scales the adapter itself by alpha, which is another function of it and costs nothing at decoding; only for
    `small: base`."""

    @model_validator(mode="after")
    def _consistent(self) -> ProxyConfig:
        if len(set(self.alphas)) != len(self.alphas):
            raise ValueError("alphas: every strength once")
        if self.apply == "weights" and self.small != SAME:
            raise ValueError("apply: weights scales an adapter of the base; it needs small: base")
        return self

    @property
    def first(self) -> float:
        """The strength at which checkpoints are compared."""
        return min(self.alphas, key=lambda alpha: (abs(alpha - 1.0), alpha))
