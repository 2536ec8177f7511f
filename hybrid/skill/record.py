"""What an optimisation of a document leaves behind: every step, every verdict, every version. Plain data for JSON.

Does not: hold the examples or completions (the rollout store does).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hybrid.evidence.types import Verdict
from hybrid.skill.edits import Edit
from hybrid.skill.reflection import Proposal, RejectedEdit


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Refused(_Record):
    """An edit that could not be applied, and why."""

    edit: Edit
    why: str


class Attempt(_Record):
    """Edits put before the gate together. `before` and `after` are body hashes; `verdict` is the gate's."""

    edits: tuple[Edit, ...]
    before: str
    after: str
    verdict: Verdict
    accepted: bool


class StepRecord(_Record):
    """One step: rows rolled out and failed, edits allowed, proposed (best first, all of the step), applied and refused,
    the attempts in order (a bundle, then its edits one by one where it was turned down), and the hash of the body
    before and after."""

    step: int
    epoch: int
    rows: int
    failed: int
    budget: int
    proposed: tuple[Proposal, ...]
    applied: tuple[Edit, ...]
    refused: tuple[Refused, ...]
    attempts: tuple[Attempt, ...]
    before: str
    after: str


class AcceptedEdit(_Record):
    """An edit in an accepted attempt: its step, the verdict, and how many edits shared it."""

    step: int
    edit: Edit
    verdict: Verdict
    together: int


class SkillResult(_Record):
    """The outcome. `versions` holds the seed body and the body after every acceptance and after the deletion pass;
    `dropped` the lines that the deletion pass took out; `stopped` says why the loop ended."""

    body: str
    history: tuple[StepRecord, ...]
    accepted: tuple[AcceptedEdit, ...]
    rejected: tuple[RejectedEdit, ...]
    versions: tuple[str, ...]
    dropped: tuple[str, ...]
    stopped: str
