"""Placing: what ships, from the gates' verdicts on the arms that were built. Pure.

Arms are taken in order of what they cost their user: skill, then weights, then both. A dearer arm replaces a cheaper
one only where the honest gate shows, on the same confirm examples, that it is better by the minimum effect. Ties go to text.

An adapter whose gain does not carry over to variants has learnt a template and does not ship; a text says what it says,
and its variant score is reported beside it.

Does not: open splits or measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hybrid.config.schema import PlacementName, TransferBound
from hybrid.evidence.generality import Generality
from hybrid.evidence.types import Verdict
from hybrid.router.route import Route

ArmName = Literal["skill", "weights", "both"]
ARMS: tuple[ArmName, ...] = ("skill", "weights", "both")


@dataclass(frozen=True)
class Transfer:
    """Gain on variants per gain in distribution (tau), or None where there are no variants or no gain to transfer.

    `evidence` holds its interval; None where there were no variants at all.
    """

    tau: float | None
    variant_gain: float | None
    n: int
    evidence: Generality | None = None

    def acceptable(self, floor: float, bound: TransferBound = "point") -> bool:
        """True when the gain carries over, or when no ratio can be told (no variants, too few, no gain).

        With the bound `low` the lower end of the interval must reach the floor, and a ratio without one does not.
        """
        if self.tau is None:
            return True
        if bound == "point":
            return self.tau >= floor
        return self.evidence is not None and self.evidence.tau_low is not None and self.evidence.tau_low >= floor

    def refusal(self, floor: float, bound: TransferBound) -> str:
        """Why it is not acceptable."""
        said = f"the gain does not carry over to variants: transfer ratio {self.tau:.2f}"
        ends = self.evidence
        if ends is not None and ends.tau_low is not None:
            said += f" [{ends.tau_low:.2f}, {ends.tau_high:.2f}]"
        if bound == "point":
            said += f" is below {floor}"
        elif ends is None or ends.tau_low is None:
            said += f" has no lower end that could reach {floor} ({ends.note if ends else 'no interval'})"
        else:
            said += f": its lower end is below {floor}"
        return f"{said} (variant gain {self.variant_gain:+.2f}, n={self.n})"


@dataclass(frozen=True)
class Arm:
    """A built arm: its verdict against the base on `confirm`, and how its gain transfers to variants."""

    name: ArmName
    verdict: Verdict
    transfer: Transfer


@dataclass(frozen=True)
class Refusal:
    """An arm that does not ship, and why."""

    arm: ArmName
    why: str


@dataclass(frozen=True)
class Placement:
    """What ships and why; `refused` arms with their reasons."""

    placement: PlacementName
    reason: str
    refused: tuple[Refusal, ...] = ()


def place(
    route: Route,
    arms: Mapping[ArmName, Arm],
    compare: Callable[[ArmName, ArmName], Verdict],
    *,
    minimum_effect: float,
    transfer_floor: float,
    transfer_bound: TransferBound = "point",
) -> Placement:
    """The placement that the evidence supports. `compare(a, b)` is the ship gate of arm b over arm a on `confirm`."""
    if not arms:
        attempted = route.placement in ARMS
        return Placement("neither" if attempted else route.placement, _nothing_built(route))
    refused: list[Refusal] = []
    eligible: list[ArmName] = []
    for name in ARMS:
        if name in arms:
            why = _why_not(arms[name], transfer_floor, transfer_bound)
            if why is None:
                eligible.append(name)
            else:
                refused.append(Refusal(name, why))
    if not eligible:
        return _nothing_ships(route, arms, tuple(refused))
    chosen = eligible[0]
    because = arms[chosen].verdict.reason
    for name in eligible[1:]:
        verdict = compare(chosen, name)
        if verdict.decision == "accept" and verdict.delta >= minimum_effect:
            refused.append(
                Refusal(chosen, f"{name} is better by {verdict.delta:+.2f} [{verdict.low:+.2f}, {verdict.high:+.2f}]")
            )
            because = f"{name} beats {chosen}: {verdict.reason}"
            chosen = name
        else:
            refused.append(Refusal(name, f"not shown to be better than {chosen}: {verdict.reason}"))
    return Placement(chosen, because, tuple(refused))


def _why_not(arm: Arm, transfer_floor: float, transfer_bound: TransferBound) -> str | None:
    verdict = arm.verdict
    if verdict.decision != "accept":
        return f"the ship gate says {verdict.decision}: {verdict.reason}"
    if arm.name != "skill" and not arm.transfer.acceptable(transfer_floor, transfer_bound):
        return arm.transfer.refusal(transfer_floor, transfer_bound)
    return None


def _nothing_built(route: Route) -> str:
    reasons = {
        "keep": "the base already does it",
        "neither": "no text helps and no sample succeeds often enough for gradients to have a signal",
        "undecided": "not measurable at this size",
    }
    return reasons.get(route.placement, f"{route.placement} was attempted, but no candidate passed the search gate")


def _nothing_ships(route: Route, arms: Mapping[ArmName, Arm], refused: tuple[Refusal, ...]) -> Placement:
    if route.placement == "keep":
        return Placement("keep", "the base already does it, and no arm improves it by the minimum effect", refused)
    if any(arm.verdict.decision == "undecided" for arm in arms.values()):
        return Placement("undecided", "a gain is possible but not shown at this size", refused)
    return Placement("neither", "no arm passes the ship gate", refused)
