"""Arms: what was built for a capability, how the honest gate judges it, and what ships.

Opens `confirm` once per capability, with every arm that was built. Does not: build arms (see `improve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid.backends.base import Adapter
from hybrid.capability.families import LEAST_VARIANTS, family
from hybrid.capability.types import Capability
from hybrid.evidence.generality import Gains, generality
from hybrid.evidence.joint_gate import joint_gate
from hybrid.evidence.stated import Reader, told
from hybrid.evidence.types import Measurement, Verdict
from hybrid.pipeline.attribution import Without, Worth, worth
from hybrid.pipeline.generality import held
from hybrid.pipeline.session import Session
from hybrid.router.place import ARMS, Arm, ArmName, Transfer


@dataclass(frozen=True)
class Built:
    """An arm's artefacts: the text the model reads, the adapter, or both."""

    skill: str = ""
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Merged:
    """The merged adapter (`hybrid.pipeline.merge`) on `confirm` and on the variants, and its gate against the base."""

    confirm: Measurement
    variant: Measurement | None
    verdict: Verdict


@dataclass
class Shipping:
    """What `confirm` and `variant` said about the arms of one capability."""

    base: Measurement
    measured: dict[ArmName, Measurement] = field(default_factory=dict)
    variants: dict[str, Measurement] = field(default_factory=dict)
    """By arm name, and `base`; empty without variants."""
    verdicts: dict[ArmName, Verdict] = field(default_factory=dict)
    worths: list[Worth] = field(default_factory=list)
    """What each kept edit of the document is worth; empty where the document did not pass."""
    families: tuple[str, ...] = ()
    """Of the variants, by position; empty means that each is one of its own."""
    merged: Merged | None = None
    """Where one adapter was offered in the place of several, this capability's among them."""

    def with_merged(self, verdict: Verdict) -> Shipping:
        """The same with the merged adapter as the `weights` arm; `verdict` is its own after the correction."""
        assert self.merged is not None
        variants = self.variants if self.merged.variant is None else self.variants | {"weights": self.merged.variant}
        return replace(
            self,
            measured=self.measured | {"weights": self.merged.confirm},
            variants=variants,
            verdicts=self.verdicts | {"weights": verdict},
        )


def named_slices(capability: Capability, key: str | None) -> dict[str, list[int]] | None:
    """Positions in `confirm` by the value of a metadata key."""
    if key is None:
        return None
    slices: dict[str, list[int]] = {}
    for i, example in enumerate(capability.splits["confirm"]):
        if key in example.metadata:
            slices.setdefault(f"{key}={example.metadata[key]}", []).append(i)
    return slices


def judge(
    session: Session,
    capability: Capability,
    built: Mapping[ArmName, Built],
    without: Sequence[Without] = (),
    merged: Adapter | None = None,
) -> Shipping:
    """Open `confirm`, measure base and arms on it and on the variants, and gate every arm against the base.

    `without` are bodies that lack one edit of the `skill` arm; they are measured where that arm passes. `merged` is an
    adapter that is offered in the place of the `weights` arm's.
    """
    base = session.candidate(capability)
    candidates = {name: session.candidate(capability, b.skill, b.adapter) for name, b in built.items()}
    shorter = [session.candidate(capability, w.body) for w in without]
    offered = [session.candidate(capability, "", merged)] if merged is not None else []
    session.meter.open_sealed(capability, "confirm", [base, *candidates.values(), *shorter, *offered])
    confirm = capability.splits["confirm"]
    variant = held(session, capability)
    measure = session.meter.measure
    shipping = Shipping(measure(base, capability, "confirm", confirm, stage="ship"))
    shipping.families = tuple(family(e) for e in variant)
    if variant:
        shipping.variants["base"] = measure(base, capability, "variant", variant, stage="ship")
    policy = session.loaded.config.gate.ship
    slices = named_slices(capability, policy.slice_by)
    reader = Reader.of(session.loaded.config.weights.rewards)

    def gated(arm: Measurement) -> Verdict:
        own, other = told(shipping.base, reader), told(arm, reader)
        return joint_gate(shipping.base.values, arm.values, own, other, policy, slices=slices)

    for name in ARMS:
        if name in candidates:
            shipping.measured[name] = measure(candidates[name], capability, "confirm", confirm, stage="ship")
            if variant:
                shipping.variants[name] = measure(candidates[name], capability, "variant", variant, stage="ship")
            shipping.verdicts[name] = gated(shipping.measured[name])
    for candidate in offered:
        found = measure(candidate, capability, "confirm", confirm, stage="ship")
        varied = measure(candidate, capability, "variant", variant, stage="ship") if variant else None
        shipping.merged = Merged(found, varied, gated(found))
    if "skill" in shipping.verdicts and shipping.verdicts["skill"].decision == "accept":
        whole = shipping.measured["skill"].values
        for item, candidate in zip(without, shorter, strict=True):
            lacking = measure(candidate, capability, "confirm", confirm, stage="attribution")
            shipping.worths.append(worth(item, whole, lacking.values))
    return shipping


def transfer(shipping: Shipping, name: ArmName) -> Transfer:
    """tau = gain on variants / gain on `confirm`; None where there are too few variants or nothing was gained.

    An arm that ships for its calibration claims no gain in score, so there is none to carry over. The interval of tau, and the
    difference in differences, resample whole families of variants.
    """
    varied, base = shipping.variants.get(name), shipping.variants.get("base")
    gain = shipping.verdicts[name].delta if shipping.verdicts[name].basis == "score" else 0.0
    if varied is None or base is None:
        return Transfer(None, None, 0)
    inside = Gains.of(shipping.base.values, shipping.measured[name].values, shipping.base.example_ids)
    found = generality(inside, Gains.of(base.values, varied.values, shipping.families or None))
    if len(varied.values) < LEAST_VARIANTS or gain <= 0:
        return Transfer(None, None, 0, found)
    variant_gain = varied.mean - base.mean
    return Transfer(variant_gain / gain, variant_gain, len(varied.values), found)


def arms_of(shipping: Shipping, verdicts: Mapping[ArmName, Verdict]) -> dict[ArmName, Arm]:
    """Arms with their verdicts after the correction over capabilities."""
    return {name: Arm(name, verdicts[name], transfer(shipping, name)) for name in ARMS if name in verdicts}
