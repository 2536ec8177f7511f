"""The search as a pure state machine: what it wants, what it merges, what it counts, and where it stops."""

import random
from collections.abc import Callable, Sequence

import pytest

from hybrid.config.tree import TreeConfig
from hybrid.weights.tree.search import Branch, Tree, cutter, edit_distance

DOT, END = 0, 9
CUT = cutter(lambda token: token == DOT, most=3)
Model = Callable[[Branch], Sequence[int]]


def settings(**changes: object) -> TreeConfig:
    return TreeConfig.model_validate({"delimiter": None, "option_tokens": 1, **changes})


def grow(
    model: Model, score: Callable[[Sequence[int]], float], leaves: int = 8, room: int = 3, **changes: object
) -> Tree:
    tree = Tree(settings(**changes), cutter(lambda _: False, 1), leaves, room)
    while branches := tree.want():
        for branch in branches:
            leaf = tree.leaves[tree.take(branch, model(branch))]
            leaf.score = score(leaf.tokens)
    return tree


def coin(seed: int) -> Model:
    def model(branch: Branch) -> list[int]:
        rng = random.Random(f"{seed}:{branch.draw}")
        return [rng.randint(1, 2) for _ in range(branch.room)]

    return model


def ones(tokens: Sequence[int]) -> float:
    return float(all(token == 1 for token in tokens))


def test_options_end_at_a_delimiter_at_their_length_and_at_the_end():
    assert CUT([1, DOT, 2, 3, 4, 5, DOT, 6]) == [2, 5, 7, 8]
    assert CUT([1, 2, 3]) == [3]
    assert CUT([DOT]) == [1]


def test_the_first_wave_is_from_the_prompt_and_the_tree_ends_with_its_leaves():
    tree = Tree(settings(first=4), CUT, leaves=10, room=6)
    wanted = tree.want()
    assert [(b.node, b.prefix, b.room, b.draw) for b in wanted] == [(0, (), 6, k) for k in range(4)]
    tree = grow(coin(0), ones, leaves=10)
    assert len(tree.leaves) == 10 and tree.want() == []


def test_a_continuation_becomes_a_path_of_options_and_what_is_shared_is_one_node():
    tree = Tree(settings(first=2), CUT, leaves=3, room=6)
    first, second = tree.want()
    tree.take(first, [1, DOT, 2, DOT, END])
    tree.take(second, [1, DOT, 3, END])
    assert [node.prefix for node in tree.nodes] == [(), (1, 0), (1, 0, 2, 0), (1, 0, 2, 0, 9), (1, 0, 3, 9)]
    assert [node.ended for node in tree.nodes] == [False, False, False, True, True]
    assert tree.merged == 1 and tree.nodes[1].draws == 2 and tree.nodes[1].leaves == [0, 1]
    assert tree.leaves[1].path == (1, 4) and tree.leaves[1].ends == (2, 4)
    assert tree.spent == 9 and tree.read == 0 and tree.mean_depth == 2.5


def test_a_branch_reads_its_prefix_again_and_samples_only_the_rest():
    tree = grow(coin(1), ones)
    deep = [len(leaf.tokens) for leaf in tree.leaves]
    assert deep == [3] * 8
    assert tree.spent == sum(deep) - tree.read and tree.read > 0


def test_the_same_samples_grow_the_same_tree():
    one, two = (grow(coin(2), ones) for _ in range(2))
    assert one.nodes == two.nodes and one.leaves == two.leaves


def test_a_budget_is_never_exceeded_and_no_branch_begins_that_might():
    for budget in (12, 15, 17, 20):
        tree = grow(coin(3), ones, leaves=50, budget_tokens=budget)
        assert budget - 3 < tree.spent <= budget


def test_near_options_are_one_state_only_where_the_config_says_so_and_never_when_finished():
    def two(merge: float, second: Sequence[int]) -> Tree:
        tree = Tree(settings(first=2, merge=merge), CUT, leaves=2, room=8)
        a, b = tree.want()
        tree.take(a, [1, 2, DOT, 5, END])
        tree.take(b, second)
        return tree

    assert two(0.0, [1, 3, DOT, 6, END]).merged == 0
    near = two(0.4, [1, 3, DOT, 6, END])
    assert near.merged == 1 and near.nodes[1].leaves == [0, 1]
    assert near.leaves[1].tokens == (1, 3, DOT, 6, END)  # a leaf keeps what was sampled
    assert two(0.9, [1, 2, DOT, 7, END]).merged == 1  # the step; [5 end] and [7 end] are graded apart


