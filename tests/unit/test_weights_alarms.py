"""What an alarm does to a job: warned, stopped, taken back, recorded, and the same after a kill at any step."""

import shutil

import pytest
from test_weights_checkpoints import write_checkpoint
from test_weights_driver import FakeTraining, fake_job, go, line

from hybrid.config.monitors import AlarmActions, MonitorsConfig
from hybrid.weights.monitors import marks
from hybrid.weights.results import RESULT, alarms_of, is_finished, metrics_of, monitor_of, read_result


class Collapsing(FakeTraining):
    """Its entropy falls to a tenth from step 5 on; it stops where the trainer would, and saves there."""

    def fit(self, session):
        job, monitor = session.job, monitor_of(session.job)
        for step in range(1, job.steps + 1):
            log = [line(s, seconds=1.5, entropy=2.0 if s < 5 else 0.2) for s in range(1, step + 1)]
            ended = any(a.ends_training for a in monitor.feed(metrics_of(log[-1])))
            if session.resume and step <= session.resume.step:
                continue
            self.trained.append(step)
            if step % job.weights.checkpoint_every == 0 or step == job.steps or ended:
                shutil.rmtree(job.out / f"checkpoint-{step}", ignore_errors=True)
                write_checkpoint(job.out, step, log, session.identity, session.base)
            if ended:
                return
            if step == self.stop_after:
                raise KeyboardInterrupt


def job_with(tmp_path, action, **monitors):
    job = fake_job(tmp_path, steps=12)
    settings = MonitorsConfig(window=2, on_alarm=AlarmActions(entropy_floor=action), **monitors)
    return job.__class__(**{**vars(job), "weights": job.weights.model_copy(update={"monitors": settings})})


# Steps 5 and 6 are the first window below the floor.
@pytest.mark.parametrize(
    ("action", "steps", "offered", "note"),
    [
        ("warn", 12, [2, 4, 6, 8, 10, 12], ""),
        ("stop", 6, [2, 4, 6], "entropy_floor stopped the training at step 6 of 12"),
        (
            "rollback",
            6,
            [2, 4],
            "entropy_floor stopped the training at step 6 of 12; checkpoints of step 5 and later were taken back",
        ),
    ],
)
def test_an_alarm_warns_stops_or_takes_back(tmp_path, action, steps, offered, note):
    job = job_with(tmp_path, action)
    result = go(job, Collapsing())
    assert (result.steps, [step for step, _ in result.checkpoints], result.note) == (steps, offered, note)
    (alarm,) = result.alarms
    assert (alarm.monitor, alarm.step, alarm.onset, alarm.action) == ("entropy_floor", 6, 5, action)
    assert [entry["step"] for entry in result.history if "alarm/entropy_floor" in entry] == [6.0]
    assert {p.name for p in (job.out / "adapters").iterdir()} == {f"step-{s}" for s in offered}
    assert read_result(job) == result
    assert go(job, Collapsing()) == result


@pytest.mark.parametrize("action", ["warn", "stop", "rollback"])
@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_resumed_job_ends_like_an_uninterrupted_one(tmp_path, action, killed_at):
    """Killed before the alarm, between onset and alarm: the old lines are read back and count."""
    whole = go(job_with(tmp_path / "whole", action), Collapsing())
    job = job_with(tmp_path / "killed", action)
    with pytest.raises(KeyboardInterrupt):
        go(job, Collapsing(stop_after=killed_at))
    resumed = Collapsing()
    found = go(job, resumed)
    assert resumed.trained[0] == (3 if killed_at == 3 else 5)
    assert (found.alarms, found.history, found.note) == (whole.alarms, whole.history, whole.note)
    assert [(s, a.sha256) for s, a in found.checkpoints] == [(s, a.sha256) for s, a in whole.checkpoints]


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_job_that_an_alarm_ended_is_finished_without_loading_a_model(tmp_path, action):
    job = job_with(tmp_path, action)
    whole = go(job, Collapsing())
    (job.out / RESULT).unlink()
    again = Collapsing()
    assert go(job, again) == whole
    assert (again.loads, again.trained) == (0, [])


def test_a_rollback_to_before_the_first_checkpoint_leaves_no_candidate(tmp_path):
    job = job_with(tmp_path, "rollback")
    weights = job.weights.model_copy(update={"checkpoint_every": 6})
    result = go(job.__class__(**{**vars(job), "weights": weights}), Collapsing())
    assert result.checkpoints == ()
    assert "taken back" in result.note


def test_supervised_training_is_not_watched(tmp_path):
    job = job_with(tmp_path, "stop")
    sft = job.__class__(**{**vars(job), "method": "sft"})
    assert monitor_of(sft) is None
    assert alarms_of(sft, [{"step": float(s), "entropy": 1.0 / s**4} for s in range(1, 20)]) == ()
    assert not is_finished(sft, None)


def test_figures_lose_their_prefix_in_the_history():
    raw = line(3, **{"monitor/pass_at_k": 0.5, "monitor/format/code": 0.25, "other/thing": 1.0})
    found = metrics_of(raw)
    assert (found["pass_at_k"], found["format/code"]) == (0.5, 0.25)
    assert "other/thing" not in found
    assert marks((), 3.0) == {}
