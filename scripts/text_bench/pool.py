"""The pool that every method's proposer draws from: one seeded order, no knowledge of what an edit is worth.

Edits are drawn in order. After the last one the order starts again with the edits that would still change the document
that is shown, so that what was turned down comes back. An edit that the request itself lists as rejected is passed
over while it is listed; a method that shows its rejections is helped by that, as it would be by a language model.
Does not: look at rows, scores or truths, or speak any method's dialect (`replies`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from text_bench.world import PoolEdit

Key = tuple[str, str, str]
PASSES = 4
"""How often methods that count epochs may go through the pool: their epochs are set by it."""
MOST = 1000
"""Edits that one run's proposer gives at most. Only a method that asks again and again gets so far."""


class Proposals:
    """What one run's proposer has to offer. `drawn` counts the edits that were offered and not given back."""

    def __init__(self, edits: Sequence[PoolEdit], most: int = MOST) -> None:
        self.edits, self.most = tuple(edits), most
        self.drawn = 0
        self._at = 0
        self._step: list[PoolEdit] = []
        self._waiting: list[PoolEdit] = []

    def begin(self) -> None:
        """A new step: from here on other edits are offered. Within a step every reflection gets the same ones, as failures
        with one cause call for one remedy; so a step draws as many edits as its budget, however many minibatches it has."""
        self._step = []

    @property
    def exhausted(self) -> bool:
        """Whether nothing more is offered, whatever the document."""
        return self.drawn >= self.most

    def take(self, count: int, document: str, rejected: Collection[Key] = ()) -> list[PoolEdit]:
        """At most `count` edits of the present step, in order; fewer once `most` were drawn or none is left."""
        lines = [line.strip() for line in document.split("\n")]
        while len(self._step) < count and self.drawn < self.most:
            edit = self._next(lines, rejected)
            if edit is None:
                break
            self._step.append(edit)
            self.drawn += 1
        return self._step[:count]

    def _next(self, lines: list[str], rejected: Collection[Key]) -> PoolEdit | None:
        for edit in self._waiting:
            if edit.fits(lines) and edit.key not in rejected and edit not in self._step:
                self._waiting.remove(edit)
                return edit
        for _ in range(len(self.edits)):
            edit = self.edits[self._at % len(self.edits)]
            self._at += 1
            if edit.fits(lines) and edit.key not in rejected and edit not in (*self._step, *self._waiting):
                return edit
        return None

    def give_back(self, keys: Collection[Key]) -> None:
        """Edits that a method's own ranking left out: they were never judged, and come first in the next step."""
        left = [edit for edit in self._step if edit.key in keys]
        self._step = [edit for edit in self._step if edit.key not in keys]
        self._waiting = left + self._waiting
        self.drawn -= len(left)
