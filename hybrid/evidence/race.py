"""The lenient gate of a search: a race over parts of the examples, in which a challenger that falls behind is dropped.

A search must let small true gains through, so no error rate is controlled here: over twenty worthless candidates some
win. `gate.ship_gate` decides on other examples what ships.

    race = Race(len(examples), policy, seed=7)
    while (part := race.next_part()) is not None:
        race.observe(measure(incumbent, part), measure(challenger, part))
    race.verdict.decision                # "accept" or "reject"

Does not: measure anything. The same scores in the same order always give the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hybrid.config.schema import SearchGateConfig
from hybrid.evidence.gate import paired_differences, verdict
from hybrid.evidence.stats import paired_interval, sign_tail
from hybrid.evidence.types import Decision, Verdict

EARLY_P = 0.001
EARLY_PARTS = 2


class Race:
    """One challenger against one incumbent over `n` examples, in a seeded order, `policy.part` at a time.

    After each part, in this order: **reject** when the running mean difference is below 0; reject when half the
    examples are seen and no pair differs; **accept** early after at least two parts when the one-sided sign test has
    p < 0.001 and the mean exceeds the margin. At the end accept if and only if the mean exceeds the margin. A last
    part shorter than half a part joins the one before it.
    """

    def __init__(self, n: int, policy: SearchGateConfig, seed: int) -> None:
        if n < 0:
            raise ValueError(f"a race needs a number of examples, not {n}")
        self._policy = policy
        self._parts = _parts(np.random.default_rng(seed).permutation(n).tolist(), policy.part)
        self._n = n
        self._seen = 0
        self._differences: list[float] = []
        self._wins = self._losses = 0
        self._outcome: tuple[Decision, str] | None = ("reject", "no examples to race on") if n == 0 else None
        self._verdict: Verdict | None = None

    def next_part(self) -> tuple[int, ...] | None:
        """Indices to measure next, the same until they are observed; None once the race is decided."""
        return None if self._outcome else self._parts[self._seen]

    def observe(self, incumbent_values: Sequence[float], challenger_values: Sequence[float]) -> None:
        """Scores of both on the part that `next_part` gave, in its order. Raises ValueError for other numbers."""
        part = self.next_part()
        if part is None:
            raise ValueError("the race is decided: nothing is left to observe")
        if len(incumbent_values) != len(part):
            raise ValueError(f"{len(incumbent_values)} scores for a part of {len(part)} examples")
        differences = paired_differences(incumbent_values, challenger_values)
        self._differences += differences
        self._wins += sum([d > 0 for d in differences])
        self._losses += sum([d < 0 for d in differences])
        self._seen += 1
        self._outcome = self._judge()

    @property
    def seen(self) -> int:
        """Examples observed so far."""
        return len(self._differences)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, or None while the race runs. Its p and interval describe; they control nothing."""
        if self._outcome and self._verdict is None:
            delta = paired_interval(self._differences)
            p = sign_tail(self._wins, self._wins + self._losses)
            self._verdict = verdict(*self._outcome, self._differences, delta, p, {})
        return self._verdict

    def _judge(self) -> tuple[Decision, str] | None:
        seen, margin = len(self._differences), self._policy.margin
        mean = math.fsum(self._differences) / seen
        wins, losses = self._wins, self._losses
        far = f"after {seen} of {self._n} examples"
        if mean < 0:
            return "reject", f"behind the incumbent by {-mean:.3f} {far}"
        if wins + losses == 0 and 2 * seen >= self._n:
            return "reject", f"no pair differs {far}"
        if self._seen == len(self._parts):
            ahead = mean > margin
            return (
                "accept" if ahead else "reject"
            ), f"{mean:+.3f} {far}, {'above' if ahead else 'not above'} the margin {margin:g}"
        if self._seen >= EARLY_PARTS and mean > margin and sign_tail(wins, wins + losses) < EARLY_P:
            return "accept", f"ahead by {mean:.3f} {far}, {wins} better and {losses} worse: clear enough to stop"
        return None


def _parts(order: Sequence[int], size: int) -> list[tuple[int, ...]]:
    parts = [tuple(order[i : i + size]) for i in range(0, len(order), size)]
    if len(parts) > 1 and 2 * len(parts[-1]) < size:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts
