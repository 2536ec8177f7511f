"""The fast ways of a GRPO step: same update as TRL's for the same completions, same bytes after a resume, a way back."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl import GRPOTrainer
from weights_tiny import Letters, hashes, interrupted, load, make_job, save_tiny, train, without_seconds

from hybrid.capability.types import Example, Score
from hybrid.weights import engine, trl_grpo
from hybrid.weights.engine import EngineMixin
from hybrid.weights.rollouts import roll_out, row_seeds

SKILL = "abcd efg hij klm nop qrs tuv wxyz 0123456789 " * 2


class SomeSilent(Letters):
    """As `Letters`, but the rows whose prompt holds an x earn nothing, whatever they say."""

    def grade(self, completion: str, example: Example) -> Score:
        return Score(0.0, False) if "x" in str(example.prompt) else super().grade(completion, example)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("engine") / "tiny", positions=160)


class Seen:
    """What a training did: gradients before every update, completions, and what updates scored, packed (tokens) or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gradients: list[torch.Tensor] = []
        self.completions: list[list[list[int]]] = []
        self.packed: list[int] = []
        self.plain = 0
        self.updating = False
        loss = EngineMixin._compute_loss
        check, turn = trl_grpo.HybridGrpo.check_finite, EngineMixin._generate_single_turn
        pack, plain = engine.score_packed, GRPOTrainer._get_per_token_logps_and_entropies
        seen = self

        def checked(trainer):
            seen.gradients.append(
                torch.cat([p.grad.flatten().clone() for n, p in trainer.model.named_parameters() if p.grad is not None])
            )
            check(trainer)

        def turned(trainer, *arguments, **options):
            ids, logps = turn(trainer, *arguments, **options)
            seen.completions.append(ids)
            return ids, logps

        def packed(model, layout, *rest):
            if seen.updating:
                seen.packed.append(len(layout.tokens))
            return pack(model, layout, *rest)

        def lost(trainer, *arguments):
            seen.updating = True
            found = loss(trainer, *arguments)
            seen.updating = False
            return found

        def plainly(*arguments, **options):
            seen.plain += seen.updating
            return plain(*arguments, **options)

        monkeypatch.setattr(trl_grpo.HybridGrpo, "check_finite", checked)
        monkeypatch.setattr(EngineMixin, "_generate_single_turn", turned)
        monkeypatch.setattr(EngineMixin, "_compute_loss", lost)
        monkeypatch.setattr(engine, "score_packed", packed)
        monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", plainly)


def both(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_changes: dict
) -> tuple[Seen, Seen, list, list]:
    """A job by the fast ways, then by TRL's with the completions of the first; with their histories."""
    grpo = {"steps": 2, "learning_rate": 1e-4, **job_changes.pop("grpo", {})}
    with monkeypatch.context() as patch:
        fast = Seen(patch)
        job = make_job(folder, tmp_path / "fast", skill=SKILL, grpo=grpo, **job_changes)
        found = train(job)
    assert not found.warnings
    assert fast.packed
    with monkeypatch.context() as patch:
        given = iter(fast.completions)
        patch.setattr(GRPOTrainer, "_generate_single_turn", lambda *_, **__: (next(given), None))
        plain = Seen(patch)
        job = make_job(folder, tmp_path / "plain", skill=SKILL, grpo={**grpo, "engine": "plain"}, **job_changes)
        expected = train(job)
    assert not plain.packed
    return fast, plain, list(found.history), list(expected.history)


def assert_equal_updates(fast: Seen, plain: Seen, found: list, expected: list) -> None:
    assert fast.completions == plain.completions
    for a, b in zip(fast.gradients, plain.gradients, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-3
    for a, b in zip(found, expected, strict=True):
        keys = set(a) - {"seconds"}
        assert keys == set(b) - {"seconds"}
        assert {k: a[k] for k in keys} == pytest.approx({k: b[k] for k in keys}, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "grpo", "bnpo"])
def test_one_step_updates_as_trl_does(folder, tmp_path, monkeypatch, loss):
    assert_equal_updates(*both(folder, tmp_path, monkeypatch, {"grpo": {"loss": loss, "temperature": 0.8}}))


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo", "grpo", "bnpo"])
def test_silent_groups_keep_their_place_in_every_mean_and_cost_nothing(folder, tmp_path, monkeypatch, loss):
    changes = {"grader": SomeSilent(), "grpo": {"loss": loss, "prompts_per_step": 4}}
    fast, plain, found, expected = both(folder, tmp_path, monkeypatch, changes)
    assert_equal_updates(fast, plain, found, expected)
    assert all(0 < line["frac_reward_zero_std"] < 1 for line in found)
    # At most the skill once, the ends of four prompts, and completions of three groups of four.
    assert all(tokens <= 96 + 4 * 24 + 12 * 6 for tokens in fast.packed)
    assert (len(fast.packed), fast.plain) == (2, 0)


