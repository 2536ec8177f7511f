"""Grading in a search: every completion once, although the search, the reward and the choice of a leaf all ask.

Does not: decide what a completion without a verdict is worth (see `forest`), or reward.
"""

from __future__ import annotations

from hybrid.capability.graders.base import Unjudged
from hybrid.capability.types import Example, Grader, Score


class Remembered:
    """A grader that remembers its verdicts, those that were not to be had too: asking a judge again might be paid again."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader
        self._known: dict[tuple[str, str], Score | Unjudged] = {}

    @property
    def may_fail(self) -> bool:
        """Whether the grader may give no verdict."""
        return bool(getattr(self._grader, "may_fail", False))

    def grade(self, completion: str, example: Example) -> Score:
        """The score. Raises Unjudged where the grader gave no verdict."""
        found = self._ask(completion, example)
        if isinstance(found, Unjudged):
            raise found
        return found

    def verdict(self, completion: str, example: Example) -> Score | None:
        """The score, or None where the grader gave no verdict."""
        found = self._ask(completion, example)
        return None if isinstance(found, Unjudged) else found

    def fingerprint(self) -> str:
        """That of the grader."""
        return self._grader.fingerprint()

    def forget(self) -> None:
        """Begin a step."""
        self._known.clear()

    def _ask(self, completion: str, example: Example) -> Score | Unjudged:
        key = (example.id, completion)
        if key not in self._known:
            try:
                self._known[key] = self._grader.grade(completion, example)
            except Unjudged as error:
                self._known[key] = error
        return self._known[key]
