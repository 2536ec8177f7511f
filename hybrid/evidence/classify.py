"""Names the format of a completion, by patterns or by a callable of the user's.

    classify = build_classifier(MonitorsConfig(formats=(FormatPattern(name="code", pattern="def "),)))
    classify("def f(): ...")    # "code"
    classify("so x is 3")       # "other"

Patterns are matched in a process of their own with a limit on processor time, because a completion is hostile input and
`re` backtracks; one that takes too long is `other`. Does not: judge whether a completion is right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from hybrid.capability.graders.base import GraderError, settings_fingerprint
from hybrid.capability.graders.callables import load_callable, source_hash
from hybrid.capability.graders.matching import MATCHER, MatchTooCostly
from hybrid.config.monitors import MonitorsConfig

OTHER = "other"
"""The format of what no pattern matches."""
SECONDS = 0.5
"""Processor time that all patterns together may use on one completion."""
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME = 64

Classifier = Callable[[str], str]
"""Completion -> name of its format. Deterministic."""


def build_classifier(settings: MonitorsConfig) -> Classifier | None:
    """The declared classifier, or None where none is declared. Raises GraderError when a callable cannot be imported."""
    if settings.classifier is not None:
        return _Callable(settings.classifier)
    if not settings.formats:
        return None
    return _Patterns([f.name for f in settings.formats], [f.pattern for f in settings.formats])


def classifier_fingerprint(settings: MonitorsConfig) -> str | None:
    """Identity of the rule: patterns in their order, or the callable's path and source file; None without a classifier."""
    if settings.classifier is not None:
        text = f"{settings.classifier}:{source_hash(load_callable(settings.classifier))}"
        return hashlib.sha256(text.encode()).hexdigest()
    if not settings.formats:
        return None
    return hashlib.sha256("".join(settings_fingerprint(f) for f in settings.formats).encode()).hexdigest()


class _Patterns:
    def __init__(self, names: list[str], patterns: list[str]) -> None:
        self._names, self._patterns = names, patterns

    def __call__(self, completion: str) -> str:
        try:
            first = MATCHER.first(self._patterns, completion, False, SECONDS)
        except MatchTooCostly:
            return OTHER
        return self._names[first] if first >= 0 else OTHER


class _Callable:
    def __init__(self, path: str) -> None:
        self._path, self._function = path, load_callable(path)

    def __call__(self, completion: str) -> str:
        try:
            name = self._function(completion)
        except Exception as error:
            raise GraderError(f"classifier {self._path} raised {type(error).__name__}: {error}") from error
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
            raise GraderError(
                f"classifier {self._path} returned {name!r:.80}; it must return a name of lower-case letters, digits and "
                "single hyphens"
            )
        return name
