"""What every step of a completion gets credit for: advantages by token, from one tree and the returns of its leaves.

The forms are those of TreeRL (Hou et al., ACL 2025; THUDM/TreeRL): global V(n) - V(root), local V(n) - V(parent), their
sum, a step that changed nothing copying the step before it, and returns centred on the other leaves' mean, which here is the
factor L / (L - 1). One thing differs on purpose: TreeRL divides the accumulated V by the root of the number of leaves before it
takes the difference, so that parent and child carry different factors; here the difference is divided.

V counts samples, not leaves (see `Tree.values`). Does not: normalise over trees, or touch a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.config.tree import TreeConfig
from hybrid.weights.tree.search import Tree

_EQUAL = 1e-12


def node_credit(tree: Tree, returns: Sequence[float], credit: str) -> list[float]:
    """The advantage of the option that leads to each node, 0 at the root; `returns` by leaf, unweighted."""
    values = tree.values(returns)
    count = len(tree.leaves)
    centred = count / (count - 1) if count > 1 else 1.0
    found = [0.0] * len(tree.nodes)
    for number, node in enumerate(tree.nodes):
        if node.parent is None:
            continue
        wide, near = values[number] - values[0], values[number] - values[node.parent]
        if credit == "local":
            found[number] = centred * near
        elif credit == "global":
            found[number] = centred * wide
        elif abs(near) < _EQUAL and tree.nodes[node.parent].parent is not None:
            found[number] = found[node.parent]  # the step changed nothing: credit the one before it
        else:
            found[number] = centred * (wide + near)
    return found


def node_weights(tree: Tree, weighting: str) -> list[float]:
    """What the credit of each node is multiplied with in every leaf through it.

    `sqrt`: 1 / sqrt(leaves through it). `reach`: L * reach / leaves through it, so that over all leaves a node weighs L times
    the share of samples that would come by it, as if all L had been sampled from the prompt.
    """
    through = [max(len(node.leaves), 1) for node in tree.nodes]
    if weighting == "sqrt":
        return [1.0 / math.sqrt(n) for n in through]
    return [len(tree.leaves) * share / n for share, n in zip(tree.reach(), through, strict=True)]


def token_advantages(tree: Tree, returns: Sequence[float], settings: TreeConfig) -> list[list[float]]:
    """By leaf, one advantage per token of its completion."""
    credit = node_credit(tree, returns, settings.credit)
    weights = node_weights(tree, settings.weighting)
    found = []
    for leaf in tree.leaves:
        row: list[float] = []
        for number, end in zip(leaf.path, leaf.ends, strict=True):
            row += [credit[number] * weights[number]] * (end - len(row))
        found.append(row)
    return found


def row_advantages(
    tree: Tree, rows: Sequence[int], returns: Sequence[float], settings: TreeConfig
) -> list[list[float]]:
    """By row of a batch, the advantages of the leaf that it holds; a leaf that stands in several rows is shared among them."""
    each = token_advantages(tree, returns, settings)
    times = [max(rows.count(leaf), 1) for leaf in range(len(tree.leaves))]
    return [[a / times[leaf] for a in each[leaf]] for leaf in rows]
