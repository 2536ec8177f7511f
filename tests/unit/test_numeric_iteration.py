"""The suite `numeric_iteration`: its values are the textbook's, its rows are honest, its options say what is wrong."""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from pathlib import Path

import pytest
from pydantic import ValidationError

from hybrid.capability.suites.base import SuiteData, SuiteError
from hybrid.capability.suites.numeric_iteration import SUITE, Options
from hybrid.capability.suites.numeric_steps import FAMILIES, Problem, named, written
from hybrid.capability.types import SPLITS
from hybrid.config.schema import SuiteSizes

SIZES = SuiteSizes(train=24, search=24, confirm=24, test=24, variant=24)

FEW = SuiteSizes(train=1, search=1, confirm=1, test=1, variant=0)


def built(seed: int = 0, sizes: SuiteSizes = SIZES, **options: object) -> SuiteData:
    return SUITE.build(Options(**options), sizes, seed)  # type: ignore[arg-type]


def test_values_by_hand() -> None:
    assert Problem("modular", (5, 3, 10, 4)).values(3) == [3, 8, 3]
    assert Problem("digits", (1, 9, 10, 0, 3, 375)).values(4) == [642, 315, 42, 319]
    assert Problem("digits", (2, 1, 8, 0, 3, 375)).values(4) == [648, 864, 597, 860], "648 ends in 8: it grows by 0"
    assert Problem("newton", (2, 2)).values(2) == [Fraction(3, 2), Fraction(17, 12)]
    assert Problem("bisection", (2, 0, 2)).values(3) == [Fraction(3, 2), Fraction(5, 4), Fraction(11, 8)]
    assert Problem("power", (2, 1, 1)).values(2) == [Fraction(2, 3), Fraction(5, 8)]


