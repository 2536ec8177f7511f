"""What hybrid relies on in TRL, transformers, accelerate and PEFT. An upgrade that changes any of it fails here, loudly.

One test per hook. Nothing here tests hybrid: a failure says which assumption of `hybrid/weights` has to be looked at.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import BatchSampler, DataLoader
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from weights_tiny import load, make_job, save_tiny

from hybrid.weights.schedule import Order, plain
from hybrid.weights.trl_common import DurableMixin, RowSampler

LORA = LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("contracts") / "tiny")


def arguments(out: Path, **changes: Any) -> GRPOConfig:
    settings = {
        "output_dir": str(out),
        "use_cpu": True,
        "bf16": False,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 4,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return GRPOConfig(**{**settings, **changes})


class Recorder(TrainerCallback):
    """The names of the events in the order in which they came, and what was in the log lines."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.logs: list[dict[str, Any]] = []

    def on_train_begin(self, args, state, control, **_):
        self.events.append(("train_begin", state.global_step))

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        assert any(p.grad is not None for p in model.parameters())
        self.events.append(("pre_optimizer_step", state.global_step))

    def on_step_end(self, args, state, control, **_):
        self.events.append(("step_end", state.global_step))

    def on_log(self, args, state, control, logs, **_):
        assert state.log_history[-1]["step"] == state.global_step
        self.events.append(("log", state.global_step))
        self.logs.append(dict(logs))

    def on_save(self, args, state, control, **_):
        assert (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "trainer_state.json").exists()
        self.events.append(("save", state.global_step))


class Spy(GRPOTrainer):
    """Plain TRL with its calls recorded."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.calls: list[tuple[str, Any]] = []
        super().__init__(*positional, **named)

    def _send_telemetry(self) -> None:
        self.calls.append(("telemetry", None))

    def create_model_card(self, *positional: Any, **named: Any) -> None:
        self.calls.append(("card", None))

    def _tokenize_prompts(self, prompts):
        found = super()._tokenize_prompts(prompts)
        self.calls.append(("tokenize", (list(prompts), found)))
        return found

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.calls.append(("rewards", found))
        return found

    def _generate_and_score_completions(self, inputs):
        found = super()._generate_and_score_completions(inputs)
        self.calls.append(("generated", (self.model.training, found)))
        return found

    def _save(self, output_dir=None, state_dict=None):
        self.calls.append(("save", output_dir))
        super()._save(output_dir, state_dict)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.calls.append(("training_step", self.state.global_step))
        return super().training_step(model, inputs, num_items_in_batch)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three steps of plain TRL, two forward passes each, everything recorded."""
    out = tmp_path_factory.mktemp("plain")
    loaded = load(make_job(folder, out))
    seen: list[dict[str, Any]] = []

    def letters(completions, completion_ids, **columns):
        seen.append({"completions": completions, "completion_ids": completion_ids, **columns})
        return [float(len(text)) for text in completions]

    rows = Dataset.from_dict({"prompt": [f"p{i} =" for i in range(4)], "row": list(range(4))})
    recorder = Recorder()
    trainer = Spy(
        model=loaded.model,
        reward_funcs=[letters],
        args=arguments(out, reward_weights=[2.0]),
        train_dataset=rows,
        processing_class=loaded.tokenizer,
        peft_config=LORA,
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {"trainer": trainer, "recorder": recorder, "rewards": seen, "out": out, "loaded": loaded}


def of(run: dict[str, Any], name: str) -> list[Any]:
    return [value for call, value in run["trainer"].calls if call == name]


def test_the_pinned_version_is_installed():
    assert trl.__version__.startswith("1.16.")
    assert int(transformers.__version__.split(".")[0]) == 5


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (GRPOTrainer._get_train_sampler, ["self", "dataset"]),
        (SFTTrainer._get_train_sampler, ["self", "train_dataset"]),
        (GRPOTrainer._tokenize_prompts, ["self", "prompts"]),
        (GRPOTrainer._calculate_rewards, ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        (GRPOTrainer._generate_and_score_completions, ["self", "inputs"]),
        (GRPOTrainer._save_checkpoint, ["self", "model", "trial"]),
        (SFTTrainer._save_checkpoint, ["self", "model", "trial"]),
        (GRPOTrainer._save, ["self", "output_dir", "state_dict"]),
        (GRPOTrainer._send_telemetry, ["self"]),
        (GRPOTrainer.log, ["self", "logs", "start_time"]),
        (GRPOTrainer.training_step, ["self", "model", "inputs", "num_items_in_batch"]),
    ],
)
def test_signatures_of_the_overridden_hooks(function, parameters):
    assert list(inspect.signature(function).parameters) == parameters


