"""Which arms a profile leaves open: it does not exclude that they give a gain worth having. Pure.

An arm is excluded by the upper end of an interval (a text whose gain is at most so and so, samples among which hardly any
group varies), and where there is not the least sign of a gain: then nothing speaks for it but the size of the sample.
What was not measured excludes nothing, unless another measurement makes it hopeless.

Does not: say which arm is best (`buy` compares them, on evidence of their own).
"""

from __future__ import annotations

from hybrid.config.router import RouterConfig
from hybrid.probe.base import ProbeResult, Profile
from hybrid.router.arms import ArmName


def open_arms(profile: Profile, policy: RouterConfig) -> tuple[ArmName, ...]:
    """The arms that may give a gain of `policy.open_above`, in order of their cost."""
    text = _reaches(profile.get("context_gain"), policy.open_above, unmeasured=False)
    found: list[ArmName] = ["skill"] if text else []
    if _gradients(profile, policy, ""):
        found.append("weights")
    if text and _gradients(profile, policy, "text_"):
        found.append("both")
    return tuple(found)


def _gradients(profile: Profile, policy: RouterConfig, prefix: str) -> bool:
    """Whether samples may hold enough signal. Under a text that was not sampled they may, where it may help at all."""
    gain = profile.get(f"{prefix}sampling_gain")
    signal = profile.get(f"{prefix}signal_rate")
    unmeasured = bool(prefix)
    return _reaches(gain, policy.open_above, unmeasured) and _reaches(signal, policy.signal_rate, unmeasured)


def _reaches(probe: ProbeResult | None, threshold: float, unmeasured: bool) -> bool:
    """Whether there is a sign of a gain, and the upper end of its interval reaches a threshold."""
    if probe is None or probe.value is None:
        return unmeasured
    return probe.value > 0 and (probe.value if probe.high is None else probe.high) >= threshold
