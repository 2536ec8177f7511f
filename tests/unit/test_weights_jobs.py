"""Identity of a job: everything that matters changes it, nothing else does; settings that cannot be trained are refused."""

import dataclasses
from pathlib import Path

import pytest

from hybrid.capability.types import Example, Score
from hybrid.config.monitors import AlarmActions, FormatPattern, MonitorsConfig
from hybrid.config.schema import (
    DistillConfig,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    RewardConfig,
    SftConfig,
    WarmStartConfig,
    WeightsConfig,
)
from hybrid.errors import ConfigError
from hybrid.weights.base import TrainJob
from hybrid.weights.jobs import base_label, check_job, job_identity, machine_identity, processes
from hybrid.weights.schedule import plain


class Grader:
    """A grader with a fingerprint of its own."""

    def __repr__(self) -> str:
        return "Grader"  # the name of a test may not hold an address: workers have to collect the same names

    def __init__(self, name="exact"):
        self.name = name

    def grade(self, completion, example):
        return Score(0.0, False)

    def fingerprint(self):
        return self.name


def make_job(method="grpo", model=None, weights=None, **changes):
    examples = tuple(Example(id=f"e{i}", prompt=f"p{i}", reference=str(i)) for i in range(4))
    job = TrainJob(
        capability="cap",
        examples=examples,
        skill="",
        stages=plain(4),
        grader=Grader(),
        model=ModelConfig(path="reference", **(model or {})),
        weights=WeightsConfig(**(weights or {})),
        max_new_tokens=8,
        seed=0,
        out=Path("out"),
        method=method,
    )
    return dataclasses.replace(job, **changes)


