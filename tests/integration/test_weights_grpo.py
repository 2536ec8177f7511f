"""GRPO end to end on the tiny model: it learns, sees what measurement sees, and stops before a bad update."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from weights_tiny import Constant, Letters, hashes, load, make_job, save_tiny, train

from hybrid.backends import rendering
from hybrid.backends.adapters import check_adapter, read_tensors
from hybrid.backends.base import Request, Sampling
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.graders.base import Unjudged
from hybrid.capability.types import Example, Message, Score
from hybrid.config.schema import RewardConfig, TransformersBackendConfig
from hybrid.errors import ConfigError, TrainingError
from hybrid.evidence.compose import compose
from hybrid.weights import trl_grpo
from hybrid.weights.base import TrainJob


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("grpo") / "tiny")


def mean_score(job: TrainJob, adapter=None) -> float:
    backend = TransformersBackend(load(job), TransformersBackendConfig())
    requests = [Request(e.prompt, seed=i) for i, e in enumerate(job.examples * 4)]
    sampling = Sampling(max_new_tokens=job.max_new_tokens, temperature=1.0)
    texts = [c.text for c in backend.generate(requests, sampling, adapter)]
    return sum(job.grader.grade(t, e).value for t, e in zip(texts, job.examples * 4, strict=True)) / len(texts)


def test_it_learns_what_the_grader_rewards_and_the_backend_sees_it(folder, tmp_path):
    job = make_job(folder, tmp_path, grpo={"steps": 30, "generations": 8, "learning_rate": 2e-2})
    steps: list[tuple[int, int]] = []
    result = train(job, lambda step, total, metrics: steps.append((step, total)))
    rewards = [line["reward"] for line in result.history]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    assert mean_score(job, result.checkpoints[-1][1]) > mean_score(job) + 0.2
    assert steps == [(s, 30) for s in range(1, 31)]
    assert result.completions == 30 * 16
    assert 0 < result.seconds < 600
    assert {"loss", "grad_norm", "entropy", "reward_std", "frac_reward_zero_std", "clipped_ratio"} <= set(
        result.history[0]
    )
    assert "kl" not in result.history[0]


def test_the_grader_sees_texts_without_end_token_as_the_backend_makes_them(folder, tmp_path, monkeypatch):
    generated: list[list[int]] = []
    original = trl_grpo.HybridGrpo._calculate_rewards

    def spy(self, inputs, prompts, completions, completion_ids_list):
        generated.extend(completion_ids_list)
        return original(self, inputs, prompts, completions, completion_ids_list)

    monkeypatch.setattr(trl_grpo.HybridGrpo, "_calculate_rewards", spy)
    job = dataclasses.replace(make_job(folder, tmp_path, grpo={"steps": 1}), max_new_tokens=40)
    result = train(job)
    loaded = load(job)
    end = loaded.tokenizer.eos_token_id
    ended = [ids[:-1] for ids in generated if ids[-1] == end]
    assert ended  # some answers stop by themselves, and then after exactly one end token
    assert not any(end in ids[:-1] for ids in generated)
    answers = [ids[:-1] if ids[-1] == end else ids for ids in generated]
    expected = [
        loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in answers
    ]
    assert job.grader.seen == expected
    assert result.tokens_out == sum(map(len, generated))
    assert result.history[0]["clipped_ratio"] == pytest.approx(1 - len(ended) / len(generated))


@pytest.mark.parametrize(
    ("chat", "skill"), [(False, ""), (False, "abc def\nghi"), (True, ""), (True, "abc def")], ids=str
)
def test_trained_prompts_are_the_measured_prompts(folder, tmp_path, monkeypatch, chat, skill):
    """Token for token, with one begin-of-text token, skill included."""
    seen = []
    original = trl_grpo.HybridGrpo._compute_loss

    def spy(self, model, inputs):
        for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
            seen.append(tuple(ids[mask.bool()].tolist()))
        return original(self, model, inputs)

    monkeypatch.setattr(trl_grpo.HybridGrpo, "_compute_loss", spy)
    prompts = (
        [(Message(role="user", content="q 1"),), (Message(role="user", content="q 22"),)] if chat else ["q1", "q22"]
    )
    examples = tuple(Example(id=f"e{i}", prompt=p, reference="a") for i, p in enumerate(prompts))
    stages = ((0, 1),)
    job = make_job(
        folder, tmp_path, grpo={"steps": 1}, model={"chat": chat}, skill=skill, examples=examples, stages=stages
    )
    train(job)
    loaded = load(job)
    texts = [
        rendering.render(loaded.tokenizer, compose(e.prompt, skill, job.model.skill_separator), chat) for e in examples
    ]
    expected = {tuple(ids) for ids in rendering.encode(loaded.tokenizer, texts, chat)}
    assert set(seen) == expected
    assert len(seen) == 8
    assert all(ids.count(loaded.tokenizer.bos_token_id) == 1 for ids in seen)


def test_cutting_a_step_into_passes_changes_rounding_only(folder, tmp_path):
    jobs = [
        make_job(folder, tmp_path / str(rows), grpo={"steps": 1}, weights={"rows_per_device": rows}) for rows in (8, 2)
    ]
    whole, cut = [train(job) for job in jobs]
    assert jobs[0].grader.seen == jobs[1].grader.seen
    assert whole.history[0]["reward"] == cut.history[0]["reward"]
    assert whole.history[0]["grad_norm"] == pytest.approx(cut.history[0]["grad_norm"], rel=1e-4)
    a, b = (read_tensors(r.checkpoints[-1][1].path) for r in (whole, cut))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_the_step_is_what_the_config_says(folder, tmp_path):
    job = make_job(folder, tmp_path, grpo={"steps": 2, "prompts_per_step": 3, "generations": 2})
    assert train(job).completions == len(job.grader.seen) == 12


def test_the_adapter_has_the_configured_shape_and_leaves_the_output_layer_alone(folder, tmp_path):
    job = make_job(folder, tmp_path, grpo={"steps": 2})
    adapter = train(job).checkpoints[-1][1]
    facts = check_adapter(adapter.path, load(job).info.fingerprint)
    assert (facts.rank, facts.alpha) == (4, 4.0)
    assert {name.rpartition(".")[2] for name in facts.targets} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert not any("lm_head" in name for name in read_tensors(adapter.path))
    names = {path.name for path in adapter.path.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "hybrid_manifest.json"}
    assert not [p for p in job.out.rglob("*") if p.name in ("README.md", "training_args.bin")]


@pytest.mark.parametrize("scale", ["none", "batch"])
def test_groups_without_variance_are_counted_as_groups(folder, tmp_path, scale):
    """One group that varies and one that does not: half. TRL's own count under `batch` would say none."""

    class OneVaries(Letters):
        def grade(self, completion, example):
            score = super().grade(completion, example)
            return score if example.id == "e0" else dataclasses.replace(score, value=1.0)

    rows = {"stages": ((0, 1),), "grader": OneVaries()}
    job = make_job(folder, tmp_path, grpo={"steps": 2, "scale_rewards": scale}, **rows)
    assert [line["frac_reward_zero_std"] for line in train(job).history] == [0.5, 0.5]


