"""The parts of the report that go back to another run: every capability's history, and what a new base moved. Pure.

Does not: measure; everything comes from the lineage and from what this run measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.evidence.types import Measurement
from hybrid.pipeline.lineage import Before, Scores
from hybrid.pipeline.session import Session
from hybrid.report.parts import Effect, Estimate
from hybrid.report.parts_lifecycle import HistoryEntry, Move, Moves

if TYPE_CHECKING:
    from hybrid.pipeline.run import Outcome


def history_of(session: Session, outcome: Outcome, run_id: str) -> tuple[HistoryEntry, ...]:
    """What was decided over this capability before, and by this run."""
    lineage, name = session.lineage, outcome.capability.name
    before = None if lineage is None else lineage.capabilities.get(name)
    if lineage is None or before is None:
        return ()
    if lineage.kind == "review" and lineage.before(name) is None:
        return before.history
    assert outcome.placement is not None
    now = outcome.placement.placement
    change = _shipped_change(session, outcome, before)
    done = now == before.target if before.action != "retire" else now not in ("skill", "weights", "both")
    told = "carried out" if done else f"not carried out ({now})"
    if lineage.kind == "replace":
        told = "stays" if now == before.was else "moves"
    return (
        *before.history,
        HistoryEntry(
            when=run_id,
            action=before.action,
            was=before.was,
            now=now,
            why=before.why,
            outcome="; ".join([f"{told}: {outcome.placement.reason}", *(x.why for x in outcome.placement.refused)]),
            delta=None if change is None else change.delta,
            low=None if change is None else change.low,
            high=None if change is None else change.high,
            n=0 if change is None else change.n,
        ),
    )


def moves_of(session: Session, outcomes: Sequence[Outcome]) -> Moves | None:
    """What a new base moved; None for a run that did not replace one."""
    lineage = session.lineage
    if lineage is None or lineage.kind != "replace":
        return None
    rows = []
    for outcome in outcomes:
        before = lineage.capabilities[outcome.capability.name]
        assert outcome.placement is not None and outcome.verified is not None
        base = outcome.verified.test["base"]
        rows.append(
            Move(
                name=outcome.capability.name,
                was=before.was,
                now=outcome.placement.placement,
                why=outcome.placement.reason,
                base_was=before.base,
                base_now=_estimate(base, session.loaded.config.seed),
                base_change=_across(outcome, before.base_scores, base),
                shipped_was=before.shipped,
                shipped_now=_estimate(_shipped(outcome), session.loaded.config.seed),
                shipped_change=_across(outcome, before.shipped_scores, _shipped(outcome)),
                profile_was=before.profile,
                document=before.document,
                note=before.note,
            )
        )
    return Moves(replaced_from=lineage.run_id, identity=lineage.identity, model=lineage.model, capabilities=tuple(rows))


def _shipped(outcome: Outcome) -> Measurement:
    """What ships now on `test`: the placed arm, or the base."""
    assert outcome.placement is not None and outcome.verified is not None
    return outcome.verified.test.get(outcome.placement.placement, outcome.verified.test["base"])


def _shipped_change(session: Session, outcome: Outcome, before: Before) -> Effect | None:
    assert outcome.verified is not None
    now, previous = _shipped(outcome), outcome.verified.previous
    if previous is None:
        return _across(outcome, before.shipped_scores, now)
    return None if previous.candidate.key == now.candidate.key else _paired(previous.values, now.values)


def _across(outcome: Outcome, old: Scores | None, new: Measurement) -> Effect | None:
    """New minus old scores, over the test rows that are the same in both runs; None where none is."""
    if old is None:
        return None
    known = {(i, print_): value for i, print_, value in zip(old.ids, old.prints, old.values, strict=True)}
    pairs = [
        (known[e.id, e.fingerprint()], value)
        for e, value in zip(outcome.capability.splits["test"], new.values, strict=True)
        if (e.id, e.fingerprint()) in known
    ]
    return _paired([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def _paired(before: Sequence[float], after: Sequence[float]) -> Effect:
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, low, high = paired_interval(differences, 0.95)
    return Effect(delta=mean, low=low, high=high, n=len(differences))


def _estimate(measured: Measurement, seed: int) -> Estimate | None:
    if not measured.values:
        return None
    i = mean_interval(measured.values, 0.95, seed)
    return Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)