def test_every_override_still_overrides_something():
    own = {n for n, f in vars(DurableMixin).items() if inspect.isfunction(f)} - {"check_finite", "start_clock"}
    assert all(hasattr(GRPOTrainer, name) and hasattr(SFTTrainer, name) for name in own), own


def test_log_probabilities_come_from_one_method_with_these_leading_parameters():
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]


def test_reward_functions_get_ids_and_dataset_columns_in_group_order(run):
    first = run["rewards"][0]
    assert set(first) >= {"prompts", "completions", "completion_ids", "row", "trainer_state", "log_extra", "log_metric"}
    assert len(first["row"]) == len(first["completions"]) == len(first["completion_ids"]) == 8
    assert [first["row"][i : i + 4] for i in (0, 4)] == [[first["row"][i]] * 4 for i in (0, 4)]
    assert all(isinstance(text, str) for text in first["completions"])


def test_rewards_are_one_column_per_function_before_weights(run):
    table = of(run, "rewards")[0]
    assert table.shape == (8, 1)
    assert table[:, 0].tolist() == [float(len(text)) for text in run["rewards"][0]["completions"]]
    assert run["trainer"].reward_weights.tolist() == [2.0]


def test_completion_ids_end_with_the_first_end_token(run):
    end = run["loaded"].tokenizer.eos_token_id
    for batch in run["rewards"]:
        for ids in batch["completion_ids"]:
            assert end not in ids[:-1]
            assert ids[-1] == end or len(ids) == 4


def test_prompts_are_tokenised_once_per_generation_by_a_method_that_returns_lists(run):
    calls = of(run, "tokenize")
    assert len(calls) == 3
    prompts, (ids, images, fields) = calls[0]
    assert len(prompts) == len(ids) == 8
    assert (images, fields) == (None, {})
    assert all(isinstance(token, int) for token in ids[0])


def test_one_generation_per_optimiser_step_in_train_mode_without_old_log_probabilities(run):
    generated = of(run, "generated")
    assert len(generated) == 3
    assert len(of(run, "training_step")) == 6
    for training, output in generated:
        assert training
        assert "old_per_token_logps" not in output
        assert output["advantages"].shape == (8,)


def test_events_come_in_this_order(run):
    expected = [("train_begin", 0)]
    for step in (1, 2, 3):
        expected += [("pre_optimizer_step", step - 1), ("step_end", step), ("log", step)]
        expected += [("save", step)] if step in (2, 3) else []
    assert run["recorder"].events[: len(expected)] == expected


def test_log_lines_hold_the_keys_that_the_history_is_made_of(run):
    keys = {
        "loss",
        "grad_norm",
        "entropy",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/letters/mean",
        "completions/clipped_ratio",
        "completions/mean_length",
        "num_tokens",
    }
    for line in run["recorder"].logs[:3]:
        assert keys <= set(line)
    ids = run["rewards"][0]["completion_ids"]
    assert run["recorder"].logs[0]["completions/mean_length"] == pytest.approx(sum(map(len, ids)) / 8)


def test_token_counts_grow_over_steps_and_count_prompts_and_completions(run):
    counts = [line["num_tokens"] for line in run["recorder"].logs[:3]]
    prompts = [sum(len(ids) for ids in found[0]) for _, found in of(run, "tokenize")]
    answers = [sum(len(ids) for ids in batch["completion_ids"]) for batch in run["rewards"]]
    spent = [p + a for p, a in zip(prompts, answers, strict=True)]
    assert counts == [sum(spent[: i + 1]) for i in range(3)]


