"""Tree search as a training method, on the tiny model: what is trained, which way, what is counted, and resuming."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from weights_tiny import Letters, hashes, interrupted, load, make_job, save_tiny, train, without_seconds

from hybrid.backends.adapters import check_adapter
from hybrid.capability.graders.base import Unjudged
from hybrid.capability.types import Score
from hybrid.config.schema import RewardConfig
from hybrid.errors import ConfigError, RunFolderError, TrainingError
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.jobs import check_job, job_identity
from hybrid.weights.results import read_result

TREE = {"delimiter": None, "option_tokens": 2, "first": 3, "critics": {"fit_every": 2, "most_ece": 0.9}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tree") / "tiny")


def tree_job(folder: Path, out: Path, tree: dict | None = None, **changes: object) -> TrainJob:
    grpo = {"generations": 6, **changes.pop("grpo", {})}
    weights = {"tree": TREE | (tree or {}), **changes.pop("weights", {})}
    return make_job(folder, out, "tree", grpo=grpo, weights=weights, **changes)


@pytest.fixture(scope="module", params=["advantages", "best_leaf"])
def whole(request: pytest.FixtureRequest, folder: Path) -> tuple[TrainJob, TrainResult]:
    """An uninterrupted job of either use, cut into passes and stages so that every path is taken."""
    job = tree_job(
        folder,
        folder.parent / request.param,
        {"use": request.param},
        stages=((0, 1, 2), (3, 4, 5, 6, 7)),
        weights={"rows_per_device": 6 if request.param == "advantages" else 2},
    )
    return job, train(job)


def test_memory_is_foreseen_and_on_record_as_for_the_other_methods(whole):
    job, result = whole
    assert result.memory is not None and result.memory.rows_per_device == job.weights.rows_per_device
    assert result.memory.predicted_mib is not None and result.memory.measured_mib is not None


@pytest.mark.parametrize("use", ["advantages", "best_leaf"])
def test_a_search_that_cannot_fit_is_refused_before_it_samples(folder, tmp_path, monkeypatch, use):
    monkeypatch.setattr("hybrid.weights.preflight.free_bytes", lambda _: 1)
    with pytest.raises(TrainingError, match="not even one row fits"):
        train(tree_job(folder, tmp_path / "job", {"use": use}))
    assert not (tmp_path / "job" / "search").exists()


def again(whole: tuple[TrainJob, TrainResult], tmp_path: Path) -> TrainJob:
    return dataclasses.replace(whole[0], out=tmp_path / "job")


def assert_same(found: TrainResult, expected: TrainResult) -> None:
    assert hashes(found) == hashes(expected)
    assert without_seconds(found) == without_seconds(expected)
    counted = ("steps", "completions", "tokens_in", "tokens_out", "note")
    assert [getattr(found, c) for c in counted] == [getattr(expected, c) for c in counted]


def test_candidates_belong_to_the_base_and_the_record_names_what_was_searched(whole):
    job, result = whole
    assert [step for step, _ in result.checkpoints] == [2, 4, 6]
    assert len({sha for _, sha in hashes(result)}) == 3
    for _, adapter in result.checkpoints:
        check_adapter(adapter.path, load(job).info.fingerprint)
    assert read_result(job) == result
    assert "value critic" in result.note and "process critic" in result.note and "outcome critic" in result.note
    searched = [line for line in result.history if "tree/nodes" in line]
    assert len(searched) == (6 if job.reinforces else 1)
    assert result.completions == sum(line["tree/leaves"] for line in searched) == (72 if job.reinforces else 48)
    # Leaves share what they begin with, so fewer tokens were generated than stand in them.
    assert result.tokens_out == sum(line["tree/tokens"] for line in searched) < result.completions * job.max_new_tokens
    assert result.tokens_in > 0


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_resumed_job_ends_with_the_same_bytes(whole, tmp_path, after):
    job = again(whole, tmp_path)
    interrupted(job, after)
    assert_same(train(job), whole[1])


def test_without_its_critics_a_checkpoint_is_not_resumed(whole, tmp_path):
    job = again(whole, tmp_path)
    if not job.reinforces:
        pytest.skip("the critics of a search before training are in its record")
    interrupted(job, 5)
    (job.out / "checkpoint-4" / "critics.safetensors").unlink()
    result = train(job)
    assert hashes(result) == hashes(whole[1])
    assert "skipped checkpoint-4: critics.safetensors is missing" in result.note


def test_a_search_that_is_killed_pays_for_no_sample_twice(whole, tmp_path):
    job = again(whole, tmp_path)
    if job.reinforces:
        pytest.skip("searched in every step")
    script = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "import test_weights_tree as t; from pathlib import Path\n"
        f"t.train(t.tree_job(Path({job.model.path!r}), Path({str(job.out)!r}), {{'use': 'best_leaf'}},"
        " stages=((0, 1, 2), (3, 4, 5, 6, 7)), weights={'rows_per_device': 2}))\n"
    )
    environment = {**os.environ, "HYBRID_FAULT": "append.jsonl.after:4", "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr[-2000:]
    samples = job.out / "search" / "samples.jsonl"
    before = samples.read_bytes()
    assert before.count(b"\n") == 4
    result = train(job)
    assert_same(result, whole[1])
    assert samples.read_bytes().startswith(before)  # nothing sampled again
    assert samples.read_bytes() == (whole[0].out / "search" / "samples.jsonl").read_bytes()


def test_the_search_of_another_job_is_refused(whole, tmp_path):
    job = again(whole, tmp_path)
    if job.reinforces:
        pytest.skip("nothing is left of a search but its figures")
    interrupted(job, 1)
    with pytest.raises(RunFolderError, match="belongs to another training job"):
        train(dataclasses.replace(job, seed=1))


class Second(Letters):
    """Right when the second option begins with one of the first letters; the first option does not matter."""

    def grade(self, completion, example):
        right = completion[2:3] in tuple("abcdefghijklm")
        return Score(float(right), right)


def trained_once(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Per step: the rows, their advantages, and the log-probabilities of their tokens before and after the update."""
    from hybrid.weights.tree.trl_tree import HybridTree

    seen: list[dict[str, torch.Tensor]] = []
    inner = HybridTree._generate_and_score_completions

    def logps(trainer, batch):
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            found, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, batch["completion_ids"].size(1)
            )
        return found.clone()

    def record(trainer, inputs):
        if seen:
            seen[-1]["after"] = logps(trainer, seen[-1])
        batch = inner(trainer, inputs)
        seen.append({**batch, "trees": trainer._trees, "before": logps(trainer, batch)})
        return batch

    monkeypatch.setattr(HybridTree, "_generate_and_score_completions", record)
    train(job)
    monkeypatch.setattr(HybridTree, "_generate_and_score_completions", inner)
    return seen


