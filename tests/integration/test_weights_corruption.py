"""The corruption matrix: every file of a checkpoint, damaged in every way, is named and passed over; the bytes stay."""

import dataclasses
import random
import shutil
import sys
from pathlib import Path

import pytest
from weights_tiny import Letters, hashes, make_job, save_tiny, train

from hybrid.errors import RunFolderError
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.checkpoints import MANIFEST, Skipped, read_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from bench_corruption import DAMAGES, FILES, flip

STEPS = len(DAMAGES) + 1
FLIPS = 32


def job_in(folder: Path, out: Path, **changes: object) -> TrainJob:
    """A checkpoint after every step: one for each kind of damage, and one before them."""
    grpo = {"steps": STEPS, "prompts_per_step": 2, "generations": 4}
    job = make_job(folder, out, grpo=grpo, weights={"checkpoint_every": 1}, max_new_tokens=6)
    return dataclasses.replace(job, grader=Letters(), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, TrainResult, Path]:
    """An undisturbed training, its result, and the checkpoints of another run."""
    root = tmp_path_factory.mktemp("corruption")
    folder = save_tiny(root / "tiny")
    job, other = job_in(folder, root / "whole"), job_in(folder, root / "other", seed=1)
    result = train(job)
    train(other)
    return job, result, other.out


@pytest.mark.parametrize("name", FILES)
def test_damaged_in_every_way_it_is_named_and_the_bytes_are_the_same(whole, tmp_path, name):
    """Checkpoint k + 1 has damage k, so that one resume has to get past all of them and retrain every step."""
    job, expected, other = whole
    again = dataclasses.replace(job, out=tmp_path / "job", grader=Letters())
    draw = random.Random(name)
    for step in range(1, STEPS + 1):
        shutil.copytree(job.out / f"checkpoint-{step}", again.out / f"checkpoint-{step}")
    harmless = set()
    for step, (damage, apply) in enumerate(DAMAGES.items(), start=2):
        if name == MANIFEST and damage == "of another run":
            damage, apply = "deleted", DAMAGES["deleted"]  # the manifest of another run is refused: see below
        path = again.out / f"checkpoint-{step}" / name
        before = path.read_bytes()
        apply(path, other / f"checkpoint-{step}" / name, draw)
        if name == MANIFEST and damage == "last byte cut":
            path.write_bytes(before[:-2])  # the last byte of all is a line end, which says nothing
        if path.is_file() and not path.is_symlink() and path.read_bytes() == before:
            harmless.add(damage)  # both runs wrote the same bytes
            flip(path, path, draw)
        elif damage == "bit flipped":
            path.write_bytes(before)
            for _ in range(FLIPS):
                flip(path, path, draw)
                assert isinstance(read_checkpoint(path.parent, None, 1), Skipped)
                path.write_bytes(before)
            flip(path, path, draw)
    assert harmless <= {"of another run"}
    result = train(again)
    assert hashes(result) == hashes(expected)
    damaged = [r for r in result.remarks if r.startswith("skipped checkpoint-")]
    unnamed = (
        2 if name == MANIFEST else 0
    )  # deleted: without any manifest it is what a kill leaves: said in the log, no remark
    assert len(damaged) == len(DAMAGES) - unnamed
    assert all(name in remark for remark in damaged)


def test_the_manifest_of_another_run_is_refused_by_field(whole, tmp_path):
    job, _, other = whole
    again = dataclasses.replace(job, out=tmp_path / "job")
    shutil.copytree(job.out / "checkpoint-2", again.out / "checkpoint-2")
    shutil.copyfile(other / "checkpoint-2" / MANIFEST, again.out / "checkpoint-2" / MANIFEST)
    with pytest.raises(RunFolderError, match=r"another training job \(seed: 1 -> 0\)"):
        train(again)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d != "of another run"])
@pytest.mark.parametrize("name", ["RESULT.json", "adapter_model.safetensors", "adapter_config.json"])
def test_what_a_finished_training_left_is_made_again_without_training(whole, tmp_path, name, damage):
    job, expected, _ = whole
    again = dataclasses.replace(job, out=tmp_path / "job")
    shutil.copytree(job.out, again.out)
    path = again.out / name if name == "RESULT.json" else again.out / "adapters" / "step-3" / name
    before = path.read_bytes()
    DAMAGES[damage](path, path, random.Random(damage))
    steps: list[int] = []
    result = train(again, lambda step, *_: steps.append(step))
    assert steps == []
    assert result.checkpoints[2][1].sha256 == expected.checkpoints[2][1].sha256
    assert hashes(result) == hashes(expected)
    if name != "RESULT.json":
        assert path.read_bytes() == before
        assert not path.is_symlink()
