"""Figures of one training step's completions, for the log and for the monitors.

    observer = Observer(settings, examples, grader)
    figures(observer.samples(graded), generations=8)    # {"pass_at_1": 0.3, "format/code": 0.7, ...}

Does not: raise alarms (see `monitors`), import torch or keep anything from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybrid.capability.types import Example, Grader, Score
from hybrid.config.monitors import MonitorsConfig
from hybrid.evidence.classify import build_classifier
from hybrid.evidence.formats import effective_number
from hybrid.evidence.stats import pass_at_k

SHARE, PASSED = "format/", "format_passed/"
"""Prefixes of history keys: a format's share of the completions, and the share that has it and passed."""


@dataclass(frozen=True)
class Sample:
    """One training completion. `elsewhere`: it was graded with another row's reference as well, and passed."""

    reference: str
    text: str
    passed: bool
    format: str | None
    elsewhere: bool = False


class Observer:
    """Turns graded completions into samples: names their formats and, where asked to, grades them elsewhere."""

    def __init__(self, settings: MonitorsConfig, examples: Sequence[Example], grader: Grader) -> None:
        self._examples, self._grader = examples, grader
        self._classify = build_classifier(settings)
        self._swap = settings.swap_references

    def samples(self, graded: Iterable[tuple[int, str, Score]]) -> list[Sample]:
        """Samples of (row, completion, score), in order."""
        return [
            Sample(
                reference=self._examples[row].reference,
                text=text,
                passed=score.passed,
                format=self._classify(text) if self._classify else None,
                elsewhere=self._swap and score.passed and self._passes_elsewhere(row, text),
            )
            for row, text, score in graded
        ]

    def _passes_elsewhere(self, row: int, text: str) -> bool:
        """Whether the grader passes `text` for the next row (cyclically) that has another reference."""
        own, count = self._examples[row].reference, len(self._examples)
        others = (self._examples[(row + k) % count] for k in range(1, count))
        other = next((e for e in others if e.reference != own), None)
        return other is not None and self._grader.grade(text, other).passed


def figures(samples: Sequence[Sample], generations: int) -> dict[str, float]:
    """Figures of one step, over all processes; `samples` are groups of `generations` in a row.

    `pass_at_1` and `pass_at_k` (k is the group), `unspecific` (share of completions that pass for another reference
    too), and with a classifier `effective_formats`, `format/NAME` (its share) and `format_passed/NAME`.
    """
    total = len(samples)
    groups = [samples[i : i + generations] for i in range(0, total, generations)]
    passes = [sum(s.passed for s in group) for group in groups]
    found = {
        "pass_at_1": sum(passes) / total,
        "pass_at_k": math.fsum(pass_at_k(len(g), c, len(g)) for g, c in zip(groups, passes, strict=True)) / len(groups),
        "unspecific": sum(_unspecific(samples)) / total,
    }
    labels = sorted({s.format for s in samples if s.format is not None})
    if labels:
        shares = {name: sum(s.format == name for s in samples) / total for name in labels}
        found["effective_formats"] = effective_number(shares)
        found |= {SHARE + name: share for name, share in shares.items()}
        found |= {PASSED + name: sum(s.format == name and s.passed for s in samples) / total for name in labels}
    return found


def _unspecific(samples: Sequence[Sample]) -> list[bool]:
    """Per sample: it passed, and so did the same text for another reference."""
    references: dict[str, set[str]] = {}
    for sample in samples:
        if sample.passed:
            references.setdefault(sample.text, set()).add(sample.reference)
    return [s.passed and (s.elsewhere or len(references[s.text]) > 1) for s in samples]
