"""Which rows are trained in which order: stages, and a stateless order of rows within them.

    plain(3)                                          # ((0, 1, 2),)
    structured_first([2.0, 0.1, 1.0, 0.5], count=2)   # ((1, 3), (2, 0)): low entropy first

The rows of step s are a function of (seed, stages, s) alone, so a resumed run reads exactly what an uninterrupted one
reads. Does not: measure entropies or know what a row holds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Stages = tuple[tuple[int, ...], ...]


def plain(n: int) -> Stages:
    """One stage with all `n` rows."""
    return (tuple(range(n)),)


def structured_first(entropies: Sequence[float], count: int) -> Stages:
    """Split rows into `count` stages by ascending base entropy in nats, ties by index (after Omni-Thinker, 2507.14783).

    Stage sizes differ by one at most, larger ones first; with fewer rows than stages there are fewer stages.
    Raises ValueError for a count below 1 or an entropy that is no number.
    """
    if count < 1:
        raise ValueError("count must be at least 1")
    if any(e != e for e in entropies):
        raise ValueError("an entropy is not a number")
    order = sorted(range(len(entropies)), key=lambda i: (entropies[i], i))
    size, larger = divmod(len(order), count)
    ends = [(k + 1) * size + min(k + 1, larger) for k in range(count)]
    stages = [tuple(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return tuple(stage for stage in stages if stage)


def stage_lengths(steps: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Optimiser steps of each stage, proportional to its rows by largest remainder (ties: earlier stage).

    They sum to `steps`. With at least as many steps as stages, every stage gets one.
    """
    total = sum(sizes)
    if not sizes or min(sizes) < 1:
        raise ValueError("every stage needs rows")
    least = 1 if steps >= len(sizes) else 0
    spare = steps - least * len(sizes)
    exact = [spare * size / total for size in sizes]
    lengths = [least + int(x) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (int(exact[k]) - exact[k], k))
    for k in by_remainder[: steps - sum(lengths)]:
        lengths[k] += 1
    return tuple(lengths)


def staged_decay(lengths: Sequence[int], step: int) -> float:
    """Factor of the learning rate at `step` (from 0): from 1 to 0 in a straight line over each stage, 0 after the last."""
    for length in lengths:
        if step < length:
            return 1.0 - step / length
        step -= length
    return 0.0


@lru_cache(maxsize=4)
def _permutation(stage: tuple[int, ...], seed: int, number: int, epoch: int) -> tuple[int, ...]:
    rows = list(stage)
    # A string seeds through sha512: independent streams, and no dependence on PYTHONHASHSEED.
    random.Random(f"{seed}:{number}:{epoch}").shuffle(rows)
    return tuple(rows)


@dataclass(frozen=True)
class Order:
    """The rows of every optimiser step: stage after stage, within a stage epoch after epoch, each freshly shuffled."""

    stages: Stages
    steps: int
    per_step: int
    seed: int
    lengths: tuple[int, ...] = ()
    """Steps of each stage; without them they are in proportion to its rows."""

    def rows(self, step: int) -> tuple[int, ...]:
        """Row indices of `step` (from 0), `per_step` of them. An epoch may end, and the next begin, within a step."""
        number, first = self._stage_of(step)
        stage = self.stages[number]
        begin = (step - first) * self.per_step
        return tuple(
            _permutation(stage, self.seed, number, position // len(stage))[position % len(stage)]
            for position in range(begin, begin + self.per_step)
        )

    def _stage_of(self, step: int) -> tuple[int, int]:
        first = 0
        lengths = self.lengths or stage_lengths(self.steps, [len(s) for s in self.stages])
        for number, length in enumerate(lengths):
            if step < first + length:
                return number, first
            first += length
        raise IndexError(f"step {step} of {self.steps}")
