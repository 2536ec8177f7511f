"""Which capability a request belongs to: the request router.

    router = RequestRouter([Described("units", "Converts lengths.", ("3 in to cm", "2 ft to m"))])
    router.choose("5 in to cm").name              # "units", or None where nothing is close enough

Lexical, like the selection of skills (`hybrid.skill.select`: BM25 over name, description and content): the content of a
capability is some of its training prompts, and its document only where there are few of them: prompts look like requests,
while a document may be full of words that belong to requests of another capability.

Every capability of the run takes part, also those to which nothing is applied: a request for what the base does well is then
known as such, and not pressed into the nearest adapter. Where the best two are close, or the best is far, no capability is
chosen: the bare base is what was there before.
Deterministic; ties go to the earlier name. Does not: ask a model, or learn from requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field

from hybrid.skill.select import FIELDS, Bm25, ending


class RoutingPolicy(BaseModel):
    """When a capability is chosen. Scores lie between 0 (nothing in common) and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Least score of the best capability; less where its own prompts score less, as long ones with many names in them do."""
    floor: float = Field(default=0.12, ge=0, le=1)
    """Least score of any."""
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


MOST_READ = 4000
"""Characters of a request that are read from its beginning, and from its end."""
_NUMBER = re.compile(r"\d+")
LEAST_PROMPTS = 8
"""Prompts from which a capability's own level is known, and which say enough without its document."""


class RequestRouter:
    """Chooses among the capabilities of one run. `levels` is the least score at which each is chosen.

    What prompts of a capability score is known from its own: an index over every second one scores the others. The level is
    four fifths of the lowest tenth of these, between the policy's `floor` and its `threshold`.
    """

    def __init__(self, capabilities: Sequence[Described], policy: RoutingPolicy | None = None) -> None:
        self.policy = policy or RoutingPolicy()
        by_name = {c.name: c for c in capabilities}
        self._names = sorted(by_name)
        ordered = [by_name[name] for name in self._names]
        self._index = _index(ordered)
        self.levels = self._levels(ordered)

    def scores(self, text: str) -> dict[str, float]:
        """The score of every capability: of the whole text or of the line it ends with, whichever is higher."""
        return dict(zip(self._names, _scores(self._index, text), strict=True))

    def choose(self, text: str) -> Choice:
        """The capability that a request belongs to, or none."""
        scores = self.scores(text)
        ranked = sorted(scores, key=lambda name: (-scores[name], name))
        if not ranked:
            return Choice(None, "there is no capability")
        first, best = ranked[0], scores[ranked[0]]
        if best < self.levels[first] or best <= 0:
            return Choice(
                None, f"{first} is nearest, at {best:.2f}, and is chosen from {self.levels[first]:.2f} on", scores
            )
        if len(ranked) > 1 and scores[ranked[1]] >= self.policy.close * best:
            told = f"{first} at {best:.2f} and {ranked[1]} at {scores[ranked[1]]:.2f} are too close to tell"
            return Choice(None, told, scores)
        return Choice(first, f"nearest, at {best:.2f}", scores)

    def _levels(self, capabilities: Sequence[Described]) -> dict[str, float]:
        policy = self.policy
        levels = dict.fromkeys(self._names, policy.threshold)
        half = _index([replace(c, prompts=c.prompts[::2], document="") for c in capabilities])
        for place, c in enumerate(capabilities):
            other = c.prompts[1::2]
            if len(c.prompts) >= LEAST_PROMPTS:
                own = sorted(_scores(half, text)[place] for text in other)
                levels[c.name] = min(policy.threshold, max(policy.floor, 0.8 * own[len(own) // 10]))
        return levels


def _index(capabilities: Sequence[Described]) -> Bm25:
    texts = [(c.name.replace("-", " "), c.description, _content(c)) for c in capabilities]
    return Bm25([tuple(_plain(field) for field in text) for text in texts], FIELDS)


def _content(c: Described) -> str:
    return "\n".join(c.prompts if len(c.prompts) >= LEAST_PROMPTS else [*c.prompts, c.document])


def _plain(text: str) -> str:
    """The text with one number for all: which number is asked about says nothing of the capability."""
    return _NUMBER.sub("0", text)


def _scores(index: Bm25, text: str) -> list[float]:
    text = _plain(text if len(text) <= 2 * MOST_READ else f"{text[:MOST_READ]}\n{text[-MOST_READ:]}")
    return [max(pair) for pair in zip(index.scores(text), index.scores(ending(text)), strict=True)]
