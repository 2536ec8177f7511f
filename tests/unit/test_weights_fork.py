"""A training that goes on from another run's: what is copied, under which identity, and what cannot be."""

import dataclasses
import shutil

import pytest
from test_weights_checkpoints import flip
from test_weights_driver import FakeTraining, fake_job, go

from hybrid.config.schema import LoraConfig
from hybrid.errors import RunFolderError
from hybrid.weights.fork import FORK, prepare
from hybrid.weights.results import RESULT


def stopped(tmp_path, after=4):
    parent = fake_job(tmp_path / "parent")
    with pytest.raises(KeyboardInterrupt):
        go(parent, FakeTraining(stop_after=after))
    return parent


def fork_of(parent, tmp_path, **grpo):
    settings = parent.weights.grpo.model_copy(update=grpo)
    weights = parent.weights.model_copy(update={"grpo": settings})
    return dataclasses.replace(parent, weights=weights, out=tmp_path / "fork", fork=parent.out)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fork_goes_on_where_its_parent_is_and_changes_nothing_there(tmp_path):
    parent = stopped(tmp_path)
    before = contents(parent.out)
    job = fork_of(parent, tmp_path, beta=0.5)
    training = FakeTraining()
    result = go(job, training)
    assert training.trained == [5]
    assert [step for step, _ in result.checkpoints] == [2, 4, 5], "the parent's candidates are offered too"
    assert result.remarks == ("goes on from step 4 with weights.grpo.beta: 0.0 -> 0.5",)
    assert result.note.startswith("goes on from step 4")
    assert contents(parent.out) == before
    assert go(job, training) == result
    assert training.loads == 1


def test_without_the_flag_nothing_is_carried_over(tmp_path):
    parent = stopped(tmp_path)
    training = FakeTraining()
    go(dataclasses.replace(fork_of(parent, tmp_path, beta=0.5), fork=None), training)
    assert training.trained == [1, 2, 3, 4, 5]


def test_what_a_fork_began_with_stays_though_its_parent_goes_on(tmp_path):
    parent = stopped(tmp_path, after=3)
    job = fork_of(parent, tmp_path, beta=0.5)
    with pytest.raises(KeyboardInterrupt):
        go(job, FakeTraining(stop_after=3))
    go(parent, FakeTraining())
    shutil.rmtree(parent.out)  # and is not needed any more
    training = FakeTraining()
    assert go(job, training).remarks == ("goes on from step 2 with weights.grpo.beta: 0.0 -> 0.5",)
    assert training.trained == [3, 4, 5]


def test_a_forks_checkpoints_belong_to_the_fork_alone(tmp_path):
    parent = stopped(tmp_path)
    job = fork_of(parent, tmp_path, beta=0.5)
    with pytest.raises(KeyboardInterrupt):
        go(job, FakeTraining(stop_after=5, fingerprint="f" * 64))
    (job.out / FORK).unlink()
    with pytest.raises(RunFolderError, match="already holds a training that was not forked"):
        go(job, FakeTraining())
    with pytest.raises(RunFolderError, match=r"forked\.manifest: \w{12}\.\.\. -> absent; forked\.step: 4 -> absent\)"):
        go(dataclasses.replace(job, fork=None), FakeTraining())


def test_a_finished_training_that_is_the_same_is_taken_as_it_is(tmp_path):
    parent = fake_job(tmp_path / "parent")
    whole = go(parent, FakeTraining())
    job = dataclasses.replace(parent, out=tmp_path / "fork", fork=parent.out)
    training = FakeTraining()
    result = go(job, training)
    assert training.loads == 0
    assert [(s, a.sha256) for s, a in result.checkpoints] == [(s, a.sha256) for s, a in whole.checkpoints]
    assert (job.out / RESULT).read_bytes() == (parent.out / RESULT).read_bytes()


def test_a_finished_training_under_other_settings_says_that_nothing_is_left(tmp_path):
    parent = fake_job(tmp_path / "parent")
    go(parent, FakeTraining())
    training = FakeTraining()
    result = go(fork_of(parent, tmp_path, learning_rate=0.5), training)
    assert training.trained == []
    (remark,) = result.remarks
    assert remark.endswith("0.5; that is its last step (5), so nothing more is trained")
    more = fork_of(parent, tmp_path / "more", learning_rate=0.5, steps=7)
    assert [step for step, _ in go(more, training).checkpoints] == [2, 4, 6, 7]
    assert training.trained == [6, 7]


def test_a_damaged_checkpoint_of_the_parent_is_named_and_passed_over(tmp_path):
    parent = stopped(tmp_path)
    flip(parent.out / "checkpoint-4" / "optimizer.pt")
    training = FakeTraining()
    result = go(fork_of(parent, tmp_path, beta=0.5), training)
    assert training.trained == [3, 4, 5]
    (remark,) = result.remarks
    assert remark.startswith("goes on from step 2")
    assert remark.endswith("; skipped checkpoint-4: optimizer.pt differs from the manifest")


@pytest.mark.parametrize("parent_folder", ["missing", "empty"])
def test_a_parent_that_has_not_trained_this_leaves_it_to_the_fork(tmp_path, parent_folder):
    job = dataclasses.replace(fake_job(tmp_path), fork=tmp_path / "parent")
    if parent_folder == "empty":
        job.fork.mkdir()
    training = FakeTraining()
    result = go(job, training)
    assert training.trained == [1, 2, 3, 4, 5]
    assert result.remarks == ()


def test_what_does_not_fit_is_refused_by_field_and_leaves_no_trace(tmp_path):
    parent = stopped(tmp_path)
    job = fork_of(parent, tmp_path, beta=0.5)
    wider = job.weights.model_copy(update={"lora": LoraConfig(rank=64)})
    with pytest.raises(RunFolderError, match=r"cannot be gone on from \(weights\.lora\.rank: 16 -> 64\)"):
        go(dataclasses.replace(job, weights=wider), FakeTraining())
    assert not job.out.exists()
    go(job, FakeTraining())


def test_a_copy_that_was_killed_is_made_again(tmp_path, monkeypatch):
    parent = stopped(tmp_path)
    job = fork_of(parent, tmp_path, beta=0.5)

    def dies(name):
        if name == "fork.before-rename":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hybrid.weights.fork.faultpoint", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(job, 1)
    assert not job.out.exists()
    assert prepare(job, 1).step == 4


def test_a_fork_of_a_fork_names_what_changed_since(tmp_path):
    parent = stopped(tmp_path, after=3)
    child = fork_of(parent, tmp_path, beta=0.5)
    with pytest.raises(KeyboardInterrupt):
        go(child, FakeTraining(stop_after=4))
    grandchild = dataclasses.replace(fork_of(child, tmp_path / "third", learning_rate=0.5), out=tmp_path / "third")
    training = FakeTraining()
    result = go(grandchild, training)
    assert training.trained == [5]
    assert result.remarks == ("goes on from step 4 with weights.grpo.learning_rate: 2e-05 -> 0.5",)
