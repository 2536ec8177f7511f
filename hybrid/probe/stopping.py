"""When a probe is left out or ends early: its decision is no longer open. One pure rule per probe, each with its reason.

A rule closes a decision only where the 95 % interval lies on one side of the router's threshold, never on an estimate
alone, and never where the other side would change what is attempted. Rules that look several times share the 5 % over
the looks (Bonferroni). What a probe would have cost and did not is counted (`Savings`) and stands in the profile as
`probe_saved`.
Does not: measure, or route.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid.config.schema import ProbeConfig, RouterConfig
from hybrid.probe.base import ProbeResult, Profile

BLOCK = 16
"""Examples per look of the sampling probe; also `hybrid.router`'s least number of examples."""
UNKNOWN = 0.3
"""Least share of unknown rows from which a capability can be factual (SliCK-lite)."""
Shippable = ("seed", "draft")
"""Where a text that can become the skill comes from; an oracle or worked examples are measured and never shipped."""


@dataclass
class Savings:
    """Completions that the probes asked for and that rules left out, by probe, with the reasons."""

    paid: dict[str, int] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def pay(self, probe: str, calls: int) -> None:
        """`probe` asked for `calls` completions."""
        if calls > 0:
            self.paid[probe] = self.paid.get(probe, 0) + calls

    def add(self, probe: str, calls: int, why: str) -> None:
        """`calls` completions of `probe` were left out because of `why`."""
        if calls > 0:
            self.saved[probe] = self.saved.get(probe, 0) + calls
            self.reasons.append(f"{probe}: {why}")

    def result(self) -> ProbeResult:
        """`probe_saved`: completions left out; `n` are those that were asked for."""
        asked = {f"asked_{name}": float(count) for name, count in self.paid.items()}
        return ProbeResult(
            value=float(sum(self.saved.values())),
            n=sum(self.paid.values()),
            note="; ".join(["completions that probes left out; n: those they asked for", *self.reasons]),
            details={**asked, **{f"left_out_{name}": float(count) for name, count in self.saved.items()}},
        )


def surely_above(probe: ProbeResult | None, threshold: float) -> bool:
    """Whether the whole interval is at or above the threshold."""
    return probe is not None and probe.low is not None and probe.low >= threshold


def surely_below(probe: ProbeResult | None, threshold: float) -> bool:
    """Whether the whole interval is below the threshold."""
    return probe is not None and probe.high is not None and probe.high < threshold


def base_closes(base: ProbeResult, config: ProbeConfig, policy: RouterConfig) -> str | None:
    """Texts, samples, known-ness, style: a base that surely does it is kept, whatever they would say."""
    if config.stop and surely_above(base, policy.keep_above):
        return f"the base is surely at or above {policy.keep_above:.2f}: it is kept"
    return None


def text_closes(
    name: str, score: ProbeResult, gain: ProbeResult, config: ProbeConfig, policy: RouterConfig
) -> str | None:
    """Further texts: one that surely does it and surely gains is enough to place a text. `gain` is over no text."""
    if config.stop and surely_above(score, policy.keep_above) and surely_above(gain, policy.context_gain):
        return f"{name} is surely at or above {policy.keep_above:.2f}"
    return None


def control_closes(gain: ProbeResult, config: ProbeConfig, policy: RouterConfig) -> str | None:
    """The irrelevant text: it can only lower a gain, so a gain over no text that is surely too small needs no control."""
    if config.stop and surely_below(gain, policy.context_gain):
        return f"no text gains {policy.context_gain:.2f} even over no text"
    return None


def sampling_rows(profile: Profile, source: str, config: ProbeConfig, policy: RouterConfig) -> tuple[int, str]:
    """How many examples are sampled without a text at most, and why not all.

    Where a text that can ship surely does it, samples without it only say what kind of thing it is: one block is enough.
    """
    whole = config.examples
    done = surely_above(profile.get("text_score"), policy.keep_above)
    if config.stop and source in Shippable and done and surely_above(profile.get("context_gain"), policy.context_gain):
        return min(whole, BLOCK), f"the {source} surely does it: samples only tell the kind"
    return whole, ""


def sampling_closes(gain: ProbeResult, rate: ProbeResult, config: ProbeConfig, policy: RouterConfig) -> str | None:
    """More examples: whether gradients have anything to sharpen is decided. Both intervals at the level of one look."""
    if not config.stop:
        return None
    if surely_above(gain, policy.sampling_gain) and surely_above(rate, policy.signal_rate):
        return "samples surely vary enough for gradients"
    if surely_below(gain, policy.sampling_gain) or surely_below(rate, policy.signal_rate):
        return "samples surely vary too little for gradients"
    return None


def text_sampling_closes(profile: Profile, config: ProbeConfig, policy: RouterConfig) -> str | None:
    """Samples under a text: they decide between text alone and both, which a text that surely does it leaves closed."""
    if config.stop and surely_above(profile.get("text_score"), policy.keep_above):
        return f"the best text is surely at or above {policy.keep_above:.2f}: nothing is left for weights"
    return None


def knownness_closes(profile: Profile, config: ProbeConfig, policy: RouterConfig) -> str | None:
    """Known-ness under other contexts: facts are unknown to the model and supplied by a text."""
    if not config.stop:
        return None
    if surely_below(profile.get("unknown"), UNKNOWN):
        return f"fewer than {UNKNOWN:.0%} of the rows are unknown"
    if surely_below(profile.get("context_gain"), policy.context_gain):
        return "no text supplies the answers"
    if surely_below(profile.get("supplied"), UNKNOWN):
        return f"the best text holds fewer than {UNKNOWN:.0%} of the answers"
    return None
