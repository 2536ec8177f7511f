"""Credit for steps: the published forms on trees counted by hand, and the direction of the gradient that it makes."""

import itertools
import math
import random

import numpy as np
import pytest

from hybrid.config.tree import TreeConfig
from hybrid.weights.tree.credit import node_credit, node_weights, row_advantages, token_advantages
from hybrid.weights.tree.search import Branch, Tree, cutter


def settings(**changes: object) -> TreeConfig:
    return TreeConfig.model_validate({"delimiter": None, "option_tokens": 1, **changes})


def fork() -> tuple[Tree, list[float]]:
    """Prompt -> 1 or 2. After 1 come 5 and 6, after 2 comes 7; then all end. Right: 1 5 and 2 7 are not, 1 6 is."""
    tree = Tree(settings(first=2), cutter(lambda _: False, 1), leaves=3, room=3)
    first, second = tree.want()
    tree.take(first, [1, 5, 9])
    tree.take(second, [2, 7, 9])
    tree.take(Branch(1, (1,), 2, 2), [6, 9])
    return tree, [0.0, 0.0, 1.0]


NODES = {(1,): 1, (1, 5): 2, (1, 5, 9): 3, (2,): 4, (2, 7): 5, (2, 7, 9): 6, (1, 6): 7, (1, 6, 9): 8}


def test_global_local_and_their_sum_by_hand():
    tree, returns = fork()
    assert {node.prefix: n for n, node in enumerate(tree.nodes) if n} == NODES
    # V: (1) = 1/2, (2) = 0, prompt = 1/4. Three leaves: everything times 3/2.
    wide = node_credit(tree, returns, "global")
    near = node_credit(tree, returns, "local")
    both = node_credit(tree, returns, "both")
    assert [wide[n] for n in (1, 2, 4, 7)] == pytest.approx([1.5 * x for x in (0.25, -0.25, -0.25, 0.75)])
    assert [near[n] for n in (1, 2, 4, 7)] == pytest.approx([1.5 * x for x in (0.25, -0.5, -0.25, 0.5)])
    assert [both[n] for n in (1, 2, 4, 7)] == pytest.approx([1.5 * x for x in (0.5, -0.75, -0.5, 1.25)])
    assert wide[0] == near[0] == both[0] == 0.0


def test_a_step_that_changed_nothing_copies_the_step_before_it_but_only_in_the_sum():
    tree, returns = fork()
    both, near, wide = (node_credit(tree, returns, credit) for credit in ("both", "local", "global"))
    assert both[8] == both[7] and both[6] == both[5] == both[4]  # nothing branched there
    assert near[8] == 0.0 and wide[8] == wide[7]


def test_weights_divide_the_difference_and_not_the_values():
    """TreeRL's code divides V by the root of the leaves before it subtracts; here parent and child share no factor."""
    tree, returns = fork()
    sqrt = node_weights(tree, "sqrt")
    assert sqrt[1] == pytest.approx(1 / math.sqrt(2)) and sqrt[7] == 1.0
    rows = token_advantages(tree, returns, settings(credit="local", weighting="sqrt"))
    credit = node_credit(tree, returns, "local")
    assert rows[2] == pytest.approx([credit[1] / math.sqrt(2), credit[7], credit[8]])
    assert (
        token_advantages(tree, [1.0, 1.0, 1.0], settings(weighting="sqrt")) == [[0.0] * 3] * 3
    )  # V / sqrt(n) would differ here


def test_reach_makes_a_node_weigh_what_sampling_would_give_it():
    tree, _ = fork()
    weights, reach = node_weights(tree, "reach"), tree.reach()
    for n, node in enumerate(tree.nodes):
        assert weights[n] * len(node.leaves) == pytest.approx(3 * reach[n])


def test_leaves_without_a_tree_are_grpo():
    """All from the prompt, nothing shared: the leave-one-out advantage, the same for every token of a completion."""
    tree = Tree(settings(first=4), cutter(lambda _: False, 1), leaves=4, room=2)
    for k, branch in enumerate(tree.want()):
        tree.take(branch, [k, 5])
    returns = [1.0, 0.0, 0.0, 1.0]
    for weighting in ("sqrt", "reach"):
        rows = token_advantages(tree, returns, settings(credit="global", weighting=weighting))
        assert rows == [pytest.approx([(r - 0.5) * 4 / 3] * 2) for r in returns]


def test_a_leaf_in_two_rows_counts_once():
    tree, returns = fork()
    once = token_advantages(tree, returns, settings())
    rows = row_advantages(tree, [0, 1, 2, 0], returns, settings())
    assert rows[1] == once[1] and rows[2] == once[2]
    assert [a + b for a, b in zip(rows[0], rows[3], strict=True)] == pytest.approx(once[0])


SUCCESS = (0.3, 0.6, 0.9)


def sampled_gradient(config: TreeConfig, trees: int, leaves: int, seed: int) -> np.ndarray:
    """Mean over trees of sum over tokens of advantage * d log p / d logit: a chain of coins that must all fall right."""
    rng, total = random.Random(seed), np.zeros(3)
    for _ in range(trees):
        tree = Tree(config, cutter(lambda _: False, 1), leaves, 3)
        while branches := tree.want():
            for branch in branches:
                begin = len(branch.prefix)
                leaf = tree.leaves[tree.take(branch, [int(rng.random() < p) for p in SUCCESS[begin:]])]
                leaf.score = float(all(leaf.tokens))
        rows = token_advantages(tree, [leaf.score for leaf in tree.leaves], config)
        for leaf, row in zip(tree.leaves, rows, strict=True):
            total += [a * (token - p) for a, token, p in zip(row, leaf.tokens, SUCCESS, strict=True)]
    return total / trees


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


TRUE = np.array([1 - p for p in SUCCESS])


@pytest.mark.parametrize(("credit", "weighting"), list(itertools.product(("both", "global"), ("reach",))))
def test_weighed_by_reach_the_mean_gradient_is_the_true_one(credit, weighting):
    found = sampled_gradient(settings(credit=credit, weighting=weighting), 800, 8, 0)
    assert cosine(found, TRUE) > 0.995


def test_the_published_weights_point_the_same_way_but_lean_to_where_the_tree_branched():
    found = sampled_gradient(settings(credit="both", weighting="sqrt"), 800, 8, 0)
    assert 0.9 < cosine(found, TRUE) < 0.99
    assert (found > 0).all()
