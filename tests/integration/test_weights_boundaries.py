"""Resumed at any legal boundary, a GRPO training gives the same tensors, optimiser states and completions, over epochs."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from weights_tiny import Letters, hashes, interrupted, load, make_job, save_tiny, train, without_seconds

from hybrid.errors import ConfigError, RunFolderError, TrainingError
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.build import build_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("boundaries") / "tiny")


def small(folder: Path, out: Path, iterations: int, accumulation: int) -> TrainJob:
    """Three rows, two a phase: an epoch ends within every second phase. A checkpoint at every boundary."""
    grpo = {"steps": 4 if iterations == 1 else 6, "generations": 2, "iterations": iterations, "learning_rate": 2e-2}
    weights = {"checkpoint_every": iterations, "rows_per_device": 4 // accumulation}
    job = make_job(folder, out, grpo=grpo, weights=weights, max_new_tokens=4)
    return dataclasses.replace(job, examples=job.examples[:3], stages=((0, 1, 2),), grader=Letters())


def optimiser(out: Path, step: int) -> Any:
    return torch.load(out / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def moves(result: TrainResult) -> int:
    return len({sha for _, sha in hashes(result)})


@pytest.mark.parametrize(("iterations", "accumulation"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)])
def test_resumed_at_every_legal_boundary_nothing_differs(folder, tmp_path, iterations, accumulation):
    job = small(folder, tmp_path / "whole", iterations, accumulation)
    whole = train(job)
    said = job.grader.seen
    boundaries = [step for step, _ in whole.checkpoints]
    assert boundaries == list(range(iterations, job.steps + 1, iterations))
    assert moves(whole) == len(boundaries), "every phase moves the adapter"
    assert len(said) == whole.completions == 4 * job.steps // iterations

    for boundary in boundaries[:-1]:
        again = dataclasses.replace(job, out=tmp_path / f"from-{boundary}", grader=Letters())
        shutil.copytree(job.out / f"checkpoint-{boundary}", again.out / f"checkpoint-{boundary}")
        result = train(again)
        assert again.grader.seen == said[4 * boundary // iterations :], "the same completions"
        assert hashes(result) == [pair for pair in hashes(whole) if pair[0] >= boundary]
        assert without_seconds(result) == without_seconds(whole)
        for step in boundaries[boundaries.index(boundary) :]:
            assert same(optimiser(again.out, step), optimiser(job.out, step))
        counts = [(r.completions, r.tokens_in, r.tokens_out) for r in (result, whole)]
        assert counts[0] == counts[1]


def test_iterations_go_over_the_same_completions_again(folder, tmp_path):
    twice = train(small(folder, tmp_path / "twice", 2, 1))
    told = ["reward" in line for line in twice.history]
    assert told == [True, False] * 3, "the second step of a phase generates nothing"
    assert all("loss" in line and "entropy" in line for line in twice.history)


def test_the_middle_of_a_phase_is_refused(folder, tmp_path):
    """The reason: resumed there, TRL generates anew, ends with other weights and exits 0."""
    job = small(folder, tmp_path / "odd", 2, 1)
    odd = dataclasses.replace(job, weights=job.weights.model_copy(update={"checkpoint_every": 3}))
    with pytest.raises(ConfigError, match=r"weights\.checkpoint_every: 3 lies within .* 2 steps; write 2 or 4"):
        train(odd)
    assert not odd.out.exists()


def test_a_checkpoint_in_the_middle_of_a_phase_is_not_gone_on_from(folder, tmp_path, monkeypatch):
    job = small(folder, tmp_path / "whole", 2, 1)
    expected = train(job)
    odd = dataclasses.replace(
        job, out=tmp_path / "odd", weights=job.weights.model_copy(update={"checkpoint_every": 1}), grader=Letters()
    )
    with monkeypatch.context() as patch:
        patch.setattr("hybrid.weights.jobs._boundaries", lambda _: [])
        interrupted(odd, 4)
        for step in (1, 2):
            assert (odd.out / f"checkpoint-{step}" / "MANIFEST.json").exists()
        # Three steps on disk: what would be gone on from is step 3, within the second phase.
        found = train(odd)
        assert hashes(found)[-1] == hashes(expected)[-1]
        assert found.remarks == (), "it is no damage"
        patch.setattr("hybrid.weights.driver.resumable", lambda *_: True)
        third = dataclasses.replace(odd, out=tmp_path / "third", grader=Letters())
        shutil.copytree(odd.out / "checkpoint-3", third.out / "checkpoint-3")
        assert hashes(train(third))[-1] != hashes(expected)[-1]


@pytest.mark.parametrize(("iterations", "signalled", "stopped"), [(1, 1, 2), (2, 3, 4)])
def test_a_signal_stops_at_the_next_boundary_and_that_is_no_candidate(folder, tmp_path, iterations, signalled, stopped):
    job = small(folder, tmp_path / "whole", iterations, 1)
    every = job.weights.model_copy(update={"checkpoint_every": job.steps})
    job = dataclasses.replace(job, weights=every)
    whole = train(job)

    def stop(step: int, _total: int, _metrics: dict[str, float]) -> None:
        if step == signalled:
            os.kill(os.getpid(), signal.SIGTERM)

    again = dataclasses.replace(job, out=tmp_path / "stopped", grader=Letters())
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(again, stop)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [p.name for p in again.out.glob("checkpoint-*")] == [f"checkpoint-{stopped}"]
    assert hashes(train(again)) == hashes(whole)


def test_a_fork_goes_on_under_the_new_learning_rate(folder, tmp_path):
    """TRL alone restores the old rate with the optimiser and ignores the edit."""
    parent = small(folder, tmp_path / "parent", 2, 1)
    whole = train(parent)

    def forked(name: str, rate: float, at: int) -> TrainJob:
        kept = tmp_path / f"kept-{at}"
        if not kept.exists():
            shutil.copytree(parent.out / f"checkpoint-{at}", kept / f"checkpoint-{at}")
        grpo = parent.weights.grpo.model_copy(update={"learning_rate": rate})
        weights = parent.weights.model_copy(update={"grpo": grpo})
        return dataclasses.replace(parent, out=tmp_path / name, weights=weights, fork=kept, grader=Letters())

    same = train(forked("same", 2e-2, 2))
    assert hashes(same) == hashes(whole), "nothing changed: it is the same training"
    assert same.remarks == ("goes on unchanged from step 2",)

    faster = train(forked("faster", 4e-2, 2))
    assert faster.remarks == ("goes on from step 2 with weights.grpo.learning_rate: 0.02 -> 0.04",)
    assert hashes(faster)[0] == hashes(whole)[0], "it begins with its parent's adapter"
    assert hashes(faster)[1] != hashes(whole)[1]
    group = optimiser(tmp_path / "faster", 4)["param_groups"][0]
    assert group["lr"] == 4e-2

    # Killed and resumed, a fork ends like one that was not.
    again = forked("again", 4e-2, 2)
    interrupted(again, 6)
    assert hashes(train(again)) == hashes(faster)


def test_a_fork_of_another_base_is_refused(folder, tmp_path):
    parent = small(folder, tmp_path / "parent", 2, 1)
    interrupted(parent, 3)
    other = save_tiny(tmp_path / "other", seed=5)
    job = dataclasses.replace(
        parent,
        out=tmp_path / "fork",
        fork=parent.out,
        model=parent.model.model_copy(update={"path": str(other)}),
        seed=1,
    )
    with pytest.raises(RunFolderError, match=r"base\.fingerprint: \w{12}\.\.\. -> \w{12}"):
        train(job)


def test_a_base_that_moved_is_found_at_the_next_checkpoint(folder, tmp_path):
    job = small(folder, tmp_path / "moved", 1, 1)
    loaded = load(job)
    weight = next(p for name, p in loaded.model.named_parameters() if "down_proj" in name)

    def touch(step: int, _total: int, _metrics: dict[str, float]) -> None:
        if step == 2:
            weight.data[0, 0] = torch.nextafter(weight.data[0, 0], torch.tensor(9.0))

    with pytest.raises(TrainingError, match=r"step 2: the base changed .* \(1 tensors, first .*down_proj"):
        build_trainer("grpo").train(job, lambda: loaded, touch)
    assert sorted(p.name for p in job.out.glob("checkpoint-*")) == ["checkpoint-1"]
