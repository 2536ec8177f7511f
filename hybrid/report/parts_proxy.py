"""Parts of the placement report about proxy-tuning: the small model, the strengths that were tried, and what they cost.

Does not: measure or draw (see `proxy_text`).
"""

from __future__ import annotations

from typing import Literal

from hybrid.report.parts import Count, Effect, Estimate, Number, Part, Text


class ProxyTrial(Part):
    """A strength at a checkpoint of the small model, on `search`; `gain` is over the base with the same text, paired."""

    alpha: Number
    step: Count
    search: Estimate
    gain: Effect
    tokens_per_second: Number | None
    """Generated tokens by the seconds of their batches; null where no time was recorded."""


class Proxy(Part):
    """How a small model steers the base, whose weights stay as they are. `small_fingerprint` is null where it is the base."""

    small: Text
    small_fingerprint: Text | None
    apply: Literal["logits", "weights"]
    trained_by: Text
    alpha: Number | None
    """The strength that was offered to the ship gate; null where none beats the base on `search`."""
    trials: tuple[ProxyTrial, ...]
    base_tokens_per_second: Number | None
    """The base alone on the same prompts."""
