"""Variants while an adapter is trained: which are whose, the curve of every checkpoint, and what is sent back.

    held(session, capability)                     # the variants that the ship gate and the report use
    watched = watch(session, capability, "", result, base)
    sent_back(session, watched, chosen_step)      # why the adapter is trained again, or None

The watched variants are read as often as `search` is, so nothing that they say is evidence: it may send an adapter back to
training, and never ships one. Does not: train, or open a sealed split.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hybrid.capability.families import LEAST_VARIANTS, VariantParts, divide, family
from hybrid.capability.types import Capability, Example
from hybrid.errors import AdapterError
from hybrid.evidence.generality import Gains, Generality, generality, told
from hybrid.evidence.stats import mean_interval
from hybrid.evidence.types import Interval, Measurement
from hybrid.pipeline.session import Session
from hybrid.router.place import Transfer
from hybrid.weights.base import TrainResult


@dataclass(frozen=True)
class WatchPoint:
    """A checkpoint on the watched variants. `search` is its mean there; `found` compares both with the bare base."""

    step: int
    search: float
    variant: Interval
    found: Generality


@dataclass(frozen=True)
class SentBack:
    """A first attempt that was trained again: its chosen checkpoint, its gain on `search`, and why."""

    step: int
    found: Generality
    variants: int
    why: str


def parts(session: Session, capability: Capability) -> VariantParts:
    """Which variants are taught, watched and held in this run."""
    settings = session.loaded.config.weights.generality
    teach = settings.augment == "variants"
    return divide(capability, share=settings.watch, seed=session.loaded.config.seed, teach=teach)


def held(session: Session, capability: Capability) -> tuple[Example, ...]:
    """The variants that no search and no training reads."""
    variants = capability.splits.get("variant", ())
    return tuple(variants[i] for i in parts(session, capability).held)


def watched(session: Session, capability: Capability) -> tuple[Example, ...]:
    """The variants that may be looked at while an arm is made; nothing ships by them."""
    variants = capability.splits.get("variant", ())
    return tuple(variants[i] for i in parts(session, capability).watched)


def watch(
    session: Session, capability: Capability, skill: str, result: TrainResult, base: Measurement
) -> tuple[WatchPoint, ...]:
    """Every checkpoint on the watched variants, in step order; empty where nothing is watched.

    `base` is the bare base on `search`. A checkpoint that the backend refuses is left out; the selection says why.
    """
    variants = capability.splits.get("variant", ())
    examples = tuple(variants[i] for i in parts(session, capability).watched)
    if not examples:
        return ()
    measure, search = session.meter.measure, capability.splits["search"]
    before = measure(session.candidate(capability), capability, "variant", examples, stage="watch")
    points = []
    for step, adapter in result.checkpoints:
        candidate = session.candidate(capability, skill, adapter)
        try:
            inside = measure(candidate, capability, "search", search, stage="select")
            outside = measure(candidate, capability, "variant", examples, stage="watch")
        except AdapterError:
            continue
        found = generality(
            Gains.of(base.values, inside.values, base.example_ids),
            Gains.of(before.values, outside.values, [family(e) for e in examples]),
        )
        points.append(WatchPoint(step, inside.mean, mean_interval(outside.values, 0.95, 0), found))
    return tuple(points)


def sent_back(session: Session, capability: Capability, points: tuple[WatchPoint, ...], step: int) -> SentBack | None:
    """Why the adapter of `step` is trained again with variants; None where it is not, or where there is nothing to add."""
    config = session.loaded.config
    if config.weights.generality.augment == "none":
        return None
    found = next((p.found for p in points if p.step == step), None)
    taught = parts(session, capability).taught
    name = capability.name
    if found is None:
        session.warn(
            f"{name}: fewer than {LEAST_VARIANTS} variants can be watched, so no adapter is sent back "
            "(weights.generality.augment)"
        )
        return None
    transfer = Transfer(found.tau, found.variant_gain, found.variants, found)
    if transfer.acceptable(config.router.transfer, config.router.transfer_bound):
        return None
    if not taught:
        session.warn(
            f"{name}: the gain does not carry over to variants, and no variant has a training row as its parent: "
            "there is nothing to add (weights.generality.augment)"
        )
        return None
    why = transfer.refusal(config.router.transfer, config.router.transfer_bound)
    return SentBack(step, found, len(taught), f"{why}, on watched variants; sent back to train with variants")


def added(session: Session, capability: Capability) -> tuple[int, ...]:
    """Positions in `variant` of the rows that a second attempt also trains on, `share` of all its rows.

    Every taught variant is there before one is repeated; which come first is drawn from the seed.
    """
    config = session.loaded.config
    taught = list(parts(session, capability).taught)
    random.Random(f"{config.seed}:{capability.name}:augment").shuffle(taught)
    share, rows = config.weights.generality.share, len(capability.splits["train"])
    wanted = max(1, round(rows * share / (1.0 - share)))
    return tuple(taught[i % len(taught)] for i in range(wanted)) if taught else ()


def describe(points: tuple[WatchPoint, ...], step: int) -> str:
    """The chosen checkpoint's transfer on watched variants, for the trail."""
    found = next((p.found for p in points if p.step == step), None)
    return "" if found is None else f"{told(found)} on watched variants"