def test_with_kl_silent_groups_stay_because_they_have_a_gradient(folder, tmp_path, monkeypatch):
    changes = {"grader": SomeSilent(), "grpo": {"beta": 0.1, "prompts_per_step": 4, "learning_rate": 1e-2}}
    fast, plain, found, expected = both(folder, tmp_path, monkeypatch, changes)
    assert_equal_updates(fast, plain, found, expected)


def test_where_every_group_is_silent_the_gradient_is_zero_and_nothing_is_scored(folder, tmp_path, monkeypatch):
    grader = Letters()
    grader.grade = lambda *_: Score(0.5, False)
    seen = Seen(monkeypatch)
    train(make_job(folder, tmp_path, skill=SKILL, grader=grader))
    assert len(seen.gradients) == 2  # it stops for want of signal
    assert not any(bool(g.any()) for g in seen.gradients)
    assert (seen.packed, seen.plain) == ([], 0)


def test_accumulation_changes_nothing(folder, tmp_path, monkeypatch):
    changes = {"grader": SomeSilent(), "grpo": {"prompts_per_step": 4}, "weights": {"rows_per_device": 8}}
    fast, plain, found, expected = both(folder, tmp_path, monkeypatch, changes)
    for a, b in zip(fast.gradients, plain.gradients, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-3
    assert [line["entropy"] for line in found] == pytest.approx([line["entropy"] for line in expected], rel=1e-3)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_resumed_job_ends_with_the_same_bytes(folder, tmp_path, after):
    def job(name):
        weights = {"rows_per_device": 8}
        grpo = {"prompts_per_step": 4}
        return make_job(folder, tmp_path / name, skill=SKILL, grader=SomeSilent(), weights=weights, grpo=grpo)

    whole = train(job("whole"))
    interrupted(job("again"), after)
    resumed = train(job("again"))
    assert not whole.warnings
    assert hashes(resumed) == hashes(whole)
    assert without_seconds(resumed) == without_seconds(whole)


def test_rollouts_do_not_depend_on_torch_s_random_numbers(folder, tmp_path, monkeypatch):
    seen = []
    for start in (1, 2):
        with monkeypatch.context() as patch:
            found = Seen(patch)
            torch.manual_seed(start)
            job = make_job(folder, tmp_path / str(start), skill=SKILL, grpo={"steps": 1})
            train(job)
            seen.append(found.completions)
    assert seen[0] == seen[1]
    assert len({tuple(ids) for ids in seen[0][0][:4]}) > 1  # a group's completions differ


def test_rollouts_follow_the_policy_s_distribution(folder, tmp_path):
    """First tokens of many rows against the plain model's probabilities; entropies against theirs."""
    loaded = load(make_job(folder, tmp_path))
    prompt = loaded.tokenizer("ab1 =")["input_ids"]
    count = 4000
    options = {"max_new_tokens": 1, "stop_ids": (), "temperature": 0.7}
    found = roll_out(loaded.model, [prompt] * count, row_seeds(0, 0, 0, count), **options)
    with torch.no_grad():
        p = torch.softmax(loaded.model(torch.tensor([prompt])).logits[0, -1] / 0.7, -1)
    counted = torch.bincount(torch.tensor([ids[0] for ids in found.ids]), minlength=len(p)) / count
    assert float((counted - p).abs().max()) < 4 * float((p * (1 - p) / count).sqrt().max())
    assert found.entropies[0][0] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)


