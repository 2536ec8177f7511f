"""Rewards of training completions: the grader's value, and a Brier term for stated confidence (RLCR, 2507.16806).

    parse_confidence("dcba~7", pattern, scale=10.0)      # 0.7
    brier(True, 0.7)                                     # 1 - (0.7 - 1)^2 = 0.91

The completion is graded as it is, confidence included, because that is how it is measured. Does not: generate, combine
rewards (the trainer weighs them) or normalise them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hybrid.capability.types import Example, Grader, Score


def parse_confidence(completion: str, pattern: re.Pattern[str], scale: float) -> float | None:
    """The stated confidence in [0, 1]: the last match's group `confidence` over `scale`. None when there is none."""
    found: str | None = None
    for match in pattern.finditer(completion):
        found = match["confidence"]
    if found is None:
        return None
    try:
        confidence = float(found) / scale
    except ValueError:
        return None
    return confidence if 0.0 <= confidence <= 1.0 else None


def brier(correct: bool, confidence: float | None) -> float:
    """1 - (q - a)^2 with a in {0, 1}: 1 is best. No confidence scores 0, like the surest wrong answer."""
    return 0.0 if confidence is None else 1.0 - (confidence - float(correct)) ** 2


def signal_share(totals: Sequence[float], generations: int) -> float:
    """Share of groups of `generations` consecutive total rewards that are not all equal: those that teach anything."""
    groups = [totals[i : i + generations] for i in range(0, len(totals), generations)]
    return sum(max(group) - min(group) > 1e-8 for group in groups) / len(groups)


class Rewards:
    """Rewards of batches of completions. The scores of the newest batch are kept, so that two columns grade it once."""

    def __init__(self, examples: Sequence[Example], grader: Grader, pattern: str, scale: float) -> None:
        self._examples, self._grader = examples, grader
        self._pattern, self._scale = re.compile(pattern), scale
        self._newest: tuple[tuple[tuple[int, ...], tuple[str, ...]], list[Score]] | None = None

    def accuracy(self, rows: Sequence[int], completions: Sequence[str]) -> list[float]:
        """The grader's value of each completion of the example in `rows`."""
        return [score.value for score in self._scores(rows, completions)]

    def brier(self, rows: Sequence[int], completions: Sequence[str]) -> list[float]:
        """The Brier reward of each completion; the grader's `passed` is its correctness."""
        scores = self._scores(rows, completions)
        confidences = [parse_confidence(text, self._pattern, self._scale) for text in completions]
        return [brier(s.passed, q) for s, q in zip(scores, confidences, strict=True)]

    def newest(self) -> list[tuple[int, str, Score]]:
        """(row, completion, score) of the newest batch, in order; empty before the first."""
        if self._newest is None:
            return []
        (rows, completions), scores = self._newest
        return list(zip(rows, completions, scores, strict=True))

    def _scores(self, rows: Sequence[int], completions: Sequence[str]) -> list[Score]:
        key = (tuple(rows), tuple(completions))
        if self._newest is None or self._newest[0] != key:
            pairs = zip(rows, completions, strict=True)
            self._newest = (key, [self._grader.grade(text, self._examples[row]) for row, text in pairs])
        return self._newest[1]