def test_the_gradient_raises_a_step_that_raised_the_value_and_lowers_the_bad_branch(folder, tmp_path, monkeypatch):
    job = tree_job(
        folder,
        tmp_path,
        {"credit": "local", "critics": {"use": ()}, "first": 4, "least_children": 4},
        grpo={"generations": 16, "steps": 2, "learning_rate": 1e-3, "prompts_per_step": 4},
        grader=Second(),
    )
    first = trained_once(job, monkeypatch)[0]
    advantages, counted = first["advantages"], first["completion_mask"].bool()
    assert advantages.shape == first["completion_ids"].shape
    assert (advantages[~counted] == 0).all()
    gained = first["after"] - first["before"]
    good, bad = gained[(advantages > 0) & counted], gained[(advantages < 0) & counted]
    assert len(good) > 5 and len(bad) > 5
    assert good.mean() > 0 > bad.mean()


def test_short_trees_fill_their_group_and_no_leaf_counts_twice(folder, tmp_path, monkeypatch):
    """The budget ends every tree after three leaves of six; the rows of a leaf share its advantage."""
    job = tree_job(folder, tmp_path, {"budget_tokens": 18, "critics": {"use": ()}}, grpo={"steps": 1})
    batch = trained_once(job, monkeypatch)[0]
    tree = batch["trees"][0]
    assert tree.spent <= 18 and 3 <= len(tree.leaves) < 6
    rows = batch["completion_ids"][:6].tolist()
    n = len(tree.leaves)
    assert all(rows[k] == rows[k % n] for k in range(6))
    repeated = [k for k in range(n) if k + n < 6]
    assert torch.equal(batch["advantages"][repeated], batch["advantages"][[k + n for k in repeated]])


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_rewards_are_scaled_as_configured(folder, tmp_path, monkeypatch, scale):
    plain, scaled = (
        trained_once(
            tree_job(folder, tmp_path / s, {"critics": {"use": ()}}, grpo={"steps": 1, "scale_rewards": s}), monkeypatch
        )[0]
        for s in ("none", scale)
    )
    assert torch.equal(plain["completion_ids"], scaled["completion_ids"])
    ratios = (scaled["advantages"] / plain["advantages"])[plain["advantages"].abs() > 1e-6]
    assert (ratios > 1.5).all()  # letters' rewards deviate by less than two thirds
    assert len(ratios.round(decimals=4).unique()) == (1 if scale == "batch" else 2)


def test_every_loss_takes_advantages_by_token(folder, tmp_path):
    for loss in ("dr_grpo", "grpo", "bnpo"):
        assert train(tree_job(folder, tmp_path / loss, grpo={"steps": 1, "loss": loss})).checkpoints


def test_the_search_asks_the_checker_once_for_a_completion(folder, tmp_path):
    grader = Letters()
    job = tree_job(folder, tmp_path, grpo={"steps": 1}, grader=grader)
    result = train(job)
    assert len(grader.seen) <= result.completions


