"""What is logged of a step's trees, over all processes. Pure: plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hybrid.weights.tree.search import Tree


def facts(tree: Tree, returns: Sequence[float]) -> dict[str, float]:
    """One tree in numbers; `returns` by leaf."""
    return {
        "nodes": float(len(tree.nodes)),
        "merged": float(tree.merged),
        "depth": tree.mean_depth,
        "leaves": float(len(tree.leaves)),
        "tokens": float(tree.spent),
        "read": float(tree.read),
        "root_value": tree.values(returns)[0],
    }


def figures(trees: Sequence[Mapping[str, float]], prompt_tokens: int) -> dict[str, float]:
    """`tree/nodes`, `merged`, `depth` and `root_value` are means over trees, `leaves`, `tokens` (sampled) and `read` sums.

    Every sample reads its prompt, `prompt_tokens` over all samples. The root's value is the mean return of sampling from the
    prompt, which the mean over leaves is not: the search goes where it expects more.
    """
    sums = {key: math.fsum(tree[key] for tree in trees) for key in trees[0]}
    found = {f"tree/{key}": sums[key] / len(trees) for key in ("nodes", "merged", "depth", "root_value")}
    found |= {f"tree/{key}": sums[key] for key in ("leaves", "tokens")}
    return found | {"tree/read": sums["read"] + prompt_tokens}
