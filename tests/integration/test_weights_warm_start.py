"""A warm start: supervised steps and then GRPO in one job, killed anywhere and resumed to the same bytes."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from weights_tiny import Constant, hashes, interrupted, make_job, save_tiny, train, without_seconds

from hybrid.config.schema import WarmStartConfig
from hybrid.errors import RunFolderError
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.jobs import job_identity

WARM = WarmStartConfig(steps=3, batch=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("warm") / "tiny")


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[TrainJob, TrainResult]:
    job = make_job(folder, folder.parent / "whole", weights={"warm_start": WARM}, grpo={"steps": 4})
    return job, train(job)


def test_grpo_begins_where_the_supervised_steps_ended(folder, whole, tmp_path):
    result = whole[1]
    assert [step for step, _ in result.checkpoints] == [0, 2, 4]
    sft = {"steps": WARM.steps, "batch": WARM.batch, "learning_rate": WARM.learning_rate}
    alone = train(make_job(folder, tmp_path / "sft", "sft", sft=sft))
    assert hashes(result)[0][1] == hashes(alone)[-1][1], "step 0 is exactly what SFT alone gives"
    cold = train(make_job(folder, tmp_path / "cold", grpo={"steps": 4}))
    assert not {sha for _, sha in hashes(result)} & {sha for _, sha in hashes(cold)}

    def distance(a: Path, b: Path) -> float:
        one, other = (load_file(path / "adapter_model.safetensors") for path in (a, b))
        return sum(float((one[name] - other[name]).square().sum()) for name in one)

    first, second = result.checkpoints[0][1].path, result.checkpoints[1][1].path
    assert 0 < distance(first, second) < distance(cold.checkpoints[0][1].path, second)
    assert result.tokens_in == pytest.approx(alone.tokens_in + cold.tokens_in)
    assert (result.steps, len(result.history)) == (4, 4)
    assert "warm start: 3 supervised steps" in result.note


@pytest.mark.parametrize("after", [1, 3, 4, 6])
def test_a_resumed_job_ends_with_the_same_bytes(whole, tmp_path, after):
    """Killed within the supervised steps, after the last of them, in the first step of GRPO, and later."""
    job = dataclasses.replace(whole[0], out=tmp_path / "job")
    interrupted(job, after)
    found = train(job)
    assert hashes(found) == hashes(whole[1])
    assert without_seconds(found) == without_seconds(whole[1])
    assert (found.tokens_in, found.tokens_out) == (whole[1].tokens_in, whole[1].tokens_out)
    assert train(job) == found, "a finished job is read, not trained"


def test_steps_are_reported_over_both_parts(whole, tmp_path):
    seen = []
    train(dataclasses.replace(whole[0], out=tmp_path / "job"), lambda step, total, _: seen.append((step, total)))
    assert seen == [(step, 7) for step in range(1, 8)]


def test_another_warm_start_is_another_job(whole):
    job = whole[0]
    for changed in (WARM.model_copy(update={"steps": 2}), None):
        other = dataclasses.replace(job, weights=job.weights.model_copy(update={"warm_start": changed}))
        assert job_identity(other) != job_identity(job)
        with pytest.raises(RunFolderError, match=r"weights\.warm_start\..* -> "):
            train(other)


def test_a_checkpoint_that_grew_from_another_start_is_refused(whole, tmp_path):
    """The same settings, but the supervised part was trained again on other answers behind its back."""
    job = dataclasses.replace(whole[0], out=tmp_path / "job")
    interrupted(job, 6)

    shutil.rmtree(job.out / "warm-start")
    first = job.weights.model_copy(update={"warm_start": WARM.model_copy(update={"learning_rate": 2e-2})})
    twin = dataclasses.replace(job, out=tmp_path / "twin", weights=first)
    train(twin)
    shutil.copytree(twin.out / "warm-start", job.out / "warm-start")
    with pytest.raises(RunFolderError, match=r"sft\.learning_rate: .* -> "):
        train(job)


def test_where_grpo_has_no_signal_the_warm_start_is_still_a_candidate(folder, tmp_path):
    job = make_job(folder, tmp_path / "job", weights={"warm_start": WARM}, grader=Constant(0.0))
    result = train(job)
    assert [step for step, _ in result.checkpoints] == [0]
    assert "no signal" in result.note
