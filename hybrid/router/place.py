"""Placing: what ships, from the gates' verdicts on the arms that were built. Pure.

Arms are taken in order of what they cost their user: skill, then weights, then both; weights first where the declared terms
make the text the dearer one to live with (`advice.standing`). A dearer arm replaces a cheaper one only where the honest
gate shows, on the same confirm examples, that it is better by the minimum effect. Ties go to text, or to the cheaper one.

Where nothing was built and something is open, that is `undecided`: `neither` says that no gain worth having is possible.

An adapter whose gain does not carry over to variants has learnt a template and does not ship; a text says what it says,
and its variant score is reported beside it.

Does not: open splits or measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hybrid.config.schema import PlacementName, TransferBound
from hybrid.evidence.generality import Generality
from hybrid.evidence.types import Verdict
from hybrid.router.advice import Standing
from hybrid.router.arms import ARMS, ArmName
from hybrid.router.route import Route

__all__ = ["ARMS", "Arm", "ArmName", "Placement", "Refusal", "Transfer", "place"]


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
    terms: Standing | None = None,
) -> Placement:
    """The placement that the evidence supports. `compare(a, b)` is the ship gate of arm b over arm a on `confirm`."""
    if not arms:
        return Placement(*_nothing_built(route))
    refused: list[Refusal] = []
    eligible: list[ArmName] = []
    hot = terms is not None and terms.prefers == "weights"
    order: tuple[ArmName, ...] = ("weights", "skill", "both") if hot else ARMS
    for name in order:
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
            why = f"; {terms.why}" if terms is not None and {chosen, name} == {"skill", "weights"} else ""
            refused.append(Refusal(name, f"not shown to be better than {chosen}: {verdict.reason}{why}"))
    return Placement(chosen, because, tuple(refused))


def _why_not(arm: Arm, transfer_floor: float, transfer_bound: TransferBound) -> str | None:
    verdict = arm.verdict
    if verdict.decision != "accept":
        return f"the ship gate says {verdict.decision}: {verdict.reason}"
    if arm.name != "skill" and not arm.transfer.acceptable(transfer_floor, transfer_bound):
        return arm.transfer.refusal(transfer_floor, transfer_bound)
    return None


def _nothing_built(route: Route) -> tuple[PlacementName, str]:
    attempted = f"{route.placement} was attempted, but no candidate passed the search gate"
    reasons = {
        "keep": "the base already does it",
        "neither": "no text helps and no sample succeeds often enough for gradients to have a signal",
        "undecided": "not measurable at this size",
    }
    if route.placement == "neither" and route.open:
        return (
            "undecided",
            f"not measurable at this size: a gain is neither shown nor excluded ({', '.join(route.open)})",
        )
    return ("neither" if route.placement in ARMS else route.placement), reasons.get(route.placement, attempted)


def _nothing_ships(route: Route, arms: Mapping[ArmName, Arm], refused: tuple[Refusal, ...]) -> Placement:
    if route.placement == "keep":
        return Placement("keep", "the base already does it, and no arm improves it by the minimum effect", refused)
    if any(arm.verdict.decision == "undecided" for arm in arms.values()):
        return Placement("undecided", "a gain is possible but not shown at this size", refused)
    return Placement("neither", "no arm passes the ship gate", refused)
