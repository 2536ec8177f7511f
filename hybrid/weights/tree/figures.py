"""What is logged of a step's trees, over all processes. Pure: plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hybrid.config.schema import WeightsConfig
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


def search_notes(weights: WeightsConfig, history: Sequence[Mapping[str, float]]) -> list[str]:
    """What a history says of a tree search, in words: how many prompts were taught, which critics were used, and why not others.
    Nothing where nothing was searched."""
    notes = [
        f"{line['tree/taught']:.0f} of {line['tree/searched']:.0f} prompts had a right leaf and were taught"
        for line in history[:1]
        if "tree/taught" in line
    ]
    for name in weights.tree.critics.use:
        lines = [line for line in history if f"critic/{name}/used" in line]
        if not lines:
            continue
        judged = [line for line in lines if f"critic/{name}/ece" in line]
        if not judged:
            notes.append(f"{name} critic not used: too few held-out states to calibrate it, or all of them alike")
            continue
        used = sum(line[f"critic/{name}/used"] for line in lines) / len(lines)
        error, brier, constant = (judged[-1][f"critic/{name}/{key}"] for key in ("ece", "brier", "constant_brier"))
        at = f"held-out ECE {error:.3f}, Brier {brier:.3f} against {constant:.3f} of a constant at the last fit"
        how = f"used in {used:.0%} of the search ({at})" if used else f"not used: {at}"
        if name == "outcome" and weights.tree.outcome == "checker":
            how = f"not asked: the checker scores leaves ({at})"
        notes.append(f"{name} critic {how}")
    return notes