def test_where_everything_is_finished_at_once_sampling_goes_on_from_the_prompt():
    tree = grow(lambda branch: [END], lambda _: 0.0, leaves=6)
    assert len(tree.leaves) == 6 and len(tree.nodes) == 2


def test_a_node_that_matters_more_may_have_more_children():
    """After option 1 it is decided whether a completion is right, after option 2 it is not: both are worth one half."""

    def next_node(importance: float) -> int:
        bounds = {"first": 2, "least_children": 2, "most_children": 5, "wave": 1}
        tree = Tree(settings(importance=importance, **bounds), cutter(lambda _: False, 1), leaves=9, room=2)
        first, second = tree.want()
        tree.take(first, [1, 3])
        tree.take(second, [2, 3])
        tree.take(Branch(1, (1,), 1, 2), [4])
        tree.take(Branch(3, (2,), 1, 3), [4])
        for leaf, score in zip(tree.leaves, (0.0, 0.5, 1.0, 0.5), strict=True):
            leaf.score = score
        return tree.want()[0].node

    assert next_node(0.0) == next_node(3.0) == 0  # both have their two children, so it is the prompt's turn
    assert next_node(4.0) == next_node(20.0) == 1


def test_without_exploration_the_search_goes_where_the_score_is():
    def model(branch: Branch) -> list[int]:
        begin = list(branch.prefix[:1]) or [1 + branch.draw % 2]
        rng = random.Random(branch.draw)
        return (begin + [rng.randint(3, 8) for _ in range(5)])[len(branch.prefix) : len(branch.prefix) + branch.room]

    tree = grow(model, lambda t: float(t[0] == 1), leaves=12, room=4, first=2, explore=0.0)
    by_option = {node.prefix[0]: len(node.leaves) for node in tree.nodes if node.depth == 1}
    assert by_option[1] > 3 * by_option[2]
    even = grow(model, lambda t: float(t[0] == 1), leaves=12, room=4, first=2, explore=50.0)
    by_option = {node.prefix[0]: len(node.leaves) for node in even.nodes if node.depth == 1}
    assert abs(by_option[1] - by_option[2]) <= 4


def test_estimates_of_critics_steer_the_search():
    """The scores of leaves say nothing; a critic that likes what begins with 1 decides."""
    tree = Tree(settings(first=2, explore=0.0, wave=1), cutter(lambda _: False, 1), leaves=10, room=4)
    while branches := tree.want():
        for branch in branches:
            rng = random.Random(branch.draw)
            tokens = [*branch.prefix, *(rng.randint(3, 8) for _ in range(branch.room))]
            tokens[0] = branch.prefix[0] if branch.prefix else 1 + branch.draw % 2
            tree.take(branch, tokens[len(branch.prefix) :])
        for node in tree.nodes:
            if node.prefix and not node.ended:
                node.estimates = {"value": float(node.prefix[0] == 1)}
    by_option = {node.prefix[0]: len(node.leaves) for node in tree.nodes if node.depth == 1}
    assert by_option[1] > 2 * by_option[2]


def test_values_count_samples_and_not_leaves():
    """Two samples from the prompt, right and wrong; four more below the right one do not change what the prompt is worth."""
    tree = Tree(settings(first=2, explore=0.0), cutter(lambda _: False, 1), leaves=6, room=2)
    first, second = tree.want()
    tree.take(first, [1, 5])
    tree.take(second, [2, 5])
    for token in (6, 7, 8, 9):
        tree.take(Branch(1, (1,), 1, len(tree.leaves)), [token])
    returns = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    values = tree.values(returns)
    assert values[1] == pytest.approx(0.8) and values[0] == pytest.approx(0.4)
    reach = tree.reach()
    assert reach[0] == 1.0 and reach[1] == 0.5
    assert sum(reach[n] for n, node in enumerate(tree.nodes) if node.ended) == pytest.approx(1.0)


def test_a_wrong_continuation_is_refused():
    tree = Tree(settings(), CUT, leaves=4, room=3)
    branch = tree.want()[0]
    for tokens in ([], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="tokens where 1 to 3"):
            tree.take(branch, tokens)


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3 and edit_distance("abc", "abc") == 0
