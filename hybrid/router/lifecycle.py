"""What should become of a placement that shipped: keep, renew, promote, demote or retire it. Pure.

`propose` looks at a finished report, at what was measured again on the data as they are now, and at what the capability
declares. Its rules, in order; the first that holds decides, and every one that was looked at leaves a sentence:

1. nothing ships: keep; 2. the data changed and what ships lost by the minimum effect: an adapter is demoted to a text, a text
is renewed; 3. a gain of the minimum effect is ruled out: retire; 4. an adapter harms another capability: demote; 5. an
adapter of a capability that is declared portable: demote; 6. an adapter has to be trained again so often that reading a text
would be cheaper: demote; 7. a text that is read so often that an adapter pays within the horizon, and before its facts change
(which has to be declared once they did): promote; 8. keep.

`settle` says what ships once the proposal was carried out and the gates have spoken: a change ships only where they let it,
otherwise what shipped before, where that still passes.

Does not: measure, train or write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hybrid.config.schema import PlacementName, TransferBound
from hybrid.evidence.types import Verdict
from hybrid.probe.base import Terms
from hybrid.report.parts import Effect
from hybrid.report.parts_lifecycle import Action, Costs
from hybrid.report.schema import CapabilityReport
from hybrid.router.place import ARMS, Arm, ArmName, Placement, Refusal, place
from hybrid.router.route import Route
from hybrid.router.upkeep import judge


@dataclass(frozen=True)
class Now:
    """What ships, measured on `search` as it is now.

    `changed`: the data differ from the run's. `gain`: over the base, paired. `drift`: its score now minus its score on the
    run's sealed test; other examples, so not paired. Both None where nothing ships.
    """

    changed: bool
    gain: Effect | None = None
    drift: Effect | None = None


@dataclass(frozen=True)
class Policy:
    """`minimum_effect` is the ship gate's. `horizon_days`: within which an adapter has to pay for its training.
    `unpromotable`: why no text can be distilled in this run, "" where one can."""

    minimum_effect: float
    horizon_days: float
    unpromotable: str = ""


@dataclass(frozen=True)
class Proposal:
    """What to do and why. `target` is the placement to attempt; `looked` holds a sentence per rule that was looked at."""

    action: Action
    target: PlacementName
    why: str
    costs: Costs
    looked: tuple[str, ...] = ()


def propose(capability: CapabilityReport, terms: Terms, now: Now, costs: Costs, policy: Policy) -> Proposal:
    """The first rule that holds (see above)."""
    was, looked = capability.placement, list[str]()

    def proposed(action: Action, target: PlacementName, why: str) -> Proposal:
        return Proposal(action, target, why, costs, tuple(looked))

    if was not in ARMS:
        again = "; the data changed, so `hybrid run` has to decide anew" if now.changed else ""
        return proposed("keep", was, f"nothing ships ({was}){again}")
    adapted = was != "skill"
    if (why := _stale(now, policy, looked)) is not None:
        return proposed("demote" if adapted else "renew", "skill", why)
    if (why := _worthless(now, policy, looked)) is not None:
        return proposed("retire", "neither", why)
    if adapted:
        for rule in (_harms(capability, looked), _portable(terms, looked), _restless(terms, costs, looked)):
            if rule is not None:
                return proposed("demote", "skill", rule)
        return proposed("keep", was, "; ".join(looked))
    why = _pays(capability, terms, now, costs, policy, looked)
    return proposed("promote", "weights", why) if why is not None else proposed("keep", was, "; ".join(looked))


def _told(e: Effect) -> str:
    return f"{e.delta:+.3f} [{e.low:+.3f}, {e.high:+.3f}], n={e.n}"


def _stale(now: Now, policy: Policy, looked: list[str]) -> str | None:
    if not now.changed or now.drift is None:
        looked.append("the data are those of the run" if not now.changed else "what ships could not be measured again")
        return None
    fell = now.drift.high < 0 and now.drift.delta <= -policy.minimum_effect
    said = f"the data changed, and what ships scores {_told(now.drift)} against the run's sealed test"
    looked.append(said if fell else f"{said}: it is not shown to have lost {policy.minimum_effect}")
    return said if fell else None


def _worthless(now: Now, policy: Policy, looked: list[str]) -> str | None:
    if now.gain is None:
        return None
    ruled_out = now.gain.high < policy.minimum_effect
    said = f"it gains {_told(now.gain)} over the base"
    looked.append(f"{said}: a gain of {policy.minimum_effect} is {'ruled out' if ruled_out else 'not ruled out'}")
    return looked[-1] if ruled_out else None


def _harms(capability: CapabilityReport, looked: list[str]) -> str | None:
    harmed = {n: c for n, c in sorted(capability.collateral.items()) if c.high < 0}
    if not harmed:
        looked.append("no other capability is shown to be harmed")
        return None
    name, worst = min(harmed.items(), key=lambda item: item[1].delta)
    looked.append(
        f"its adapter harms {name}: {worst.delta:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}], n={worst.n}"
        + (f", and {len(harmed) - 1} more" if len(harmed) > 1 else "")
    )
    return looked[-1]


def _portable(terms: Terms, looked: list[str]) -> str | None:
    if not terms.portable:
        return None
    looked.append("it is declared portable, and an adapter belongs to one base")
    return looked[-1]


def _restless(terms: Terms, costs: Costs, looked: list[str]) -> str | None:
    days, lasts = costs.break_even_days, terms.lasts_days
    if lasts is None or days is None:
        looked.append("what training it again costs is not known (volatility, calls_per_day, or no document's size)")
        return None
    said = f"its facts change every {lasts:.1f} days, and an adapter pays after {days:.1f}"
    looked.append(f"{said} ({costs.training} training): {'a text is' if days > lasts else 'a text is not'} cheaper")
    return looked[-1] if days > lasts else None


def _pays(
    capability: CapabilityReport, terms: Terms, now: Now, costs: Costs, policy: Policy, looked: list[str]
) -> str | None:
    if terms.portable:
        looked.append("it is declared portable: a text carries over to other bases, an adapter does not")
        return None
    if terms.calls_per_day is None:
        looked.append("calls_per_day is not declared, so nothing is known to be saved by an adapter")
        return None
    refused = [h.when for h in capability.history if h.action == "promote" and h.now != "weights"]
    if refused and not now.changed:
        looked.append(f"it was tried by run {refused[-1]}, the gates refused it, and the data are the same")
        return None
    changed = [h.when for h in capability.history if h.action in ("demote", "renew")]
    if changed and terms.volatility is None:
        looked.append(
            f"its facts changed before ({changed[-1]}) and no volatility is declared: how long it will last is not known"
        )
        return None
    found = judge(costs.break_even_days, terms, policy.horizon_days)
    if found.days is None:
        looked.append("when an adapter would pay is not known")
        return None
    said = (
        f"{costs.document_tokens:.1f} tokens of document x {terms.calls_per_day:g} calls a day pay for "
        f"{costs.training_seconds:.1f} s of {costs.training} training in {found.days:.3g} days"
    )
    looked.append(f"{said}; {found.why}")
    if not found.pays:
        return None
    if policy.unpromotable:
        looked.append(f"an adapter would pay, but {policy.unpromotable}")
        return None
    return looked[-1]


def wanted(action: Action, was: PlacementName) -> tuple[ArmName, ...]:
    """The arms that may ship once the action was carried out, in order of preference; the last is what shipped before."""
    order: Mapping[str, tuple[ArmName, ...]] = {
        "promote": ("weights", "skill"),
        "demote": ("skill",),
        "renew": ("skill",),
        "retire": (),
    }
    before: tuple[ArmName, ...] = tuple(arm for arm in ARMS if arm == was)
    return tuple(dict.fromkeys((*order.get(action, ()), *before)))


@dataclass(frozen=True)
class Bounds:
    """What the gates ask for: the ship gate's minimum effect, and how far an adapter's gain has to carry over to variants."""

    minimum_effect: float
    transfer_floor: float
    transfer_bound: TransferBound = "point"


def settle(
    action: Action,
    was: PlacementName,
    route: Route,
    arms: Mapping[ArmName, Arm],
    compare: Callable[[ArmName, ArmName], Verdict],
    bounds: Bounds,
) -> Placement:
    """The placement after an action: the first wanted arm that the gate accepts. `compare(a, b)` is the ship gate of b over a.

    A promoted adapter also has to be not worse than its document: the lower end of the paired interval on `confirm` above minus
    the minimum effect. That it is better than the base is not enough, since the document is too.
    """

    def alone(names: tuple[ArmName, ...]) -> Placement:
        return place(
            route,
            {name: arms[name] for name in names},
            compare,
            minimum_effect=bounds.minimum_effect,
            transfer_floor=bounds.transfer_floor,
            transfer_bound=bounds.transfer_bound,
        )

    offered = tuple(name for name in wanted(action, was) if name in arms)
    refused: list[Refusal] = []
    failed: list[ArmName] = []
    for name in offered:
        found = alone((name,))
        if found.placement != name:
            refused += found.refused
            failed.append(name)
            continue
        reason = found.reason
        if action == "promote" and name == "weights" and "skill" in arms:
            against = compare("skill", name)
            told = f"{against.delta:+.3f} [{against.low:+.3f}, {against.high:+.3f}], n={against.n}"
            if against.low <= -bounds.minimum_effect:
                refused.append(Refusal(name, f"not shown to keep what its document does: {told} on confirm"))
                continue
            reason += f"; against its document {told}"
        return Placement(name, reason, tuple(refused))
    nothing = alone(tuple(failed))
    return Placement(nothing.placement, nothing.reason, tuple(refused))
