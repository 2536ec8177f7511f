"""Buying evidence: which arms to try on a small equal budget, which of them go on, and what they say. Pure.

Successive halving (Jamieson and Talwalkar 2016, 1502.07943) over the arms that the probes leave open: a text is complete
after its own search and so costs nothing more; adapters are trained to the first rung, the better half to the next, and so on.
Arms are compared by the lower 95 % bound of their paired gain over the base, on a part of `search` and on variants.

Does not: train or measure (see `hybrid.pipeline.buying`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hybrid.config.router import BuyConfig, RouterConfig
from hybrid.evidence.stats import paired_interval
from hybrid.router.arms import ARMS, ArmName
from hybrid.router.route import Route, calibrated


@dataclass(frozen=True)
class Bid:
    """What an arm showed for its budget: its paired gain over the base. `step` is 0 for a text, which is complete."""

    arm: ArmName
    step: int
    gain: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> str:
        """In words."""
        when = f" after {self.step} steps" if self.step else ""
        return f"{self.arm}{when} {self.gain:+.2f} [{self.low:+.2f}, {self.high:+.2f}], n={self.n}"


def bid(arm: ArmName, step: int, base: Sequence[float], found: Sequence[float]) -> Bid:
    """A bid from scores paired by example. Pairs that were not judged (NaN) are left out; without any it is 0 in [-1, 1]."""
    pairs = [b - a for a, b in zip(base, found, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return Bid(arm, step, 0.0, -1.0, 1.0, 0)
    mean, low, high = paired_interval(pairs, 0.95)
    return Bid(arm, step, mean, low, high, len(pairs))


def wants(route: Route, policy: RouterConfig, examples: int) -> tuple[ArmName, ...]:
    """The arms to buy evidence about, in order of their cost; empty where nothing is bought.

    Bought is what is open where the weakest link is below `buy_below`, and, whatever the link, where the rules end at
    `neither` and something is open: that a gain is not shown is then no reason to leave it. Nothing is bought where the base
    does it or nothing can be measured, where the text alone is in question and is built anyway, and on fewer than
    `buy.examples` examples of `search`. With `buy_below` 0 nothing is ever bought.
    """
    if policy.buy_below == 0 or route.placement in ("keep", "undecided") or examples < policy.buy.examples:
        return ()
    if route.placement == "neither":
        return route.open
    if route.link >= policy.buy_below:
        return ()
    proposed = {"skill": ("skill",), "weights": ("weights",), "both": ("skill", "both")}.get(route.placement, ())
    wanted = tuple(arm for arm in ARMS if arm in {*route.open, *proposed})
    return wanted if any(arm != "skill" for arm in wanted) else ()


def survivors(bids: Mapping[ArmName, Bid]) -> tuple[ArmName, ...]:
    """The better half of the adapters that bid, by lower bound, the cheaper of equals first; at least one."""
    trained = sorted((b for a, b in bids.items() if a != "skill"), key=lambda b: (-b.low, ARMS.index(b.arm)))
    return tuple(b.arm for b in trained[: max(1, math.ceil(len(trained) / 2))])


def best(bids: Mapping[ArmName, Bid], policy: BuyConfig) -> Bid | None:
    """The arm that showed most: a dearer one only where it is ahead by the margin. None where no gain was shown."""
    chosen: Bid | None = None
    for arm in ARMS:
        found = bids.get(arm)
        if found is not None and found.low > (0.0 if chosen is None else chosen.low + policy.margin):
            chosen = found
    return chosen


def settle(route: Route, bids: Mapping[ArmName, Bid], policy: RouterConfig) -> Route:
    """The route after buying. Total: any bids, none at all included, lead to one placement, with the reason."""
    chosen = best(bids, policy.buy)
    told = "; ".join(bids[arm].told for arm in ARMS if arm in bids) or "no arm could be built"
    weak = f"the weakest link {route.link:.2f} is below {policy.buy_below:.2f}"
    why = weak if route.link < policy.buy_below else f"the rules end at {route.placement} with an arm open"
    reasons = [*route.reasons, f"bought evidence, since {why}: {told}"]
    link = certainty(chosen, bids, policy.open_above)
    stated = round(calibrated(link, policy.confidence), 4)
    settled = replace(route, confidence=stated, link=round(link, 4), fallback=None, bought=True, open=())
    if chosen is not None:
        reasons.append(f"{chosen.arm} has shown most for the same budget")
        return replace(settled, placement=chosen.arm, reasons=tuple(reasons))
    still = tuple(arm for arm in ARMS if arm in bids and bids[arm].high >= policy.open_above)
    if route.placement in still:
        reasons.append(
            f"no arm has shown a gain yet; {route.placement}, which the probes speak for, stays open and is built"
        )
        return replace(settled, reasons=tuple(reasons), confidence=route.confidence, link=route.link)
    reasons.append(f"no arm has shown a gain; {'still open: ' + ', '.join(still) if still else 'none is possible'}")
    return replace(settled, placement="neither", reasons=tuple(reasons), open=still)


def certainty(chosen: Bid | None, bids: Mapping[ArmName, Bid], worth: float) -> float:
    """Smallest normal probability that the choice is right, from the bids alone: that the gain is one, that no cheaper arm is
    as good, and that no dearer one is better by `worth`; without a choice, that no arm gains as much as `worth`."""
    if chosen is None:
        return min((_normal((worth - b.gain) / _error(b)) for b in bids.values()), default=0.5)
    found = _normal(chosen.gain / _error(chosen))
    for other in bids.values():
        if other.arm != chosen.arm:
            room = worth if ARMS.index(other.arm) > ARMS.index(chosen.arm) else 0.0
            both = math.hypot(_error(chosen), _error(other))
            found = min(found, _normal((chosen.gain + room - other.gain) / both))
    return found


def _error(found: Bid) -> float:
    return max((found.high - found.low) / (2 * 1.96), 1e-6)


def _normal(z: float) -> float:
    return 0.5 * (1 + math.erf(max(-40.0, min(40.0, z)) / math.sqrt(2)))
