"""The parts of the placement report that reach beyond one run: what a review decided before, what a new base moved.

Frozen records only. Does not: decide (`hybrid.router.lifecycle`) or draw (`lifecycle_text`).
"""

from __future__ import annotations

from typing import Literal

from hybrid.config.schema import PlacementName
from hybrid.report.parts import Count, Delta, Effect, Estimate, ModelFacts, Number, Part, ProbeResult, Text

Action = Literal["keep", "promote", "demote", "renew", "retire", "replace"]
"""`renew` writes a stale document again; `replace` is a new base model."""


class HistoryEntry(Part):
    """One decision over a placement that had shipped.

    `delta` is what ships now minus what shipped before, paired by example on the sealed test; null where both are the same
    candidate, or where the base changed and the rows are not the same.
    """

    when: Text
    """Id of the run that carried it out."""
    action: Action
    was: PlacementName
    now: PlacementName
    why: Text
    """The reason for the proposal."""
    outcome: Text
    """What the gates made of it."""
    delta: Number | None
    low: Number | None
    high: Number | None
    n: Count


class DocumentMove(Part):
    """A document that shipped on the old base, as it was measured on the new one before anything was changed."""

    verdict: Text
    gain: Delta
    """Over the new base's own score, on `test`."""
    over_control: Delta | None
    """Over an irrelevant text of the same length."""
    ratio: Effect | None
    """Gain here per gain on the old base."""


class Move(Part):
    """One capability on the old and on the new base."""

    name: Text
    was: PlacementName
    now: PlacementName
    why: Text
    base_was: Estimate | None
    base_now: Estimate | None
    base_change: Effect | None
    """New base minus old base without text or adapter, paired on the sealed test; null where the rows differ."""
    shipped_was: Estimate | None
    shipped_now: Estimate | None
    shipped_change: Effect | None
    """What ships now minus what shipped, likewise."""
    profile_was: dict[Text, ProbeResult]
    document: DocumentMove | None
    """Null where no document shipped, or the new base cannot read it (`note`)."""
    note: Text = ""


class Moves(Part):
    """What a new base model moved."""

    replaced_from: Text
    """Id of the run on the old base."""
    identity: Text
    model: ModelFacts
    """The old base."""
    capabilities: tuple[Move, ...]


class Costs(Part):
    """What a document costs its reader against what an adapter costs to make. Seconds are of the machine of the run.

    break_even_days = training_seconds / (document_tokens x calls_per_day x seconds_per_token).
    """

    document_tokens: Number | None
    """Prompt tokens that an answer takes more with the document than without."""
    calls_per_day: Number | None
    """Declared."""
    seconds_per_token: Number | None
    """Of generating, over prompt and answer tokens of the run's ledger."""
    training_seconds: Number | None
    training: Literal["measured", "estimated", "unknown"]
    break_even_days: Number | None
