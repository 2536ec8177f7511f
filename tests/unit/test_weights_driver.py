"""A job around a fake training: trained once, resumed, recorded, refused when it is another one."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_weights_checkpoints import BASE, flip, write_checkpoint
from test_weights_jobs import make_job

from hybrid.config.schema import GrpoConfig, WeightsConfig
from hybrid.errors import ConfigError, RunFolderError, TrainingError
from hybrid.weights.checkpoints import commit
from hybrid.weights.driver import run
from hybrid.weights.jobs import job_identity, machine_identity
from hybrid.weights.results import RESULT, metrics_of, no_signal, read_result


def line(step, **more):
    return {"step": step, "loss": 0.5, "num_tokens": step * 100.0, "completions/mean_length": 2.5, **more}


def test_metrics_are_finite_numbers_under_our_names():
    raw = line(3, grad_norm=float("nan"), kl=None, reward=1, **{"rewards/accuracy/mean": 0.25, "epoch": 0.1})
    assert metrics_of(raw) == {"step": 3.0, "loss": 0.5, "mean_length": 2.5, "reward": 1.0, "accuracy": 0.25}


def test_no_signal_needs_the_whole_window_without_variance():
    silent = {"frac_reward_zero_std": 1.0}
    assert no_signal([silent] * 3, 3)
    assert not no_signal([silent] * 2, 3)
    assert not no_signal([silent, {"frac_reward_zero_std": 0.875}, silent], 3)
    assert no_signal([silent, silent, {"frac_reward_zero_std": 0.5}], 2)


class FakeTraining:
    """Writes what a trainer would: a checkpoint every second step, each step's log line in it. Counts loads."""

    def __init__(self, stop_after=99, silent=False, fingerprint="f" * 64):
        self.loads, self.trained = 0, []
        self.stop_after, self.silent, self.fingerprint = stop_after, silent, fingerprint

    def load(self):
        self.loads += 1
        info = dataclasses.make_dataclass("Info", ["fingerprint", "device"])(self.fingerprint, "cpu")
        return dataclasses.make_dataclass("Loaded", ["info"])(info)

    def fit(self, session):
        job = session.job
        done = session.resume.step if session.resume else 0
        for step in range(done + 1, job.steps + 1):
            self.trained.append(step)
            if step % job.weights.checkpoint_every == 0 or step == job.steps:
                signal = 1.0 if self.silent else 0.5
                log = [line(s, seconds=1.5, frac_reward_zero_std=signal) for s in range(1, step + 1)]
                folder = job.out / f"checkpoint-{step}"
                shutil.rmtree(folder, ignore_errors=True)
                write_checkpoint(job.out, step, log, session.identity, session.base)
                if self.silent:
                    return
            if step == self.stop_after:
                raise KeyboardInterrupt


def fake_job(tmp_path, **grpo):
    settings = WeightsConfig(grpo=GrpoConfig(**{"steps": 5, "prompts_per_step": 2, **grpo}), checkpoint_every=2)
    return dataclasses.replace(make_job(), weights=settings, out=tmp_path / "job")


def go(job, training):
    return run(job, training.load, lambda *_: None, training.fit)


def test_a_job_is_trained_once_and_then_only_read(tmp_path):
    job, training = fake_job(tmp_path), FakeTraining()
    result = go(job, training)
    assert training.trained == [1, 2, 3, 4, 5]
    assert [step for step, _ in result.checkpoints] == [2, 4, 5]
    assert (result.steps, result.seconds, result.note) == (5, 7.5, "")
    # 2 prompts x 8 generations per step; mean length 2.5 makes 40 tokens out of the 100 of each step.
    assert (result.completions, result.tokens_out, result.tokens_in) == (80, 200, 300)
    assert [entry["step"] for entry in result.history] == [1, 2, 3, 4, 5]
    assert go(job, training) == result
    assert training.loads == 1


