"""Variants by parent: no family on two sides, nothing taught that a held-out row knows."""

from __future__ import annotations

import random

import pytest
from fakes import capability
from hypothesis import given
from hypothesis import strategies as st

from hybrid.capability.families import LEAST_VARIANTS, divide, family
from hybrid.capability.types import Capability, Example

SPLITS = ("train", "search", "confirm", "test")


def made(parents: list[str | None], **changes: str) -> Capability:
    """40 rows a split, and a variant per named parent."""
    units = capability(train=40, search=40, confirm=40, test=40)
    variants = tuple(
        Example(id=f"v{i}", prompt=changes.get(f"v{i}", f"twice {i}"), reference="x", parent_id=parent)
        for i, parent in enumerate(parents)
    )
    return Capability(units.name, {**units.splits, "variant": variants}, units.grader)


def split_of(units: Capability, position: int) -> str:
    parent = units.splits["variant"][position].parent_id
    return next((s for s in SPLITS if any(e.id == parent for e in units.splits[s])), "none")  # type: ignore[index]


@given(
    st.lists(st.one_of(st.none(), st.tuples(st.sampled_from(SPLITS), st.integers(0, 39))), max_size=60),
    st.floats(0, 0.9),
    st.booleans(),
    st.integers(0, 3),
)
def test_families_stay_together(drawn: list[tuple[str, int] | None], share: float, teach: bool, seed: int) -> None:
    units = made([None if d is None else f"{d[0]}-{d[1]}" for d in drawn])
    variants = units.splits["variant"]
    found = divide(units, share=share, seed=seed, teach=teach)
    assert sorted((*found.taught, *found.watched, *found.held)) == list(range(len(variants)))
    sides = [{family(variants[i]) for i in side} for side in (found.taught, found.watched, found.held)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert {split_of(units, i) for i in found.taught} <= ({"train"} if teach else set())
    assert not found.watched or min(len(found.watched), len(found.held)) >= LEAST_VARIANTS
    assert len(found.watched) <= share * (len(variants) - len(found.taught))
    shuffled = list(variants)
    random.Random(0).shuffle(shuffled)
    again = divide(Capability(units.name, {**units.splits, "variant": tuple(shuffled)}, units.grader), share=share, seed=seed, teach=teach)  # fmt: skip # noqa: E501
    assert {shuffled[i].id for i in again.watched} == {variants[i].id for i in found.watched}


def test_variants_of_search_are_watched_first() -> None:
    units = made([f"test-{i}" for i in range(30)] + [f"search-{i}" for i in range(10)])
    found = divide(units, share=0.25, seed=1, teach=False)
    assert {split_of(units, i) for i in found.watched} == {"search"}
    assert len(found.watched) == 10
    more = divide(units, share=0.5, seed=1, teach=False)
    assert len(more.watched) == 20 and set(found.watched) < set(more.watched)
    other = divide(units, share=0.5, seed=2, teach=False)
    assert other.watched != more.watched, "which of the others are watched follows from the seed"


@pytest.mark.parametrize("parent", ["search-3", "confirm-3", "test-3", None])
def test_only_variants_of_training_rows_are_taught(parent: str | None) -> None:
    found = divide(made(["train-3", parent, *[f"test-{i}" for i in range(20)]]), share=0.25, seed=0, teach=True)
    assert found.taught == (0,)


def test_a_variant_with_the_words_of_a_held_out_row_is_not_taught() -> None:
    parents: list[str | None] = ["train-1", "train-2"]
    found = divide(made(parents, v0="Confirm  Q5?"), share=0.0, seed=0, teach=True)
    assert (found.taught, found.held) == ((1,), (0,))
