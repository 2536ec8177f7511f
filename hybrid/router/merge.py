"""Whether one merged adapter stands in for several: a pure decision on what the gates measured.

Routing first, composing second: separate adapters, the right one chosen for each request, are the default, since a merge loses to
them wherever a request needs one skill (`docs/merging.md`). What a merge saves is the choice: one adapter serves every
request. So it only has to be as good, and that has to be shown for each capability.

Does not: measure, or build a merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.evidence.types import Verdict


@dataclass(frozen=True)
class MergeCase:
    """One capability's side of a merge, on `confirm`.

    `placed`: whether its own adapter ships. `refused`: why the merge, in the place of its own adapter, would not ship; "" where
    it would. `against_base` and `against_own`: the merge against the base, and against the own adapter, paired.
    """

    placed: bool
    refused: str
    against_base: Verdict
    against_own: Verdict


@dataclass(frozen=True)
class MergeDecision:
    """`merged` says what ships; `why` holds a sentence for each capability that speaks against it, or one for it."""

    merged: bool
    why: tuple[str, ...]


def decide(cases: Mapping[str, MergeCase], minimum_effect: float) -> MergeDecision:
    """The merge ships where it holds for every capability.

    "Not worse" is a lower end of the 95 % interval above minus the minimum effect. No correction is due for asking that of each:
    all have to hold at once (intersection-union test, Berger 1982).
    """
    if len(cases) < 2:
        return MergeDecision(False, ("there are not two adapters to merge",))
    against = [f"{name}: {said}" for name, case in cases.items() if (said := _objection(case, minimum_effect))]
    if against:
        return MergeDecision(False, tuple(against))
    worst, case = min(cases.items(), key=lambda item: item[1].against_own.low)
    shown = f"at worst {worst}: {_told(case.against_own)}"
    return MergeDecision(
        True, (f"on none of {len(cases)} capabilities is it worse than the own adapter by {minimum_effect:g}, {shown}",)
    )


def _objection(case: MergeCase, minimum_effect: float) -> str:
    if not case.placed:
        return "its own adapter does not ship, and the merge holds it"
    if case.refused:
        return case.refused
    if case.against_own.low <= -minimum_effect:
        return f"not shown to keep what its own adapter does: {_told(case.against_own)}"
    return ""


def _told(verdict: Verdict) -> str:
    return f"{verdict.delta:+.3f} [{verdict.low:+.3f}, {verdict.high:+.3f}], n={verdict.n}"
