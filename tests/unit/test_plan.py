"""The plan: hand-counted formulas, honest warnings, and upper bounds that a real optimisation does not exceed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from hybrid.capability.types import Example
from hybrid.config.loader import LoadedConfig, load_config
from hybrid.config.schema import (
    DistillConfig,
    GrpoConfig,
    SearchGateConfig,
    SftConfig,
    ShipGateConfig,
    SkillConfig,
    TreeConfig,
    WarmStartConfig,
    WeightsConfig,
)
from hybrid.errors import DataError
from hybrid.evidence.power import examples_needed, minimum_detectable_effect, power
from hybrid.pipeline.plan import evidence, plan, render
from hybrid.pipeline.plan_cost import (
    Estimate,
    Sizes,
    expected_work,
    first_trials,
    probe_calls,
    reflection_trials,
    ship_calls,
    skill_calls,
    total,
    training_completions,
    training_steps,
    verify_calls,
    weights_calls,
)
from hybrid.skill.proposer import OfflineProposer
from hybrid.skill.reflection import RolloutView
from hybrid.skill.skillopt import optimise
from hybrid.skill.task import SkillTask
from hybrid.skill.vocabulary import parse_vocabulary

SPLITS = {"train": 20, "search": 40, "confirm": 50, "test": 60, "variant": 30}


def test_a_tree_search_is_planned_by_its_leaves():
    def tree(**changes: object) -> WeightsConfig:
        grpo = GrpoConfig(steps=10, prompts_per_step=4, generations=6)
        return WeightsConfig(method="tree", grpo=grpo, sft=SftConfig(steps=30), tree=TreeConfig(**changes))

    dense, best = tree(), tree(use="best_leaf")
    assert (training_steps(dense), training_completions(dense, train=20)) == (10, 240)
    assert (training_steps(best), training_completions(best, train=20)) == (30, 120)  # 20 rows, six leaves each
    assert dense.title == "tree search, advantages by step" and best.title == "tree search, fine-tuning on best leaves"
    with pytest.raises(ValueError, match="supervised from its first step"):
        tree_with_warm_start = {"method": "tree", "tree": {"use": "best_leaf"}, "warm_start": {"steps": 2}}
        WeightsConfig.model_validate(tree_with_warm_start)


def write_project(folder: Path, names: Sequence[str] = ("add",), **extra: object) -> LoadedConfig:
    """A configuration with one folder of sums per capability."""
    capabilities = []
    for name in names:
        data = folder / name
        data.mkdir()
        for split, n in SPLITS.items():
            offset = 1000 * list(SPLITS).index(split)
            rows = [
                {"id": f"{split}-{i}", "prompt": f"{i + offset}+{i}=", "reference": str(2 * i + offset)}
                for i in range(n)
            ]
            (data / f"{split}.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
        capabilities.append({"name": name, "source": {"type": "jsonl", "path": name}, "grader": {"type": "exact"}})
    config = {"name": "demo", "model": {"path": "model"}, "capabilities": capabilities, **extra}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return load_config(path)


def row(rows, what):
    return next(r for r in rows if r.what == what)


def test_the_probe_is_counted_by_hand(tmp_path):
    config = write_project(tmp_path).config
    rows = probe_calls(config, Sizes(20, 40, 50, 60, 30), texts=2)
    assert row(rows, "greedy").upper == 40  # probe.examples is 64, search holds 40
    assert row(rows, "samples").upper == 40 * 8
    assert row(rows, "texts and control").upper == 40 * 3
    assert row(rows, "draft: training rows").upper == 20
    assert row(rows, "variants").upper == 30
    assert row(rows, "known-ness in contexts").upper == 2 * 32
    assert row(rows, "paraphrases").upper == 0  # all of search is probed already


def test_training_is_counted_by_hand(tmp_path):
    grpo = WeightsConfig(grpo=GrpoConfig(steps=60, prompts_per_step=4, generations=8), checkpoint_every=25)
    sft = WeightsConfig(method="sft", sft=SftConfig(steps=70))
    assert (training_steps(grpo), training_completions(grpo)) == (60, 60 * 32)
    assert (training_steps(sft), training_completions(sft)) == (70, 0)
    warm = WeightsConfig(grpo=GrpoConfig(steps=60), warm_start=WarmStartConfig(steps=9))
    distill = WeightsConfig(method="distill", distill=DistillConfig(steps=30, samples=3))
    assert (training_steps(warm), training_steps(distill), training_completions(distill)) == (69, 30, 0)
    (tmp_path / "taught").mkdir()
    taught = write_project(tmp_path / "taught", weights=distill.model_dump(mode="json")).config
    assert row(weights_calls(taught, Sizes(20, 40, 50, 60, 30)), "teacher's answers").upper == 60
    config = write_project(tmp_path, weights=grpo.model_dump(mode="json")).config
    rows = weights_calls(config, Sizes(20, 40, 50, 60, 30))
    assert total(rows) == Estimate(typical=1920 + 3 * 40 + 40, upper=1920 + 3 * 40 + 2 * 40)


def test_shipping_and_verifying_are_counted_by_hand():
    sizes = Sizes(20, 40, 50, 60, 30, others=(100, 10))
    two = Estimate(typical=1, upper=2)
    none, one = Estimate(typical=0, upper=0), Estimate(typical=1, upper=1)
    assert total(ship_calls(sizes, two, none, 4)) == Estimate(typical=80 * 2, upper=80 * 3)
    assert total(ship_calls(sizes, none, none, 4)).upper == 0
    assert row(ship_calls(sizes, two, one, 4), "worth of edits").upper == 4 * 50
    found = verify_calls(sizes, two, collateral_examples=48)
    assert total(found) == Estimate(typical=120, upper=30 + 60 * 3 + 2 * 58)


@pytest.mark.parametrize(
    ("router", "expected"),
    [
        ({}, ((1, 1), (1, 1), (1, 2))),
        ({"force": {"add": "keep"}}, ((0, 0), (0, 0), (0, 0))),
        ({"force": {"add": "skill"}}, ((1, 1), (0, 0), (1, 1))),
        ({"force": {"add": "both"}}, ((1, 1), (1, 1), (2, 2))),
        ({"counterfactual": True}, ((1, 1), (2, 2), (3, 3))),
    ],
)
def test_expected_work_follows_the_router(tmp_path, router, expected):
    work = expected_work(write_project(tmp_path, router=router).config, "add")
    assert tuple((e.typical, e.upper) for e in (work.documents, work.trainings, work.arms)) == expected


@pytest.mark.parametrize(
    ("router", "expected"),
    [
        ({}, ((1, 1), (1, 1), (2, 2))),
        ({"force": {"add": "keep"}}, ((0, 0), (0, 0), (0, 0))),
        ({"force": {"add": "weights"}}, ((1, 1), (1, 1), (2, 2))),
        ({"counterfactual": True}, ((1, 1), (1, 1), (2, 2))),
    ],
)
def test_a_distillation_needs_the_document_too(tmp_path, router, expected):
    work = expected_work(write_project(tmp_path, router=router, weights={"method": "distill"}).config, "add")
    assert tuple((e.typical, e.upper) for e in (work.documents, work.trainings, work.arms)) == expected


def test_a_reflection_screens_no_more_than_its_topics():
    sizes = Sizes(20, 40, 50, 60, 30, drafts=10, topics=100, topics_per_row=2)
    assert reflection_trials(2, 4, sizes, trials=3) == (4 * 49 + 4 * 8) * 3  # 5 * 10 + 8 drafts are cut to 48
    assert reflection_trials(50, 4, sizes, trials=3) == (9 * 49 + 4 * 8) * 3
    assert first_trials(sizes, trials=4) == 100 * 10 * 2
    assert first_trials(sizes, trials=12) == 100 * 10 * 6


def test_evidence_repeats_what_power_says():
    policy = ShipGateConfig(minimum_effect=0.1)
    found = evidence(100, 4, policy)
    assert found.alone.effect == minimum_detectable_effect(100, 0.05, 0.8)
    assert found.worst_case.effect == minimum_detectable_effect(100, 0.0125, 0.8)
    assert found.alone.power == power(100, 0.1, 0.05)
    assert found.worst_case.needed == examples_needed(0.1, 0.0125, 0.8)
    assert evidence(100, 4, ShipGateConfig(minimum_effect=0.98)).alone.needed < 20


def test_the_plan_adds_up_and_is_json(tmp_path):
    loaded = write_project(tmp_path, ["add", "more"], budget={"calls": 10, "tokens": 10**9})
    found = plan(loaded)
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert type(found).model_validate_json(text) == found
    stages = [s for c in found.capabilities for s in c.stages]
    assert [s.stage for s in found.capabilities[0].stages] == ["probe", "skill", "weights", "ship", "verify"]
    assert found.calls.upper == sum(r.upper for s in stages for r in s.rows)
    assert found.calls.typical == sum(r.typical for s in stages for r in s.rows)
    assert all(r.typical <= r.upper for s in stages for r in s.rows)
    assert all(s.tokens.typical <= s.tokens.upper for s in stages)
    assert found.training_steps == Estimate(typical=200, upper=200)
    assert found.capabilities[0].splits == SPLITS
    assert found.capabilities[0].evidence is not None and found.capabilities[0].evidence.family == 4


def test_warnings_name_small_confirm_splits_and_small_budgets(tmp_path):
    found = plan(write_project(tmp_path, budget={"calls": 10, "tokens": 10**9}))
    small, budget = found.warnings
    assert small.startswith("add: 50 confirm examples cannot show a gain of +0.05 alone") and "398 examples" in small
    assert "budget.calls: 10 is below even the typical" in budget and "exit code 3" in budget
    for warning in found.warnings:
        assert f"warning: {warning}" in render(found)


def test_a_large_enough_minimum_effect_is_warned_about_only_for_the_correction(tmp_path):
    ship = {"minimum_effect": 0.2}
    assert "as the hardest of 2 tests" in plan(write_project(tmp_path, gate={"ship": ship})).warnings[0]
    (tmp_path / "b").mkdir()
    alone = write_project(tmp_path / "b", gate={"ship": {**ship, "multiplicity": "none"}})
    assert plan(alone).warnings == ()


def test_a_capability_that_builds_nothing_is_not_warned_about(tmp_path):
    found = plan(write_project(tmp_path, router={"force": {"add": "keep"}}))
    assert found.capabilities[0].evidence is None and found.warnings == ()
    assert "nothing is tested to ship" in render(found)


def test_tokens_are_characters_by_four_unless_a_tokenizer_counts(tmp_path):
    loaded = write_project(tmp_path)
    rough, exact = plan(loaded), plan(loaded, count_tokens=len)
    assert "characters / 4" in rough.tokens_from and "tokenizer" in exact.tokens_from
    assert exact.tokens.typical > rough.tokens.typical
    assert exact.calls == rough.calls


def test_broken_data_are_reported_and_not_planned(tmp_path):
    loaded = write_project(tmp_path)
    (tmp_path / "add" / "search.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(DataError):
        plan(loaded)


def write_model(folder: Path) -> None:
    """Headers of a model with one layer: 10 x 8 embeddings and one 8 x 8 projection."""
    folder.mkdir()
    config = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 10}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {"embed_tokens.weight": [10, 8], "layers.0.q_proj.weight": [8, 8]}
    header = {k: {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for k, s in tensors.items()}
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)


def test_memory_is_told_from_file_headers(tmp_path):
    write_model(tmp_path / "model")
    loaded = write_project(tmp_path)
    found = plan(loaded).memory
    assert found.parameters == 80 + 64 and found.weights_mib == 1
    assert found.train_mib is not None and found.generate_mib is not None and found.train_mib >= found.weights_mib
    assert "MiB" in render(plan(loaded))


@pytest.mark.parametrize("content", [b"", b"\xff" * 12, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2**60)])
def test_memory_of_an_unreadable_model_is_not_known(tmp_path, content):
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    found = plan(write_project(tmp_path)).memory
    assert found.weights_mib is None and found.note.startswith("not known")


VOCABULARY = """
slots: ["^q (?P<name>[A-Z][a-z]+)"]
rules: ["rule {name}: alpha.", "rule {name}: beta.", "rule {name}: gamma.", "Be brief."]
facts: ["fact {name}: {reference}."]
"""


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_optimisation_stays_within_the_upper_bound(epochs):
    names = ["Kar", "Lim", "Mon", "Nat"]
    truth = dict(zip(names, ["alpha", "beta", "gamma", "beta"], strict=True))

    def examples(split: str, n: int) -> tuple[Example, ...]:
        return tuple(
            Example(id=f"{split}{i}", prompt=f"q {names[i % 4]} {i}", reference=f"answer number {i}") for i in range(n)
        )

    paid: set[tuple[str, str]] = set()

    def measure(body: str, rows: Sequence[Example], split: str) -> list[RolloutView]:
        paid.update((body, e.id) for e in rows)
        right = [f"rule {e.prompt_text.split()[1]}: {truth[e.prompt_text.split()[1]]}." in body for e in rows]
        return [RolloutView(e, "", float(r), r) for e, r in zip(rows, right, strict=True)]

    config = SkillConfig(epochs=epochs, batch=16, minibatch=4)
    vocabulary = parse_vocabulary(VOCABULARY, "words.yaml")
    train, search = examples("train", 40), examples("search", 48)
    result = optimise(
        SkillTask(
            capability="q",
            train=train,
            search=search,
            seed_body="",
            config=config,
            gate=SearchGateConfig(part=8),
            proposer=OfflineProposer(vocabulary, config.proposer.trials, 0),
            measure=measure,
            count_tokens=lambda text: len(text) // 4,
            seed=0,
        )
    )
    assert result.accepted, "the world is easy: something must have been learnt, or the bound is not tried"
    sizes = Sizes(40, 48, 0, 0, 0, drafts=4 + 3, topics=5, topics_per_row=2)
    rows = skill_calls(config, 8, sizes)
    on_search = sum(e.startswith("search") for _, e in paid)
    assert on_search <= sum(row(rows, w).upper for w in ("start on search", "gate", "deletion pass"))
    assert len(paid) <= total(rows).upper


def test_planning_loads_no_model_library():
    code = (
        "import sys, hybrid.pipeline.plan; print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


JUDGE = {"type": "judge", "url": "http://127.0.0.1:9/v1", "model": "m", "rubric": "Is it right?"}


def judged_project(folder: Path, names: Sequence[str] = ("add",), **grader: object) -> LoadedConfig:
    loaded = write_project(folder, names)
    data = yaml.safe_load(loaded.path.read_text(encoding="utf-8"))
    data["capabilities"][0]["grader"] = JUDGE | grader
    loaded.path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_config(loaded.path)


def test_every_answer_goes_to_the_judge_once_and_twice_at_most(tmp_path):
    planned = plan(judged_project(tmp_path))
    row = planned.capabilities[0]
    assert row.judge == planned.judge_calls == Estimate(typical=planned.calls.typical, upper=2 * planned.calls.upper)
    assert "its judge is asked" in render(planned) and "requests to judges" in render(planned)
    short = next(w for w in planned.warnings if w.startswith("capabilities.add.grader.budget.calls: 5,000 is below"))
    assert "may stop" in short or "will stop" in short
    assert not any("grader.budget" in w for w in plan(judged_wide(tmp_path)).warnings)


def judged_wide(folder: Path) -> LoadedConfig:
    (folder / "wide").mkdir()
    return judged_project(folder / "wide", budget={"calls": 10**9})


def test_a_check_stops_some_and_changes_of_others_are_judged_too(tmp_path):
    (tmp_path / "checked").mkdir()
    (tmp_path / "two").mkdir()
    alone = plan(judged_project(tmp_path / "checked", check={"type": "exact"}))
    assert alone.judge_calls.typical == -(-alone.calls.typical // 2)
    planned = plan(judged_project(tmp_path / "two", ("add", "more")))
    first, second = planned.capabilities
    rows = [r for s in first.stages for r in s.rows if not r.what.startswith("collateral")]
    assert first.judge.upper == 2 * (total(rows).upper + 2 * 40), (
        "the base and the other's change, on 40 examples of search"
    )
    assert second.judge is None


def test_without_a_judge_none_is_asked(tmp_path):
    planned = plan(write_project(tmp_path))
    assert planned.judge_calls.upper == 0 and "judge" not in render(planned)
