"""The report's parts about generality, from what the ship gate and the trainings left. Nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.evidence.generality import Generality, told
from hybrid.pipeline.arms import transfer
from hybrid.report import schema as r
from hybrid.router.place import ARMS, ArmName

if TYPE_CHECKING:
    from hybrid.pipeline.run import Outcome


def assembled(outcome: Outcome, arm: str | None) -> r.Generality | None:
    """Everything about one capability; None where there is nothing to tell. `arm` is the placed one, if any."""
    trained = outcome.improved.trainings.keys() | outcome.improved.known.keys()
    shown = arm if arm in trained else min(trained, default=None)
    arms = tuple(_arm(name, found) for name, found in _found(outcome).items())
    watched, facts = _curve(outcome, shown), _facts(outcome, shown)
    return r.Generality(arms=arms, watched=watched, unknown_facts=facts) if arms or watched or facts else None


def trail(outcome: Outcome) -> tuple[str, ...]:
    """How the adapters' gains carry over, for the decision trail; a document is not held to the floor."""
    return tuple(f"{name}: {told(found)}" for name, found in _found(outcome).items() if name != "skill")


def _curve(outcome: Outcome, arm: str | None) -> tuple[r.VariantPoint, ...]:
    return tuple(
        r.VariantPoint(
            step=p.step, search=p.search, mean=p.variant.mean, low=p.variant.low, high=p.variant.high, n=p.variant.n,
            tau=p.found.tau, tau_low=p.found.tau_low, tau_high=p.found.tau_high,
        )
        for name, points in outcome.improved.watched.items()
        if name == arm
        for p in points
    )  # fmt: skip


def _facts(outcome: Outcome, arm: str | None) -> r.UnknownFacts | None:
    found = next((facts for name, facts in outcome.improved.known.items() if name == arm), None)
    return None if found is None else r.UnknownFacts(**found.model_dump())


def sent_back(outcome: Outcome) -> tuple[r.Rejected, ...]:
    """First attempts that were trained again, with their gain on `search` and why."""
    return tuple(
        r.Rejected(
            substrate=arm,
            what=f"first attempt, step {back.step}",
            delta=back.found.gain,
            low=back.found.gain_low,
            high=back.found.gain_high,
            n=back.found.n,
            why=back.why,
        )
        for arm, back in sorted(outcome.improved.sent_back.items())
    )


def _found(outcome: Outcome) -> dict[ArmName, Generality]:
    shipping = outcome.shipping
    if shipping is None:
        return {}
    each = {name: transfer(shipping, name).evidence for name in ARMS if name in shipping.verdicts}
    return {name: found for name, found in each.items() if found is not None}


def _arm(name: ArmName, g: Generality) -> r.ArmGenerality:
    return r.ArmGenerality(
        arm=name,
        tau=g.tau,
        low=g.tau_low,
        high=g.tau_high,
        gain=r.Effect(delta=g.gain, low=g.gain_low, high=g.gain_high, n=g.n),
        variant_gain=r.Effect(delta=g.variant_gain, low=g.variant_low, high=g.variant_high, n=g.variants),
        families=g.families,
        did=r.Effect(delta=g.did, low=g.did_low, high=g.did_high, n=g.n + g.variants),
        note=g.note,
    )
