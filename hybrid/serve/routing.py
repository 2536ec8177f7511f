"""Which capability a request belongs to: the request router.

    router = RequestRouter([Described("units", "Converts lengths.", ("3 in to cm", "2 ft to m"))])
    router.choose("5 in to cm").name              # "units", or None where nothing is close enough

Lexical, like the selection of skills (`hybrid.skill.select`: BM25 over name, description and content): the content of a
capability is its document and some of its training prompts. Every capability of the run takes part, also those to which
nothing is applied: a request for what the base does well is then known as such, and not pressed into the nearest adapter.
Where the best two are close, or the best is far, no capability is chosen: the bare base is what was there before.
Deterministic; ties go to the earlier name. Does not: ask a model, or learn from requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from hybrid.skill.select import FIELDS, Bm25, ending


class RoutingPolicy(BaseModel):
    """When a capability is chosen. Scores lie between 0 (nothing in common) and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Least score of the best capability."""
    close: float = Field(default=0.9, ge=0, le=1)
    """Where the second reaches this share of the best one's score, neither is chosen."""


@dataclass(frozen=True)
class Described:
    """What the router knows of a capability."""

    name: str
    description: str = ""
    prompts: tuple[str, ...] = ()
    document: str = ""


@dataclass(frozen=True)
class Choice:
    """The chosen capability or None, why in a few words, and every score by name."""

    name: str | None
    why: str
    scores: dict[str, float] = field(default_factory=dict)


class RequestRouter:
    """Chooses among the capabilities of one run."""

    def __init__(self, capabilities: Sequence[Described], policy: RoutingPolicy | None = None) -> None:
        self.policy = policy or RoutingPolicy()
        self._names = sorted(c.name for c in capabilities)
        by_name = {c.name: c for c in capabilities}
        ordered = [by_name[name] for name in self._names]
        self._index = Bm25(
            [(c.name.replace("-", " "), c.description, "\n".join([*c.prompts, c.document])) for c in ordered], FIELDS
        )

    def scores(self, text: str) -> dict[str, float]:
        """The score of every capability: of the whole text or of the line it ends with, whichever is higher."""
        if not self._names:
            return {}
        pairs = zip(self._index.scores(text), self._index.scores(ending(text)), strict=True)
        return {name: max(pair) for name, pair in zip(self._names, pairs, strict=True)}

    def choose(self, text: str) -> Choice:
        """The capability that a request belongs to, or none."""
        scores = self.scores(text)
        ranked = sorted(scores, key=lambda name: (-scores[name], name))
        if not ranked or scores[ranked[0]] < max(self.policy.threshold, 1e-9):
            best = f", nearest {ranked[0]} at {scores[ranked[0]]:.2f}" if ranked else ""
            return Choice(None, f"no capability reaches {self.policy.threshold:.2f}{best}", scores)
        first = ranked[0]
        if len(ranked) > 1 and scores[ranked[1]] >= self.policy.close * scores[first]:
            told = f"{first} at {scores[first]:.2f} and {ranked[1]} at {scores[ranked[1]]:.2f} are too close to tell"
            return Choice(None, told, scores)
        return Choice(first, f"nearest, at {scores[first]:.2f}", scores)
