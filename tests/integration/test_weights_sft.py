"""SFT end to end on the tiny model: gold completions only, one end token, the prompt as it is measured."""

import dataclasses
from pathlib import Path

import pytest
import torch
from weights_tiny import load, make_job, save_tiny, train

from hybrid.backends import rendering
from hybrid.backends.base import Request, Sampling
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.types import Example
from hybrid.config.schema import TransformersBackendConfig
from hybrid.errors import TrainingError
from hybrid.evidence.compose import compose
from hybrid.weights import trl_sft


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sft") / "tiny")


def test_it_learns_the_gold_answers_and_to_stop_after_them(folder, tmp_path):
    job = make_job(folder, tmp_path, "sft", sft={"steps": 60, "batch": 8, "learning_rate": 2e-2}, skill="abc: ")
    result = train(job)
    assert result.history[-1]["loss"] < 0.2 < result.history[0]["loss"]
    backend = TransformersBackend(load(job), TransformersBackendConfig())
    requests = [Request(compose(e.prompt, job.skill, job.model.skill_separator), 0) for e in job.examples]
    answers = backend.generate(requests, Sampling(max_new_tokens=6), result.checkpoints[-1][1])
    right = sum(a.text == e.reference and a.finish == "stop" for a, e in zip(answers, job.examples, strict=True))
    assert right >= 7
    assert (result.completions, result.tokens_out) == (0, 0)
    assert result.tokens_in > 0
    assert {"step", "loss", "grad_norm", "entropy", "token_accuracy", "seconds"} <= set(result.history[0])


def test_loss_is_on_the_answer_and_one_end_token_alone(folder, tmp_path, monkeypatch):
    seen = []
    original = trl_sft.HybridSft.compute_loss

    def spy(self, model, inputs, *positional, **named):
        seen.extend(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True))
        return original(self, model, inputs, *positional, **named)

    monkeypatch.setattr(trl_sft.HybridSft, "compute_loss", spy)
    examples = (
        Example(id="plain", prompt="q 1", reference="abc"),
        Example(id="ended", prompt="q 22", reference="x", gold="de;"),  # the gold answer ends itself
    )
    job = make_job(folder, tmp_path, "sft", sft={"steps": 1, "batch": 2}, examples=examples, stages=((0, 1),))
    job = dataclasses.replace(job, skill="ab")
    train(job)
    tokenizer = load(job).tokenizer
    end = tokenizer.eos_token_id
    by_example = {}
    for ids, labels in seen:
        answer = [token for token in labels if token != -100]
        prompt = ids[: labels.index(answer[0])]
        assert all(label == -100 for label in labels[: len(prompt)])
        by_example[tokenizer.decode(answer[:-1])] = (prompt, answer)
    assert set(by_example) == {"abc", "de"}
    for example, text in zip(examples, ("abc", "de"), strict=True):
        prompt, answer = by_example[text]
        measured = compose(example.prompt, "ab", job.model.skill_separator)
        assert prompt == rendering.encode(tokenizer, [rendering.render(tokenizer, measured, False)], False)[0]
        assert answer.count(end) == 1
        assert answer[-1] == end


def test_the_step_has_the_configured_rows_whatever_the_cut(folder, tmp_path):
    jobs = [
        make_job(folder, tmp_path / str(r), "sft", sft={"steps": 1, "batch": 8}, weights={"rows_per_device": r})
        for r in (8, 2)
    ]
    whole, cut = [train(job) for job in jobs]
    assert whole.tokens_in == cut.tokens_in
    assert whole.history[0]["loss"] == pytest.approx(cut.history[0]["loss"], rel=1e-4)
    assert whole.history[0]["grad_norm"] == pytest.approx(cut.history[0]["grad_norm"], rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update(folder, tmp_path, monkeypatch):
    original = trl_sft.HybridSft.compute_loss
    kept = {}

    def bad(self, *positional, **named):
        kept["weights"] = [p.detach().clone() for p in self.model.parameters() if p.requires_grad]
        kept["trainer"] = self
        return original(self, *positional, **named) * torch.tensor(float("nan"))

    monkeypatch.setattr(trl_sft.HybridSft, "compute_loss", bad)
    with pytest.raises(TrainingError, match="step 1: the loss is not finite"):
        train(make_job(folder, tmp_path, "sft"))
    after = [p for p in kept["trainer"].model.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(after, kept["weights"], strict=True))


def test_a_gold_answer_that_does_not_fit_is_named(tmp_path):
    folder = save_tiny(tmp_path / "tiny", positions=8)
    with pytest.raises(TrainingError, match="example 'e2' needs 9 tokens, the model has 8 positions"):
        train(make_job(folder, tmp_path / "out", "sft"))
