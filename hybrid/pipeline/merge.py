"""One merged adapter in the place of several: sums of the built adapters, the best one on `search`, then the gates.

    offered = offer(session, outcomes)          # before `confirm` is opened
    settle(session, outcomes, offered)          # after every capability was placed

The merge is exact (`hybrid.weights.compose.mixer`): the changes are added, whatever the adapters' scalings. It meets
`confirm` together with the arms, counts as an arm of its own in the correction, and stands in for the capabilities' own adapters
where `hybrid.router.merge` says so; the sealed test is then opened for it alone.

Does not: merge adapters that read a document, or know how a merge is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybrid.backends.base import Adapter
from hybrid.config.schema import Config
from hybrid.errors import AdapterError
from hybrid.evidence.gate import ship_gate
from hybrid.evidence.types import Measurement
from hybrid.pipeline.arms import Built, arms_of
from hybrid.pipeline.session import Session
from hybrid.router.merge import MergeCase, MergeDecision, decide
from hybrid.router.place import place
from hybrid.store.faults import faultpoint

if TYPE_CHECKING:
    from hybrid.pipeline.run import Outcome

MERGED = "merged"
_EXACT = {"combination": "cat", "rank": None}
"""A merge is the sum of the changes, whatever a swarm of this run would do."""


@dataclass(frozen=True)
class Merge:
    """The sum of the members' adapters, each multiplied by `scale`; `search`: its measurements there, by member. `rank` is 0
    for vectors of singular values."""

    scale: float
    adapter: Adapter
    rank: int
    search: Mapping[str, Measurement]

    @property
    def mean(self) -> float:
        """Mean score over members, each counting the same."""
        return sum(m.mean for m in self.search.values()) / len(self.search)


@dataclass(frozen=True)
class Offered:
    """Every merge that was tried, and the best one on `search` (the first of equals). `own`: the members' adapters there."""

    own: Mapping[str, Measurement]
    tried: tuple[Merge, ...]
    best: Merge


@dataclass(frozen=True)
class Settled:
    """What became of an offer, as the report tells it."""

    offered: Offered
    cases: Mapping[str, MergeCase]
    decision: MergeDecision


def offer(session: Session, outcomes: Sequence[Outcome]) -> Offered | None:
    """Merge the adapters that were built without a document, and measure the merges on every member's `search`.

    None without `weights.merge`, and where there are no two different adapters; what cannot be merged is a warning.
    """
    config = session.loaded.config
    members = {o.capability.name: o for o in outcomes if _alone(o) is not None}
    adapters = {name: found for name, o in members.items() if (found := _alone(o)) is not None}
    different = list({a.sha256: a for a in adapters.values()}.values())
    if config.weights.merge is None or len(different) < 2:
        return None
    with session.stage(MERGED, "search") as note:
        try:
            merges = _merged(session, config, different)
        except AdapterError as error:
            session.warn(f"weights.merge: the adapters were not merged: {error}")
            return None
        own = {name: _on_search(session, members[name], adapter) for name, adapter in adapters.items()}
        tried = tuple(
            replace(m, search={name: _on_search(session, o, m.adapter) for name, o in members.items()}) for m in merges
        )
        best = max(tried, key=lambda m: m.mean)
        note["summary"] = ", ".join(f"x{m.scale:g}: {m.mean:.2f}" for m in tried) + f"; own {_mean(own):.2f}"
    faultpoint("stage.merge")
    return Offered(own, tried, best)


def _alone(outcome: Outcome) -> Adapter | None:
    """The adapter of a `weights` arm, which reads no document."""
    built = outcome.improved.built.get("weights")
    return None if built is None or built.skill else built.adapter


def _mean(measured: Mapping[str, Measurement]) -> float:
    return sum(m.mean for m in measured.values()) / len(measured)


def _merged(session: Session, config: Config, adapters: Sequence[Adapter]) -> tuple[Merge, ...]:
    from hybrid.weights.compose.mixer import mixer_of

    assert config.weights.merge is not None
    fingerprint = session.backend.info().fingerprint
    mixer = mixer_of(adapters, fingerprint, config.weights.swarm.model_copy(update=_EXACT), config.seed)
    found = []
    for scale in config.weights.merge.scales:
        folder = session.folder.path / "checkpoints" / MERGED / f"scale-{scale:g}"
        made = mixer.write([scale] * len(adapters), folder, facts={"method": MERGED})
        found.append(Merge(scale, made.adapter, made.rank, {}))
    return tuple(found)


def _on_search(session: Session, outcome: Outcome, adapter: Adapter) -> Measurement:
    capability = outcome.capability
    candidate = session.candidate(capability, "", adapter)
    return session.meter.measure(candidate, capability, "search", capability.splits["search"], stage=MERGED)


def settle(session: Session, outcomes: Sequence[Outcome], offered: Offered | None) -> Settled | None:
    """Decide, and where the merge ships, put it into every member's place of its own adapter."""
    if offered is None:
        return None
    members = [o for o in outcomes if o.capability.name in offered.own]
    cases = {o.capability.name: _case(session, o) for o in members}
    decision = decide(cases, session.loaded.config.gate.ship.minimum_effect)
    names = ", ".join(cases)
    said = (
        f"one merged adapter for {names}: {'ships' if decision.merged else 'does not ship'}; {'; '.join(decision.why)}"
    )
    for outcome in members:
        outcome.improved.notes.append(said)
        if decision.merged:
            _stand_in(outcome, offered.best.adapter, said)
    return Settled(offered, cases, decision)


def _case(session: Session, outcome: Outcome) -> MergeCase:
    shipping, placement, route = outcome.shipping, outcome.placement, outcome.route
    assert shipping is not None and placement is not None and route is not None
    assert shipping.merged is not None and outcome.merged_verdict is not None
    config = session.loaded.config
    verdict = outcome.merged_verdict
    alone = place(
        route,
        arms_of(shipping.with_merged(verdict), {"weights": verdict}),
        lambda cheaper, dearer: verdict,
        minimum_effect=config.gate.ship.minimum_effect,
        transfer_floor=config.router.transfer,
        transfer_bound=config.router.transfer_bound,
    )
    own = shipping.measured["weights"]
    return MergeCase(
        placed=placement.placement == "weights",
        against_base=verdict,
        refused="" if alone.placement == "weights" else "; ".join(r.why for r in alone.refused) or alone.reason,
        against_own=ship_gate(own.values, shipping.merged.confirm.values, config.gate.ship),
    )


def _stand_in(outcome: Outcome, adapter: Adapter, said: str) -> None:
    shipping, placement = outcome.shipping, outcome.placement
    assert shipping is not None and placement is not None and outcome.merged_verdict is not None
    outcome.shipping = shipping.with_merged(outcome.merged_verdict)
    outcome.verdicts["weights"] = outcome.merged_verdict
    outcome.improved.built["weights"] = Built(adapter=adapter)
    outcome.placement = replace(placement, reason=f"{outcome.merged_verdict.reason}; {said}")
    outcome.merged = True
