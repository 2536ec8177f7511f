"""What a capability is: examples in splits, and the score that a grader gives a completion.

Does not: read files (`sources`), judge completions (`graders`) or know what a model is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Split: TypeAlias = Literal["train", "search", "confirm", "test", "variant"]
SPLITS: tuple[Split, ...] = ("train", "search", "confirm", "test", "variant")
"""train: improvers may read it. search: the search gate reads it at will. confirm: opened once, to ship or not.
test: sealed, opened once for the report. variant: out-of-distribution twins of other examples."""

Kind: TypeAlias = Literal["procedural", "factual", "stylistic"]


class Message(BaseModel):
    """One chat turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str


class Example(BaseModel):
    """One question of a capability.

    `reference` is what graders compare with; `gold` is a completion that the grader scores 1.0 where it differs
    from the reference (say, the reference inside a required layout). `parent_id` names the example that a variant
    was made from. `metadata` is free; graders and variant analyses read it, the model never sees it. `wrong` are
    completions that must not pass: `hybrid validate --data` tries the grader on them, nothing else reads them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(min_length=1, max_length=200)
    prompt: str | tuple[Message, ...]
    reference: str
    gold: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    parent_id: str | None = None
    wrong: tuple[str, ...] = ()

    @property
    def prompt_text(self) -> str:
        """The prompt as one text; chat turns joined by newlines. For slots, hashing and display, not for generation."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(m.content for m in self.prompt)

    @property
    def gold_completion(self) -> str:
        """A completion that must score 1.0."""
        return self.reference if self.gold is None else self.gold

    def fingerprint(self) -> str:
        """sha256 (hex) of the content; the same rows in another order or file keep their fingerprints.

        Wrong answers are no part of it: they try the grader and change nothing that a run does.
        """
        content = self.model_dump(mode="json", exclude={"wrong"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Score:
    """A grader's judgement. `value` in [0, 1]; `passed` is the yes or no that paired tests count.

    `facets` holds named partial scores in [0, 1]; every grader that can tell reports `format` (1.0 when the completion
    could be read at all). `feedback` is one sentence that an improver may show to a proposer for *training* examples.
    """

    value: float
    passed: bool
    facets: Mapping[str, float] = field(default_factory=dict)
    feedback: str = ""


class Grader(Protocol):
    """Turns a completion into a score.

    `grade` is a pure, deterministic function of its arguments, never raises for a bad completion (a model's output is
    hostile input: it scores 0 with feedback) and returns within about a second. `fingerprint` is a stable hex string
    of the grader's type and settings.
    """

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion."""
        ...

    def fingerprint(self) -> str:
        """Stable identity of the grading rule, for the run's identity."""
        ...


@dataclass(frozen=True)
class Capability:
    """A named behaviour with its examples and grader. Splits that the source does not offer are empty tuples."""

    name: str
    splits: Mapping[Split, tuple[Example, ...]]
    grader: Grader
    seed_skill: str | None = None
    """Text of the seed SKILL.md, front matter included, or None."""
    declared_kind: Kind | None = None
    oracle: str | None = None
    """A text that the source knows to hold what the capability needs; for the context probe only, never shipped."""

    def fingerprint(self) -> str:
        """sha256 (hex) of all examples by split, the grader, the seed skill and the oracle text where there is one."""
        content: dict[str, Any] = {
            "name": self.name,
            "splits": {s: [e.fingerprint() for e in self.splits.get(s, ())] for s in SPLITS},
            "grader": self.grader.fingerprint(),
            "skill": self.seed_skill,
        }
        if self.oracle is not None:
            content["oracle"] = self.oracle
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
