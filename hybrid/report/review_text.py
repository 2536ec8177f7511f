"""A review as data (`review.json`), and drawn: Markdown, and text for a terminal.

A review says of every placement that a run shipped whether it should stay, and why. It proposes; the gates of the run that
carries it out decide. Does not: measure (`pipeline.review`) or decide (`router.lifecycle`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hybrid.config.schema import PlacementName
from hybrid.errors import RunFolderError
from hybrid.report.markdown import esc, table
from hybrid.report.parts import Count, Effect, Number, Part, Share, Text
from hybrid.report.parts_lifecycle import Action, Costs
from hybrid.report.text import ABSENT, interval, line, num, signed
from hybrid.store.atomic import canonical_json


class ReviewEntry(Part):
    """One capability. `gain` and `drift` are on `search` as it is now: over the base (paired), and against the run's sealed
    test (other examples, not paired); null where nothing ships."""

    name: Annotated[Text, Field(min_length=1)]
    was: PlacementName
    action: Action
    target: PlacementName
    why: Text
    looked: tuple[Text, ...]
    """A sentence per rule that was looked at."""
    changed: bool
    """Whether the data differ from the run's."""
    gain: Effect | None
    drift: Effect | None
    volatility: Number | None
    calls_per_day: Number | None
    portable: bool
    costs: Costs


class Review(Part):
    """What should become of the placements of one run, on the data as they were when it was made."""

    schema_version: Literal[1] = 1
    run_id: Text
    run_identity: Text
    created: Text
    minimum_effect: Share
    horizon_days: Number
    calls: Count
    """Completions that the review took."""
    data: dict[Text, Text]
    """Fingerprint of every capability's data, as they were read."""
    capabilities: tuple[ReviewEntry, ...]

    def to_json(self) -> str:
        """Canonical text: equal reviews give equal bytes."""
        return canonical_json(self.model_dump(mode="json"), indent=2) + "\n"

    @property
    def changes(self) -> tuple[ReviewEntry, ...]:
        """The entries that propose something else than to keep what ships."""
        return tuple(e for e in self.capabilities if e.action != "keep")


def load_review(path: Path) -> Review:
    """Read and check a `review.json`. RunFolderError, in one sentence, for one that cannot be read."""
    try:
        return Review.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except (OSError, ValueError, ValidationError, json.JSONDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); delete it and give the same command again") from None


def shown(effect: Effect | None) -> str:
    """`+0.12 [+0.04, +0.20], n=96`."""
    return ABSENT if effect is None else f"{signed(effect.delta)} {interval(effect, sign=True)}, n={effect.n}"


def costs_line(costs: Costs) -> str:
    """What the document costs its reader against what an adapter costs to make, in words; "" where nothing is known."""
    if costs.document_tokens is None and costs.training_seconds is None:
        return ""
    tokens = f"document {ABSENT if costs.document_tokens is None else f'{costs.document_tokens:.1f}'} tokens an answer"
    calls = f"{costs.calls_per_day:g} calls a day" if costs.calls_per_day is not None else "calls a day not declared"
    each = "" if costs.seconds_per_token is None else f", {costs.seconds_per_token * 1000:.3g} ms a token"
    trained = ABSENT if costs.training_seconds is None else f"{costs.training_seconds:.1f} s {costs.training}"
    paid = "never, or not known" if costs.break_even_days is None else f"{num(costs.break_even_days)} days"
    return f"{tokens}, {calls}{each}; training {trained}; an adapter pays after: {paid}"


def _rows(review: Review) -> list[tuple[str, ...]]:
    return [
        (
            e.name,
            e.was,
            e.action if e.action == "keep" else f"{e.action} to {e.target}",
            "yes" if e.changed else "no",
            shown(e.gain),
            shown(e.drift),
            e.why,
        )
        for e in review.capabilities
    ]


HEAD = ("capability", "placed", "proposal", "data changed", "gain over the base now", "against the sealed test", "why")


def to_markdown(review: Review) -> str:
    """The review as Markdown, ending in one newline."""
    return "\n".join(_lines(review)) + "\n"


def _lines(review: Review) -> Iterator[str]:
    yield f"# Review of {esc(review.run_id)}"
    yield ""
    yield (
        f"{len(review.changes)} of {len(review.capabilities)} placements should change. What ships was measured on `search` as "
        f"it is now ({review.calls:,} completions); the sealed splits were not opened. Intervals are 95 %. These are proposals: "
        "the gates of the run that carries them out decide."
    )
    yield ""
    yield from table(HEAD, [tuple(esc(cell, 1000) for cell in row) for row in _rows(review)])
    for e in review.capabilities:
        yield f"## {esc(e.name)}"
        yield ""
        yield from (f"- {esc(said, 1000)}" for said in (*e.looked, costs_line(e.costs)) if said)
        yield ""


def to_text(review: Review) -> str:
    """The review for a terminal, ending in no newline."""
    out = [f"review of {line(review.run_id, 80)}: {len(review.changes)} of {len(review.capabilities)} should change"]
    for e in review.capabilities:
        head = f"{e.action}" if e.action == "keep" else f"{e.action} to {e.target}"
        out += [f"  {line(e.name, 60)} ({e.was}): {head}", f"    {line(e.why, 1000)}"]
        out += [f"    {line(costs_line(e.costs), 400)}"] if costs_line(e.costs) else []
    return "\n".join(out)
