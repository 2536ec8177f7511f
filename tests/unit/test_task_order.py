"""Orders of tasks, their stages, and backward transfer: pure arithmetic with known answers."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from fakes import capability
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.capability.graders import build_grader
from hybrid.config.schema import (
    DistillConfig,
    ExactGrader,
    NumericGrader,
    ScheduleConfig,
    WarmStartConfig,
    WeightsConfig,
)
from hybrid.evidence.stats import Delta
from hybrid.evidence.strata import stratified
from hybrid.weights.base import Task
from hybrid.weights.schedule import Order, staged_decay
from hybrid.weights.task_order import (
    asymmetric,
    backward_transfer,
    best_order,
    checkpoint_every,
    gain,
    in_order,
    mixed,
    predicted,
)
from hybrid.weights.tasks import put_together

TASKS = (Task("a", "", 0, 4), Task("b", "", 4, 2), Task("c", "", 6, 4))


def matrix(**cells: float) -> dict[str, dict[str, Delta]]:
    """B from cells like `ab=-0.3`: what b, trained after a, does to a."""
    found: dict[str, dict[str, Delta]] = {}
    for name, value in cells.items():
        found.setdefault(name[0], {})[name[1]] = Delta(value, value - 0.05, value + 0.05)
    return found


def test_every_task_has_a_stage_with_rows_of_earlier_ones() -> None:
    first, second, third = in_order(TASKS, replay=0.5)
    assert first == (0, 1, 2, 3), "nothing is earlier"
    assert second[:2] == (4, 5)
    assert second[2:] == (0, 1), "half of the stage is replay"
    assert Counter(third[4:]) == Counter([0, 4, 1, 5]), "earlier tasks in turn"
    assert in_order(TASKS, replay=0.0) == ((0, 1, 2, 3), (4, 5), (6, 7, 8, 9))


def test_mixed_training_sees_every_task_as_often() -> None:
    (stage,) = mixed(TASKS)
    assert [sum(row in range(t.first, t.first + t.rows) for row in stage) for t in TASKS] == [4, 4, 4]


def test_stages_with_steps_of_their_own() -> None:
    order = Order(((0, 1, 2, 3, 4, 5, 6, 7), (8,)), steps=4, per_step=2, seed=0, lengths=(2, 2))
    assert [set(order.rows(step)) <= {8} for step in range(4)] == [False, False, True, True]


def test_the_learning_rate_falls_within_each_stage() -> None:
    assert [staged_decay((2, 4), step) for step in range(7)] == [1.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]


@given(steps=st.integers(1, 60), wanted=st.integers(1, 60))
def test_a_stage_ends_on_a_checkpoint(steps: int, wanted: int) -> None:
    every = checkpoint_every(steps, wanted)
    assert steps % every == 0
    assert every <= wanted


def test_the_matrix_is_paired_by_example() -> None:
    found = backward_transfer({"a": [1.0] * 40}, {("a", "b"): [1.0] * 30 + [0.0] * 10})
    assert found["a"]["b"].mean == pytest.approx(-0.25)
    assert found["a"]["b"].low < -0.25 < found["a"]["b"].high < 0


def test_asymmetry_must_exceed_its_error() -> None:
    assert asymmetric(matrix(ab=-0.02, ba=0.02)) is None, "0.04 is less than two errors of 0.036"
    assert asymmetric(matrix(ab=-0.3, ba=0.1)) == ("b", "a")
    assert asymmetric(matrix(ab=-0.3, ba=-0.3)) is None, "both forget alike: no order is better"
    no_change = backward_transfer({"a": [1.0] * 40, "b": [1.0] * 40}, {("a", "b"): [1.0] * 40, ("b", "a"): [1.0] * 40})
    assert asymmetric(no_change) is None


def test_the_best_order_puts_the_easily_forgotten_last() -> None:
    found = matrix(ab=-0.5, ba=0.0, ac=-0.5, ca=0.0, bc=-0.2, cb=0.1)
    assert best_order(found, ("a", "b", "c")) == ("c", "b", "a")
    assert gain(found, ("c", "b", "a")) == pytest.approx(0.1)


def test_orders_that_are_equally_good_fall_back_on_the_given_one() -> None:
    flat = matrix(ab=0.1, ba=0.1, ac=0.0, ca=0.0, bc=0.0, cb=0.0)
    for given_order in permutations("abc"):
        assert best_order(flat, given_order) == given_order
    with pytest.raises(ValueError, match="at most 8"):
        best_order({}, [str(k) for k in range(9)])


def test_the_prediction_adds_what_later_tasks_do() -> None:
    own = {"a": [1.0] * 8 + [0.0] * 2, "b": [1.0] * 10, "c": [0.0] * 10}
    pairs = {
        ("a", "b"): [1.0] * 6 + [0.0] * 4,
        ("a", "c"): [1.0] * 9 + [0.0],
        ("b", "a"): [1.0] * 10,
        ("b", "c"): [0.0] * 5 + [1.0] * 5,
        ("c", "a"): [0.0] * 10,
        ("c", "b"): [0.0] * 10,
    }
    found = predicted(own, pairs, ("a", "b", "c"))
    assert found["a"].mean == pytest.approx(0.8 - 0.2 + 0.1)
    assert found["b"].mean == pytest.approx(0.5)
    assert found["c"].mean == 0.0
    assert all(0.0 <= d.low <= d.mean <= d.high <= 1.0 for d in found.values())
    assert predicted(own, pairs, ("b", "c", "a"))["a"].mean == pytest.approx(0.8), "nothing is later"


def test_strata_count_the_same_and_their_errors_add_in_quadrature() -> None:
    found = stratified([Delta(0.2, 0.1, 0.3), Delta(0.4, 0.3, 0.5)])
    assert found.mean == pytest.approx(0.3)
    assert found.high - found.mean == pytest.approx(0.1 / 2**0.5)
    assert stratified([Delta(0.2, 0.0, 0.3)]) == pytest.approx((0.2, 0.0, 0.3))
    with pytest.raises(ValueError, match="no strata"):
        stratified([])


def test_a_shared_example_has_an_id_and_a_grader_of_its_own() -> None:
    words = capability("words", train=2)
    numbers = capability("numbers", train=2, grader=build_grader(NumericGrader(type="numeric")))
    examples, tasks, grader = put_together([(words, "say."), (numbers, "")])
    assert [(t.skill, t.first, t.rows) for t in tasks] == [("say.", 0, 2), ("", 2, 2)]
    assert [e.id for e in examples] == ["words/train-0", "words/train-1", "numbers/train-0", "numbers/train-1"]
    assert [grader.grade(text, examples[0]).passed for text in ("a0", "a1")] == [True, False]
    with pytest.raises(KeyError):
        grader.grade("a0", words.splits["train"][0])
    assert not grader.may_fail
    judge = type("Judge", (), {"may_fail": True, "fingerprint": lambda self: "judge"})()
    assert put_together([(words, ""), (capability("essays", train=1, grader=judge), "")])[2].may_fail
    swapped = put_together([(capability("words", train=2, grader=numbers.grader), ""), (numbers, "")])[2]
    assert swapped.fingerprint() != grader.fingerprint()


def test_numbers_are_graded_as_numbers_and_words_as_words() -> None:
    numbers = capability("numbers", train=1, grader=build_grader(NumericGrader(type="numeric")))
    row = numbers.splits["train"][0].model_copy(update={"reference": "0.5"})
    numbers = type(numbers)(numbers.name, {**numbers.splits, "train": (row,)}, numbers.grader)
    words = type(numbers)("words", {"train": (row,)}, build_grader(ExactGrader(type="exact")))
    examples, _, grader = put_together([(words, ""), (numbers, "")])
    assert [grader.grade("0.50", e).passed for e in examples] == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "shared", "stages": "structured_first"}, "stage of every task"),
        ({"tasks": "shared", "order": ("a", "a")}, "names a capability twice"),
        ({"order": "transfer"}, "order is read with tasks: shared alone"),
        ({"replay": 0.5}, "replay is read with tasks: shared alone"),
        ({"tasks": "shared", "pair_steps": 3}, "pair_steps is read with order: transfer alone"),
        ({"tasks": "shared", "replay": 1.0}, "less than 1"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleConfig(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_shared_is_refused() -> None:
    shared = ScheduleConfig(tasks="shared")
    with pytest.raises(ValidationError, match="needs method grpo, sft or svf"):
        WeightsConfig(method="distill", distill=DistillConfig(), schedule=shared)
    with pytest.raises(ValidationError, match="no warm start"):
        WeightsConfig(schedule=shared, warm_start=WarmStartConfig(steps=2))
