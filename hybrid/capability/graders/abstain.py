"""A grader that accepts an answer that stands for "I do not know", as the capability's `abstain` section says.

Rows that a training labels unknown carry `metadata.abstain: true` (see `unknown_row`): there this answer alone scores 1. On every
other row it scores the configured credit and does not pass. Does not: decide which rows are unknown.
"""

from __future__ import annotations

import hashlib

from hybrid.capability.graders.text import fold
from hybrid.capability.types import Example, Grader, Score
from hybrid.config.schema import AbstainConfig

LABEL = "abstain"


class Abstaining:
    """Another grader with the abstention accepted."""

    def __init__(self, grader: Grader, config: AbstainConfig) -> None:
        self._grader, self._config = grader, config

    def grade(self, completion: str, example: Example) -> Score:
        """See `Grader.grade`."""
        abstained = _same(completion, self._config.answer)
        if example.metadata.get(LABEL) is True:
            told = "" if abstained else f"the answer is not known; say {self._config.answer!r}"
            return Score(float(abstained), abstained, {"format": 1.0, "abstained": float(abstained)}, told)
        found = self._grader.grade(completion, example)
        if abstained and not found.passed:
            credit = max(found.value, self._config.credit)
            return Score(credit, False, {**found.facets, "abstained": 1.0}, found.feedback)
        return found

    def fingerprint(self) -> str:
        """See `Grader.fingerprint`."""
        text = f"{self._grader.fingerprint()}\nabstain {self._config.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()


def accepting(grader: Grader, config: AbstainConfig | None) -> Grader:
    """The grader itself, or one that accepts the abstention where there is one."""
    return grader if config is None else Abstaining(grader, config)


def unknown_row(example: Example, answer: str) -> Example:
    """The row with the abstention as its reference."""
    changed = {"reference": answer, "gold": None, "metadata": {**example.metadata, LABEL: True}}
    return example.model_copy(update=changed)


def _same(completion: str, answer: str) -> bool:
    return fold(completion).strip() == fold(answer).strip()