def test_no_signal_stops_the_job_with_a_note_and_without_candidates(folder, tmp_path):
    job = make_job(folder, tmp_path, grpo={"steps": 50}, grader=Constant(0.0))
    result = train(job)
    assert (result.checkpoints, result.steps) == ((), 2)
    assert result.note.startswith("no signal: in the first 2 steps none of 4 groups of 4 completions")
    assert train(job) == result


def test_signal_in_the_first_steps_keeps_the_job_going(folder, tmp_path):
    class First(Letters):
        def grade(self, completion, example):
            score = super().grade(completion, example)
            return score if len(self.seen) <= 8 else dataclasses.replace(score, value=0.0)

    assert train(make_job(folder, tmp_path, grader=First())).steps == 6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_stops_before_the_update(folder, tmp_path, value):
    job = make_job(folder, tmp_path, grader=Constant(value))
    with pytest.raises(TrainingError, match="step 1: a reward is not finite"):
        train(job)
    assert not list(tmp_path.glob("checkpoint-*"))


def poisoned(monkeypatch, what):
    """Make step 4 bad, and keep the weights as they are just before and when the error comes."""
    original = trl_grpo.HybridGrpo._compute_loss
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def weights(trainer):
        return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}

    def bad(self, model, inputs):
        loss = original(self, model, inputs)
        kept["trainer"] = self
        if self.state.global_step != 3:
            return loss
        kept["before"] = weights(self)
        if what == "loss":
            return loss * float("nan")
        # The loss is finite, its gradient is not: d sqrt(x) at 0.
        parameter = next(p for n, p in self.model.named_parameters() if ".lora_B." in n)
        return loss + torch.sqrt((parameter * 0).sum())

    monkeypatch.setattr(trl_grpo.HybridGrpo, "_compute_loss", bad)
    return kept, weights


@pytest.mark.parametrize(
    ("what", "said"), [("loss", "the loss is not finite"), ("gradient", "a gradient is not finite")]
)
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_update(folder, tmp_path, monkeypatch, what, said):
    kept, weights = poisoned(monkeypatch, what)
    job = make_job(folder, tmp_path / "bad")
    with pytest.raises(TrainingError, match=f"step 4: {said}"):
        train(job)
    after = weights(kept["trainer"])
    assert all(torch.equal(after[name], kept["before"][name]) for name in after)
    # Nothing bad was saved: with the cause gone, the job ends as if it had never been.
    monkeypatch.undo()
    assert hashes(train(job)) == hashes(train(make_job(folder, tmp_path / "good")))


