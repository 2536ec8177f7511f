"""Killed anywhere and started again, training ends with the same bytes; damaged state is passed over, never used."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from weights_tiny import hashes, interrupted, load, make_job, save_tiny, train, without_seconds

from hybrid.backends.adapters import check_adapter
from hybrid.errors import RunFolderError
from hybrid.weights.base import TrainJob, TrainResult


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("resume") / "tiny")


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, folder: Path) -> tuple[TrainJob, TrainResult]:
    """An uninterrupted job and its result. Rows are cut, and cut unevenly by stages, so that every path is taken."""
    stages = ((0, 1, 2), (3, 4, 5, 6, 7))
    rows = 4 if request.param == "grpo" else 2
    job = make_job(
        folder, folder.parent / request.param, request.param, stages=stages, weights={"rows_per_device": rows}
    )
    return job, train(job)


both = pytest.mark.parametrize("whole", ["grpo", "sft"], indirect=True)
grpo = pytest.mark.parametrize("whole", ["grpo"], indirect=True)


def again(whole: tuple[TrainJob, TrainResult], tmp_path: Path) -> TrainJob:
    return dataclasses.replace(whole[0], out=tmp_path / "job")


def assert_same(found: TrainResult, expected: TrainResult) -> None:
    assert hashes(found) == hashes(expected)
    for (_, a), (_, b) in zip(found.checkpoints, expected.checkpoints, strict=True):
        for name in ("adapter_model.safetensors", "adapter_config.json", "hybrid_manifest.json"):
            assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    assert without_seconds(found) == without_seconds(expected)
    counted = ("steps", "completions", "tokens_in", "tokens_out")
    assert [getattr(found, c) for c in counted] == [getattr(expected, c) for c in counted]


@both
def test_the_candidates_move_and_belong_to_the_base(whole):
    job, result = whole
    assert [step for step, _ in result.checkpoints] == [2, 4, 6]
    assert len({sha for _, sha in hashes(result)}) == 3
    for _, adapter in result.checkpoints:
        check_adapter(adapter.path, load(job).info.fingerprint)


@grpo
def test_the_same_job_in_another_folder_gives_the_same_bytes(whole, tmp_path):
    assert_same(train(again(whole, tmp_path)), whole[1])


@pytest.mark.parametrize(("whole", "after"), [("grpo", 1), ("grpo", 3), ("grpo", 6), ("sft", 3)], indirect=["whole"])
def test_a_resumed_job_ends_with_the_same_bytes(whole, tmp_path, after):
    job = again(whole, tmp_path)
    interrupted(job, after)
    assert_same(train(job), whole[1])


@pytest.mark.parametrize(
    ("whole", "damage"),
    [("grpo", "flipped bit"), ("grpo", "optimizer.pt"), ("grpo", "rng_state.pth"), ("sft", "flipped bit")],
    indirect=["whole"],
)
def test_a_damaged_newest_checkpoint_falls_back_and_still_ends_with_the_same_bytes(whole, tmp_path, damage):
    job = again(whole, tmp_path)
    interrupted(job, 5)
    newest = job.out / "checkpoint-4"
    if damage == "flipped bit":
        path = newest / "adapter_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-7] ^= 1
        path.write_bytes(bytes(data))
    else:
        (newest / damage).unlink()
    result = train(job)
    assert_same(result, whole[1])
    assert "skipped checkpoint-4" in result.note


@grpo
def test_the_random_state_matters(whole, tmp_path, monkeypatch):
    """The reason for demanding rng_state.pth: without it, TRL goes on to other completions and exits 0."""
    monkeypatch.setattr("hybrid.weights.checkpoints.required_files", lambda _: ())
    monkeypatch.setattr("transformers.Trainer._load_rng_state", lambda *_: None)
    plain = whole[0].weights.grpo.model_copy(update={"engine": "plain"})  # our own rollouts draw no number of torch's
    job = dataclasses.replace(whole[0], weights=whole[0].weights.model_copy(update={"grpo": plain}))
    uninterrupted = train(dataclasses.replace(job, out=tmp_path / "whole"))
    job = dataclasses.replace(job, out=tmp_path / "job")
    interrupted(job, 5)
    assert hashes(train(job))[-1] != hashes(uninterrupted)[-1]


@grpo
def test_a_changed_learning_rate_is_refused_on_resume(whole, tmp_path):
    """TRL alone would go on with the old rate and say nothing."""
    job = again(whole, tmp_path)
    interrupted(job, 3)
    faster = job.weights.grpo.model_copy(update={"learning_rate": 0.5})
    changed = dataclasses.replace(job, weights=job.weights.model_copy(update={"grpo": faster}))
    with pytest.raises(RunFolderError, match=r"weights\.grpo\.learning_rate: 0\.01 -> 0\.5\)"):
        train(changed)


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from weights_tiny import make_job, train
train(make_job(Path({folder!r}), Path({out!r}), stages=((0, 1, 2), (3, 4, 5, 6, 7)), weights={{"rows_per_device": 4}}))
"""


@grpo
def test_a_process_killed_while_it_commits_a_checkpoint_is_resumed(whole, tmp_path):
    """A real SIGKILL between the trainer's last file and our manifest, in a process of its own."""
    job = again(whole, tmp_path)
    text = SCRIPT.format(tests=str(Path(__file__).parent), folder=job.model.path, out=str(job.out))
    environment = {**os.environ, "HYBRID_FAULT": "checkpoint.before-manifest:2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (job.out / "checkpoint-4" / "optimizer.pt").exists()
    assert not (job.out / "checkpoint-4" / "MANIFEST.json").exists()
    shutil.rmtree(job.out / "adapters", ignore_errors=True)
    assert_same(train(job), whole[1])
