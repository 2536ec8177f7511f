"""Lessons: the answers of the base with a document, measured like all others, as material for an adapter without it.

    lessons(session, capability, "rule Kos @prev.").summary
    # taught 96 answers to 96 of 96 training rows by a document of 7 tokens

Every answer is found on disk or paid for once; the ledger counts it under the stage `teach`. Does not: train, or read any
split but `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.capability.types import Capability, Example
from hybrid.config.schema import DistillConfig
from hybrid.errors import TrainingError
from hybrid.evidence.types import Measurement, Rollout
from hybrid.pipeline.session import Session
from hybrid.weights.schedule import Stages


@dataclass(frozen=True)
class Lessons:
    """`answers` are (training row, text) in the order of rows; `document` is what the teacher read before each prompt."""

    document: str
    answers: tuple[tuple[int, str], ...]
    summary: str

    def staged(self, stages: Stages) -> Stages:
        """Stages over training rows as stages over answers; a stage whose rows have no answer is left out."""
        places: dict[int, list[int]] = {}
        for place, (row, _) in enumerate(self.answers):
            places.setdefault(row, []).append(place)
        found = (tuple(place for row in stage for place in places.get(row, ())) for stage in stages)
        return tuple(stage for stage in found if stage)


def lessons(session: Session, capability: Capability, document: str, variants: Sequence[Example] = ()) -> Lessons:
    """Ask the base with `document` every training prompt, and keep what `weights.distill` says.

    `variants` are asked too; their rows are numbered behind those of `train`.
    Raises TrainingError when nothing is left to teach, BudgetExhausted after keeping what was affordable.
    """
    config = session.loaded.config.weights.distill
    candidate = session.candidate(capability, document)
    sampled = candidate.sampling.model_copy(update={"temperature": config.temperature, "top_p": 1.0})
    teacher = type(candidate)(candidate.model_fingerprint, document, None, sampled)
    rows = capability.splits["train"]
    measured = session.meter.measure(teacher, capability, "train", rows, samples=config.samples, stage="teach")
    answers = kept(measured, config)
    if variants:
        more = session.meter.measure(teacher, capability, "variant", variants, samples=config.samples, stage="teach")
        answers += tuple((len(rows) + row, text) for row, text in kept(more, config))
    reached, tokens = len({row for row, _ in answers}), session.backend.count_tokens(document)
    if not answers:
        what = "passes" if config.keep == "passed" else "ends"
        raise TrainingError(
            f"distill: no answer of the base with the document to {len(rows)} training rows {what}: nothing to teach. "
            f"Raise {'weights.distill.samples' if config.keep == 'passed' else 'decoding.max_new_tokens'}"
        )
    asked = len(rows) + len(variants)
    summary = f"taught {len(answers)} answers to {reached} of {asked} training rows by a document of {tokens} tokens"
    return Lessons(document, answers, summary)


def kept(measured: Measurement, config: DistillConfig) -> tuple[tuple[int, str], ...]:
    """(row, text) of the answers that are taught.

    An answer that was cut at its length limit is never taught: it would teach where to stop, wrongly. Among passing answers
    to one row each text counts once, so that rows that the teacher gets right more often do not count more.
    """
    found: list[tuple[int, str]] = []
    for number, row in enumerate(measured.rollouts):
        found += [(number, text) for text in _texts(row, config.keep == "passed")]
    return tuple(found)


def _texts(row: Sequence[Rollout], passed_only: bool) -> list[str]:
    ended = [r for r in row if r.finish == "stop"]
    if not passed_only:
        return [r.text for r in ended]
    return list(dict.fromkeys(r.text for r in ended if r.passed))
