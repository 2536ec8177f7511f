"""Confidences that completions state: read out of text, and paired with what was right.

    reader = Reader.of(config.weights.rewards)           # None where answers state none
    reader.read("dcba~7")                                # 0.7
    stated([("dcba~7", True), ("dcba", False)], reader)  # [(0.7, True), None]

A completion is hostile input: only its last 2,000 characters are read, and what is not a number from 0 to certainty is no
confidence. Does not: judge whether a completion is right, or how good a calibration is (see `calibration`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid.config.rewards import RewardConfig
from hybrid.evidence.types import Measurement

LONGEST = 2_000
"""Characters at a completion's end in which a confidence is looked for."""


@dataclass(frozen=True)
class Reader:
    """Reads the confidence that a completion states: the last match's group `confidence`, over `scale`."""

    pattern: re.Pattern[str]
    scale: float

    @classmethod
    def of(cls, settings: RewardConfig) -> Reader | None:
        """The reader of a configuration, or None where completions state no confidence."""
        if settings.confidence is None:
            return None
        pattern, scale = settings.confidence
        return cls(re.compile(pattern), scale)

    def read(self, completion: str) -> float | None:
        """The stated confidence in [0, 1]; None when there is none, or it is no such number."""
        return parse_confidence(completion, self.pattern, self.scale)


def parse_confidence(completion: str, pattern: re.Pattern[str], scale: float) -> float | None:
    """The stated confidence in [0, 1]: the last match's group `confidence` over `scale`. None when there is none."""
    found: str | None = None
    for match in pattern.finditer(completion[-LONGEST:]):
        found = match["confidence"]
    if found is None:
        return None
    try:
        confidence = float(found) / scale
    except ValueError:
        return None
    return confidence if 0.0 <= confidence <= 1.0 else None


def stated(answers: Iterable[tuple[str, bool]], reader: Reader) -> list[tuple[float, bool] | None]:
    """(confidence, correct) of each (completion, correct), in order; None where a completion states no confidence."""
    read = [(reader.read(text), correct) for text, correct in answers]
    return [None if confidence is None else (confidence, correct) for confidence, correct in read]


def told(measured: Measurement, reader: Reader | None) -> list[tuple[float, bool] | None]:
    """(confidence, correct) of the first answer to each example, in order; without a reader nothing is stated."""
    if reader is None:
        return [None] * len(measured.rollouts)
    return stated(((row[0].text, row[0].passed) for row in measured.rollouts), reader)


def brier_loss(pair: tuple[float, bool] | None) -> float:
    """(q - a)^2 of one answer, in [0, 1]; 1, the worst, where no confidence is stated, as in the reward."""
    return 1.0 if pair is None else (pair[0] - float(pair[1])) ** 2
