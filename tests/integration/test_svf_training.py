"""Singular values trained by the project's trainers: what moves, resume to the same bytes, settings that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from backend_tiny import load_tiny, save_tiny
from svf_tiny import logits
from weights_tiny import hashes, interrupted, load, make_job, train, without_seconds

from hybrid.backends.adapters import check_adapter, read_tensors
from hybrid.backends.memory import adapter_size, architecture
from hybrid.backends.svf.basis import bases_of
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.config.schema import DirectionsConfig, SvfConfig, WeightsConfig
from hybrid.errors import ConfigError
from hybrid.weights.jobs import job_identity
from hybrid.weights.preflight import RECOMPUTED  # noqa: F401  imports torch once, outside what is measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("svf") / "model")


def _svf(**settings: object) -> dict[str, object]:
    return {"svf": SvfConfig(learning_rate=3e-2, **settings), "method": "svf"}  # type: ignore[arg-type]


def test_grpo_trains_the_vectors_and_the_reward_rises(folder: Path, tmp_path: Path) -> None:
    job = make_job(folder, tmp_path / "job", "svf", weights=_svf(), grpo={"steps": 12})
    result = train(job)
    assert result.completions == 12 * 8 and len(result.checkpoints) == 6 and result.warnings == ()
    step, adapter = result.checkpoints[-1]
    facts = check_adapter(adapter.path, load(job).info.fingerprint)
    assert (step, facts.kind, facts.tensors) == (12, "SVF", 14)
    vectors = read_tensors(adapter.path)
    assert all(bool(d.any()) for d in vectors.values())
    rewards = [line["reward"] for line in result.history]
    assert sum(rewards[-4:]) > sum(rewards[:4])
    base = load_tiny(folder)
    bare = logits(base.model)
    with AdapterShelf(base).active(adapter):
        assert not torch.equal(logits(base.model), bare)


@pytest.mark.parametrize("by", ["grpo", "sft"])
def test_a_training_that_was_interrupted_ends_with_the_same_bytes(folder: Path, tmp_path: Path, by: str) -> None:
    settings = _svf(train=by, directions=DirectionsConfig(keep="spread", count=8))
    steps = {"grpo": {"steps": 4}, "sft": {"steps": 4}}
    whole = train(make_job(folder, tmp_path / "whole", "svf", weights=settings, **steps))
    job = make_job(folder, tmp_path / "cut", "svf", weights=settings, **steps)
    interrupted(job, after=3)
    resumed = train(job)
    assert hashes(resumed) == hashes(whole)
    assert without_seconds(resumed) == without_seconds(whole)
    assert {d.numel() for d in read_tensors(whole.checkpoints[-1][1].path).values()} == {8}


def test_damaged_directions_are_computed_again_and_the_result_says_so(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    first = train(make_job(folder, tmp_path / "first", "svf", weights=_svf(), grpo={"steps": 2}))
    kept = sorted((tmp_path / "cache" / "svf").rglob("*.safetensors"))
    assert len(kept) == 14
    kept[3].write_bytes(kept[3].read_bytes()[:-8] + bytes(8))
    again = train(make_job(folder, tmp_path / "again", "svf", weights=_svf(), grpo={"steps": 2}))
    assert hashes(again) == hashes(first)
    assert first.remarks == () and "is damaged; the singular directions of" in again.remarks[0]
    assert bases_of(load_tiny(folder).model).warnings == []


def test_the_job_is_its_directions_and_its_own_learning_rate(folder: Path, tmp_path: Path) -> None:
    job = make_job(folder, tmp_path / "j", "svf", weights=_svf())
    assert job_identity(job) == job_identity(
        make_job(folder, tmp_path / "j", "svf", weights=_svf(), grpo={"learning_rate": 1.0})
    )
    for other in (
        _svf(directions=DirectionsConfig(keep="top", count=2)),
        {**_svf(), "svf": SvfConfig(learning_rate=1e-3)},
    ):
        assert job_identity(job) != job_identity(make_job(folder, tmp_path / "j", "svf", weights=other))


def test_what_cannot_be_trained_is_refused_with_its_key(folder: Path, tmp_path: Path) -> None:
    for targets, message in ((("nowhere",), "no module called 'nowhere'"), (("lm_head",), "cannot be adapted")):
        with pytest.raises(ConfigError, match=message) as error:
            train(make_job(folder, tmp_path / targets[0], "svf", weights=_svf(target_modules=targets)))
        assert "weights.svf.target_modules" in str(error.value)
    with pytest.raises(ValueError, match="needs a count"):
        DirectionsConfig(keep="top")
    with pytest.raises(ValueError, match="takes no count"):
        DirectionsConfig(count=3)
    with pytest.raises(ValueError, match="warm_start"):
        WeightsConfig.model_validate({"method": "svf", "warm_start": {"steps": 2}})


def test_the_predicted_size_is_that_of_the_vectors_and_the_directions(folder: Path) -> None:
    dimensions = architecture(load_tiny(folder).model.config.to_dict())
    assert dimensions is not None
    vectors, squares = 2 * (5 * 32 + 2 * 16), 2 * (5 * 32**2 + 2 * 16**2)
    whole = adapter_size(dimensions, WeightsConfig(method="svf"), 4)
    assert (whole.trained, whole.directions) == (16 * vectors, 4 * squares)
    few = WeightsConfig(
        method="svf", svf=SvfConfig(target_modules=("q_proj",), directions=DirectionsConfig(keep="top", count=4))
    )
    size = adapter_size(dimensions, few, 2)
    assert (size.trained, size.directions, size.rank) == (16 * 2 * 4, 2 * 2 * 32 * 4, 4)
