"""What an optimisation of a document leaves behind: every step, every verdict, every version. Plain data for JSON.

Does not: hold the examples or completions (the rollout store does).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from hybrid.evidence.types import Verdict
from hybrid.skill.edits import Edit
from hybrid.skill.reflection import FailureLabel, Proposal, RejectedEdit


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refused(_Record):
    """An edit that could not be applied, and why."""

    edit: Edit
    why: str


class Attempt(_Record):
    """Edits judged together. `before` and `after` are body hashes. `by` says who judged: the screen on training rows,
    whose verdict is about `train`, or the gate on `search`."""

    edits: tuple[Edit, ...]
    before: str
    after: str
    verdict: Verdict
    accepted: bool
    by: Literal["screen", "gate"] = "gate"


class StepRecord(_Record):
    """One step: rows rolled out and failed, edits allowed (None: the proposer chose how many), proposed (best first, all of
    the step), applied and refused, the attempts in order (screens, a bundle, then its edits one by one where it was turned
    down), labels of failures, notes on replies that could not be used, and the hash of the body before and after."""

    step: int
    epoch: int
    rows: int
    failed: int
    budget: int | None
    proposed: tuple[Proposal, ...]
    applied: tuple[Edit, ...]
    refused: tuple[Refused, ...]
    attempts: tuple[Attempt, ...]
    before: str
    after: str
    labels: tuple[FailureLabel, ...] = ()
    notes: tuple[str, ...] = ()


class EpochRecord(_Record):
    """A look back at the end of an epoch: rows by what became of them, the slow section's new text (None: no change was
    wanted), the gate's verdict on it, why it was not tried, and the notes kept for the next epoch."""

    epoch: int
    improved: int
    regressed: int
    failing: int
    solved: int
    slow: str | None
    verdict: Verdict | None
    accepted: bool
    refused: str = ""
    memory: str = ""
    notes: tuple[str, ...] = ()


class AcceptedEdit(_Record):
    """An edit in an accepted attempt: its step, the verdict, and how many edits shared it."""

    step: int
    edit: Edit
    verdict: Verdict
    together: int


class SkillResult(_Record):
    """The outcome. `versions` holds the seed body and the body after every acceptance and after the deletion pass;
    `dropped` the lines that the deletion pass took out; `stopped` says why the loop ended; `epochs` are the looks back."""

    body: str
    history: tuple[StepRecord, ...]
    accepted: tuple[AcceptedEdit, ...]
    rejected: tuple[RejectedEdit, ...]
    versions: tuple[str, ...]
    dropped: tuple[str, ...]
    stopped: str
    epochs: tuple[EpochRecord, ...] = ()

    @property
    def labels(self) -> tuple[FailureLabel, ...]:
        """The labels of all steps, in order; a row that failed in several epochs has several."""
        return tuple(label for step in self.history for label in step.labels)
