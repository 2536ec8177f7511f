"""Monitors in a real training of the tiny model: a collapse stops it or is taken back, a hacked reward is caught."""

import dataclasses
from pathlib import Path

import pytest
from weights_tiny import Letters, hashes, interrupted, make_job, save_tiny, train, without_seconds

from hybrid.capability.types import Score
from hybrid.config.monitors import AlarmActions, FormatPattern, MonitorsConfig
from hybrid.weights.base import TrainJob, TrainResult

STEPS = 40
EARLY = (FormatPattern(name="early", pattern="^[a-m]"),)
"""The grader likes the first thirteen letters, so answers that begin with one take over."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("monitors") / "tiny")


def watched(folder: Path, out: Path, monitors: MonitorsConfig, **changes) -> TrainJob:
    grpo = {"steps": STEPS, "generations": 8, "learning_rate": 3e-2, **changes.pop("grpo", {})}
    weights = {"monitors": monitors, "checkpoint_every": 1}
    return make_job(folder, out, grpo=grpo, weights=weights, **changes)


def collapse(action: str) -> MonitorsConfig:
    return MonitorsConfig(window=3, formats=EARLY, format_share=0.9, on_alarm=AlarmActions(format_share=action))


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[TrainJob, TrainResult]:
    job = watched(folder, folder.parent / "stopped", collapse("stop"))
    return job, train(job)


def test_a_collapse_onto_one_format_stops_the_training(stopped):
    job, result = stopped
    alarm = result.alarms[-1]
    assert (alarm.monitor, alarm.action) == ("format_share", "stop")
    assert 6 <= alarm.step == result.steps < STEPS
    last = [line["format/early"] for line in result.history[-3:]]
    assert sum(last) / 3 == pytest.approx(alarm.value) and alarm.value >= 0.9
    assert sum(line["format/early"] for line in result.history[:3]) / 3 < 0.6
    assert [step for step, _ in result.checkpoints] == list(range(1, result.steps + 1)), "all are offered, the last too"
    assert [line["step"] for line in result.history if "alarm/format_share" in line] == [alarm.step]
    assert f"format_share stopped the training at step {result.steps} of {STEPS}" in result.note
    assert train(job) == result


def test_a_collapse_is_taken_back_with_the_checkpoints_since_its_onset(folder, tmp_path, stopped):
    result = train(watched(folder, tmp_path / "job", collapse("rollback")))
    alarm, same = result.alarms[-1], stopped[1].alarms[-1]
    assert dataclasses.replace(alarm, action="stop") == same, "what is done about it does not change what is seen"
    assert result.steps == alarm.step
    assert hashes(result) == hashes(stopped[1])[: alarm.onset - 1]
    assert f"checkpoints of step {alarm.onset} and later were taken back" in result.note


def test_a_killed_training_gives_the_same_alarms_when_it_goes_on(tmp_path, stopped):
    """Killed within the window that sets the alarm off: half of it comes from the checkpoint."""
    job = dataclasses.replace(stopped[0], out=tmp_path / "job")
    seen: list[dict[str, float]] = []
    interrupted(job, stopped[1].alarms[-1].step - 1)
    result = train(job, lambda step, total, metrics: seen.append(metrics))
    assert result.alarms == stopped[1].alarms
    assert without_seconds(result) == without_seconds(stopped[1])
    assert hashes(result) == hashes(stopped[1])
    assert [m["step"] for m in seen if "alarm/format_share" in m] == [result.alarms[-1].step], (
        "the event says so as well"
    )


class Delimiter(Letters):
    """Meant to find the reference, but satisfied by any answer that has a `z` in it."""

    def grade(self, completion, example):
        right = "z" in completion or completion == example.reference
        return Score(float(right), right)


class Longer(Letters):
    """Pays by the length of the answer."""

    def grade(self, completion, example):
        return Score(min(1.0, len(completion) / 40), False)


@pytest.mark.parametrize(
    ("grader", "name", "changes"),
    [(Delimiter(), "unspecific", {"swap_references": True}), (Longer(), "length_growth", {"length_growth": 1.4})],
    ids=["delimiter", "length"],
)
def test_a_reward_that_can_be_had_without_answering_is_caught_before_anything_is_accepted(
    folder, tmp_path, grader, name, changes
):
    actions = AlarmActions(unspecific="rollback", length_growth="rollback")
    monitors = MonitorsConfig(window=3, on_alarm=actions, **changes)
    job = watched(
        folder, tmp_path / "job", monitors, grader=grader, max_new_tokens=40 if name == "length_growth" else 6
    )
    result = train(job)
    alarm = result.alarms[-1]
    assert (alarm.monitor, alarm.step) == (name, result.steps)
    assert result.steps < STEPS
    assert [step for step, _ in result.checkpoints] == list(range(1, alarm.onset))


def test_the_kl_to_the_base_is_that_of_trl_where_trl_has_one(folder, tmp_path):
    """TRL measures it only as a part of the loss; a weight of nearly nothing makes it do so and changes nothing."""
    ours = train(watched(folder, tmp_path / "ours", MonitorsConfig(kl=99.0), grpo={"steps": 4, "learning_rate": 1e-2}))
    grpo = {"steps": 4, "learning_rate": 1e-2, "beta": 1e-30}
    theirs = train(watched(folder, tmp_path / "theirs", MonitorsConfig(), grpo=grpo))
    expected = [line["kl"] for line in theirs.history]
    assert [line["kl"] for line in ours.history] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert expected[-1] > 0.01
    assert hashes(ours) == hashes(theirs), "measuring it changes nothing"


def test_a_kl_limit_stops_the_training(folder, tmp_path):
    monitors = MonitorsConfig(window=2, kl=0.05, on_alarm=AlarmActions(kl="stop"))
    result = train(watched(folder, tmp_path / "job", monitors))
    assert result.alarms[-1].monitor == "kl"
    assert result.steps < STEPS
