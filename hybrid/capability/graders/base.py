"""What all graders share: the three shapes of a judgement, the identity of a rule, and the error of a broken grader.

Does not: read completions; each family of graders has its own module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from hybrid.capability.graders.text import quote
from hybrid.capability.types import Score
from hybrid.config.schema import Section
from hybrid.errors import HybridError

RULES_VERSION = 1
"""Counts changes of any grading rule; part of every fingerprint, so that old scores are not mistaken for new ones."""


class GraderError(HybridError):
    """A grader failed, which is not the model's fault. The completion is not scored; the run stops."""


class Unjudged(GraderError):  # noqa: N818  # an answer without a verdict, not a broken grader
    """A model that judges gave no readable verdict on this one answer. It is left out and counted, never scored 0."""


UNJUDGED = "unjudged"
"""Facet (1.0) that marks a stored answer without a verdict; its value stands for nothing."""


def right(facets: Mapping[str, float] | None = None) -> Score:
    """The completion is correct: value 1."""
    return Score(1.0, True, {"format": 1.0, **(facets or {})}, "Correct.")


def wrong(expected: str, got: str, facets: Mapping[str, float] | None = None) -> Score:
    """The completion could be read and is not correct: value 0."""
    return Score(0.0, False, {"format": 1.0, **(facets or {})}, f"Expected {quote(expected)}, got {quote(got)}.")


def unreadable(expected: str, completion: str, why: str, facets: Mapping[str, float] | None = None) -> Score:
    """The completion could not be read: value 0 and facet `format` 0. `why` completes "Expected ..., but "."""
    feedback = f"Expected {quote(expected)}, but {why}; got {quote(completion)}."
    return Score(0.0, False, {"format": 0.0, **(facets or {})}, feedback)


def settings_fingerprint(config: Section, extra: Mapping[str, str] | None = None) -> str:
    """sha256 (hex) of a grader's type, settings and `extra`. Independent of the order in which keys were written."""
    content = {"rules": RULES_VERSION, "settings": config.model_dump(mode="json"), "extra": dict(extra or {})}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
