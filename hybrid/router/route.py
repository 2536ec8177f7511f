"""Routing: which placement to attempt, from a profile alone.

The rules, in order (thresholds are `router.*` of the configuration; `docs/router.md` says where they come from):

1. too few examples: undecided; 2. the base already does it: keep; 3. a text helps and nothing is left to gain: skill;
4. a text helps, and samples *under that text* vary in success: both; 5. a text helps: skill; 6. samples vary in success
without any text, or most failures break a rule that the document has: weights; 7. neither.

Every rule that was looked at leaves a sentence. The weakest link is the smallest normal probability that a measured
quantity really lies on the side of its threshold on which it was found; the confidence is that, calibrated
(`router.confidence`).

Beside the placement to attempt a route says which arms are **open** (`openness`): neither proposed nor excluded.

Does not: measure, train, or look at anything but its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid.config.router import ConfidenceConfig, RouterConfig
from hybrid.config.schema import PlacementName
from hybrid.probe.base import ProbeResult, Profile
from hybrid.router.advice import Recommendation, recommended
from hybrid.router.arms import ArmName
from hybrid.router.kinds import CONFIDENT, MeasuredKind, measured_kind, side_probability
from hybrid.router.openness import open_arms

JudgeKind: TypeAlias = Callable[[Profile], tuple[MeasuredKind, float]]
LEAST_EXAMPLES = 16
"""Below this many examples a profile says nothing that could be acted on."""


@dataclass(frozen=True)
class Route:
    """The placement to attempt and why. `fallback` is attempted when the first finds nothing.

    `open` are arms that the profile neither excludes nor shows. `link` is the weakest link before calibration.
    `bought` is true once evidence was bought (see `hybrid.router.buy`). `recommendation` is advice beside the placement.
    """

    placement: PlacementName
    reasons: tuple[str, ...]
    confidence: float
    fallback: PlacementName | None = None
    kind: MeasuredKind = "unclear"
    kind_confidence: float = 0.0
    link: float = 1.0
    open: tuple[ArmName, ...] = ()
    bought: bool = False
    recommendation: Recommendation | None = None

    @property
    def sure_kind(self) -> MeasuredKind:
        """The measured kind where it is likely enough to act on (`kinds.CONFIDENT`), else `unclear`: the declared one counts."""
        return self.kind if self.kind_confidence >= CONFIDENT else "unclear"


@dataclass
class _Trail:
    reasons: list[str] = field(default_factory=list)
    confidence: float = 1.0

    def at_least(self, name: str, probe: ProbeResult | None, threshold: float) -> bool:
        """Whether a probe reaches a threshold; notes the number and how sure that side is."""
        if probe is None or probe.value is None:
            self.reasons.append(f"{name}: not measurable ({probe.note if probe else 'not probed'})")
            return False
        above = probe.value >= threshold
        shown = f"{probe.value:.2f} [{probe.low:.2f}, {probe.high:.2f}], n={probe.n}"
        self.reasons.append(f"{name} {shown} is {'at least' if above else 'below'} {threshold:.2f}")
        self.confidence = min(self.confidence, side_probability(probe, threshold))
        return above


def calibrated(link: float, how: ConfidenceConfig) -> float:
    """The weakest link as a stated confidence. Rising in `link`; the identity for intercept 0 and slope 1."""
    if how.intercept == 0.0 and how.slope == 1.0:
        return link
    inside = min(max(link, 1e-6), 1 - 1e-6)
    exponent = how.intercept + how.slope * math.log(inside / (1 - inside))
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, exponent))))


def route(
    profile: Profile, policy: RouterConfig, forced: PlacementName | None = None, *, judge: JudgeKind = measured_kind
) -> Route:
    """The placement to attempt. `forced` overrides the rules and is named as the reason. `judge` names the kind, which no
    rule looks at."""
    trail = _Trail()
    kind, kind_confidence = judge(profile)
    placement, fallback = _decide(profile, policy, trail)
    opened = open_arms(profile, policy) if placement not in ("keep", "undecided") else ()
    if placement == "neither" and opened:
        trail.reasons.append(
            f"not excluded either: {', '.join(opened)} (a gain of {policy.open_above:.2f} is possible at this size)"
        )
    if forced is not None:
        trail.reasons.append(f"forced by router.force: {forced} (the probes alone said {placement})")
        placement, fallback, opened = forced, None, ()
    advice = recommended(profile, policy)
    if advice is not None:
        trail.reasons.append(advice.why)
    return Route(
        placement,
        tuple(trail.reasons),
        round(calibrated(trail.confidence, policy.confidence), 4),
        fallback,
        kind,
        round(kind_confidence, 4),
        round(trail.confidence, 4),
        opened,
        recommendation=None if advice is None else advice.what,
    )


def _decide(profile: Profile, policy: RouterConfig, trail: _Trail) -> tuple[PlacementName, PlacementName | None]:
    base = profile["base"]
    if base.n < LEAST_EXAMPLES:
        trail.reasons.append(f"only {base.n} examples in `search`: not measurable at this size")
        trail.confidence = 0.5
        return "undecided", None
    if trail.at_least("base score", base, policy.keep_above):
        if base.low is not None and policy.keep_above - base.low > policy.open_above:
            trail.reasons.append(
                f"but it may be as low as {base.low:.2f}, more than {policy.open_above:.2f} below: not measurable at this size"
            )
            return "undecided", None
        return "keep", None
    text = _text_helps(profile, policy, trail)
    before = trail.confidence
    gradients = _sampling_viable(profile, policy, trail, "")
    if not gradients and _lapses(profile, policy, trail):
        gradients = True
    if text:
        trail.confidence = before  # what sampling without a text does is not what this decision rests on
        fallback: PlacementName | None = "weights" if gradients else None
        if trail.at_least("score with the best text", profile.get("text_score"), policy.keep_above):
            return "skill", fallback
        if _sampling_viable(profile, policy, trail, "text_"):
            return "both", None
        return "skill", fallback
    return ("weights", None) if gradients else ("neither", None)


def _text_helps(profile: Profile, policy: RouterConfig, trail: _Trail) -> bool:
    gain = profile.get("context_gain")
    enough = trail.at_least("context gain", gain, policy.context_gain)
    if not enough or gain is None:
        return False
    if gain.low is None or gain.low <= 0:
        trail.reasons.append("context gain is not shown: its interval reaches down to zero")
        trail.confidence = min(trail.confidence, 0.5)
        return False
    return True


def _sampling_viable(profile: Profile, policy: RouterConfig, trail: _Trail, prefix: str) -> bool:
    under = " under the best text" if prefix else ""
    gain = trail.at_least(f"sampling gain{under}", profile.get(prefix + "sampling_gain"), policy.sampling_gain)
    return gain and trail.at_least(f"signal rate{under}", profile.get(prefix + "signal_rate"), policy.signal_rate)


def _lapses(profile: Profile, policy: RouterConfig, trail: _Trail) -> bool:
    """Whether failures under the document are shown to be of rules that it has: more text cannot mend those."""
    share = profile.get("lapse_share")
    if share is None or share.value is None or share.low is None:
        return False
    shown = f"lapse share {share.value:.2f} [{share.low:.2f}, {share.high:.2f}], n={share.n}"
    recurring = share.low >= policy.lapse_share
    trail.reasons.append(
        f"{shown} is {'shown to be at least' if recurring else 'not shown to reach'} {policy.lapse_share:.2f}"
    )
    return recurring