def test_a_brier_term_is_a_logged_column_of_its_own(folder, tmp_path):
    settings = RewardConfig(brier_weight=0.5, confidence_pattern=r"(?P<confidence>\d)")
    job = make_job(folder, tmp_path, grpo={"steps": 2}, weights={"rewards": settings})
    for line in train(job).history:
        assert 0.0 <= line["brier"] <= 1.0
        assert line["reward"] == pytest.approx(line["accuracy"] + 0.5 * line["brier"], abs=1e-5)


def test_every_column_is_logged_by_its_name_and_weighs_what_it_should(folder, tmp_path):
    class Faceted(Letters):
        def grade(self, completion, example):
            score = super().grade(completion, example)
            return Score(score.value, score.passed, {"long": float(len(completion) > 3)})

    settings = RewardConfig(format_weight=0.5, format_pattern="[a-f]", parts={"long": 0.25})
    watched = RewardConfig(format_pattern="[a-f]", parts={"long": 0.0}, confidence_pattern="tag")
    job = make_job(folder, tmp_path / "a", grpo={"steps": 2}, weights={"rewards": settings}, grader=Faceted())
    for line in train(job).history:
        parts = 0.5 * line["reward/format"] + 0.25 * line["reward/part/long"]
        assert line["reward"] == pytest.approx(line["accuracy"] + parts, abs=1e-5)
        assert line["reward/part/long"] > 0
    job = make_job(folder, tmp_path / "b", grpo={"steps": 2}, weights={"rewards": watched}, grader=Faceted())
    plain = make_job(folder, tmp_path / "c", grpo={"steps": 2})
    result = train(job)
    assert {"reward/format", "reward/part/long", "brier"} <= set(result.history[0])
    assert hashes(result) == hashes(train(plain))  # columns of weight 0 change nothing


def test_a_completion_that_nobody_judged_teaches_nothing(folder, tmp_path):
    class Silent(Letters):
        may_fail = True

        def grade(self, completion, example):
            score = super().grade(completion, example)
            if len(self.seen) % 4 == 0:
                raise Unjudged("no verdict")
            return score

    job = make_job(folder, tmp_path / "some", grpo={"steps": 2}, grader=Silent())
    result = train(job)
    assert [line["reward/unjudged"] for line in result.history] == [0.25, 0.25]
    assert all(line["accuracy"] > 0 for line in result.history)


def test_a_brier_term_with_group_scaling_is_refused_in_the_words_of_the_config(folder, tmp_path):
    settings = RewardConfig(brier_weight=0.5)
    job = make_job(folder, tmp_path, grpo={"scale_rewards": "group"}, weights={"rewards": settings})
    with pytest.raises(ConfigError, match=r"weights\.grpo\.scale_rewards"):
        train(job)


def test_beta_measures_the_divergence_from_the_base(folder, tmp_path):
    history = train(make_job(folder, tmp_path, grpo={"steps": 3, "beta": 0.1})).history
    assert history[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the adapter starts at zero
    assert history[-1]["kl"] > 0


@pytest.mark.parametrize("loss", ["dr_grpo", "grpo", "bnpo"])
def test_every_loss_of_the_config_trains(folder, tmp_path, loss):
    assert train(make_job(folder, tmp_path, grpo={"steps": 1, "loss": loss})).checkpoints


def test_bfloat16_trains_on_a_cpu(tmp_path):
    folder = save_tiny(tmp_path / "tiny", dtype=torch.bfloat16)
    job = make_job(folder, tmp_path / "out", model={"dtype": "bfloat16"}, grpo={"steps": 2})
    result = train(job)
    check_adapter(result.checkpoints[-1][1].path, load(job).info.fingerprint)


def test_a_prompt_that_does_not_fit_is_named_and_never_cut(tmp_path):
    folder = save_tiny(tmp_path / "tiny", positions=10)
    with pytest.raises(TrainingError, match=r"example 'e0' needs 11 tokens, the model has 10 positions"):
        train(make_job(folder, tmp_path / "out"))


def test_a_module_that_is_not_there_is_refused(folder, tmp_path):
    lora = make_job(folder, tmp_path).weights.lora.model_copy(update={"target_modules": ("q_proj", "c_attn")})
    with pytest.raises(ConfigError, match="no module called 'c_attn'"):
        train(make_job(folder, tmp_path, weights={"lora": lora}))


def test_training_leaves_the_global_verbosity_and_the_terminal_alone(folder, tmp_path, capfd):
    import transformers

    transformers.logging.set_verbosity_info()
    try:
        load(make_job(folder, tmp_path))
        capfd.readouterr()
        train(make_job(folder, tmp_path, grpo={"steps": 2}))
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
    finally:
        transformers.logging.set_verbosity_warning()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
