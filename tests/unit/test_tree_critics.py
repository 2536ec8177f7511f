"""Critics: what can be learnt is learnt and calibrated, what cannot is not used, and a checkpoint holds all of it."""

import numpy as np
import pytest

from hybrid.config.schema import WeightsConfig
from hybrid.config.tree import CriticsConfig, TreeConfig
from hybrid.weights.tree.critics import (
    Critics,
    Quality,
    calibration_error,
    logistic,
    lower_gain,
    sigmoid,
    split_prompts,
)
from hybrid.weights.tree.figures import facts, figures, search_notes
from hybrid.weights.tree.search import Tree, cutter


def rows(n: int, seed: int, signal: float) -> tuple[np.ndarray, list[float], list[int]]:
    """`n` states of eight numbers; the first two say, as far as `signal` goes, whether sampling from there is right."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    right = rng.random(n) < sigmoid(signal * (x[:, 0] - x[:, 1]))
    return x, right.astype(float).tolist(), rng.integers(0, 40, n).tolist()


def fitted(signal: float, n: int = 1200, **changes: object) -> Critics:
    critics = Critics(CriticsConfig.model_validate(changes))
    critics.add("value", *rows(n, 0, signal))
    critics.fit()
    return critics


def test_a_signal_is_found_and_the_estimates_mean_what_they_say():
    critics = fitted(2.0)
    assert critics.usable == ("value",)
    x, right, _ = rows(4000, 1, 2.0)
    scores = np.array(critics.score("value", x))
    assert calibration_error(scores, np.array(right)) < 0.05
    truth = sigmoid(2.0 * (x[:, 0] - x[:, 1]))
    assert np.abs(scores - truth).mean() < 0.07


def test_noise_is_not_used_although_it_is_calibrated():
    critics = fitted(0.0)
    assert critics.usable == ()
    quality = critics.qualities["value"]
    assert quality.ece < 0.1 and quality.gain_low <= 0
    assert critics.figures(critics.usable)["critic/value/used"] == 0.0


def test_a_critic_that_is_far_off_on_held_out_prompts_is_not_used():
    """Half the prompts say the opposite: what is learnt on some does not hold on others."""
    x, right, prompts = rows(1200, 0, 4.0)
    held_out = split_prompts(np.array(prompts))[2]
    turned = [1.0 - r if out else r for r, out in zip(right, held_out, strict=True)]
    critics = Critics(CriticsConfig())
    critics.add("value", x, turned, prompts)
    critics.fit()
    assert critics.usable == () and critics.qualities["value"].ece > 0.3
    assert Quality(0.05, 0.1, 0.2, 0.01).calibrated(0.1)
    assert not Quality(0.11, 0.1, 0.2, 0.01).calibrated(0.1)
    assert not Quality(0.05, 0.19, 0.2, -0.01).calibrated(0.1)


def test_a_gain_on_few_prompts_is_not_one_on_many_rows():
    gains = np.array([0.3, 0.3, 0.3, -0.2] * 50)
    alone, in_four = np.arange(200), np.arange(200) % 4
    assert lower_gain(gains, alone) > 0 > lower_gain(gains, in_four)


def test_prompts_are_never_on_two_sides():
    prompts = np.array([5, 3, 5, 8, 1, 3, 9, 1])
    parts = split_prompts(prompts)
    assert (sum(p.astype(int) for p in parts) == 1).all()
    for prompt in set(prompts.tolist()):
        assert sum(bool(p[prompts == prompt].any()) for p in parts) == 1


@pytest.mark.parametrize("targets", ["few", "alike"])
def test_what_cannot_be_judged_has_no_head(targets):
    x, right, prompts = rows(30 if targets == "few" else 400, 0, 2.0)
    critics = Critics(CriticsConfig())
    critics.add("value", x, right if targets == "few" else [1.0] * 400, prompts)
    critics.fit()
    assert critics.heads == {} and critics.usable == ()


def test_a_critic_that_is_not_asked_for_learns_nothing():
    critics = fitted(2.0, use=("process",))
    assert critics.heads == {} and list(critics.figures(())) == ["critic/process/used"]


def test_only_the_newest_rows_are_kept():
    critics = Critics(CriticsConfig(rows=64))
    critics.add("value", np.zeros((64, 2)), [0.0] * 64, [0] * 64)
    critics.add("value", np.ones((40, 2)), [1.0] * 40, [1] * 40)
    kept = critics.tensors()
    assert kept["value.x"].shape == (64, 2) and kept["value.y"].sum() == 40


def test_a_restored_critic_is_the_same_critic():
    critics = fitted(2.0)
    again = Critics(CriticsConfig())
    again.restore(critics.tensors())
    x, right, prompts = rows(300, 3, 2.0)
    assert again.score("value", x) == critics.score("value", x)
    for one in (critics, again):
        one.add("value", x, right, prompts)
        one.fit()
    assert again.score("value", x) == critics.score("value", x)
    assert again.figures(()) == critics.figures(())


def test_logistic_finds_fractions_and_the_ridge_pulls_to_zero():
    x = np.array([[-1.0], [1.0]] * 50)
    y = np.array([0.2, 0.8] * 50)
    weights, bias = logistic(x, y, 1e-6)
    assert sigmoid(x @ weights + bias)[:2] == pytest.approx([0.2, 0.8], abs=1e-3)
    assert abs(logistic(x, y, 10.0)[0][0]) < 0.05


def test_the_notes_name_each_critic_and_why_it_was_not_used():
    weights = WeightsConfig(method="tree", tree=TreeConfig())
    line = {
        "critic/value/used": 1.0, "critic/value/ece": 0.04, "critic/value/brier": 0.1, "critic/value/constant_brier": 0.2,
        "critic/process/used": 0.0, "critic/process/ece": 0.31, "critic/process/brier": 0.1,
        "critic/process/constant_brier": 0.2, "critic/outcome/used": 0.0,
    }  # fmt: skip
    value, process, outcome = search_notes(weights, [line, line])
    assert value.startswith("value critic used in 100% of the search (held-out ECE 0.040")
    assert process.startswith("process critic not used: held-out ECE 0.310")
    assert outcome.startswith("outcome critic not used: too few")
    judged = line | {"critic/outcome/ece": 0.02, "critic/outcome/brier": 0.1, "critic/outcome/constant_brier": 0.2}
    assert search_notes(weights, [judged])[2].startswith("outcome critic not asked: the checker scores leaves")
    assert search_notes(WeightsConfig(), [{"step": 1.0, "loss": 0.5}]) == []
    taught = search_notes(weights, [line | {"tree/taught": 3.0, "tree/searched": 8.0}])
    assert taught[0] == "3 of 8 prompts had a right leaf and were taught"


def test_figures_count_what_all_trees_sampled_and_read():
    def tree(*completions: list[int]) -> Tree:
        found = Tree(TreeConfig(first=2, delimiter=None, option_tokens=1), cutter(lambda _: False, 1), 2, 4)
        for branch, tokens in zip(found.want(), completions, strict=True):
            found.take(branch, tokens)
        return found

    one, two = tree([1, 2], [1, 3]), tree([1, 2, 3], [4])
    found = figures([facts(one, [1.0, 0.0]), facts(two, [1.0, 1.0])], prompt_tokens=40)
    assert found == {
        "tree/nodes": 4.5, "tree/merged": 0.5, "tree/depth": 2.0, "tree/root_value": 0.75,
        "tree/leaves": 4.0, "tree/tokens": 8.0, "tree/read": 40.0,
    }  # fmt: skip