CHANGES = [
    {"capability": "other"},
    {"skill": "read this"},
    {"stages": ((1, 0, 2, 3),)},
    {"stages": ((0, 1), (2, 3))},
    {"grader": Grader("numeric")},
    {"max_new_tokens": 9},
    {"seed": 1},
    {"method": "sft"},
    {"examples": tuple(Example(id=f"e{i}", prompt=f"p{i}", reference="x") for i in range(4))},
    {"model": {"dtype": "bfloat16"}},
    {"model": {"chat": True}},
    {"model": {"end_of_answer": ";"}},
    {"model": {"skill_separator": "\n\n"}},
    {"model": {"revision": "abc"}},
    {"model": {"gguf_file": "a.gguf"}},
    {"weights": {"grpo": GrpoConfig(learning_rate=1.0)}},
    {"weights": {"grpo": GrpoConfig(steps=7)}},
    {"weights": {"grpo": GrpoConfig(temperature=0.5)}},
    {"weights": {"grpo": GrpoConfig(beta=0.1)}},
    {"weights": {"grpo": GrpoConfig(generations=4)}},
    {"weights": {"grpo": GrpoConfig(prompts_per_step=4)}},
    {"weights": {"grpo": GrpoConfig(loss="grpo")}},
    {"weights": {"grpo": GrpoConfig(scale_rewards="batch")}},
    {"weights": {"lora": LoraConfig(rank=4)}},
    {"weights": {"lora": LoraConfig(alpha=4)}},
    {"weights": {"lora": LoraConfig(rslora=False)}},
    {"weights": {"lora": LoraConfig(target_modules=("q_proj",))}},
    {"weights": {"rewards": RewardConfig(brier_weight=0.5)}},
    {"weights": {"checkpoint_every": 7}},
    {"weights": {"warm_start": WarmStartConfig(steps=2)}},
    {"weights": {"rows_per_device": 4}},
    {"weights": {"monitors": MonitorsConfig(entropy_floor=0.5)}},
    {"weights": {"monitors": MonitorsConfig(on_alarm=AlarmActions(kl="stop"))}},
    {"weights": {"monitors": MonitorsConfig(formats=(FormatPattern(name="a", pattern="x"),))}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_change_that_matters_changes_the_identity(change):
    assert job_identity(make_job(**change)) != job_identity(make_job())


def test_what_does_not_matter_leaves_the_identity_alone():
    same = make_job(
        out=Path("elsewhere"),
        model={"threads": 3, "device": "cpu"},
        weights={"sft": SftConfig(steps=3)},  # another method's section
    )
    same = dataclasses.replace(same, model=same.model.model_copy(update={"path": "/somewhere/else"}))
    assert job_identity(same) == job_identity(make_job())
    with_sft = {"sft": SftConfig(steps=3)}
    assert job_identity(make_job("sft", weights=with_sft)) != job_identity(make_job("sft"))
    assert job_identity(make_job("sft", weights={"grpo": GrpoConfig(beta=0.2)})) == job_identity(make_job("sft"))


def test_a_distillation_is_its_document_its_answers_and_its_section():
    job = make_job("distill", teacher="read this")
    same = dataclasses.replace(job, weights=WeightsConfig(sft=SftConfig(steps=3), grpo=GrpoConfig(steps=3)))
    assert job_identity(same) == job_identity(job)
    first, *others = job.examples
    for changed in (
        dataclasses.replace(job, teacher="read that"),
        dataclasses.replace(job, examples=(first.model_copy(update={"gold": "y"}), *others)),
        dataclasses.replace(job, weights=WeightsConfig(distill=DistillConfig(targets="logits"))),
    ):
        assert job_identity(changed) != job_identity(job)
    assert {"teacher", "completions", "weights.distill.top_k"} <= set(job_identity(job))
    assert not {"teacher", "completions"} & set(job_identity(make_job("sft")))


def test_identity_names_fields_by_their_config_keys():
    identity = job_identity(make_job())
    assert identity["weights.grpo.learning_rate"] == 2e-5
    assert {"weights.lora.rank", "model.dtype", "examples", "weights.rewards.brier_weight"} <= set(identity)
    assert machine_identity(2)["processes"] == 2
    assert machine_identity(1)["versions.trl"].startswith("1.16")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (
            {"weights": {"grpo": GrpoConfig(scale_rewards="group"), "rewards": RewardConfig(brier_weight=0.5)}},
            "weights.grpo.scale_rewards",
        ),
        (
            {"weights": {"grpo": GrpoConfig(scale_rewards="batch"), "rewards": RewardConfig(brier_weight=0.5)}},
            "weights.grpo.scale_rewards",
        ),
        ({"weights": {"monitors": MonitorsConfig(classifier="no_such:tell")}}, "weights.monitors.classifier"),
        ({"model": {"dtype": "float16"}}, "model.dtype"),
        ({"weights": {"lora": LoraConfig(target_modules=("q_proj", "lm_head"))}}, "weights.lora.target_modules"),
        ({"examples": ()}, "capabilities"),
        ({"stages": ((0, 4),)}, "weights.schedule"),
        ({"stages": ((0, 1), ())}, "weights.schedule"),
        ({"stages": ()}, "weights.schedule"),
        ({"method": "distill"}, "weights.method"),
        ({"method": "distill", "teacher": "read this", "skill": "read this"}, "weights.method"),
    ],
)
def test_settings_that_cannot_be_trained_are_named(change, key):
    with pytest.raises(ConfigError, match=key) as caught:
        check_job(make_job(**change))
    assert all(problem.fix for problem in caught.value.problems)


def test_group_scaling_is_allowed_without_a_brier_term_and_for_sft():
    check_job(make_job(weights={"grpo": GrpoConfig(scale_rewards="group")}))
    weights = {"grpo": GrpoConfig(scale_rewards="group"), "rewards": RewardConfig(brier_weight=0.5)}
    check_job(make_job("sft", weights=weights))


def test_the_base_is_named_without_the_users_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert base_label("reference") == "reference"
    assert base_label("org/name") == "org/name"
    assert base_label(str(tmp_path / "models" / "mine")) == "mine"
    assert base_label("models/mine") == base_label("./models/mine") == base_label("~/mine") == "mine"


def test_processes_come_from_the_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes() == (1, 2)