def test_folding_the_adapter_changes_neither_tokens_nor_the_base(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hybrid.weights.rollouts._BLOCK", 8)  # the output layer has 44 rows
    loaded = load(make_job(folder, tmp_path))
    policy = get_peft_model(loaded.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.3)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    prompts, seeds = [loaded.tokenizer("ab1 =")["input_ids"]] * 16, row_seeds(0, 0, 0, 16)
    options = {"max_new_tokens": 12, "stop_ids": (), "temperature": 1.0}
    one, two = (roll_out(policy, prompts, seeds, fold=fold, **options) for fold in (True, False))
    with policy.disable_adapter():
        bare = roll_out(policy, prompts, seeds, **options)
    assert one.ids == two.ids != bare.ids
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
    replaced = [module for module in policy.modules() if "forward" in vars(module)]
    assert not any("lora" in type(m).__module__ or m is policy.get_output_embeddings() for m in replaced)


def test_rows_end_at_a_stop_token_and_entropies_go_with_them(folder, tmp_path):
    loaded = load(make_job(folder, tmp_path))
    prompts = [loaded.tokenizer(text)["input_ids"] for text in ("ab =", "c9 =", "ab =", "zzz =") * 8]
    options = {"max_new_tokens": 40, "stop_ids": loaded.stop_ids, "temperature": 1.0}
    found = roll_out(loaded.model, prompts, row_seeds(0, 0, 0, 32), **options)
    assert [len(ids) for ids in found.ids] == [len(e) for e in found.entropies]
    assert {ids[-1] for ids in found.ids if len(ids) < 40} == set(loaded.stop_ids)
    assert len({len(ids) for ids in found.ids}) > 3
    alone = roll_out(loaded.model, prompts[5:6], row_seeds(0, 0, 5, 1), **options)
    assert alone.ids[0] == found.ids[5]  # whatever else is in the batch


def test_a_model_that_fails_the_trials_is_trained_by_trl_s_ways_and_the_result_says_why(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.prefix, "check", lambda _: ("its scores differ", 0))
    original = engine.score_packed
    monkeypatch.setattr(
        engine, "score_packed", lambda *a: tuple(t * 1.5 for t in original(*a))
    )  # a gradient half as long again
    result = train(make_job(folder, tmp_path / "job", skill=SKILL))
    packing, rollouts = result.warnings
    assert rollouts == "rollouts by TRL's own way: its scores differ"
    assert packing.startswith("packing by TRL's own way: on a trial its log-probabilities differ by")
    monkeypatch.undo()
    plain = train(make_job(folder, tmp_path / "plain", skill=SKILL, grpo={"engine": "plain"}))
    assert hashes(result)[0][0] == hashes(plain)[0][0] == 2
    assert not plain.warnings


def test_what_was_given_up_stays_given_up_after_a_resume(folder, tmp_path, monkeypatch):
    """Otherwise the second half of a training would sample in another way than the first."""

    def job(name):
        return make_job(folder, tmp_path / name, skill=SKILL)

    with monkeypatch.context() as patch:
        patch.setattr(engine.prefix, "check", lambda _: ("its scores differ; really", 0))
        whole = train(job("whole"))
        interrupted(job("again"), 3)
    resumed = train(job("again"))
    assert resumed.warnings == whole.warnings
    assert hashes(resumed) == hashes(whole)


def test_who_samples_otherwise_still_updates_packed(folder, tmp_path, monkeypatch):
    """A trainer whose completions come from elsewhere overrides `_generate_single_turn` alone."""

    class Elsewhere(trl_grpo.HybridGrpo):
        def _generate_single_turn(self, prompt_ids, *_, **__):
            return [[5 + i % 3, 6, 7 + i % 5] for i in range(len(prompt_ids))], None

    seen = Seen(monkeypatch)
    monkeypatch.setattr(trl_grpo, "HybridGrpo", Elsewhere)
    result = train(make_job(folder, tmp_path, skill=SKILL, grpo={"steps": 2}))
    assert not result.warnings
    assert (len(seen.packed), seen.plain) == (2, 0)


def test_short_prompts_of_their_own_are_not_packed(folder, tmp_path, monkeypatch):
    seen = Seen(monkeypatch)
    job = make_job(folder, tmp_path, grpo={"prompts_per_step": 2, "generations": 2, "steps": 1})
    job = dataclasses.replace(job, max_new_tokens=40)
    train(job)
    assert (seen.packed, seen.plain) == ([], 1)


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("_generate_single_turn", ["prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]),
        ("_generate", ["prompts"]),
        ("_prepare_inputs", ["generation_batch"]),
        ("_compute_loss", ["model", "inputs"]),
        ("_generate_and_score_completions", ["inputs"]),
    ],
)
def test_the_hooks_are_still_there(hook, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, hook)).parameters)[1:] == parameters


def test_every_override_still_overrides_something():
    own = {n for n, f in vars(EngineMixin).items() if inspect.isfunction(f) and not n.startswith("__")}
    hooks = {
        "log",
        "_generate",
        "_generate_single_turn",
        "_generate_and_score_completions",
        "_prepare_inputs",
        "_compute_loss",
        "_get_per_token_logps_and_entropies",
    }
    assert hooks <= own
    assert {n for n in own if hasattr(GRPOTrainer, n)} == hooks
