"""The distilled arm of a run over a fake trainer: what is taught, what competes, what a missing document means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeBackend, candidate, capability, meter
from pydantic import ValidationError
from test_pipeline_training import GOOD, RULE, SIZES, Truth, World

from hybrid.config.loader import load_config
from hybrid.config.schema import DistillConfig, WarmStartConfig, WeightsConfig
from hybrid.evidence.rollouts import RolloutStore
from hybrid.pipeline.lessons import Lessons, kept
from hybrid.pipeline.plan import plan

DISTILL = "weights.method=distill"
FORCED = "router.force={marks: weights}"


def taught(text: str, question: str, seed: int, adapter: str) -> bool:
    """Right with the rule in most samples; sure with the good adapter; never without either."""
    return adapter == GOOD or (RULE in text and seed % 4 > 0)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Truth], World]:
    return lambda truth: World(tmp_path, monkeypatch, truth)


def test_the_adapter_is_taught_by_the_document_and_reads_nothing(make: Callable[[Truth], World]) -> None:
    world = make(taught)
    found = world.go(DISTILL)
    (job,) = world.trained
    assert (job.method, job.skill) == ("distill", "")
    assert RULE in job.teacher
    assert all(e.gold == e.reference for e in job.examples), "answers that fail are not taught"
    assert len({e.id for e in job.examples}) == len(job.examples) <= SIZES["train"], "each text of a row counts once"
    assert job.stages == (tuple(range(len(job.examples))),)
    assert any(f"taught {len(job.examples)} answers to" in line for line in found.decision_trail)
    assert found.arms.skill is not None
    assert found.arms.weights is not None
    assert found.training is not None
    assert found.training.method == "distill (weights)"


def test_an_adapter_that_is_better_than_its_teacher_ships(make: Callable[[Truth], World]) -> None:
    found = make(taught).go(DISTILL)
    assert found.placement == "weights"
    assert any("weights is better by" in r.why for r in found.rejected if r.substrate == "skill")


def sure(text: str, question: str, seed: int, adapter: str) -> bool:
    """The document and the adapter are equally good."""
    return adapter == GOOD or RULE in text


def test_ties_go_to_the_text(make: Callable[[Truth], World]) -> None:
    found = make(sure).go(DISTILL)
    assert found.placement == "skill"
    assert any("not shown to be better than skill" in r.why for r in found.rejected if r.substrate == "weights")


def test_forced_to_weights_the_text_is_promoted(make: Callable[[Truth], World]) -> None:
    world = make(sure)
    found = world.go(DISTILL, FORCED)
    assert found.placement == "weights"
    assert (found.artifacts.skill, found.artifacts.adapter) == (None, "adapters/marks")
    assert found.arms.skill is not None, "the teacher is measured beside it"
    assert {r.substrate for r in found.rejected} <= {"skill"}
    assert not (world.folder / "run" / "skills" / "marks" / "SKILL.md").exists()


def test_without_an_accepted_document_there_is_nothing_to_distill(make: Callable[[Truth], World]) -> None:
    world = make(lambda text, question, seed, adapter: seed % 3 == 0)
    found = world.go(DISTILL, FORCED)
    assert world.trained == []
    assert found.placement == "neither"
    assert any("no document was accepted: there is nothing to distill" in line for line in found.decision_trail)


def test_the_answers_are_paid_for_once_and_replayed(make: Callable[[Truth], World]) -> None:
    world = make(taught)
    found = world.go(DISTILL)
    stored = [r for r in RolloutStore(world.folder / "run" / "rollouts").all() if r.stage == "teach"]
    assert found.ledger.stages["teach"].calls == len(stored) == SIZES["train"] * 4
    assert {r.split for r in stored} == {"train"}
    report = world.folder / "run" / "report" / "placement.json"
    before, asked = report.read_bytes(), len(world.backend.asked)
    world.go(DISTILL)
    assert report.read_bytes() == before
    assert (len(world.backend.asked), len(world.trained)) == (asked, 1)


def test_what_is_kept_follows_the_configuration(make: Callable[[Truth], World]) -> None:
    world = make(taught)
    world.go(DISTILL, "weights.distill.keep=all", "weights.distill.samples=6")
    (job,) = world.trained
    assert len(job.examples) == SIZES["train"] * 6, "all answers, as often as they came"
    assert {e.gold_completion == e.reference for e in job.examples} == {True, False}


def test_the_plan_bounds_what_was_paid(make: Callable[[Truth], World]) -> None:
    world = make(taught)
    paid = world.go(DISTILL, FORCED).ledger
    made = plan(load_config(world.folder / "config.yaml", [DISTILL, FORCED]))
    (weights,) = [s for s in made.capabilities[0].stages if s.stage == "weights"]
    (row,) = [r for r in weights.rows if r.what == "teacher's answers"]
    assert row.upper == paid.stages["teach"].calls
    assert weights.training_steps.upper == DistillConfig().steps
    assert paid.calls - paid.stages["train-weights"].calls <= made.calls.upper


def test_both_is_never_trained(make: Callable[[Truth], World]) -> None:
    world = make(taught)
    found = world.go(DISTILL, "router.force={marks: both}", "router.counterfactual=true")
    assert [job.out.name for job in world.trained] == ["marks-weights"]
    assert found.arms.both is None


def test_answers_that_were_cut_are_not_taught(tmp_path: Path) -> None:
    source = capability(train=2)
    asked = meter(tmp_path, FakeBackend(lambda prompt, seed, _: "a0" if "q0" in prompt else "a1"))
    measured = asked.measure(candidate("x"), source, "train", source.splits["train"], samples=3, stage="teach")
    assert kept(measured, DistillConfig()) == ((0, "a0"), (1, "a1"))
    assert kept(measured, DistillConfig(keep="all")) == ((0, "a0"),) * 3 + ((1, "a1"),) * 3
    cut = tuple(r.model_copy(update={"finish": "length"}) for r in measured.rollouts[0])
    shorter = dataclasses.replace(measured, rollouts=(cut, measured.rollouts[1]))
    assert kept(shorter, DistillConfig()) == ((1, "a1"),)
    assert kept(shorter, DistillConfig(keep="all")) == ((1, "a1"),) * 3


def test_stages_over_rows_become_stages_over_answers() -> None:
    found = Lessons("d", ((0, "a"), (0, "b"), (2, "c")), "")
    assert found.staged(((2, 1), (0,))) == ((2,), (0, 1))
    assert found.staged(((1,), (0, 2))) == ((0, 1, 2),)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: DistillConfig(temperature=0.0), "greedy answers are all the same"),
        (lambda: DistillConfig(paraphrases=True), "paraphrases"),  # type: ignore[arg-type]
        (lambda: WeightsConfig(method="distill", warm_start=WarmStartConfig(steps=2)), "warm_start goes before grpo"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make_config: Callable[[], object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_config()
