"""The `Editor` that needs no language model: it adds up evidence, ranks by it, and never looks back.

    EvidenceEditor().rank(body, EvidenceEditor().merge(body, proposals, ""), budget=4, memory="")

Does not: rewrite an edit, or join two edits that differ in a single character.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.skill.edits import Edit
from hybrid.skill.reflection import Proposal, Review, ReviewContext


def aggregate(proposals: Sequence[Proposal]) -> list[Proposal]:
    """One proposal per edit, with the sum of its support and its mean gain by support, in the order of `ordered`.

    The mean is over the parts whose gain is known; where none is, the gain stays None. An edit that failures and
    successes both ask for counts as one from failures. The order of the input does not matter.
    """
    by_edit: dict[Edit, list[Proposal]] = {}
    for proposal in proposals:
        by_edit.setdefault(proposal.edit, []).append(proposal)
    return ordered([_one(same) for same in by_edit.values()])


def ordered(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Those from failures first, then by weight, the largest first; a tie goes by the edit's JSON."""
    return sorted(proposals, key=lambda p: (p.source != "failure", -p.weight, p.edit.model_dump_json()))


def _one(same: Sequence[Proposal]) -> Proposal:
    """Proposals of the same edit as one."""
    best = max(same, key=lambda p: (p.weight, p.rationale))
    source = min((p.source for p in same), key=("failure", "success").index)
    update = {"support": sum(p.support for p in same), "expected_gain": _gain(same), "source": source}
    return best.model_copy(update=update)


def _gain(same: Sequence[Proposal]) -> float | None:
    tried = [p for p in same if p.expected_gain is not None]
    support = sum(p.support for p in tried)
    if support:
        # Sorted, because float sums depend on their order.
        return sum(sorted(p.weight for p in tried)) / support
    return 0.0 if len(tried) == len(same) else None


class EvidenceEditor:
    """An `Editor` by arithmetic alone: no requests, no state, no errors."""

    looks_back = False

    def merge(self, body: str, proposals: Sequence[Proposal], memory: str) -> list[Proposal]:
        """Equal edits as one, see `aggregate`."""
        return aggregate(proposals)

    def rank(self, body: str, proposals: Sequence[Proposal], budget: int | None, memory: str) -> list[Proposal]:
        """The first `budget` in the order of `ordered`; without a budget all that promise a gain."""
        best = ordered(proposals)
        return [p for p in best if p.weight > 0] if budget is None else best[: max(0, budget)]

    def review(self, context: ReviewContext) -> Review | None:
        """None: there is nobody to look back."""
        return None
