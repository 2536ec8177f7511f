"""The section `weights.rewards`: what GRPO rewards, column by column.

Does not: compute rewards (see `hybrid.weights.rewards`) or read confidences (see `hybrid.evidence.stated`).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from hybrid.config.monitors import pattern_of
from hybrid.config.section import Section

CONFIDENCE_FORMS: dict[str, tuple[str, float]] = {
    "digit": (r"~(?P<confidence>\d)\s*$", 10.0),
    "percent": (r"(?P<confidence>\d{1,3}(?:\.\d{1,6})?)\s?%\s*$", 100.0),
    "tag": (r"<confidence>\s*(?P<confidence>[0-9.]{1,12})\s*</confidence>", 1.0),
}
"""Ways of stating a confidence that have a name: their pattern, and the number that means certainty. `tag` is RLCR's
(Damani et al. 2025, arXiv 2507.16806)."""


def _confidence_of(text: str) -> str:
    if text in CONFIDENCE_FORMS:
        return text
    if "confidence" not in re.compile(pattern_of(text)).groupindex:
        forms = ", ".join(CONFIDENCE_FORMS)
        raise ValueError(rf"it has no group called confidence; write (?P<confidence>\d), or one of {forms}")
    return text


class RewardConfig(Section):
    """What training rewards: weighted columns, each logged by its name. A column of weight 0 is only watched.

    The grader's value has `accuracy_weight`. `brier_weight` must not exceed it: above it, answering wrong on purpose pays.
    """

    accuracy_weight: float = Field(default=1.0, gt=0)
    brier_weight: float = Field(default=0.0, ge=0)
    """Weight of 1 - (q - a)^2, q the confidence that the completion states, a in {0, 1} its correctness. Needs
    `grpo.scale_rewards: none`. With it accuracy pays for `passed` alone, whatever share the grader gives."""
    confidence_pattern: Annotated[str, AfterValidator(_confidence_of)] | None = None
    r"""How a completion states its confidence: `digit` (`~7`), `percent` (`70%`), `tag` (`<confidence>0.7</confidence>`), or a
    regex with a group `confidence`; the last match counts. Default: `digit` where `brier_weight` is above 0, else none. With
    one, the report has a calibration."""
    confidence_scale: float | None = Field(default=None, gt=0)
    """The number that means certainty; default: that of the named form (10 for `digit`), and 1 for a regex."""
    format_weight: float = Field(default=0.0, ge=0)
    """Weight of being well-formed *and* right: the layout of a wrong answer is never paid for."""
    format_pattern: Annotated[str, AfterValidator(pattern_of)] | None = None
    """What is well-formed, searched for in the completion; default: the grader's facet `format`."""
    parts: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Facet of the grader -> its weight, as partial credit: `values` of a function-call grader, `cases` of a code grader."""

    @model_validator(mode="after")
    def _proper(self) -> RewardConfig:
        if self.brier_weight > self.accuracy_weight:
            raise ValueError(
                "brier_weight must not exceed accuracy_weight: above it, a surely wrong answer with confidence 0 pays more "
                "than an honest attempt"
            )
        if self.brier_weight > 0 and any(self.parts.values()):
            raise ValueError(
                "parts pay for wrong answers; beside brier_weight that makes wrong on purpose pay: leave one of them out"
            )
        if self.confidence_scale is not None and self.confidence is None:
            raise ValueError("confidence_scale needs confidence_pattern or brier_weight: without them nothing reads it")
        return self

    @property
    def confidence(self) -> tuple[str, float] | None:
        """(regex, number that means certainty), or None where completions state no confidence."""
        given = self.confidence_pattern or ("digit" if self.brier_weight > 0 else None)
        if given is None:
            return None
        pattern, scale = CONFIDENCE_FORMS.get(given, (given, 1.0))
        return pattern, self.confidence_scale or scale
