"""The part of the configuration that says how completions are searched as a tree, and what the tree is used for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section

CriticName = Literal["value", "process", "outcome"]


class CriticsConfig(Section):
    """Heads on the frozen base's hidden states, fitted to what the tree's leaves returned. One that is not calibrated on
    prompts that it was not fitted to is not used."""

    use: tuple[CriticName, ...] = ("value", "process", "outcome")
    """`value`: the return expected from here. `process`: whether anything right is still reachable after a step.
    `outcome`: whether a finished completion is right."""
    fit_every: int = Field(default=5, ge=1)
    """Steps between two fits; for `best_leaf` batches of `prompts_per_step` prompts."""
    rows: int = Field(default=2048, ge=64)
    """Newest nodes (for `outcome`: leaves) that a fit reads."""
    ridge: float = Field(default=1e-2, gt=0)
    """Weight of the squared norm, per row."""
    most_ece: float = Field(default=0.1, gt=0, lt=1)
    """Expected calibration error on held-out prompts above which a critic is not used."""


class TreeConfig(Section):
    """Option-level search (AlphaLLM, 2404.12253). Steps, prompts, leaves per prompt (`generations`), temperature and rewards are
    those of `weights.grpo`; the supervised steps of `best_leaf` those of `weights.sft`."""

    use: Literal["advantages", "best_leaf"] = "advantages"
    """`advantages`: GRPO in which every step of a completion has an advantage of its own. `best_leaf`: search every training
    prompt once with the base, then supervised fine-tuning on the best right leaf."""
    delimiter: str | None = "\n"
    """Text that ends an option; none cuts by `option_tokens` alone."""
    option_tokens: int = Field(default=16, ge=1)
    """Most tokens of an option."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Most tokens generated for one prompt; none is bounded by the leaves alone."""
    first: int = Field(default=4, ge=2)
    """Completions from the prompt before anything branches, and its least children."""
    least_children: int = Field(default=2, ge=1)
    most_children: int = Field(default=4, ge=1)
    """Bounds on the options tried after a node; the prompt's upper bound is the number of leaves."""
    importance: float = Field(default=4.0, ge=0)
    """A node may have 1 + this times its importance children, within the bounds: the greatest change of the score that
    any of its options made."""
    explore: float = Field(default=1.0, ge=0)
    """Weight of the exploration term when the search descends (UCT)."""
    wave: int = Field(default=4, ge=1)
    """Branches per prompt that are generated together before scores are looked at again."""
    merge: float = Field(default=0.0, ge=0, lt=1)
    """Two options of one node are one state when their edit distance is at most this share of the longer one; at 0 when they
    are the same."""
    outcome: Literal["checker", "critic"] = "checker"
    """Who scores leaves while the tree grows. `critic` spares a dear checker in the search, once the outcome critic is
    calibrated; rewards and best leaves are always the checker's."""
    credit: Literal["both", "global", "local"] = "both"
    """`global` is V(node) - V(root), `local` V(node) - V(parent), `both` their sum (TreeRL)."""
    weighting: Literal["sqrt", "reach"] = "reach"
    """`sqrt` divides by the root of the number of leaves through a node (TreeRL). `reach` weighs a node by how often sampling
    from the prompt would reach it, which estimates the policy gradient without bias from where the tree branched."""
    critics: CriticsConfig = CriticsConfig()

    @model_validator(mode="after")
    def _bounds(self) -> TreeConfig:
        if self.most_children < self.least_children:
            raise ValueError("most_children must not be below least_children")
        if self.outcome == "critic" and "outcome" not in self.critics.use:
            raise ValueError("outcome: critic needs `outcome` in critics.use")
        return self
