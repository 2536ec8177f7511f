"""Which variants may be used for what: a variant and its parent are one family, and a family stays on one side.

    parts = divide(capability, share=0.25, seed=0, teach=False)
    parts.watched        # search may read these at will: every checkpoint is measured on them
    parts.held           # for the ship gate and the report
    parts.taught         # with `teach`: variants of training rows, which a second training may learn from

Variants of `search` rows are watched before others, because their parents may be read at will too; which of the others
are follows from the seed and the parent's id alone, never from the order of rows. Does not: measure or train.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hybrid.capability.graders.text import fold
from hybrid.capability.types import Capability, Example

LEAST_VARIANTS = 8
"""Below this many variants a transfer ratio says nothing."""


@dataclass(frozen=True)
class VariantParts:
    """Positions in the split `variant`, each part in the split's order. The parts share no family."""

    taught: tuple[int, ...]
    watched: tuple[int, ...]
    held: tuple[int, ...]


def family(example: Example) -> str:
    """The name of a variant's family: its parent's id, or a name of its own where it has no parent."""
    return example.parent_id if example.parent_id is not None else f"variant/{example.id}"


def divide(capability: Capability, *, share: float, seed: int, teach: bool) -> VariantParts:
    """Part the variants. At most `share` of those that are not taught are watched, by whole families.

    A variant is taught only when its parent is a training row and neither its prompt nor its parent's id is found
    in `search`, `confirm` or `test`. Where fewer than `LEAST_VARIANTS` would be watched, or held, all are held.
    """
    variants = capability.splits.get("variant", ())
    taught = _taught(capability) if teach else ()
    rest = sorted(set(range(len(variants))) - set(taught))
    families: dict[str, list[int]] = {}
    for i in rest:
        families.setdefault(family(variants[i]), []).append(i)
    searched = {e.id for e in capability.splits.get("search", ())}

    def rank(name: str) -> tuple[bool, str]:
        return name not in searched, hashlib.sha256(f"{seed}\n{capability.name}\n{name}".encode()).hexdigest()

    watched: list[int] = []
    for name in sorted(families, key=rank):
        if len(watched) + len(families[name]) <= share * len(rest):
            watched += families[name]
    if len(watched) < LEAST_VARIANTS or len(rest) - len(watched) < LEAST_VARIANTS:
        watched = []
    return VariantParts(taught, tuple(sorted(watched)), tuple(i for i in rest if i not in set(watched)))


def _taught(capability: Capability) -> tuple[int, ...]:
    train = {e.id for e in capability.splits.get("train", ())}
    sealed = [e for split in ("search", "confirm", "test") for e in capability.splits.get(split, ())]
    ids, texts = {e.id for e in sealed}, {_text(e) for e in sealed}
    return tuple(
        i
        for i, e in enumerate(capability.splits.get("variant", ()))
        if e.parent_id in train and e.parent_id not in ids and _text(e) not in texts
    )


def _text(example: Example) -> str:
    return " ".join(fold(example.prompt_text).split())