def test_the_iterations_go_where_their_names_say() -> None:
    assert float(Problem("newton", (7, 1000)).values(15)[-1]) == pytest.approx(math.sqrt(7))
    assert float(Problem("bisection", (7, 0, 5)).values(30)[-1]) == pytest.approx(math.sqrt(7))
    p, q, s = 5, 2, 3
    largest = (p + s + math.hypot(p - s, 2 * q)) / 2
    assert float(Problem("power", (p, q, s)).values(60)[-1]) == pytest.approx((largest - p) / q)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (Fraction(1, 3), 4, "0.3333"),
        (Fraction(-1, 3), 2, "-0.33"),
        (Fraction(1, 8), 2, "0.12"),  # half to even
        (Fraction(82), 0, "82"),
        (Fraction(99_999, 100_000), 4, "1.0000"),
        (Fraction(5, 100), 2, "0.05"),
    ],
)
def test_written(value: Fraction, digits: int, shown: str) -> None:
    assert written(value, digits) == shown


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_passes_and_a_step_too_few_or_too_many_does_not(family: str) -> None:
    made = built(family=family, depths=(1, 2, 4, 7))
    for split in SPLITS:
        assert len(made.splits[split]) == 24
        for row in made.splits[split]:
            assert made.grader.grade(row.gold_completion, row).value == 1.0
            assert made.grader.grade(f"1: 7\n2: {row.reference}", row).passed, "the last number is the answer"
            assert row.wrong
            assert not any(made.grader.grade(w, row).passed for w in row.wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_the_seeds_and_no_prompt_is_in_two_splits(family: str) -> None:
    made, again, other = built(3, family=family), built(3, family=family), built(4, family=family)
    assert made.splits == again.splits
    assert made.splits["test"] != other.splits["test"]
    prompts = [row.prompt_text for split in SPLITS for row in made.splits[split]]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_split_holds_every_depth(family: str) -> None:
    made = built(family=family, depths=(1, 3, 5))
    for split in SPLITS[:-1]:
        assert [row.metadata["depth"] for row in made.splits[split]][:3] == [1, 3, 5]


def test_variants_change_one_thing_of_their_parent() -> None:
    made = built(family="bisection", depths=(1, 2, 3))
    parents = {row.id: row for row in made.splits["test"]}
    kinds = set()
    for twin in made.splits["variant"]:
        parent = parents[str(twin.parent_id)]
        steps = twin.metadata["depth"] - parent.metadata["depth"]
        kinds.add(twin.metadata["variant"])
        same = twin.metadata["givens"] == parent.metadata["givens"]
        assert {"deeper": (1, True), "shallower": (-1, True), "changed": (0, False)}[twin.metadata["variant"]] == (
            steps,
            same,
        )
    assert kinds == {"deeper", "changed", "shallower"}


def test_named_maps_are_not_explained_and_starts_are_kept_apart() -> None:
    made = built(
        modulus=61,
        maps={"Bas": (55, 26), "Bek": (44, 2)},
        template="q {x:02d} {name} {d}",
        train_starts=tuple(range(30)),
        held_starts=tuple(range(30, 61)),
    )
    row = made.splits["test"][0]
    assert row.prompt == f"q {row.metadata['givens'][3]:02d} {row.metadata['map']} 1"
    assert all(row.metadata["givens"][3] < 30 for row in made.splits["train"])
    assert all(row.metadata["givens"][3] >= 30 for s in ("search", "confirm", "test") for row in made.splits[s])


def test_leading_zeros_are_written_and_not_asked_for() -> None:
    made = built(family="digits", width=3, depths=(1, 2, 3))
    row = next(r for s in SPLITS for r in made.splits[s] if r.reference.startswith("0"))
    assert len(row.reference) == 3
    assert made.grader.grade(str(int(row.reference)), row).passed


def test_a_changed_train_size_leaves_the_sealed_splits_alone() -> None:
    more = SIZES.model_copy(update={"train": 60})
    assert built().splits["test"] == built(sizes=more).splits["test"]
    assert built().splits["confirm"] == built(sizes=more).splits["confirm"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depths": (0,)}, "between 1 and"),
        ({"family": "newton", "depths": (8,)}, "between 1 and 7"),
        ({"family": "newton", "template": "{x}"}, "for the families modular"),
        ({"maps": {"Bas": (1, 2)}}, "need a template"),
        ({"template": "{start}"}, "cannot be filled in"),
        ({"held_starts": (97,)}, "between 0 and"),
        ({"family": "digits", "maps": {"A": (3, 1)}, "template": "{name}"}, "is no map of digits"),
        ({"maps": {"A": (3, 1, 2)}, "template": "{name}"}, "is no map of modular"),
        ({"template": "{name} {x}"}, "such a template named maps"),
        ({"family": "digits", "alphabet": "abcdefghia", "template": "{x}"}, "ten different signs"),
        ({"alphabet": "abcdefghij", "template": "{x}"}, "ten different signs"),
        ({"depth": (3,)}, "Extra inputs"),
    ],
)
def test_options_say_what_is_wrong(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Options(**options)  # type: ignore[arg-type]


def test_sizes_that_cannot_be_met_and_maps_that_stand_still_are_refused() -> None:
    with pytest.raises(SuiteError, match="rows left"):
        built(modulus=5, depths=(1,), maps={"A": (2, 1)}, template="{x} {name} {d}")
    with pytest.raises(SuiteError, match="moves at every one"):
        built(maps={"A": (1, 0)}, template="{x} {name} {d}")


@pytest.mark.parametrize("completion", ["", "nan", "1e999999", "٣", "1:", "-" * 5000, "9" * 2000, "\x00", "82 83"])
def test_hostile_completions_score_below_one(completion: str) -> None:
    made = built()
    row = next(r for r in made.splits["test"] if r.reference not in ("82", "83"))
    assert made.grader.grade(completion, row).value < 1.0


def test_numbers_in_other_signs_are_judged_by_their_last_signs() -> None:
    letters: dict[str, object] = {"alphabet": "abcdefghij", "template": "q {d} {x} {name}", "maps": {"@prev": (0, 9)}}
    made = built(family="digits", width=4, held_starts=(123,), train_starts=tuple(range(9)), sizes=FEW, **letters)
    row = made.splits["test"][0]
    assert (row.prompt, row.reference) == ("q 1 abcd @prev", "jabc")
    assert made.grader.grade("jabc", row).passed
    assert made.grader.grade("ijab,q1ijab@prevjabc", row).passed
    assert not any(made.grader.grade(w, row).passed for w in ("jabc,q1jabc@previjab", "ajabc", "jabcd", "", "JABC"))


def test_the_numeric_dialect_means_what_the_suite_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench trains on answers of the dialect and grades with those of the suite."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    numeric = importlib.import_module("numeric_language")
    letters = str.maketrans("abcdefghij", "0123456789")
    for slot, givens in numeric.GIVENS.items():
        for x in ("dhfb", "abcd", "jihg"):
            number = int(x.translate(letters))
            expected = named("digits", slot, givens, numeric.WIDTH, number).values(5)
            assert [int(v.translate(letters)) for v in numeric.values(slot, x, 5)] == expected
