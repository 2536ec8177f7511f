"""Distillation on the tiny model: without the document the student says what the teacher says with it, resumed or not."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from weights_tiny import hashes, interrupted, load, make_job, save_tiny, train, without_seconds

from hybrid.capability.types import Example
from hybrid.errors import ConfigError, RunFolderError, TrainingError
from hybrid.evidence.compose import compose
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.encoding import prompt_rows
from hybrid.weights.trl_distill import divergence, targets_of

DOCUMENT = "bcd: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("distill") / "tiny")


def distillation(folder: Path, out: Path, targets: str, **changes) -> TrainJob:
    distill = {"targets": targets, **changes.pop("distill", {})}
    return make_job(folder, out, "distill", teacher=DOCUMENT, distill=distill, **changes)


def next_token(job: TrainJob, skill: str, result: TrainResult | None = None) -> torch.Tensor:
    """Log-probabilities (rows, vocabulary) of the first answer token, from the base or from the trained adapter."""
    from peft import PeftModel

    loaded = load(job)
    model = loaded.model if result is None else PeftModel.from_pretrained(loaded.model, result.checkpoints[-1][1].path)
    rows = prompt_rows(dataclasses.replace(job, skill=skill), loaded.tokenizer)
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row.ids])).logits[0, -1].log_softmax(-1) for row in rows])


def kl(teacher: torch.Tensor, student: torch.Tensor) -> float:
    return float((teacher.exp() * (teacher - student)).sum(-1).mean())


@pytest.mark.parametrize("top_k", [4, 10_000])
def test_logits_move_the_student_to_the_teacher_that_reads_the_document(folder, tmp_path, top_k):
    job = distillation(folder, tmp_path, "logits", distill={"steps": 60, "top_k": top_k})
    result = train(job)
    teacher = next_token(job, DOCUMENT)
    before, after = kl(teacher, next_token(job, "")), kl(teacher, next_token(job, "", result))
    assert after < before / 5
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 5
    assert {"step", "loss", "grad_norm", "entropy", "token_accuracy", "seconds"} <= set(result.history[0])


def test_a_document_that_changes_nothing_teaches_nothing(folder, tmp_path):
    """The control: where teacher and student read the same, the divergence is 0 and so is every gradient."""
    same = [Example(id=f"e{i}", prompt=f"q{i}", reference="ab") for i in range(4)]
    job = distillation(folder, tmp_path, "logits", examples=tuple(same), stages=((0, 1, 2, 3),))
    job = dataclasses.replace(job, model=job.model.model_copy(update={"skill_separator": ""}), teacher=" ")
    with pytest.raises(ConfigError, match="no accepted document"):
        train(job)
    loaded = load(job)
    logits = loaded.model(torch.tensor([prompt_rows(job, loaded.tokenizer)[0].ids])).logits[0]
    assert float(divergence(logits, targets_of(logits, 4)).abs().max()) < 1e-6


def test_the_divergence_is_the_full_one_at_full_width_and_never_above_it():
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 5, 12, generator=generator) * 3
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    full = (p.exp() * (p - q)).sum(-1)
    found = {k: divergence(student, targets_of(teacher, k)) for k in (1, 4, 11, 12, 99)}
    for k in (11, 12, 99):  # 11 leave one token over, which is then an outcome of its own
        assert torch.allclose(found[k], full, atol=1e-5)
    assert torch.all(found[1] <= found[4] + 1e-6)
    assert torch.all(found[4] <= full + 1e-6)
    assert torch.all(found[1] >= 0)


def test_a_sure_teacher_gives_finite_gradients():
    teacher = torch.zeros(1, 6)
    teacher[0, 2] = 1e4
    student = torch.zeros(1, 6, requires_grad=True)
    divergence(student, targets_of(teacher, 2)).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 2] < 0


def test_text_learns_the_answers_that_were_given_and_not_the_references(folder, tmp_path):
    examples = tuple(Example(id=f"e{i}", prompt=f"{i} =", reference="zzz", gold="ab"[i % 2] * 2) for i in range(4))
    changes = {"examples": examples, "stages": ((0, 1, 2, 3),), "distill": {"steps": 60, "learning_rate": 2e-2}}
    job = distillation(folder, tmp_path, "text", **changes)
    result = train(job)
    tokenizer = load(job).tokenizer
    said = [tokenizer.decode([int(i)]) for i in next_token(job, "", result).argmax(-1)]
    assert said == ["a", "b", "a", "b"]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, folder: Path) -> tuple[TrainJob, TrainResult]:
    """An uninterrupted job, its rows cut into uneven passes."""
    stages = ((0, 1, 2), (3, 4, 5, 6, 7))
    job = distillation(folder, folder.parent / request.param, request.param, stages=stages)
    job = dataclasses.replace(job, weights=job.weights.model_copy(update={"rows_per_device": 2}))
    return job, train(job)


both = pytest.mark.parametrize("whole", ["text", "logits"], indirect=True)


@both
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_resumed_job_ends_with_the_same_bytes(whole, tmp_path, after):
    job = dataclasses.replace(whole[0], out=tmp_path / "job")
    interrupted(job, after)
    found = train(job)
    assert hashes(found) == hashes(whole[1])
    assert without_seconds(found) == without_seconds(whole[1])
    assert (found.tokens_in, found.completions) == (whole[1].tokens_in, 0)


@both
def test_the_manifest_names_the_document(whole):
    facts = json.loads((whole[1].checkpoints[-1][1].path / "hybrid_manifest.json").read_text())["facts"]
    assert facts["method"] == "distill"
    assert len(facts["document_sha256"]) == 64


@both
@pytest.mark.parametrize("change", ["teacher", "completions"])
def test_another_document_or_other_answers_are_another_job(whole, change):
    job = whole[0]
    if change == "teacher":
        other = dataclasses.replace(job, teacher="bce: ")
    else:
        first = job.examples[0].model_copy(update={"gold": "c"})
        other = dataclasses.replace(job, examples=(first, *job.examples[1:]))
    with pytest.raises(RunFolderError, match=f"{change}.* -> "):
        train(other)


def test_what_the_teacher_read_is_counted(folder, tmp_path):
    text, logits = (train(distillation(folder, tmp_path / t, t, distill={"steps": 1})) for t in ("text", "logits"))
    job = distillation(folder, tmp_path, "logits")
    tokenizer = load(job).tokenizer
    taught = dataclasses.replace(job, skill=DOCUMENT)
    read = sum(len(row.ids) for row in prompt_rows(taught, tokenizer))
    answers = sum(len(e.reference) + 1 for e in job.examples)
    assert logits.tokens_in - text.tokens_in == read + answers


def test_a_document_that_does_not_fit_is_named(tmp_path):
    folder = save_tiny(tmp_path / "tiny", positions=12)
    job = dataclasses.replace(distillation(folder, tmp_path / "out", "logits"), teacher="abcdefgh")
    assert len(compose(job.examples[0].prompt, job.teacher, job.model.skill_separator)) > 12
    with pytest.raises(TrainingError, match="has 12 positions"):
        train(job)


def test_an_adapter_that_reads_the_document_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="nothing to learn from a teacher"):
        train(distillation(folder, tmp_path, "text", skill="bcd: "))
