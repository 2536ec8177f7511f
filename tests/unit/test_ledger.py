"""Costs and budgets: the ledger is what is stored, limits stop exactly where they say, and what was paid is kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fakes import FakeBackend, candidate, capability, meter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.config.schema import BudgetConfig
from hybrid.errors import BudgetExhausted
from hybrid.evidence.ledger import Cost, Ledger
from hybrid.evidence.rollouts import RolloutStore
from hybrid.evidence.types import Rollout


def rollout(number: int, seconds: float, *, name: str = "units", stage: str = "probe") -> Rollout:
    return Rollout(
        key=f"{number:032x}", candidate="c", capability=name, split="search", example_id="e", sample=0, seed=number,
        text="t", value=1.0, passed=True, tokens_in=number, tokens_out=2, seconds=seconds, finish="stop", stage=stage,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_order_does_not_change_a_digit(seed: int) -> None:
    """A resumed attempt enters costs in the order of files, the first one in the order paid; reports need equal bytes."""
    rng = random.Random(seed)
    rows = [rollout(i, round(rng.random(), 6), name="ab"[i % 2], stage="xyz"[i % 3]) for i in range(500)]
    shuffled = rng.sample(rows, len(rows))
    one, other = Ledger(BudgetConfig(), rows), Ledger(BudgetConfig(), shuffled)
    assert one.total() == other.total()
    for name in "ab":
        assert one.total(name) == other.total(name)
        assert one.stages(name) == other.stages(name)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replay_gives_the_same_ledger(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("l")
    units, more = capability(search=9), capability("more", search=9)
    metered = meter(folder, FakeBackend(lambda prompt, seed, adapter: "a b", seconds=0.1), chunk=3)
    for _ in range(data.draw(st.integers(1, 5))):
        of, stage = data.draw(st.sampled_from([units, more])), data.draw(st.sampled_from(["probe", "ship"]))
        rows = data.draw(st.lists(st.sampled_from(of.splits["search"]), max_size=9))
        metered.measure(candidate(data.draw(st.sampled_from(["", "x"]))), of, "search", rows, stage=stage)
    replayed = Ledger(BudgetConfig(), RolloutStore(folder / "rollouts").all())
    assert replayed.total() == metered.ledger.total()
    for of in (units, more):
        assert replayed.stages(of.name) == metered.ledger.stages(of.name)


def test_sums_by_capability_and_stage() -> None:
    ledger = Ledger(BudgetConfig(), [rollout(1, 0.5), rollout(2, 0.25, stage="ship"), rollout(4, 1.0, name="other")])
    ledger.pay_training("units", "train-weights", Cost(10, 100, 50, 0.0, 7.5))
    assert ledger.total() == Cost(13, 107, 56, 1.75, 7.5)
    assert ledger.total("units") == Cost(12, 103, 54, 0.75, 7.5)
    assert ledger.total("nobody") == Cost()
    assert list(ledger.stages("units")) == ["probe", "ship", "train-weights"]
    assert ledger.stages("units")["train-weights"] == Cost(10, 100, 50, 0.0, 7.5)


@pytest.mark.parametrize("limit", range(1, 21))
def test_calls_stop_exactly_at_the_limit_and_are_kept(tmp_path: Path, limit: int) -> None:
    units = capability(search=20)
    backend = FakeBackend(lambda prompt, seed, adapter: "x")
    rows = units.splits["search"]
    budget = BudgetConfig(calls=limit)
    metered = meter(tmp_path, backend, budget=budget, chunk=6)
    if limit == 20:
        assert len(metered.measure(candidate(), units, "search", rows, stage="p").values) == 20
    else:
        with pytest.raises(BudgetExhausted, match=rf"budget\.calls: all {limit} "):
            metered.measure(candidate(), units, "search", rows, stage="p")
    assert len(backend.asked) == limit == len(list(RolloutStore(tmp_path / "rollouts").all()))
    again = meter(tmp_path, backend, budget=budget, chunk=6)
    assert again.ledger.total().calls == limit
    assert len(again.measure(candidate(), units, "search", rows[:limit], stage="p").values) == limit
    with pytest.raises(BudgetExhausted):
        again.measure(candidate("other"), units, "search", rows[:1], stage="p")
    assert len(backend.asked) == limit, "a spent budget allows nothing more, and reading what is there is free"
    raised = meter(tmp_path, backend, budget=BudgetConfig(calls=20), chunk=6)
    assert len(raised.measure(candidate(), units, "search", rows, stage="p").values) == 20
    assert len(backend.asked) == 20, "a larger budget goes on where the smaller one stopped"


@pytest.mark.parametrize("limit", [1, 5, 9, 10, 13, 40])
def test_tokens_stop_at_the_first_chunk_past_the_limit(tmp_path: Path, limit: int) -> None:
    units = capability(search=20)
    backend = FakeBackend(lambda prompt, seed, adapter: "x")  # two tokens in, two out: 8 per chunk of 2
    metered = meter(tmp_path, backend, budget=BudgetConfig(tokens=limit), chunk=2)
    with pytest.raises(BudgetExhausted, match=r"budget\.tokens: \d+ of"):
        metered.measure(candidate(), units, "search", units.splits["search"], stage="p")
    spent = metered.ledger.total().tokens_in + metered.ledger.total().tokens_out
    assert limit <= spent < limit + 8
    assert spent == 4 * len(backend.asked)


def test_wall_seconds_of_earlier_attempts_count(tmp_path: Path) -> None:
    ledger = Ledger(BudgetConfig(wall_seconds=100), wall_seconds=90)
    ledger.check(9.9)
    with pytest.raises(BudgetExhausted, match=r"budget\.wall_seconds: 100 of 100.*same command"):
        ledger.check(10.0)


def test_training_limits_bar_training_only() -> None:
    ledger = Ledger(BudgetConfig(train_seconds=5, calls=10))
    ledger.pay_training("units", "train-weights", Cost(10, 0, 0, 0.0, 4.0))
    ledger.check(0.0)
    with pytest.raises(BudgetExhausted, match=r"budget\.calls"):
        ledger.check(0.0, training=True)
    slow = Ledger(BudgetConfig(train_seconds=5))
    slow.check(0.0, training=True)
    slow.pay_training("units", "train-weights", Cost(train_seconds=5.0))
    slow.check(0.0)
    with pytest.raises(BudgetExhausted, match=r"budget\.train_seconds"):
        slow.check(0.0, training=True)


def test_no_limits_is_unlimited() -> None:
    ledger = Ledger(BudgetConfig(), [rollout(10**9, 1e9)])
    ledger.check(1e12, training=True)
    assert ledger.affordable(10**9) == 10**9
