"""What a Brier weight teaches a policy that is nothing but two tables: answers, and confidences given the answer.

    python scripts/bench_brier_policy.py                  # what docs/calibration.md holds; under a minute

Four kinds of questions have three answers each, right with probabilities [.9, .3, 0], [.6, .3, 0], [.35, .2, 0] and [.2, .1, 0]:
the last answer is surely wrong. The policy is a softmax over answers times a softmax over eleven confidences (0, .1, ..., 1)
given kind and answer, trained by GRPO (groups of 32, advantages without division) on `accuracy + b * Brier`; `b = 0` is
accuracy alone, and `RewardConfig` refuses every b above 1. The last row divides advantages by the group's deviation
(`scale_rewards: group`), which the configuration refuses where there is a Brier weight. Figures are exact expectations
under the trained policy, means over seeds with Student's t intervals.

Does not: use a language model (`bench_brier.py` does).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
RIGHT = np.array([[0.9, 0.3, 0.0], [0.6, 0.3, 0.0], [0.35, 0.2, 0.0], [0.2, 0.1, 0.0]])
"""Chance that an answer is right, by kind and answer."""
LEVELS = np.linspace(0.0, 1.0, 11)
GROUP = 32
ROWS = (
    ("b = 0 (accuracy)", 0.0, False),
    ("b = 0.5", 0.5, False),
    ("b = 1", 1.0, False),
    ("b = 2", 2.0, False),
    ("b = 4", 4.0, False),
    ("b = 1, group deviation", 1.0, True),
)
T = {5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Figures:
    """Exact figures of one trained policy."""

    accuracy: float
    ece: float
    brier: float
    auroc: float
    surely_wrong: tuple[float, ...]
    """Probability of the surely wrong answer, by kind."""


class Adam:
    """Ascent by Adam (Kingma and Ba 2015) with its usual constants."""

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        self.rate, self.count, self.first, self.second = rate, 0, np.zeros(shape), np.zeros(shape)

    def step(self, slope: Array) -> Array:
        """The change of the parameters for one gradient."""
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.999 * self.second + 0.001 * slope**2
        mean, square = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        found: Array = self.rate * mean / (np.sqrt(square) + 1e-8)
        return found


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def train(weight: float, divided: bool, seed: int, steps: int, rate: float) -> tuple[Array, Array]:
    """Probabilities of answers (kinds, answers) and of confidences (kinds, answers, levels)."""
    rng = np.random.default_rng(seed)
    answers, levels = np.zeros(RIGHT.shape), np.zeros((*RIGHT.shape, len(LEVELS)))
    of_answers, of_levels = Adam(answers.shape, rate), Adam(levels.shape, rate)
    kinds = np.arange(len(RIGHT))[:, None]
    for _ in range(steps):
        p, q = softmax(answers), softmax(levels)
        chosen = (rng.random((len(RIGHT), GROUP, 1)) > p.cumsum(axis=1)[:, None, :]).sum(axis=2).clip(max=2)
        stated = (rng.random((len(RIGHT), GROUP, 1)) > q[kinds, chosen].cumsum(axis=2)).sum(axis=2).clip(max=10)
        right = (rng.random(chosen.shape) < RIGHT[kinds, chosen]).astype(float)
        reward = right + weight * (1.0 - (LEVELS[stated] - right) ** 2)
        advantage = reward - reward.mean(axis=1, keepdims=True)
        if divided:
            advantage /= reward.std(axis=1, keepdims=True) + 1e-4
        share = advantage / GROUP
        answer_slope, level_slope, given = np.zeros(RIGHT.shape), np.zeros(levels.shape), np.zeros(RIGHT.shape)
        np.add.at(given, (kinds, chosen), share)
        answer_slope += given - share.sum(axis=1, keepdims=True) * p
        np.add.at(level_slope, (kinds, chosen, stated), share)
        level_slope -= given[..., None] * q
        answers += of_answers.step(answer_slope)
        levels += of_levels.step(level_slope)
    return softmax(answers), softmax(levels)


def figures(answers: Array, levels: Array) -> Figures:
    """Exact figures of a policy, kinds of questions being equally frequent."""
    mass = answers[..., None] * levels / len(RIGHT)
    right, wrong = mass * RIGHT[..., None], mass * (1.0 - RIGHT[..., None])
    by_level, right_by_level = mass.sum(axis=(0, 1)), right.sum(axis=(0, 1))
    wrong_by_level = wrong.sum(axis=(0, 1))
    below = np.cumsum(wrong_by_level) - wrong_by_level / 2.0
    return Figures(
        accuracy=float(right.sum()),
        ece=float(np.abs(right_by_level - LEVELS * by_level).sum()),
        brier=float((right * (LEVELS - 1.0) ** 2 + wrong * LEVELS**2).sum()),
        auroc=float((right_by_level * below).sum() / (right.sum() * wrong.sum())),
        surely_wrong=tuple(float(x) for x in answers[:, 2]),
    )


def shown(values: Sequence[float]) -> str:
    """Mean over seeds with its 95 % interval."""
    mean = statistics.fmean(values)
    half = T.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=0.02)
    args = parser.parse_args()
    began = time.process_time()
    print("| reward | accuracy | ECE | Brier | AUROC | P(surely wrong answer) by kind |\n|---|---|---|---|---|---|")
    for name, weight, divided in ROWS:
        found = [figures(*train(weight, divided, seed, args.steps, args.rate)) for seed in range(args.seeds)]
        cells = [shown([getattr(f, key) for f in found]) for key in ("accuracy", "ece", "brier", "auroc")]
        wrong = " / ".join(f"{statistics.fmean(f.surely_wrong[k] for f in found):.2f}" for k in range(len(RIGHT)))
        print(f"| {name} | {' | '.join(cells)} | {wrong} |", flush=True)
    print(f"\n{args.seeds} seeds, {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
