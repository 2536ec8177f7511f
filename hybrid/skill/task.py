"""One optimisation of a document as data: whose, on what, from which text, how, and with whose help.

Does not: run it (`skillopt`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid.capability.types import Example, Split
from hybrid.config.schema import SearchGateConfig, SkillConfig
from hybrid.skill.evidence_editor import EvidenceEditor
from hybrid.skill.record import StepRecord
from hybrid.skill.reflection import Editor, Proposer, RolloutView, Trial

Measure: TypeAlias = Callable[[str, Sequence[Example], Split], Sequence[RolloutView]]
"""(body, rows, split) -> one view per row, in order. Only `train` and `search` are asked. What was paid for once should
come from a store: the loop asks for the incumbent's scores again and again."""
Guard: TypeAlias = Callable[[str, str], list[str]]
"""(body, body before) -> why the body must not be used; only faults that the body before did not have."""


def no_guard(body: str, before: str) -> list[str]:
    """A guard that lets everything through."""
    return []


def nobody(record: StepRecord) -> None:
    """Default progress: nobody watches."""


@dataclass(frozen=True)
class SkillTask:
    """One optimisation.

    `seed_body` is the body of the seed document without front matter, "" for none. `count_tokens` counts the model's
    tokens; `config.max_tokens` caps the body. `trial` scores many bodies on training rows in one go (default: one after
    the other through `measure`). `guard` is asked about every changed body before a rollout is paid for it.
    `on_progress` is called with each finished step.
    """

    capability: str
    train: tuple[Example, ...]
    search: tuple[Example, ...]
    seed_body: str
    config: SkillConfig
    gate: SearchGateConfig
    proposer: Proposer
    measure: Measure
    count_tokens: Callable[[str], int]
    seed: int
    editor: Editor = field(default_factory=EvidenceEditor)
    guard: Guard = no_guard
    trial: Trial | None = None
    on_progress: Callable[[StepRecord], None] = nobody
