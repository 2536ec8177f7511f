"""The lenient gate of a search: a race over parts of the examples, in which a challenger that falls behind is dropped.

A search must let small true gains through, so no error rate is controlled here: over twenty worthless candidates some
win. `gate.ship_gate` decides on other examples what ships.

    race = Race(len(examples), policy, seed=7)
    while (part := race.next_part()) is not None:
        race.observe(measure(incumbent, part), measure(challenger, part))
    race.verdict.decision                # "accept" or "reject"

Where it is known which examples a challenger is about, they may be asked `first`: an edit of one line of a table then
shows within a few examples what it does, and the examples after them show whether it does harm elsewhere. The verdict's
delta and interval weigh both strata by their size, so looking at the telling ones first does not flatter the challenger.

Does not: measure anything. The same scores in the same order always give the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hybrid.config.schema import SearchGateConfig
from hybrid.evidence.gate import paired_differences, verdict
from hybrid.evidence.stats import Delta, paired_interval, sign_tail
from hybrid.evidence.types import Decision, Verdict

EARLY_PARTS = 2
TELLING = 4
"""From so many first examples on, no difference on any of them means that the challenger does not do what it is for."""


class Race:
    """One challenger against one incumbent over `n` examples, in a seeded order, `policy.part` at a time.

    After each part, in this order: **reject** when the running mean difference is below 0; reject when no pair differs
    on four or more `first` examples, or on half of all; **accept** early after at least two parts when the one-sided sign
    test has p < `policy.early_p` and the mean exceeds the margin, with `first` examples only if no other one got worse.
    At the end accept if and only if the mean exceeds the margin. A last part shorter than half a part joins the one before
    it. `first` names examples to ask before all others, as a part of their own; of more than `policy.part` of them a seeded
    choice is asked first.
    """

    def __init__(self, n: int, policy: SearchGateConfig, seed: int, first: Sequence[int] = ()) -> None:
        if n < 0:
            raise ValueError(f"a race needs a number of examples, not {n}")
        self._policy = policy
        order = np.random.default_rng(seed).permutation(n).tolist()
        wanted = set(first)
        ahead = [i for i in order if i in wanted][: policy.part] if len(wanted) < n else []
        self._ahead = len(ahead)
        rest = [i for i in order if i not in set(ahead)]
        self._parts = ([tuple(ahead)] if ahead else []) + _parts(rest, policy.part)
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
        # A pair that was not judged speaks for neither: here it is no difference, the ship gate leaves it out.
        differences = [0.0 if math.isnan(d) else d for d in paired_differences(incumbent_values, challenger_values)]
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
            p = sign_tail(self._wins, self._wins + self._losses)
            self._verdict = verdict(*self._outcome, self._differences, self._delta(), p, {})
        return self._verdict

    def _delta(self) -> Delta:
        """The mean difference over all `n` examples, as far as they were seen: strata weighed by their size.

        The interval adds up the strata's own, which is wide rather than narrow. Unseen strata count as no difference.
        """
        ahead, rest = self._differences[: self._ahead], self._differences[self._ahead :]
        if not ahead or self.seen == self._n:
            return paired_interval(self._differences)
        parts = [(self._ahead / self._n, paired_interval(ahead))]
        if rest:
            parts.append((1.0 - self._ahead / self._n, paired_interval(rest)))
        mean, low, high = (math.fsum(w * d[i] for w, d in parts) for i in range(3))
        return Delta(mean, low, high)

    def _judge(self) -> tuple[Decision, str] | None:
        seen, margin = len(self._differences), self._policy.margin
        mean = self._mean()
        wins, losses = self._wins, self._losses
        far = f"after {seen} of {self._n} examples"
        if mean < 0:
            return "reject", f"behind the incumbent by {-mean:.3f} {far}"
        if wins + losses == 0 and self._seen == 1 and self._ahead >= TELLING:
            return "reject", f"no pair differs on the {self._ahead} examples that it is about"
        if wins + losses == 0 and 2 * seen >= self._n:
            return "reject", f"no pair differs {far}"
        if self._seen == len(self._parts):
            ahead = mean > margin
            return (
                "accept" if ahead else "reject"
            ), f"{mean:+.3f} {far}, {'above' if ahead else 'not above'} the margin {margin:g}"
        # Wins among the first examples say nothing of the others: one loss there, and the race is run to its end.
        harmless = not self._ahead or min(self._differences[self._ahead :], default=0.0) >= 0
        clear = sign_tail(wins, wins + losses) < self._policy.early_p
        if self._seen >= EARLY_PARTS and mean > margin and clear and harmless:
            return "accept", f"ahead by {mean:.3f} {far}, {wins} better and {losses} worse: clear enough to stop"
        return None

    def _mean(self) -> float:
        ahead, rest = self._differences[: self._ahead], self._differences[self._ahead :]
        if not ahead or not rest:
            return math.fsum(self._differences) / len(self._differences)
        share = self._ahead / self._n
        return share * math.fsum(ahead) / len(ahead) + (1.0 - share) * math.fsum(rest) / len(rest)


def _parts(order: Sequence[int], size: int) -> list[tuple[int, ...]]:
    parts = [tuple(order[i : i + size]) for i in range(0, len(order), size)]
    if len(parts) > 1 and 2 * len(parts[-1]) < size:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts
