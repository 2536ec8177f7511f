"""Credit by step on a task that is small enough to know: six steps of which one matters, a table for a policy, no model.

    python scripts/bench_tree_credit.py        # what docs/tree-search.md holds; a few minutes on one core

A completion is six tokens out of four; it is right when the token at one place is the right one. The policy has four logits per
place. Trees and advantages are the product's own (`hybrid.weights.tree`); the update is plain gradient ascent. Each arm's rate is
set so that its expected first step moves the right token's logit as far as that of `grpo` does: what differs is the noise
per token. Counted are sampled tokens until the right token has probability 0.9, and how far the policy has by then
drifted at the places that do not matter (KL to the start, nats per place): what a training does for nothing.
Intervals are 95 % over seeds.

Does not: load torch.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

import numpy as np
from bench_worlds import seeds_of
from numpy.typing import NDArray

from hybrid.config.tree import TreeConfig
from hybrid.weights.tree.credit import token_advantages
from hybrid.weights.tree.search import Tree, cutter

STEPS, CHOICES, LEAVES = 6, 4, 8
RATE, TREES = 0.4, 600
"""The rate of `grpo`, and the trees that the expected first step of an arm is measured on."""
LIMIT = 20_000
Array = NDArray[np.float64]


def settings(**changes: object) -> TreeConfig:
    """One token is one option."""
    return TreeConfig.model_validate({"delimiter": None, "option_tokens": 1, **changes})


Credit = Callable[[Tree, list[float]], list[list[float]]]


def by(config: TreeConfig) -> Credit:
    """Advantages of every token."""
    return lambda tree, returns: token_advantages(tree, returns, config)


def by_completion(tree: Tree, returns: list[float]) -> list[list[float]]:
    """GRPO: one advantage for a whole completion, its return against the others' mean."""
    mean, n = sum(returns) / len(returns), len(returns)
    return [[(r - mean) * n / (n - 1)] * len(leaf.tokens) for r, leaf in zip(returns, tree.leaves, strict=True)]


def best_leaf(tree: Tree, returns: list[float]) -> list[list[float]]:
    """The first right leaf is taught, nothing else: one step of fine-tuning on it."""
    chosen = returns.index(1.0) if 1.0 in returns else -1
    return [[float(k == chosen)] * len(leaf.tokens) for k, leaf in enumerate(tree.leaves)]


ARMS: dict[str, tuple[TreeConfig, Credit]] = {
    "grpo": (settings(first=LEAVES), by_completion),
    "tree, global / reach": (settings(), by(settings(credit="global", weighting="reach"))),
    "tree, local / reach": (settings(), by(settings(credit="local", weighting="reach"))),
    "tree, both / reach": (settings(), by(settings(credit="both", weighting="reach"))),
    "tree, both / sqrt": (settings(), by(settings(credit="both", weighting="sqrt"))),
    "best leaf, each step": (settings(), best_leaf),
}


def softmax(logits: Array) -> Array:
    """Rows that sum to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def grow(arm: str, key: int, right: int, logits: Array, rng: random.Random) -> tuple[Array, int]:
    """One tree: the gradient that it makes of the mean return, and the tokens that it took."""
    config, credit = ARMS[arm]
    chances = softmax(logits)
    tree = Tree(config, cutter(lambda _: False, 1), LEAVES, STEPS)
    while branches := tree.want():
        for branch in branches:
            begin = len(branch.prefix)
            tokens = [rng.choices(range(CHOICES), weights=chances[k].tolist())[0] for k in range(begin, STEPS)]
            leaf = tree.leaves[tree.take(branch, tokens)]
            leaf.score = float(leaf.tokens[key] == right)
    step = np.zeros_like(logits)
    for leaf, row in zip(tree.leaves, credit(tree, [leaf.score for leaf in tree.leaves]), strict=True):
        for k, (advantage, token) in enumerate(zip(row, leaf.tokens, strict=True)):
            step[k] -= advantage * chances[k]
            step[k, token] += advantage
    return step / LEAVES, tree.spent


def first_step(arm: str, key: int) -> float:
    """Expected change of the right token's logit at the start, for a rate of 1."""
    rng, start = random.Random(f"{arm}:{key}"), np.zeros((STEPS, CHOICES))
    return float(np.mean([grow(arm, key, 1, start, rng)[0][key, 1] for _ in range(TREES)]))


def train(arm: str, key: int, rate: float, seed: int) -> tuple[int, float]:
    """(tokens until P(right) > 0.9, drift by then); `LIMIT` where it was not reached."""
    rng = random.Random(f"{arm}:{key}:{seed}")
    logits = np.zeros((STEPS, CHOICES))
    right, spent = rng.randrange(CHOICES), 0
    while spent < LIMIT and softmax(logits)[key, right] <= 0.9:
        step, tokens = grow(arm, key, right, logits, rng)
        logits, spent = logits + rate * step, spent + tokens
    chances = softmax(logits)
    drift = [float((chances[k] * np.log(chances[k] * CHOICES)).sum()) for k in range(STEPS) if k != key]
    return min(spent, LIMIT), sum(drift) / len(drift)


def interval(values: Sequence[float], digits: int) -> str:
    """Mean and Student's interval over seeds."""
    from scipy.stats import t  # only here

    data = np.array(values)
    half = t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data))
    return f"{data.mean():.{digits}f} [{data.mean() - half:.{digits}f}, {data.mean() + half:.{digits}f}]"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-15")
    args = parser.parse_args()
    begun, seeds = time.process_time(), seeds_of(args.seeds)
    print("| key | arm | rate | tokens to 0.9 | drift elsewhere | not reached |\n|---|---|---|---|---|---|")
    for key in (0, 2):
        aim = first_step("grpo", key)
        for arm in ARMS:
            rate = RATE * aim / first_step(arm, key)
            tokens, drift = zip(*(train(arm, key, rate, seed) for seed in seeds), strict=True)
            missed = sum(t >= LIMIT for t in tokens)
            print(
                f"| {key} | {arm} | {rate:.2f} | {interval(tokens, 0)} | {interval(drift, 3)} | {missed} |", flush=True
            )
    print(f"\n{time.process_time() - begun:.0f} s of processor time")


if __name__ == "__main__":
    main()
