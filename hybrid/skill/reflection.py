"""What a proposer is shown, what it answers, and what is remembered of trials: the extension points of text.

A `Proposer` suggests edits after looking at rollouts; an `Editor` puts the suggestions of many looks together and looks
back at the end of an epoch. Does not: propose (`proposer`, `model_proposer`), or measure: trials are paid by whoever
passes `trial`.
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
    """An edit that a gate turned down: the hash of the body that it was tried on, the verdict, and how many edits shared it.
    A verdict on several edits condemns none of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    before: str
    edit: Edit
    verdict: Verdict
    together: int = Field(default=1, ge=1)

    @property
    def alone(self) -> bool:
        """Whether the verdict is on this edit and no other."""
        return self.together == 1


class Proposal(BaseModel):
    """An edit with the evidence for it.

    `support` counts the rows that speak for it; `expected_gain` is the mean gain per row that trials on training rows
    showed, 0 for an edit that only tidies, and None where nothing was tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    edit: Edit
    support: int = Field(ge=0)
    source: Literal["failure", "success"]
    rationale: str
    expected_gain: float | None

    @property
    def weight(self) -> float:
        """Gain times support: what proposals are ranked by. An untried edit counts as one that mends every row."""
        return (1.0 if self.expected_gain is None else self.expected_gain) * self.support

    @property
    def tidies(self) -> bool:
        """Whether the edit was shown to gain nothing, and is proposed for a shorter document alone."""
        return self.expected_gain == 0


class FailureLabel(BaseModel):
    """What a failure is a failure of (EmbodiSkill, arXiv 2605.10332; SkillOpt's skill-aware reflection).

    `defect`: the document holds no rule that would have prevented it. `lapse`: it does, and the model did not follow it.
    Recurring lapses speak for weights, defects for text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    example_id: str
    kind: Literal["defect", "lapse"]
    why: str = ""


class Reflection(BaseModel):
    """What one look at rollouts gave: edits, best first, a label per failure that could be told, and `notes` on replies
    that could not be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    proposals: tuple[Proposal, ...] = ()
    labels: tuple[FailureLabel, ...] = ()
    notes: tuple[str, ...] = ()


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


class RefusedEdit(BaseModel):
    """An edit that could not be applied to the body `before` (a hash), or changed nothing there, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    before: str
    edit: Edit
    why: str


@dataclass(frozen=True)
class ReflectionContext:
    """One reflection: a body, a minibatch of its rollouts, and everything that may be used to do better.

    `failures` and `successes` are rollouts of `body` on training rows; `train` are all training rows. Rows of other
    splits never appear here. `source` says which of the two is to be learnt from. `budget` is the most edits wanted;
    `rejected` the gate's refusals so far and `refused` the edits that could not be applied, oldest first; `memory` the
    proposer's own notes of earlier epochs; `fits` tells whether a body is within the token cap.
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
    source: Literal["failure", "success"] = "failure"
    refused: tuple[RefusedEdit, ...] = ()
    memory: str = ""


class Proposer(Protocol):
    """Suggests edits of a body.

    `propose` returns at most `context.budget` proposals, best first, and none when it has none. It is deterministic
    given the context (its book included), reads nothing but the context, and proposes no edit that `context.rejected`
    holds for the same body. Errors of `trial` and of a chat model (an exhausted budget, an endpoint that is gone) pass
    through; a reply that cannot be used does not raise: it is told in `notes`. `tries` tells whether it tries its edits
    itself, through `context.trial`; one that does not is shown fewer rollouts, and its edits are screened.
    """

    tries: bool

    def propose(self, context: ReflectionContext) -> Reflection:
        """Edits worth putting before the gate."""
        ...


@dataclass(frozen=True)
class Comparison:
    """One training row under the previous epoch's document and under the present one."""

    before: RolloutView
    after: RolloutView

    @property
    def group(self) -> Literal["improved", "regressed", "failing", "solved"]:
        """What became of the row from one epoch to the next."""
        if self.before.passed == self.after.passed:
            return "solved" if self.after.passed else "failing"
        return "improved" if self.after.passed else "regressed"


@dataclass(frozen=True)
class ReviewContext:
    """The end of an epoch: the present body, the slow section's text in it ("" for none yet), the compared rows, what was
    accepted and rejected so far, and the notes kept until now."""

    body: str
    slow: str
    compared: tuple[Comparison, ...]
    accepted: tuple[Edit, ...]
    rejected: tuple[RejectedEdit, ...]
    memory: str


class Review(BaseModel):
    """What looking back gave: the new text of the slow section (None leaves it) and the new notes (None leaves them)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    slow: str | None = None
    memory: str | None = None
    notes: tuple[str, ...] = ()


class Editor(Protocol):
    """Puts proposals together and looks back; deterministic given its arguments. Errors as for a `Proposer`.

    `merge` returns at most as many proposals as it is given, without repeats, those from failures first, with the support
    of the parts added up. `rank` returns the ones to apply, best first: at most `budget`, or, where `budget` is None, as
    many as it thinks right. `review` is called once an epoch; an editor that never looks back returns
    None. `looks_back` tells beforehand, so that nothing is rolled out for one that does not.
    """

    looks_back: bool

    def merge(self, body: str, proposals: Sequence[Proposal], memory: str) -> list[Proposal]:
        """Proposals of several reflections as one list."""
        ...

    def rank(self, body: str, proposals: Sequence[Proposal], budget: int | None, memory: str) -> list[Proposal]:
        """The proposals to apply."""
        ...

    def review(self, context: ReviewContext) -> Review | None:
        """What the last epoch teaches."""
        ...
