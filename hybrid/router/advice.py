"""Advice beside the placement: where neither text nor weights is the answer, and what the declared terms say. Pure.

Recommendations never place anything. Sources: iteration depth as in Bernier et al. 2026 (arXiv 2603.23004): a procedure
whose accuracy falls steeply with its length even under a text that spells the steps out is recalled, not run.

Does not: measure, or know where a declared term comes from (`volatility`, `calls_per_day` and `portable` of the profile).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid.config.router import RouterConfig
from hybrid.probe.base import Profile, Terms
from hybrid.router.upkeep import upkeep

TRAINED = 3.0
"""What a token costs that goes through a training step, in tokens that are read or generated: forward, and twice that back."""
Prefers = Literal["text", "weights"]
Recommendation = Literal["tool"]


@dataclass(frozen=True)
class Advice:
    """What is recommended, and why."""

    what: Recommendation
    why: str


@dataclass(frozen=True)
class Standing:
    """Which of two arms that are equally good is the cheaper one to live with."""

    prefers: Prefers
    why: str


def recommended(profile: Profile, policy: RouterConfig) -> Advice | None:
    """`tool` where accuracy falls steeply with depth under the best text, and deep answers mostly fail; else None."""
    slope = profile.get("depth_slope_text")
    if slope is None or slope.value is None or slope.low is None or slope.low < policy.tool_slope:
        return None
    deep = slope.details.get("at_deepest")
    if isinstance(deep, float) and deep >= policy.keep_above:
        return None
    shown = f"depth slope under the best text {slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}], n={slope.n}"
    ending = f", down to {deep:.2f} at the deepest" if isinstance(deep, float) else ""
    return Advice(
        "tool",
        f"recommended: a tool. {shown} logits of accuracy lost per step is at least {policy.tool_slope:.2f}{ending}: the "
        "steps are not run, with a text that spells them out or without",
    )


def standing(profile: Profile, policy: RouterConfig, document_tokens: int, training_tokens: float) -> Standing:
    """What to prefer where a text and an adapter are equally good.

    `document_tokens` are read with every call; `training_tokens` is the training in the same unit (`token_cost`). Text,
    unless the capability is so hot that an adapter pays (`upkeep`): text changes within the minute and moves between models.
    """
    terms = Terms(
        volatility=_declared(profile, "volatility"),
        calls_per_day=_declared(profile, "calls_per_day"),
        portable=bool(_declared(profile, "portable")),
    )
    if terms.portable:
        return Standing("text", "it has to move between models: a text does, an adapter does not")
    if not terms.calls_per_day:
        return Standing("text", "ties go to text")
    found = upkeep(terms, training=training_tokens, document=document_tokens, horizon_days=policy.horizon_days)
    when = "never" if found.days is None else f"after {found.days:.3g} days"
    compared = (
        f"{terms.calls_per_day:g} calls a day read {terms.calls_per_day * document_tokens:,.0f} tokens of document a day, a "
        f"training costs {training_tokens:,.0f}: an adapter pays {when}; {found.why}"
    )
    return Standing(
        "weights" if found.pays else "text", f"{compared}: {'weights are' if found.pays else 'the text is'} cheaper"
    )


def token_cost(tokens_in: float, tokens_out: float, trained: float) -> float:
    """One deterministic cost: tokens read and generated, and trained ones three times (forward and backward)."""
    return tokens_in + tokens_out + TRAINED * trained


def _declared(profile: Profile, name: str) -> float | None:
    found = profile.get(name)
    return None if found is None else found.value
