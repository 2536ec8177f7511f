"""The section `weights.monitors`: what is watched while GRPO trains, and what an alarm does.

Does not: watch anything (see `hybrid.weights.monitors`). What each number means: `docs/monitors.md`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hybrid.config.section import Identifier, Section


def pattern_of(text: str) -> str:
    """`text`, which compiles; ValueError says why where it does not."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a regular expression of Python's re: {error}") from None
    return text


class FormatPattern(Section):
    """One format of answers, told by a pattern that is searched for in the completion."""

    name: Identifier
    pattern: Annotated[str, AfterValidator(pattern_of)]


AlarmAction = Literal["warn", "stop", "rollback"]
"""`warn`: in the history and on the report. `stop`: also ends the training; what it has is offered. `rollback`: also takes
back the checkpoints from where the alarm set in."""


class AlarmActions(Section):
    """What each monitor does when it fires; the keys are those of the thresholds."""

    entropy_floor: AlarmAction = "warn"
    format_share: AlarmAction = "warn"
    pass_at_k: AlarmAction = Field(default="warn")
    clipped: AlarmAction = "warn"
    kl: AlarmAction = "warn"
    length_growth: AlarmAction = "warn"
    unspecific: AlarmAction = "warn"
    reward_without_search: Literal["warn", "rollback"] = "warn"
    """Looked at when the training has ended, so there is nothing left to stop."""


class MonitorsConfig(Section):
    """What is watched while GRPO trains. Thresholds are relative to the first `window` steps; null leaves a monitor out."""

    formats: tuple[FormatPattern, ...] = ()
    """Formats of answers; the first pattern that is found names it, and `other` is what none matches."""
    classifier: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """`package.module:function` that names the format of a completion, instead of patterns. It runs in this process."""
    window: int = Field(default=5, ge=2)
    """Steps that are averaged, at the start and up to now; no alarm before twice as many."""
    entropy_floor: float | None = Field(default=0.3, gt=0, lt=1)
    """Alarm when the token entropy is below this share of what it was at the start, times the share of the failures of the
    start that are left: who has learned a task may be sure of it."""
    format_share: float | None = Field(default=0.95, gt=0, le=1)
    """Alarm when one format has at least this share and the excess collapse exceeds `format_excess`."""
    format_excess: float = Field(default=0.1, gt=0)
    """Nats by which the formats may be narrower than their accuracies at the start explain."""
    pass_at_k: float | None = Field(default=3.0, gt=0)
    """Alarm when pass@k (k: the group) fell by more than so many standard errors."""
    clipped: float | None = Field(default=0.5, gt=0, lt=1)
    """Alarm when this share of the completions that ended by themselves at the start is now cut off."""
    kl: float | None = Field(default=None, gt=0)
    """Alarm at this KL to the base, in nats per token. Where `grpo.beta` is 0 it costs two forward passes per step."""
    length_growth: float | None = Field(default=3.0, gt=1)
    """Alarm when completions are so many times as long as at the start while the reward rises."""
    unspecific: float | None = Field(default=0.25, gt=0, lt=1)
    """Alarm when the share of completions that pass for another reference too rises by this much."""
    swap_references: bool = False
    """Grade every passing completion once more with another row's reference, so that `unspecific` sees every such pass and
    not only a text that passes for two rows of one step."""
    reward_without_search: bool = True
    """Alarm at a checkpoint where the training reward has risen and the score on `search` has not."""
    on_alarm: AlarmActions = AlarmActions()

    @model_validator(mode="after")
    def _one_classifier(self) -> MonitorsConfig:
        names = [f.name for f in self.formats]
        for name in names:
            if name == "other" or names.count(name) > 1:
                reason = "is what no pattern matches" if name == "other" else "is used twice"
                raise ValueError(f"formats: the name {name!r} {reason}")
        if self.formats and self.classifier is not None:
            raise ValueError("classifier: there are patterns too; leave one of them out")
        if self.swap_references and self.unspecific is None:
            raise ValueError("swap_references: unspecific is null, so nothing would read it")
        return self

    @property
    def classifies(self) -> bool:
        """Whether formats of answers are told apart at all."""
        return bool(self.formats) or self.classifier is not None
