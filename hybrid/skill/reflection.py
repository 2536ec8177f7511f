"""What a proposer is shown, what it answers, and what is remembered of trials: the extension point of text.

Does not: propose (`proposer`), or measure: trials are paid by whoever passes `trial`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from hybrid.capability.types import Example
from hybrid.evidence.types import Verdict
from hybrid.skill.edits import Edit

Trial: TypeAlias = Callable[[Sequence[str], Sequence[Example]], list[list[float]]]
"""(bodies, training rows) -> one list of scores in [0, 1] per body, in the order of the rows. Every score is paid."""


def body_hash(body: str) -> str:
    """sha256 (16 hex digits) of a body."""
    return hashlib.sha256(body.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RolloutView:
    """One graded completion as the loop sees it: whose it is, what was said, and the grader's judgement."""

    example: Example
    completion: str
    value: float
    passed: bool
    feedback: str = ""


class RejectedEdit(BaseModel):
    """An edit that a gate turned down: the hash of the body that it was tried on, and the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    before: str
    edit: Edit
    verdict: Verdict


class Proposal(BaseModel):
    """An edit with the evidence for it.

    `support` counts the rows that speak for it; `expected_gain` is the mean gain per row that trials on training rows
    showed, 0 for an edit that only tidies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    edit: Edit
    support: int = Field(ge=0)
    source: Literal["failure", "success"]
    rationale: str
    expected_gain: float

    @property
    def weight(self) -> float:
        """Gain times support: what proposals are ranked by."""
        return self.expected_gain * self.support


@dataclass(frozen=True)
class Proven:
    """An edit that gained in trials: the mean gain per row, why, and whether every row tried was right with it."""

    edit: Edit
    gain: float
    rationale: str
    settled: bool


@dataclass
class TrialBook:
    """What trials showed during one optimisation, so that nothing is tried twice for the same reason. For proposers.

    Keys are theirs to choose. It is rebuilt by replay, like everything else here.
    """

    failed: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """(setting, draft) -> ids of training rows on which the draft gained nothing."""
    proven: dict[str, list[Proven]] = field(default_factory=dict)
    """setting -> edits that gained there."""


@dataclass(frozen=True)
class ReflectionContext:
    """One reflection: a body, a minibatch of its failures, and everything that may be used to do better.

    `failures` and `successes` are rollouts of `body` on training rows; `train` are all training rows. Rows of other
    splits never appear here. `budget` is the most edits wanted; `rejected` the gate's refusals so far, oldest first;
    `fits` tells whether a body is within the token cap.
    """

    body: str
    failures: tuple[RolloutView, ...]
    successes: tuple[RolloutView, ...]
    train: tuple[Example, ...]
    budget: int
    rejected: tuple[RejectedEdit, ...]
    trial: Trial
    fits: Callable[[str], bool]
    book: TrialBook


class Proposer(Protocol):
    """Suggests edits of a body.

    `propose` returns at most `context.budget` proposals, best first, and an empty list when it has none. It is
    deterministic given the context (its book included), reads nothing but the context, and proposes no edit that
    `context.rejected` holds for the same body. Errors of `trial` (an exhausted budget) pass through.
    """

    def propose(self, context: ReflectionContext) -> list[Proposal]:
        """Edits worth putting before the gate."""
        ...