def test_an_exported_adapter_holds_no_path_and_no_set_order(tmp_path):
    one, two = (fake_job(tmp_path / name) for name in ("one", "two"))
    a, b = (go(job, FakeTraining()).checkpoints[-1][1] for job in (one, two))
    assert a.sha256 == b.sha256
    for name in ("adapter_model.safetensors", "adapter_config.json", "hybrid_manifest.json"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    config = json.loads((a.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "reference"
    assert config["target_modules"] == ["q", "v"]
    assert a.path == one.out / "adapters" / "step-5"
    assert not [p for p in a.path.iterdir() if "home" in p.read_text()]


def test_a_stopped_job_goes_on_from_its_newest_checkpoint(tmp_path):
    job, first = fake_job(tmp_path), FakeTraining(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        go(job, first)
    second = FakeTraining()
    assert go(job, second).steps == 5
    assert second.trained == [3, 4, 5]


def test_a_job_that_died_after_its_last_checkpoint_is_recorded_without_loading_a_model(tmp_path):
    job = fake_job(tmp_path)
    whole = go(job, FakeTraining())
    (job.out / RESULT).unlink()
    shutil.rmtree(job.out / "adapters")
    again = FakeTraining()
    assert go(job, again) == whole
    assert again.loads == 0


@pytest.mark.parametrize("damage", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_candidate_is_exported_again(tmp_path, damage):
    job = fake_job(tmp_path)
    whole = go(job, FakeTraining())
    flip(whole.checkpoints[0][1].path / damage)
    assert read_result(job) is None
    assert go(job, FakeTraining()) == whole


def test_a_damaged_record_is_made_again(tmp_path):
    job = fake_job(tmp_path)
    whole = go(job, FakeTraining())
    flip(job.out / RESULT)
    assert read_result(job) is None
    assert go(job, FakeTraining()) == whole


def test_a_candidate_whose_checkpoint_is_damaged_is_dropped_with_a_note(tmp_path):
    job = fake_job(tmp_path)
    go(job, FakeTraining())
    (job.out / RESULT).unlink()
    flip(job.out / "checkpoint-2" / "optimizer.pt")
    result = go(job, FakeTraining())
    assert [step for step, _ in result.checkpoints] == [4, 5]
    assert result.note == "checkpoint-2: optimizer.pt differs from the manifest; it is no candidate"


def test_a_skipped_checkpoint_is_named_in_the_note(tmp_path):
    job = fake_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(job, FakeTraining(stop_after=4))
    (job.out / "checkpoint-4" / "optimizer.pt").unlink()
    training = FakeTraining()
    result = go(job, training)
    assert training.trained == [3, 4, 5]
    assert result.note == "skipped checkpoint-4: optimizer.pt is missing"
    assert [step for step, _ in result.checkpoints] == [2, 4, 5]


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_job_is_refused_by_field(tmp_path, finished):
    job = fake_job(tmp_path)
    if finished:
        go(job, FakeTraining())
    else:
        with pytest.raises(KeyboardInterrupt):
            go(job, FakeTraining(stop_after=3))
    changed = dataclasses.replace(job, seed=5, weights=job.weights.model_copy(update={"checkpoint_every": 3}))
    with pytest.raises(RunFolderError, match=r"seed: 0 -> 5; weights\.checkpoint_every: 2 -> 3\)"):
        go(changed, FakeTraining())


def test_another_base_is_refused_on_resume(tmp_path):
    job = fake_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(job, FakeTraining(stop_after=3))
    with pytest.raises(RunFolderError, match=r"base\.fingerprint: f{12}\.\.\. -> 0{12}"):
        go(job, FakeTraining(fingerprint="0" * 64))


def test_another_library_version_is_refused_on_resume_but_not_for_a_finished_job(tmp_path, monkeypatch):
    job = fake_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        go(job, FakeTraining(stop_after=3))
    newer = {**machine_identity(1), "versions.trl": "99"}
    with monkeypatch.context() as patch:
        patch.setattr("hybrid.weights.driver.machine_identity", lambda _: newer)
        with pytest.raises(RunFolderError, match=r'versions\.trl: "1\..*" -> "99"'):
            go(job, FakeTraining())
    whole = go(job, FakeTraining())
    monkeypatch.setattr("hybrid.weights.driver.machine_identity", lambda _: newer)
    assert go(job, FakeTraining()) == whole


def test_a_job_without_signal_ends_with_a_note_and_no_candidates(tmp_path):
    job, training = fake_job(tmp_path), FakeTraining(silent=True)
    result = go(job, training)
    assert (result.checkpoints, result.steps, training.trained) == ((), 2, [1, 2])
    assert result.note.startswith("no signal: in the first 2 steps none of 4 groups of 8 completions")
    (job.out / RESULT).unlink()
    again = FakeTraining()
    assert go(job, again) == result
    assert again.loads == 0


def test_training_that_leaves_no_checkpoint_is_an_error(tmp_path):
    training = FakeTraining()
    with pytest.raises(TrainingError, match="last valid checkpoint is none"):
        run(fake_job(tmp_path), training.load, lambda *_: None, lambda _: None)


def test_an_untrainable_job_loads_nothing(tmp_path):
    training = FakeTraining()
    job = dataclasses.replace(fake_job(tmp_path), examples=())
    with pytest.raises(ConfigError):
        go(job, training)
    assert training.loads == 0


def test_rows_must_divide_over_the_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="multiple of 3"):
        go(fake_job(tmp_path), FakeTraining())


def test_other_processes_return_what_the_first_one_recorded(tmp_path, monkeypatch):
    job = fake_job(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("hybrid.weights.driver._WAIT_S", 0.2)
    identity = {**job_identity(job), **machine_identity(2)}
    fake = FakeTraining()

    def two_streams(session):
        fake.fit(session)
        for folder in job.out.glob("checkpoint-*"):
            for rank in range(2):
                (folder / f"rng_state_{rank}.pth").write_bytes(b"stream")
            commit(folder, step=int(folder.name.split("-")[1]), identity=identity, base=BASE)

    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TrainingError, match="recorded no result"):
        run(job, fake.load, lambda *_: None, two_streams)
    monkeypatch.setenv("RANK", "0")
    result = run(job, fake.load, lambda *_: None, two_streams)
    monkeypatch.setenv("RANK", "1")
    assert run(job, fake.load, lambda *_: None, two_streams) == result


def test_a_finished_job_returns_without_torch(tmp_path):
    job = fake_job(tmp_path)
    go(job, FakeTraining())
    script = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}]
started = time.perf_counter()
from pathlib import Path
from test_weights_driver import fake_job
from hybrid.weights.grpo import GrpoTrainer
from hybrid.weights.sft import SftTrainer
result = GrpoTrainer().train(fake_job(Path({str(tmp_path)!r})), None, None)
loaded = {{"torch", "transformers", "trl", "peft", "datasets", "accelerate"}} & set(sys.modules)
print(result.steps, sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5 []"