def test_a_checkpoint_holds_the_state_that_a_resume_needs(run):
    names = {path.name for path in (run["out"] / "checkpoint-2").iterdir()}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "adapter_config.json"} <= names
    assert "adapter_model.safetensors" in names
    assert (run["out"] / "checkpoint-3").is_dir()  # the last step is saved whatever save_steps says


def test_saving_goes_through_save_and_the_card_hook(run):
    assert of(run, "save") == [str(run["out"] / f"checkpoint-{step}") for step in (2, 3)]
    assert len(of(run, "card")) == 2
    assert len(of(run, "telemetry")) == 1


def test_the_adapter_is_called_default_and_starts_at_zero(folder, tmp_path):
    job = make_job(folder, tmp_path)
    loaded = load(job)
    rows = Dataset.from_dict({"prompt": ["a"]})
    trainer = Spy(loaded.model, lambda **_: [], arguments(tmp_path), rows, None, loaded.tokenizer, peft_config=LORA)
    assert list(trainer.model.peft_config) == ["default"]
    b = [p for name, p in trainer.model.named_parameters() if ".lora_B." in name]
    assert b
    assert not any(p.any() for p in b)
    assert all(".lora_" in name for name, p in trainer.model.named_parameters() if p.requires_grad)
    assert not any("lm_head" in name and ".lora_" in name for name, _ in trainer.model.named_parameters())


def test_every_declared_end_token_ends_a_completion(folder, tmp_path):
    loaded = load(make_job(folder, tmp_path))
    loaded.model.generation_config.eos_token_id = [3, 7]
    rows = Dataset.from_dict({"prompt": ["a"]})
    trainer = Spy(loaded.model, lambda **_: [], arguments(tmp_path), rows, None, loaded.tokenizer, peft_config=LORA)
    assert sorted(trainer.eos_token_ids) == [3, 7]
    assert sorted(trainer.generation_config.eos_token_id) == [3, 7]


def test_bf16_defaults_to_true_so_it_must_be_said(tmp_path):
    assert GRPOConfig(output_dir=str(tmp_path), use_cpu=True).bf16 is True
    assert SFTConfig(output_dir=str(tmp_path), use_cpu=True).bf16 is True
    assert GRPOConfig(output_dir=str(tmp_path), use_cpu=True).gradient_checkpointing is True


def test_steps_per_generation_follows_gradient_accumulation(tmp_path):
    config = arguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert (config.steps_per_generation, config.generation_batch_size, config.num_iterations) == (4, 8, 1)


def test_a_stateless_sampler_survives_sharding_and_skipping():
    """accelerate hands consecutive batches to consecutive processes, and skips whole batches on resume."""
    sampler = RowSampler(Order(plain(5), 3, 2, seed=1), repeat=2, passes=2)
    whole = list(sampler)
    assert len(whole) == len(sampler) == 3 * 2 * 2 * 2
    assert whole[:4] == whole[4:8]  # the same step, read once per pass
    shards = [list(BatchSamplerShard(BatchSampler(sampler, 2, False), 2, rank)) for rank in range(2)]
    assert [row for pair in zip(*shards, strict=True) for batch in pair for row in batch] == whole
    loader = skip_first_batches(DataLoader(list(range(5)), batch_size=4, sampler=sampler), 2)
    assert [int(x) for batch in loader for x in batch] == whole[8:]


def test_sft_takes_rows_that_are_tokenised_and_labelled_as_they_are(folder, tmp_path):
    loaded = load(make_job(folder, tmp_path))
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7], [8, 9]], "labels": [[-100, 6, 7], [-100, 9]]})
    config = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_length=None,
        completion_only_loss=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none",
        remove_unused_columns=False,
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(loaded.model, config, train_dataset=rows, processing_class=loaded.tokenizer, peft_config=LORA)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert batch["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    output = trainer.model(**batch, fused_lm_head=True)
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.log_softmax(logits, -1)[0, :-1].gather(1, batch["input_ids"][0, 1:, None])[:, 0]
    assert torch.allclose(output.log_probs[0, -2:], expected, atol=1e-5)
