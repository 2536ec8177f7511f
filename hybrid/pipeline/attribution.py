"""What each kept edit of a document is worth: the document with it against the document without it, on `confirm`.

The bodies without an edit are named when `confirm` is opened, so that the split is still opened once, and are asked only
where the document passed. Nothing is decided from them. Where an edit was kept together with others, or where edits only
help together, the worths do not add up to the whole gain.
Does not: judge whether the document ships (`arms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.evidence.stats import paired_interval
from hybrid.skill.edits import Edit
from hybrid.skill.record import SkillResult
from hybrid.skill.text import join, lines_of


@dataclass(frozen=True)
class Without:
    """A kept edit (of the step in which it was accepted) and the final body without its lines."""

    step: int
    edit: Edit
    body: str


@dataclass(frozen=True)
class Worth:
    """What the document loses without an edit: paired difference on `confirm` with its 95 % interval."""

    step: int
    edit: Edit
    delta: float
    low: float
    high: float
    n: int


def left_out(result: SkillResult, most: int) -> tuple[Without, ...]:
    """The final body without each kept edit that still has lines of its own in it: the `most` with the largest gain in
    their race, larger gains first, ties by the edit's text."""
    lines = lines_of(result.body)
    found: dict[str, tuple[float, str, Without]] = {}
    for kept in result.accepted:
        own = [line for line in lines_of(getattr(kept.edit, "content", "")) if line.strip()]
        shorter = _without(lines, own)
        if shorter is None:
            continue
        body = join(shorter)
        found[body] = (-kept.verdict.delta, kept.edit.model_dump_json(), Without(kept.step, kept.edit, body))
    ordered = sorted(found.values(), key=lambda item: item[:2])
    return tuple(item for _, _, item in ordered[:most])


def worth(item: Without, whole: Sequence[float], without: Sequence[float]) -> Worth:
    """The worth of an edit from the scores of both bodies on the same examples."""
    delta = paired_interval([a - b for a, b in zip(whole, without, strict=True)])
    return Worth(item.step, item.edit, *delta, n=len(whole))


def _without(lines: Sequence[str], own: Sequence[str]) -> list[str] | None:
    """`lines` without the first occurrence of each of `own`; None where none of them is there any more."""
    left = list(lines)
    for line in own:
        if line in left:
            left.remove(line)
    return left if len(left) < len(lines) else None
