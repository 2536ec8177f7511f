"""The data of evidence: candidates, rollouts, measurements and verdicts. No behaviour beyond identities and means.

Knows nothing of where a candidate came from: a sentence edit, an adapter and a mixture look the same here.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hybrid.backends.base import Adapter, Sampling
from hybrid.capability.graders.base import UNJUDGED


@dataclass(frozen=True)
class Candidate:
    """What is judged: a base model, the skill text it reads (without front matter, may be empty), an adapter, and decoding."""

    model_fingerprint: str
    skill: str
    adapter: Adapter | None
    sampling: Sampling

    @property
    def key(self) -> str:
        """sha256 (hex) identity. Two candidates with the same key give the same completions for the same seeds."""
        content = {
            "model": self.model_fingerprint,
            "skill": hashlib.sha256(self.skill.encode()).hexdigest(),
            "adapter": self.adapter.sha256 if self.adapter else None,
            "sampling": self.sampling.model_dump(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Rollout(BaseModel):
    """One graded completion of one example by one candidate. `sample` numbers repeated draws from 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    candidate: str
    capability: str
    split: str
    example_id: str
    sample: int
    seed: int
    text: str
    value: float
    passed: bool
    facets: dict[str, float] = Field(default_factory=dict)
    feedback: str = ""
    tokens_in: int
    tokens_out: int
    seconds: float
    finish: Literal["stop", "length"]
    stage: str = ""
    """The stage that paid for it first; for the ledger only, not part of its identity."""

    @property
    def unjudged(self) -> bool:
        """Whether a judge gave no verdict: the value then stands for nothing."""
        return UNJUDGED in self.facets


class Interval(BaseModel):
    """A mean with its two-sided interval at the stated level and the number of independent examples behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95


@dataclass(frozen=True)
class Measurement:
    """The rollouts of one candidate on one list of examples: rows are examples in the order asked, columns are samples."""

    candidate: Candidate
    example_ids: tuple[str, ...]
    rollouts: tuple[tuple[Rollout, ...], ...]

    @property
    def values(self) -> list[float]:
        """Mean score of each example over its judged samples, in the order of `example_ids`; paired tests use these.

        NaN for an example without a judged sample: statistics leave it, and its pair, out.
        """
        judged = [[r.value for r in row if not r.unjudged] for row in self.rollouts]
        return [sum(row) / len(row) if row else math.nan for row in judged]

    @property
    def mean(self) -> float:
        """Mean over the examples that were judged."""
        values = [value for value in self.values if not math.isnan(value)]
        return sum(values) / len(values) if values else 0.0


Decision = Literal["accept", "reject", "undecided"]


class Verdict(BaseModel):
    """A gate's decision about a challenger against an incumbent, paired by example.

    `delta` is challenger minus incumbent with its interval [`low`, `high`]; `p` is one-sided for delta > 0; `improved`
    and `regressed` count examples; `n` counts pairs. `reason` is one sentence for the report.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    decision: Decision
    delta: float
    low: float
    high: float
    p: float
    n: int
    improved: int
    regressed: int
    reason: str
    slices: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Named slices that regressed significantly, each with delta, low, high, n; empty when none did."""
    basis: Literal["score", "calibration"] = "score"
    """What was judged in the end: `calibration` is an accept on a better calibration at an accuracy that is not worse."""
