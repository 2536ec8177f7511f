"""The policy probe: silent for a policy that is what it trains, loud for rollouts from anything else."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from weights_tiny import load, make_job, save_tiny, train

from hybrid.errors import TrainingError
from hybrid.weights.identity import probe_policy
from hybrid.weights.trl_grpo import HybridGrpo

PROMPTS = [[2, 5, 6, 7], [2, 9]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("identity") / "tiny")


@pytest.fixture
def policy(folder, tmp_path):
    """A LoRA model whose adapter has moved, inside what the probe needs of a trainer."""
    model = get_peft_model(
        load(make_job(folder, tmp_path)).model,
        LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    move(model, 0.2)
    return SimpleNamespace(accelerator=SimpleNamespace(unwrap_model=lambda m: m), model_wrapped=model, temperature=0.7)


def move(model, size):
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=size) if size else torch.nn.init.zeros_(parameter)


def scorer(model, temperature):
    def score(ids, mask, count):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -count - 1 : -1]
        return torch.log_softmax(logits / temperature, -1).gather(2, ids[:, -count:, None])[..., 0]

    return score


def probe(policy, temperature=0.7):
    return probe_policy(policy, PROMPTS, scorer(policy.model_wrapped, temperature))


def test_the_policy_is_itself(policy):
    found = probe(policy)
    assert found.adapter_moved
    assert found.gap < 1e-4 < found.effect
    move(policy.model_wrapped, 0)
    assert not probe(policy).adapter_moved


def test_it_draws_no_random_number_and_leaves_the_mode_alone(policy):
    policy.model_wrapped.train()
    before = torch.random.get_rng_state()
    probe(policy)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert policy.model_wrapped.training


def test_rollouts_at_another_temperature_are_seen(policy):
    with pytest.raises(TrainingError, match="rollouts do not come from the model"):
        probe(policy, temperature=1.0)


def test_rollouts_from_the_bare_base_are_seen(policy, monkeypatch):
    model = policy.model_wrapped
    original = model.generate

    def bare(**named):
        with model.disable_adapter():
            return original(**named)

    monkeypatch.setattr(model, "generate", bare)
    with pytest.raises(TrainingError, match="rollouts do not come from the model"):
        probe(policy)
    # Also where the effect is smaller than any tolerance: by the branches that never ran.
    move(model, 1e-6)
    with pytest.raises(TrainingError, match="rollouts come from the bare base"):
        probe(policy)


def test_rollouts_from_a_stale_adapter_are_seen(policy, monkeypatch):
    model = policy.model_wrapped
    original = model.generate

    def stale(**named):
        kept = {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_B." in n}
        move(model, 0.2)
        try:
            return original(**named)
        finally:
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.data.copy_(kept[name])

    monkeypatch.setattr(model, "generate", stale)
    with pytest.raises(TrainingError, match="rollouts do not come from the model"):
        probe(policy)


def test_a_trainer_that_ignores_the_adapter_is_seen(policy):
    """Both sides compute the base: they agree, and only the adapter-off comparison shows that nothing is trained."""
    model = policy.model_wrapped
    move(model, 1e-5)  # small enough for the generator to be within tolerance of the base
    score = scorer(model, 0.7)

    def ignoring(ids, mask, count):
        with model.disable_adapter():
            return score(ids, mask, count)

    with pytest.raises(TrainingError, match="computes the same with it off"):
        probe_policy(policy, PROMPTS, ignoring)


def test_training_runs_it_at_the_start_and_at_every_checkpoint(folder, tmp_path, monkeypatch):
    from hybrid.weights import trl_common

    found = []

    def spy(*arguments):
        found.append(probe_policy(*arguments))
        return found[-1]

    monkeypatch.setattr(trl_common, "probe_policy", spy)
    train(make_job(folder, tmp_path))
    assert [f.adapter_moved for f in found] == [False, True, True, True]  # six steps, a checkpoint every second one


def test_training_stops_when_rollouts_come_from_the_base(folder, tmp_path, monkeypatch):
    original = HybridGrpo.score

    def shifted(self, *arguments):
        return original(self, *arguments) + 0.01

    monkeypatch.setattr(HybridGrpo, "score", shifted)
    with pytest.raises(TrainingError, match=r"differ by 0\.01 nats"):
        train(make_job(folder, tmp_path))
