"""What kind of thing a capability is, from its measured signature. Pure.

Does not: look at what its owner declared; that is compared with this.
"""

from __future__ import annotations

import math
from typing import Literal

from hybrid.probe.base import ProbeResult, Profile

MeasuredKind = Literal["procedural", "factual", "stylistic", "mixed", "unclear"]


def side_probability(probe: ProbeResult, threshold: float) -> float:
    """Normal probability that the true value is on the same side of `threshold` as the estimate; 0.5 to 1."""
    if probe.value is None or probe.low is None or probe.high is None:
        return 0.5
    error = max((probe.high - probe.low) / (2 * 1.96), 1e-6)
    return 0.5 * (1 + math.erf(abs(probe.value - threshold) / (error * math.sqrt(2))))


def measured_kind(profile: Profile) -> tuple[MeasuredKind, float]:
    """What the profile's signature says: factual where answers are unknown to any sample and a text supplies them,
    stylistic where a text repairs the format, procedural where the model can do it sometimes or on instruction."""
    unknown, gain, shape = profile.get("unknown"), profile.get("context_gain"), profile.get("format")
    if unknown is None or unknown.value is None:
        return "unclear", 0.0
    text_helps = gain is not None and gain.low is not None and gain.low > 0
    if shape is not None and shape.value is not None and shape.value < 0.5 and text_helps:
        return "stylistic", side_probability(shape, 0.5)
    if unknown.value >= 0.5:
        return ("factual", side_probability(unknown, 0.5)) if text_helps else ("unclear", 0.0)
    return "procedural", side_probability(unknown, 0.5)
