"""Replaying a policy on a row of a table: what it would have placed, what that is worth, and what it would have cost. Pure.

The router's part is the product's own code (`route`, `buy`, `place`) and the product's own gates, on stored scores.

    done = replay(row, RouterConfig())
    done.placement, done.right, done.worth, done.cost.tokens

Does not: know policies other than this router's and the one that builds everything (see `scripts/regret_policies.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hybrid.capability.families import LEAST_VARIANTS
from hybrid.config.router import RouterConfig
from hybrid.config.schema import PlacementName, ShipGateConfig
from hybrid.evidence.gate import finalize, ship_gate
from hybrid.evidence.types import Verdict
from hybrid.probe.base import Profile
from hybrid.router.arms import ARMS, ArmName
from hybrid.router.buy import Bid, bid, settle, wants
from hybrid.router.kinds import MeasuredKind
from hybrid.router.place import Arm, Placement, Transfer, place
from hybrid.router.route import Route, route
from hybrid.router.table import Row, Spent


@dataclass(frozen=True)
class Replayed:
    """What a policy did with a row. `link` is the weakest link, `confidence` what is stated, `bought` whether it bought."""

    row: Row
    placement: PlacementName
    cost: Spent
    link: float = 1.0
    confidence: float = 1.0
    bought: bool = False

    @property
    def right(self) -> bool:
        """Whether that is the right placement."""
        return self.placement in self.row.right

    @property
    def worth(self) -> float:
        """What the placed arm is worth on sealed examples; the base's worth where nothing is placed."""
        return self.row.arms.get(self.placement, self.row.arms["base"]).worth


def replay(row: Row, policy: RouterConfig) -> Replayed:
    """This router on a row: probes, evidence bought, arms built, gates."""
    found = route(row.profile, policy, judge=_any_kind)
    parts, bids = ["probes"], dict[ArmName, Bid]()
    steps = tuple(s for s in policy.buy.steps if any(s in looks for looks in row.looks.values()))
    asked = wants(found, policy, len(row.arms["base"].search))
    extra = Spent()
    if asked and steps:
        bids, extra = _bought(row, policy, asked, steps[0])
        found = settle(found, bids, policy)
        parts += ["skill"] if "skill" in asked else []
    wanted = _wanted(found, row)
    built = [arm for arm in ARMS if arm in row.arms and (arm in wanted or (found.bought and arm == "skill" in asked))]
    parts += [*wanted, *(f"ship_{arm}" for arm in ("base", *built) if built)]
    placed = settled(row, found, built, policy)
    cost = row.cost(*dict.fromkeys(parts))
    lost = [arm for arm in asked if arm != "skill" and arm not in wanted] if found.bought else []
    # One without a look ended for want of a signal: what it cost is what a rung would have cost.
    shares = {arm: steps[0] / row.steps if arm in row.looks else 1.0 for arm in lost}
    cost = _plus(cost, extra, *(_share(row.cost(arm), share) for arm, share in shares.items()))
    return Replayed(row, placed.placement, cost, found.link, found.confidence, found.bought)


def _any_kind(profile: Profile) -> tuple[MeasuredKind, float]:
    """Placements do not depend on the kind, and measuring it takes longer than all the rest."""
    return "unclear", 0.0


def everything(row: Row, policy: RouterConfig) -> Replayed:
    """Build every arm and let the gates choose: no probes. What the others are held against."""
    built = [arm for arm in ARMS if arm in row.arms]
    found = Route("keep" if not built and "keep" in row.right else "both", (), 1.0, bought=True)
    parts = ("skill", "weights", "both", *(f"ship_{arm}" for arm in ("base", *built) if built))
    return Replayed(row, settled(row, found, built, policy).placement, row.cost(*parts))


def settled(row: Row, found: Route, built: Collection[ArmName], policy: RouterConfig) -> Placement:
    """The placement that the gates leave, from the stored scores of what was built."""
    gate = ShipGateConfig(minimum_effect=row.minimum_effect)

    def compare(cheaper: str, dearer: str) -> Verdict:
        key = ("gate", cheaper, dearer)
        if key not in row.memory:
            row.memory[key] = ship_gate(row.arms[cheaper].confirm, row.arms[dearer].confirm, gate)
        found: Verdict = row.memory[key]
        return found

    verdicts = finalize({arm: compare("base", arm) for arm in built}, gate)

    arms: dict[ArmName, Arm] = {arm: Arm(arm, verdicts[arm], _transfer(row, arm, verdicts[arm])) for arm in built}
    return place(found, arms, compare, minimum_effect=row.minimum_effect, transfer_floor=policy.transfer)


def _transfer(row: Row, arm: ArmName, verdict: Verdict) -> Transfer:
    before, after = row.arms["base"].variant, row.arms[arm].variant
    if len(after) < LEAST_VARIANTS or verdict.delta <= 0:
        return Transfer(None, None, 0)
    gain = sum(after) / len(after) - sum(before) / len(before)
    return Transfer(gain / verdict.delta, gain, len(after))


def _wanted(found: Route, row: Row) -> tuple[ArmName, ...]:
    """The arms that a run builds for a route, the fallback included where the text arm finds nothing."""
    arms: dict[str, tuple[ArmName, ...]] = {"skill": ("skill",), "weights": ("weights",), "both": ("skill", "both")}
    wanted = arms.get(found.placement, ())
    if found.fallback == "weights" and "skill" not in row.arms:
        wanted = (*wanted, "weights")
    return wanted


def _bought(row: Row, policy: RouterConfig, asked: Collection[ArmName], step: int) -> tuple[dict[ArmName, Bid], Spent]:
    """The bids of the arms that were asked about, and what looking at them costs (their trainings are counted apart)."""
    count = policy.buy.examples
    bids: dict[ArmName, Bid] = {}
    extra = Spent()
    for arm in ARMS:
        if arm not in asked or (arm != "weights" and "skill" not in row.arms):
            continue
        key = ("bid", arm, step, count)
        if key not in row.memory:
            row.memory[key] = _bid(row, arm, step, count)
        if row.memory[key] is not None:
            bids[arm] = row.memory[key]
            extra = _plus(extra, row.cost(f"look_{arm}_{step}"))
    return bids, extra


def _bid(row: Row, arm: ArmName, step: int, count: int) -> Bid | None:
    """What an arm showed on the first `count` examples of `search` and as many variants; None where it built nothing."""
    base, at = row.arms["base"], row.looked[:count]
    before = [*base.search[:count], *(base.variant[i] for i in at)]
    if arm == "skill":
        text = row.arms["skill"]
        return bid(arm, 0, before, [*text.search[:count], *(text.variant[i] for i in at)])
    look = row.looks.get(arm, {}).get(step)
    return None if look is None else bid(arm, step, before, [*look.search[:count], *look.variant[:count]])


def _plus(*parts: Spent) -> Spent:
    names = ("calls", "tokens_in", "tokens_out", "trained", "cpu")
    return Spent(**{n: sum(getattr(s, n) for s in parts) for n in names})


def _share(spent: Spent, share: float) -> Spent:
    return Spent(**{name: value * share for name, value in spent.model_dump().items()})
