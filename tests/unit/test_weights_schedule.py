"""Order of rows and batch arithmetic: pure, stateless, and the same after a resume by construction."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.errors import ConfigError
from hybrid.weights.batches import checkpoint_steps, is_boundary, plan_batches
from hybrid.weights.schedule import Order, plain, stage_lengths, structured_first


def test_structured_first_puts_low_entropy_first_and_breaks_ties_by_index():
    assert structured_first([2.0, 0.1, 1.0, 0.5], 2) == ((1, 3), (2, 0))
    assert structured_first([1.0, 1.0, 1.0, 1.0, 1.0], 2) == ((0, 1, 2), (3, 4))
    assert structured_first([3.0, 1.0], 4) == ((1,), (0,))
    with pytest.raises(ValueError, match="count"):
        structured_first([1.0], 0)
    with pytest.raises(ValueError, match="not a number"):
        structured_first([float("nan")], 1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 8))
def test_structured_first_keeps_every_row_once_and_never_raises_entropy_backwards(entropies, count):
    stages = structured_first(entropies, count)
    assert sorted(row for stage in stages for row in stage) == list(range(len(entropies)))
    for earlier, later in itertools.pairwise(stages):
        assert max(entropies[i] for i in earlier) <= min(entropies[i] for i in later)
    sizes = [len(stage) for stage in stages]
    assert max(sizes) - min(sizes) <= 1


def test_stage_lengths_are_proportional_by_largest_remainder():
    assert stage_lengths(10, [50, 50]) == (5, 5)
    assert stage_lengths(10, [30, 10]) == (7, 3)
    assert stage_lengths(3, [98, 1, 1]) == (1, 1, 1)
    assert stage_lengths(1, [1, 1]) == (1, 0)
    with pytest.raises(ValueError, match="needs rows"):
        stage_lengths(5, [3, 0])


@settings(deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_stage_lengths_sum_to_the_steps_and_starve_nobody(steps, sizes):
    lengths = stage_lengths(steps, sizes)
    assert sum(lengths) == steps
    assert min(lengths) >= (1 if steps >= len(sizes) else 0)


def test_stages_are_trained_in_order_and_only_from_their_own_rows():
    order = Order(stages=((4, 5, 6), (0, 1, 2, 3)), steps=7, per_step=2, seed=3)
    rows = [order.rows(step) for step in range(7)]
    assert all(set(r) <= {4, 5, 6} for r in rows[:3])
    assert all(set(r) <= {0, 1, 2, 3} for r in rows[3:])
    with pytest.raises(IndexError):
        order.rows(7)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_each_epoch_reads_every_row_once(n, per_step, steps, seed):
    order = Order(plain(n), steps, per_step, seed)
    read = [row for step in range(steps) for row in order.rows(step)]
    for start in range(0, len(read) - n + 1, n):
        assert sorted(read[start : start + n]) == list(range(n))


def test_rows_of_a_step_do_not_depend_on_what_was_read_before():
    order = Order(plain(11), 20, 4, seed=7)
    forwards = [order.rows(step) for step in range(20)]
    again = Order(plain(11), 20, 4, seed=7)
    assert [again.rows(step) for step in reversed(range(20))] == forwards[::-1]
    assert forwards != [Order(plain(11), 20, 4, seed=8).rows(step) for step in range(20)]
    # Pinned: another order is another experiment, also after an upgrade of Python.
    assert order.rows(0) == (2, 6, 7, 9)


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(1, 8), st.one_of(st.none(), st.integers(1, 80)))
def test_a_step_sees_all_rows_whatever_the_cut(per_process, processes, rows_per_device):
    rows = per_process * processes
    plan = plan_batches(rows, processes, rows_per_device)
    assert plan.rows == rows
    assert plan.per_device <= (rows_per_device or rows)
    # No divisor in between: the cut is as coarse as allowed.
    wider = range(plan.per_device + 1, min(rows_per_device or per_process, per_process) + 1)
    assert not any(per_process % size == 0 for size in wider)


def test_rows_that_processes_cannot_share_are_a_config_error():
    with pytest.raises(ConfigError, match="multiple of 3"):
        plan_batches(64, 3, None)


def test_checkpoints_lie_on_generation_boundaries():
    assert checkpoint_steps(10, 4) == (4, 8, 10)
    assert checkpoint_steps(3, 25) == (3,)
    # What the plan rules out: two optimiser steps per generation, saved in the middle.
    assert not is_boundary(3, accumulation=1, steps_per_generation=2, iterations=1)
    assert not is_boundary(3, accumulation=1, steps_per_generation=1, iterations=2)
    assert is_boundary(4, accumulation=1, steps_per_generation=2, iterations=2)
