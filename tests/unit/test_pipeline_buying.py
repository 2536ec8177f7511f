"""Buying evidence in a run over a fake trainer: what is bought, what follows, what it costs, and replay after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pipeline_training import BAD, GOOD, RULE, Truth, World

from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.errors import BackendError
from hybrid.pipeline.plan import plan
from hybrid.weights.base import TrainJob, TrainResult

BUYS = ("router.buy_below=1.0", "router.buy={steps: [4], examples: 12}")


class Rungs(World):
    """Its trainer honours the steps of a job: half way up the adapter is already good, or never."""

    good: str = GOOD

    def _train(self, loaded: Any, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
        if str(job.out) not in self.finished:
            self.trained.append(job)
            folder = job.out / "adapters" / f"step-{job.steps}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_model.safetensors").write_text(self.good, encoding="utf-8")
            made = job.steps * job.rows_per_step
            self.finished[str(job.out)] = TrainResult(
                ((job.steps, Adapter(folder, self.good)),), job.steps, float(job.steps), made, 10 * made, 2 * made,
                self.history, "",
            )  # fmt: skip
        return self.finished[str(job.out)]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Truth], Rungs]:
    def build(truth: Truth) -> Rungs:
        world = Rungs(tmp_path, monkeypatch, truth)
        monkeypatch.setattr("hybrid.weights.fork.prepare", lambda job, *args: None)
        monkeypatch.setattr("hybrid.pipeline.training.prepare", lambda job, *args: None)
        return world

    return build


def faint(text: str, question: str, seed: int, adapter: str) -> bool:
    """Samples vary now and then, near the threshold; a trained adapter is right; no text helps."""
    return adapter == GOOD or (not adapter and seed % 23 == 0)


def helped(text: str, question: str, seed: int, adapter: str) -> bool:
    """The rule helps in half of the answers; an adapter that reads it is right, one that does not never is."""
    return RULE in text and (adapter == GOOD or seed % 2 == 0)


def test_the_winner_goes_on_from_its_rung_and_nothing_is_paid_twice(make: Callable[[Truth], Rungs]) -> None:
    world = make(faint)
    found = world.go(*BUYS)
    rung, whole = world.trained
    assert (rung.steps, whole.steps) == (4, 100)
    assert rung.out.name == "marks-weights-rung-4"
    assert whole.fork == rung.out
    assert found.placement == "weights"
    stages = found.ledger.stages
    assert stages["train-weights-rung-4"].calls + stages["train-weights"].calls == whole.steps * whole.rows_per_step
    trail = "\n".join(found.decision_trail)
    assert "bought evidence, since the weakest link" in trail
    assert "is below 1.00: weights after 4 steps +" in trail
    assert "weights has shown most for the same budget" in trail
    assert "bought for 280 completions" in trail, "256 of the training, and 12 looks at the base and at the adapter"


def test_an_arm_that_shows_nothing_is_not_trained_on(make: Callable[[Truth], Rungs]) -> None:
    world = make(faint)
    world.good = BAD
    found = world.go(*BUYS)
    assert [job.steps for job in world.trained] == [4]
    assert found.placement in ("neither", "undecided")
    assert any("no arm has shown a gain" in line for line in found.decision_trail)


def test_arms_of_equal_budget_are_compared_and_all_of_them_are_judged(make: Callable[[Truth], Rungs]) -> None:
    world = make(helped)
    found = world.go(*BUYS)
    assert [job.out.name for job in world.trained] == ["marks-both-rung-4", "marks-both"]
    assert all(RULE in job.skill for job in world.trained)
    assert found.placement == "both"
    assert {v.arm for v in found.gate} == {"skill", "both"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("router.buy_below=0.0",), None),
        (("router.force={marks: weights}", *BUYS), None),
        (("weights.method=sft", *BUYS), "no evidence is bought: method sft cannot be ended at a rung"),
        (("router.counterfactual=true", *BUYS), "no evidence is bought: every arm is built anyway"),
    ],
)
def test_where_nothing_is_bought_it_says_why(
    make: Callable[[Truth], Rungs], settings: tuple[str, ...], told: str | None
) -> None:
    world = make(faint)
    found = world.go(*settings)
    assert not any("rung" in job.out.name for job in world.trained)
    assert told is None or any(told in line for line in found.decision_trail)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_killed_run_buys_nothing_twice_and_reports_the_same(make: Callable[[Truth], Rungs], share: float) -> None:
    world = make(helped)
    whole = world.report(*BUYS, out="whole")
    asked = len(world.backend.asked)
    world.trained.clear()
    world.backend.fail_at, world.backend.error = asked + int(share * asked), BackendError("the machine is gone")
    with pytest.raises(BackendError, match="gone"):
        world.report(*BUYS, out="killed")
    again = world.report(*BUYS, out="killed")
    assert [job.out.name for job in world.trained] == ["marks-both-rung-4", "marks-both"], (
        "each once over both attempts"
    )
    assert len(world.backend.asked) <= 2 * asked + 256, "what was paid is kept, up to the chunk that was lost"
    timeless = {"wall_seconds": None}
    assert again.ledger.model_copy(update=timeless) == whole.ledger.model_copy(update=timeless)
    assert again.capabilities == whole.capabilities


def test_the_plan_counts_what_may_be_bought(make: Callable[[Truth], Rungs]) -> None:
    world = make(faint)

    def stage(*settings: str) -> dict[str, int]:
        found = plan(load_config(world.folder / "config.yaml", settings)).capabilities[0]
        return {row.what: row.upper for s in found.stages if s.stage == "buy" for row in s.rows}

    assert stage("router.buy_below=0.0") == {}
    rows = stage(*BUYS)
    assert rows["bought: training completions"] == 2 * 4 * 64
    assert rows["bought: arms, text and base"] == 24 * 4
    assert stage(*BUYS, "weights.method=sft") == {}
