"""Buying evidence for the router: open arms on a small equal budget, and the route that follows (`hybrid.router.buy` decides).

The text is searched as it would be anyway; adapters are trained to the first rung of `router.buy.steps` and measured
beside it on the same examples of `search` and of the variants that are watched while training; those held for the ship gate
and the report are not read. The training of the arm that wins goes on from its rung, so only
the arms that lose cost anything. Everything is found on disk again after a kill, and the same route follows.

Does not: open `confirm` or `test`; buy for supervised methods (a shorter schedule of the learning rate is another training),
for shared trainings, or where a placement is forced or every arm is built anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hybrid.backends.base import Adapter
from hybrid.config.schema import Config
from hybrid.errors import TrainingError
from hybrid.evidence.types import Measurement
from hybrid.pipeline.generality import watched
from hybrid.pipeline.improve import Improved, Improver
from hybrid.pipeline.plan_cost import rungs
from hybrid.pipeline.session import Session
from hybrid.router.arms import ArmName
from hybrid.router.buy import Bid, bid, settle, survivors, wants
from hybrid.router.route import Route
from hybrid.store.faults import faultpoint


@dataclass
class _Till:
    """What was bought so far: completions, and tokens read and generated."""

    calls: int = 0
    tokens: int = 0
    bids: dict[ArmName, Bid] = field(default_factory=dict)

    def pay(self, calls: int, tokens: int) -> None:
        """Enter a purchase."""
        self.calls, self.tokens = self.calls + calls, self.tokens + tokens


def unsupported(config: Config, name: str) -> str | None:
    """Why no evidence can be bought under this configuration; None where it can."""
    if not config.trains:
        return "this backend does not train"
    if config.router.counterfactual:
        return "every arm is built anyway (router.counterfactual)"
    if config.weights_of(name).trainer != "grpo":
        return f"method {config.method_of(name)} cannot be ended at a rung and gone on with"
    if config.weights.schedule.tasks == "shared":
        return "adapters are shared (weights.schedule.tasks)"
    return None if rungs(config) else "router.buy.steps leave nothing of the training to save"


def buy(session: Session, improver: Improver, route: Route, into: Improved) -> Route:
    """The route after buying what it leaves open; the same route where nothing is bought. What was built is in `into`."""
    config, capability = session.loaded.config, improver.capability
    if capability.name in config.router.force:
        return route
    arms = wants(route, config.router, len(capability.splits["search"]))
    if not arms:
        return route
    why = unsupported(config, capability.name)
    if why is not None:
        return replace(route, reasons=(*route.reasons, f"no evidence is bought: {why}"))
    if "skill" in arms:
        improver.skill_arm(into)
    till = _Till()
    with session.stage(capability.name, "buy") as note:
        base = _look(session, improver, "", None)
        till.pay(*_paid(base))
        if "skill" in into.built:
            _offer(till, "skill", 0, base, _look(session, improver, into.built["skill"].skill, None))
        alive: tuple[ArmName, ...] = tuple(a for a in arms if a == "weights" or (a == "both" and "skill" in into.built))
        for step in rungs(config):
            alive = _climb(session, improver, into, till, base, alive, step)
        found = settle(route, till.bids, config.router)
        told = f"bought for {till.calls:,} completions, {till.tokens:,} tokens"
        note["summary"] = f"{told} -> {found.placement}"
    faultpoint("stage.buy")
    return replace(found, reasons=(*found.reasons, told))


def _climb(
    session: Session,
    improver: Improver,
    into: Improved,
    till: _Till,
    base: Sequence[Measurement],
    alive: Sequence[ArmName],
    step: int,
) -> tuple[ArmName, ...]:
    """Train every arm that is left to a rung, enter its bid, and say which go on."""
    stood: dict[ArmName, Bid] = {}
    for arm in alive:
        skill = into.built["skill"].skill if arm == "both" else ""
        before = into.rungs.get(arm)
        try:
            result = improver.rung(into, arm, skill, step)
        except TrainingError as error:
            into.notes.append(f"{arm}: the rung of {step} steps stopped: {error}")
            continue
        earlier = before.result if before is not None else None
        till.pay(
            result.completions - (earlier.completions if earlier else 0),
            result.tokens_in + result.tokens_out - (earlier.tokens_in + earlier.tokens_out if earlier else 0),
        )
        if result.checkpoints:
            looked = _look(session, improver, skill, result.checkpoints[-1][1])
            _offer(till, arm, step, base, looked)
            stood[arm] = till.bids[arm]
    return survivors(stood)


def _offer(till: _Till, arm: ArmName, step: int, base: Sequence[Measurement], found: Sequence[Measurement]) -> None:
    def flat(measured: Sequence[Measurement]) -> list[float]:
        return [value for m in measured for value in m.values]

    till.bids[arm] = bid(arm, step, flat(base), flat(found))
    till.pay(*_paid(found))


def _look(session: Session, improver: Improver, skill: str, adapter: Adapter | None) -> tuple[Measurement, ...]:
    """A candidate on the part of `search` and the variants that all arms are compared on."""
    capability, count = improver.capability, session.loaded.config.router.buy.examples
    candidate = session.candidate(capability, skill, adapter)
    parts = (("search", capability.splits["search"][:count]), ("variant", watched(session, capability)[:count]))
    measure = session.meter.measure
    return tuple(measure(candidate, capability, split, rows, stage="buy") for split, rows in parts if rows)  # type: ignore[arg-type]


def _paid(measured: Sequence[Measurement]) -> tuple[int, int]:
    rows = [r for m in measured for row in m.rollouts for r in row]
    return len(rows), sum(r.tokens_in + r.tokens_out for r in rows)
