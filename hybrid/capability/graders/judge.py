"""The judge before a run has bound it to an endpoint: its identity, and a refusal to grade.

Validation and data hygiene never ask a model. `hybrid.backends.judge` holds the one that does.
"""

from __future__ import annotations

import hashlib
import json

from hybrid.capability.graders.base import RULES_VERSION, GraderError
from hybrid.capability.types import Example, Grader, Score
from hybrid.config import schema

VERSION = 1
"""Counts changes of the questions that the judge is asked."""
_COSTS_ONLY = {"key_env", "timeout_s", "deadline_s", "retries", "budget", "most_unjudged", "check"}
"""Settings that change what a verdict costs and never what it is; `check` has a fingerprint of its own."""


class UnboundJudge:
    """A judge that nobody can ask yet. `check` is the grader that an answer has to pass first, or None."""

    def __init__(self, config: schema.JudgeGrader, check: Grader | None) -> None:
        self.config, self.check = config, check

    def grade(self, completion: str, example: Example) -> Score:
        """Raises `GraderError`: only a run asks a model."""
        raise GraderError("a judge is asked only inside a run, which has a log and a budget for it")

    def fingerprint(self) -> str:
        """Identity of rubric, scale, model, address, and of the check."""
        content = {
            "rules": RULES_VERSION,
            "judge": VERSION,
            "settings": self.config.model_dump(mode="json", exclude=_COSTS_ONLY),
            "check": self.check.fingerprint() if self.check is not None else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
