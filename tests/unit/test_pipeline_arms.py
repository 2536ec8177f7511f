"""Arms in front of the gate: transfer to variants, and slices of `confirm` by metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeBackend, candidate, capability, meter

from hybrid.capability.types import Capability, Example
from hybrid.config.schema import ShipGateConfig
from hybrid.evidence.gate import ship_gate
from hybrid.evidence.types import Measurement
from hybrid.pipeline.arms import LEAST_VARIANTS, Shipping, named_slices, transfer


def measured(folder: Path, split: str, right: int, count: int) -> Measurement:
    """A measurement of `count` rows of which the first `right` are right."""
    units = capability(train=count, variant=count)

    def answer(prompt: str, seed: int, adapter: object) -> str:
        number = int(prompt.rpartition("q")[2].rstrip("?"))
        return f"a{number}" if number < right else "no"

    metered = meter(folder / f"{split}-{right}-{count}", FakeBackend(answer))
    return metered.measure(candidate(), units, split, units.splits[split], stage="ship")  # type: ignore[arg-type,index]


def shipping(folder: Path, confirm: tuple[int, int], variant: tuple[int, int], variants: int) -> Shipping:
    """Right answers (base, arm) of 20 on `confirm` and of `variants` on `variant`."""
    base, arm = (measured(folder, "train", right, 20) for right in confirm)
    varied = {n: measured(folder, "variant", r, variants) for n, r in zip(("base", "skill"), variant, strict=True)}
    return Shipping(base, {"skill": arm}, varied, {"skill": ship_gate(base.values, arm.values, ShipGateConfig())})


def test_the_ratio_is_gain_on_variants_per_gain_on_confirm(tmp_path: Path) -> None:
    found = transfer(shipping(tmp_path, (5, 15), (2, 6), 16), "skill")
    assert (found.tau, found.variant_gain, found.n) == (0.5, 0.25, 16)
    worse = transfer(shipping(tmp_path, (5, 15), (8, 4), 16), "skill")
    assert worse.tau == -0.5


@pytest.mark.parametrize(
    ("confirm", "variants"), [((5, 15), LEAST_VARIANTS - 1), ((5, 5), 16), ((15, 5), 16)], ids=["few", "none", "loss"]
)
def test_without_a_gain_or_enough_variants_there_is_no_ratio(
    tmp_path: Path, confirm: tuple[int, int], variants: int
) -> None:
    found = transfer(shipping(tmp_path, confirm, (0, 4), variants), "skill")
    assert (found.tau, found.n) == (None, 0)
    assert found.acceptable(1.0)


def test_an_arm_without_variants_has_no_ratio(tmp_path: Path) -> None:
    parts = shipping(tmp_path, (5, 15), (0, 4), 16)
    parts.variants.clear()
    assert transfer(parts, "skill").tau is None


def test_slices_name_positions_of_confirm() -> None:
    rows = tuple(
        Example(id=str(i), prompt=f"p{i}", reference="r", metadata={"length": m} if m is not None else {})
        for i, m in enumerate([1, 2, 1, None, 2])
    )
    units = capability(confirm=1)
    sliced = Capability(units.name, {**units.splits, "confirm": rows}, units.grader)
    assert named_slices(sliced, "length") == {"length=1": [0, 2], "length=2": [1, 4]}
    assert named_slices(sliced, "other") == {}
    assert named_slices(sliced, None) is None
