"""Rewards of training completions, column by column: the grader's value, layout, facets, and stated confidence.

    rewards = Rewards(examples, grader, RewardConfig(brier_weight=1.0))
    {c.name: c.weight for c in rewards.columns}          # {"accuracy": 1.0, "brier": 1.0}
    rewards.column("brier", rows, completions)           # 1 - (q - a)^2 of each completion (RLCR, 2507.16806)

The completion is graded as it is, confidence included, because that is how it is measured. Does not: generate, add the
columns up (the trainer weighs them) or normalise them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.capability.graders.base import UNJUDGED, GraderError, Unjudged
from hybrid.capability.graders.matching import MATCHER, MatchTooCostly
from hybrid.capability.types import Example, Grader, Score
from hybrid.config.rewards import RewardConfig
from hybrid.evidence.stated import Reader, brier_loss, parse_confidence

__all__ = ["Column", "Rewards", "brier", "columns_of", "parse_confidence", "signal_share"]

SECONDS = 0.5
"""Processor time that the pattern of the format may use on one completion; one that takes longer is not well-formed."""
PART = "part/"
"""Prefix of the columns of facets."""


@dataclass(frozen=True)
class Column:
    """One reward function: its name in the log, and its weight. A weight of 0 is only watched."""

    name: str
    weight: float


def columns_of(settings: RewardConfig, may_fail: bool = False) -> tuple[Column, ...]:
    """The columns of a configuration. Accuracy always; another one where it has a weight or was asked for by its key.

    `may_fail`: the grader may give no verdict, which the column `unjudged` marks with 1.
    """
    found = [Column("accuracy", settings.accuracy_weight)]
    if settings.format_weight > 0 or settings.format_pattern is not None:
        found.append(Column("format", settings.format_weight))
    if settings.confidence is not None:
        found.append(Column("brier", settings.brier_weight))
    found += [Column(PART + name, weight) for name, weight in sorted(settings.parts.items())]
    return (*found, Column(UNJUDGED, 0.0)) if may_fail else tuple(found)


def filled(columns: Sequence[Sequence[float]], unjudged: int, generations: int) -> list[list[float]]:
    """Rows of rewards (completions by columns) in which one without a verdict has its group's mean in every column.

    Its advantage is then 0 under unscaled rewards: it teaches nothing, and moves no baseline. `unjudged` is the index of the
    column that marks it. In a group without any verdict all rewards are 0, which is no signal.
    """
    out = [list(row) for row in columns]
    for start in range(0, len(out), generations):
        group = out[start : start + generations]
        known = [row for row in group if row[unjudged] == 0.0]
        for row in group:
            if row[unjudged] != 0.0:
                mean = [sum(values) / len(known) for values in zip(*known, strict=True)] if known else [0.0] * len(row)
                row[:] = [*mean[:unjudged], 1.0, *mean[unjudged + 1 :]]
    return out


def brier(correct: bool, confidence: float | None) -> float:
    """1 - (q - a)^2 with a in {0, 1}: 1 is best. No confidence scores 0, like the surest wrong answer."""
    return 1.0 - brier_loss(None if confidence is None else (confidence, correct))


def signal_share(totals: Sequence[float], generations: int) -> float:
    """Share of groups of `generations` consecutive total rewards that are not all equal: those that teach anything."""
    groups = [totals[i : i + generations] for i in range(0, len(totals), generations)]
    return sum(max(group) - min(group) > 1e-8 for group in groups) / len(groups)


class Rewards:
    """Rewards of batches of completions. The scores of the newest batch are kept, so that its columns grade it once.

    Raises `GraderError` for a part of which the grader says nothing in a whole batch: it would pay for nothing in silence.
    """

    def __init__(self, examples: Sequence[Example], grader: Grader, settings: RewardConfig) -> None:
        self._examples, self._grader, self._settings = examples, grader, settings
        self._reader = Reader.of(settings)
        self._pattern = settings.format_pattern
        self.columns = columns_of(settings, getattr(grader, "may_fail", False))
        self._newest: tuple[tuple[tuple[int, ...], tuple[str, ...]], list[Score]] | None = None

    def column(self, name: str, rows: Sequence[int], completions: Sequence[str]) -> list[float]:
        """One column: the reward of each completion of the example in `rows`."""
        scores = self._scores(rows, completions)
        if name == UNJUDGED:
            return [score.facets.get(UNJUDGED, 0.0) for score in scores]
        if name == "accuracy":
            # Beside a scoring rule partial credit would make a surely wrong answer with confidence 0 pay more than an honest try.
            graded = self._settings.brier_weight == 0
            return [score.value if graded else float(score.passed) for score in scores]
        if name == "format":
            return [self._format(score, text) for score, text in zip(scores, completions, strict=True)]
        if name == "brier":
            assert self._reader is not None
            return [brier(s.passed, self._reader.read(text)) for s, text in zip(scores, completions, strict=True)]
        return self._part(name.removeprefix(PART), scores)

    def newest(self) -> list[tuple[int, str, Score]]:
        """(row, completion, score) of the newest batch, in order; empty before the first."""
        if self._newest is None:
            return []
        (rows, completions), scores = self._newest
        return list(zip(rows, completions, scores, strict=True))

    def _format(self, score: Score, completion: str) -> float:
        """1 for a right answer that is well-formed. A wrong one gets nothing: an additive bonus teaches long wrong answers."""
        if not score.passed:
            return 0.0
        if self._pattern is None:
            return self._part("format", [score])[0]
        try:
            return float(MATCHER.first([self._pattern], completion, False, SECONDS) == 0)
        except MatchTooCostly:
            return 0.0

    def _part(self, facet: str, scores: Sequence[Score]) -> list[float]:
        scored = [score for score in scores if UNJUDGED not in score.facets]
        if scored and not any(facet in score.facets for score in scored):
            known = ", ".join(sorted({name for score in scores for name in score.facets})) or "none at all"
            raise GraderError(
                f"weights.rewards rewards the facet {facet!r}, and the grader reports no such facet (it reports {known}); "
                "correct the name in weights.rewards.parts, or give weights.rewards.format_pattern"
            )
        return [score.facets.get(facet, 0.0) for score in scores]

    def _scores(self, rows: Sequence[int], completions: Sequence[str]) -> list[Score]:
        key = (tuple(rows), tuple(completions))
        if self._newest is None or self._newest[0] != key:
            pairs = zip(rows, completions, strict=True)
            self._newest = (key, [self._grade(text, self._examples[row]) for row, text in pairs])
        return self._newest[1]

    def _grade(self, completion: str, example: Example) -> Score:
        try:
            return self._grader.grade(completion, example)
        except Unjudged as error:
            return Score(0.0, False, {UNJUDGED: 1.0}, str(error))