def test_what_a_judge_gave_no_verdict_on_is_asked_once_teaches_nothing_and_is_never_a_best_leaf(
    folder, tmp_path, monkeypatch
):
    class Judge(Letters):
        may_fail = True

        def grade(self, completion, example):
            score = super().grade(completion, example)
            if completion[:1] < "d":
                raise Unjudged("no verdict")
            return Score(score.value, True)

    batch = trained_once(
        tree_job(folder, tmp_path / "a", {"credit": "global"}, grpo={"steps": 1}, grader=Judge()), monkeypatch
    )
    tree = batch[0]["trees"][0]
    mute = [k for k, leaf in enumerate(tree.leaves) if not leaf.judged]
    assert mute and len(mute) < len(tree.leaves)
    judge = Judge()
    job = tree_job(folder, tmp_path / "b", {"use": "best_leaf"}, grader=judge)
    train(job)
    assert len(judge.seen) <= 48  # eight trees of six leaves: nothing is asked twice
    record = json.loads((job.out / "search" / "LEAVES.json").read_text())
    tokenizer = load(job).tokenizer
    assert record["best"] and all(tokenizer.decode(tokens)[0] >= "d" for _, tokens in record["best"])


def test_a_calibrated_outcome_critic_scores_leaves_and_the_checker_still_pays(folder, tmp_path, monkeypatch):
    """Its estimates stand in the search; rewards are the grader's, whatever it thinks."""
    from hybrid.weights.tree.critics import Critics

    monkeypatch.setattr(Critics, "usable", ("outcome",))
    monkeypatch.setattr(Critics, "score", lambda self, name, features: [0.125] * len(features))
    scores = []
    from hybrid.weights.tree.search import Tree

    path_scores = Tree.scores
    monkeypatch.setattr(
        Tree, "scores", lambda self: (scores.extend(x.score for x in self.leaves), path_scores(self))[1]
    )
    result = train(tree_job(folder, tmp_path, {"outcome": "critic"}, grpo={"steps": 1}))
    assert set(scores) == {0.125}
    assert result.history[0]["reward"] != 0.125 and result.history[0]["tree/root_value"] != 0.125


def test_best_leaves_without_a_right_one_are_an_error_that_says_what_to_do(folder, tmp_path):
    class Never(Letters):
        def grade(self, completion, example):
            return Score(0.0, False)

    job = tree_job(folder, tmp_path, {"use": "best_leaf"}, grader=Never())
    for _ in range(2):  # and again from the record
        with pytest.raises(TrainingError, match="none of the leaves of 8 prompts is right"):
            train(job)


def test_a_warm_start_goes_before_advantages(folder, tmp_path):
    job = tree_job(
        folder, tmp_path, grpo={"steps": 2}, weights={"warm_start": {"steps": 2, "batch": 4}, "method": "tree"}
    )
    result = train(job)
    assert [step for step, _ in result.checkpoints] == [0, 2]
    assert "warm start: 2 supervised steps" in result.note and "value critic" in result.note


def test_a_delimiter_that_no_token_holds_is_refused(folder, tmp_path):
    with pytest.raises(TrainingError, match="no token of the model holds the delimiter"):
        train(tree_job(folder, tmp_path, {"delimiter": "ab"}))


def test_settings_that_cannot_be_searched_are_refused_before_loading(folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="may not hold the first 3 completions"):
        check_job(tree_job(folder, tmp_path, {"budget_tokens": 17}))
    check_job(tree_job(folder, tmp_path, {"budget_tokens": 18}))
    with pytest.raises(ConfigError, match="group"):
        brier = {"rewards": RewardConfig(brier_weight=0.5)}
        check_job(tree_job(folder, tmp_path, grpo={"scale_rewards": "group"}, weights=brier))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="cannot be grown whole on 4 processes"):
        check_job(tree_job(folder, tmp_path))
    check_job(tree_job(folder, tmp_path, {"use": "best_leaf"}))


def test_everything_that_the_search_depends_on_is_in_the_identity(folder, tmp_path):
    job = tree_job(folder, tmp_path)
    changes = [
        {"use": "best_leaf"}, {"delimiter": "="}, {"option_tokens": 3}, {"budget_tokens": 99}, {"first": 2},
        {"least_children": 3}, {"most_children": 5}, {"importance": 1.0}, {"explore": 2.0}, {"wave": 1}, {"merge": 0.1},
        {"outcome": "critic"}, {"credit": "global"}, {"weighting": "sqrt"}, {"critics": {"ridge": 1.0}},
    ]  # fmt: skip
    identities = [job_identity(job), *(job_identity(tree_job(folder, tmp_path, change)) for change in changes)]
    assert len({str(sorted(identity.items(), key=str)) for identity in identities}) == len(changes) + 1
    sft = job.weights.sft.model_copy(update={"steps": 9})
    other = dataclasses.replace(job, weights=job.weights.model_copy(update={"sft": sft}))
    assert job_identity(other) == job_identity(job)  # another use's section
