"""Verification: the sealed test and the variants in the 2x2 of adapter and skill, once, and what else a change touches.

Does not: change any decision. What was placed stays placed; this is what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.capability.types import Capability
from hybrid.evidence.stats import paired_interval
from hybrid.evidence.types import Measurement
from hybrid.pipeline.arms import Built
from hybrid.pipeline.generality import held
from hybrid.pipeline.session import Session
from hybrid.router.place import ArmName


@dataclass(frozen=True)
class Touch:
    """What a placed change does to another capability: paired difference on its `search` examples."""

    delta: float
    low: float
    high: float
    n: int


@dataclass
class Verified:
    """Measurements of `base` and of every arm that was built, and the collateral of the placed one."""

    test: dict[str, Measurement] = field(default_factory=dict)
    variant: dict[str, Measurement] = field(default_factory=dict)
    collateral: dict[str, Touch] = field(default_factory=dict)
    previous: Measurement | None = None
    """What shipped before this run, on `test`; None where this run does not go back to anything."""


def verify(
    session: Session, capability: Capability, built: Mapping[ArmName, Built], previous: Built | None = None
) -> Verified:
    """Open `test` once, for the base and all arms together; variants on the side.

    `previous` is what shipped before, where this run changes that; it is measured on `test` alone.
    """
    candidates = {"base": session.candidate(capability)}
    candidates |= {name: session.candidate(capability, b.skill, b.adapter) for name, b in sorted(built.items())}
    before = None if previous is None else session.candidate(capability, previous.skill, previous.adapter)
    session.meter.open_sealed(capability, "test", [*candidates.values(), *([before] if before else [])])
    out = Verified()
    if before is not None:
        out.previous = session.meter.measure(before, capability, "test", capability.splits["test"], stage="verify")
    variant = held(session, capability)
    for name, candidate in candidates.items():
        test = capability.splits["test"]
        out.test[name] = session.meter.measure(candidate, capability, "test", test, stage="verify")
        if variant:
            out.variant[name] = session.meter.measure(candidate, capability, "variant", variant, stage="verify")
    return out


def collateral(session: Session, capability: Capability, placed: Built) -> dict[str, Touch]:
    """The placed text and adapter, active while the other capabilities are asked, against the base on the same examples."""
    count = session.loaded.config.report.collateral_examples
    out: dict[str, Touch] = {}
    for other in session.capabilities:
        examples = other.splits["search"][:count]
        if other.name == capability.name or not examples:
            continue
        base = session.meter.measure(session.candidate(other), other, "search", examples, stage="collateral")
        changed = session.candidate(other, placed.skill, placed.adapter)
        after = session.meter.measure(changed, other, "search", examples, stage="collateral")
        differences = [b - a for a, b in zip(base.values, after.values, strict=True)]
        mean, low, high = paired_interval(differences, 0.95)
        out[other.name] = Touch(mean, low, high, len(differences))
    return out
