"""All probes of one capability, in order, as one profile.

Does not: make the texts (they come from the caller, who may ask a proposer for a draft).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.capability.types import Example
from hybrid.probe.base import ProbeContext, ProbeResult
from hybrid.probe.context import probe_context
from hybrid.probe.depth import probe_depth
from hybrid.probe.sampling import probe_sampling
from hybrid.probe.score import probe_score
from hybrid.probe.variants import probe_variants


@dataclass(frozen=True)
class Probed:
    """A profile, and the text that served best while probing ("" when none helped)."""

    profile: dict[str, ProbeResult]
    best_text: str


def worked_examples(examples: Sequence[Example], count: int) -> str:
    """The first `count` training rows as question and answer lines, a text that any capability can have."""
    rows = [f"{e.prompt_text} {e.gold_completion}" for e in examples[:count]]
    return "\n".join(rows)


def irrelevant_text(own: str, others: Sequence[str], seed: int) -> str:
    """A control of the same make: another capability's text, otherwise the own text with its words shuffled.

    "" where no order of the words is another text: the own text must never be its own control.
    """
    for other in others:
        if other.strip() and other.split() != own.split():
            return other
    words = own.split()
    shuffled = random.Random(seed).sample(words, len(words))
    if shuffled == words:
        shuffled = words[1:] + words[:1]
    return " ".join(shuffled) if shuffled != words else ""


def profile_capability(context: ProbeContext, texts: Mapping[str, str], control: str) -> Probed:
    """Run every probe. Sampling under a text is measured only where that text gained something: otherwise it is closed."""
    results, base = probe_score(context)
    results |= probe_sampling(context)
    headroom, best = probe_context(context, base, texts, control)
    results |= headroom
    gain = headroom["context_gain"]
    if best and gain.low is not None and gain.low > 0:
        results |= probe_sampling(context, best, prefix="text_")
    results |= probe_variants(context, base)
    results |= probe_depth(context, base, best)
    return Probed(results, best)
