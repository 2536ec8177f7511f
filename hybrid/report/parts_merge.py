"""One merged adapter in the place of several, as the report tells it: what was tried, and what each capability says to it.

Frozen records only. Does not: decide (`hybrid.router.merge`) or draw (`merge_text`).
"""

from __future__ import annotations

from pydantic import Field

from hybrid.report.parts import Count, Effect, Estimate, Number, Part, Text


class MergeTried(Part):
    """The sum of the members' adapters, each times `scale`, on `search`. `rank` is that of the merged adapter, 0 for vectors of
    singular values."""

    scale: Number
    rank: Count
    search: dict[Text, Estimate]


class MergeMember(Part):
    """One capability's side. `own`: its own adapter on `search`. `against_base` and `against_own`: the merge, paired on
    `confirm`; `refused`: why the merge would not ship in its place, empty where it would."""

    own: Estimate
    against_base: Effect
    against_own: Effect
    placed: bool
    refused: Text


class Merger(Part):
    """`chosen` is the scale that was best on `search`; `merged` says whether it ships in the place of the own adapters."""

    tried: tuple[MergeTried, ...] = Field(min_length=1)
    chosen: Number
    members: dict[Text, MergeMember]
    merged: bool
    why: tuple[Text, ...]
