"""Scoring only labelled positions changes what is computed, not what comes out."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head
from weights_tiny import load, make_job, save_tiny, train

from hybrid.weights.labelled import score_labelled_only


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """TRL's fused model, and the same with ours on top; the adapter has moved."""
    folder = save_tiny(tmp_path_factory.mktemp("labelled") / "tiny")
    plain = load(make_job(folder, folder.parent)).model
    torch.manual_seed(0)
    plain = get_peft_model(plain, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in plain.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ours = copy.deepcopy(plain)
    for model in (plain, ours):
        add_fused_lm_head(model.get_base_model(), temperature=0.7, outputs=("log_probs", "entropy", "is_top1"))
    score_labelled_only(ours.get_base_model())
    return plain, ours


def batch(first_label: int):
    torch.manual_seed(1)
    ids = torch.randint(4, 40, (3, 12))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    labels = ids.clone()
    labels[:, :first_label] = -100
    labels[1, : first_label + 2] = -100
    labels[2, -1] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("first_label", [0, 1, 7, 11])
def test_values_and_gradients_are_the_same(models, first_label):
    outputs = [model(**batch(first_label), fused_lm_head=True) for model in models]
    kept = outputs[1].log_probs.shape[1]
    assert kept == min(11, 12 - first_label)
    for key in ("log_probs", "entropy", "is_top1", "label_mask"):
        theirs, ours = (getattr(output, key) for output in outputs)
        assert torch.allclose(theirs[:, -kept:].float(), ours.float(), atol=1e-6)
        assert not theirs[:, :-kept].any()
    gradients = []
    for model, output in zip(models, outputs, strict=True):
        model.zero_grad()
        (output.log_probs * torch.linspace(0.5, 1.5, 3)[:, None]).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-5) for n in gradients[0])


def test_other_calls_are_untouched(models):
    inputs = batch(5)
    del inputs["labels"]
    plain, ours = (model(**inputs).logits for model in models)
    assert torch.equal(plain, ours)
    generated = [m.generate(**inputs, max_new_tokens=4, do_sample=False).tolist() for m in models]
    assert generated[0] == generated[1]


def test_a_batch_without_labels_is_zero_and_not_an_error(models):
    inputs = batch(12)
    output = models[1](**inputs, fused_lm_head=True)
    assert not output.log_probs.any()


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_training_uses_it_and_learns_the_same(tmp_path, monkeypatch, method):
    folder = save_tiny(tmp_path / "tiny")
    with_it = train(make_job(folder, tmp_path / "with", method))
    calls = []
    monkeypatch.setattr("hybrid.weights.trl_common.score_labelled_only", calls.append)
    without = train(make_job(folder, tmp_path / "without", method))
    assert len(calls) == 1
    for ours, theirs in zip(with_it.history, without.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["entropy"] == pytest.approx(theirs["entropy"], abs=1e-3)
