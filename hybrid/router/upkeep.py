"""When an adapter pays for its training against the document that it would replace. Pure; one rule for the router's ties
and for reviews of what shipped.

    upkeep(Terms(calls_per_day=1000), training=1e6, document=200, horizon_days=30).pays      # True: after 5 days

A document costs its tokens with every call, an adapter its training once per change of what it knows. It pays where it breaks
even within the horizon and before the facts change. Costs are in any one unit: tokens (the router, before anything is built) or
seconds (a review, which has measured both).

Does not: measure, or weigh quality: it is asked about a text and an adapter that are equally good.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.probe.base import Terms


@dataclass(frozen=True)
class Upkeep:
    """`days` until the adapter breaks even (None: never, or not known), `limit_days` within which it has to, and the words."""

    days: float | None
    limit_days: float
    why: str

    @property
    def pays(self) -> bool:
        """Whether the adapter is the cheaper one to live with."""
        return self.days is not None and self.days <= self.limit_days


def break_even_days(
    training: float | None, document: float | None, calls_per_day: float | None, per_token: float | None = 1.0
) -> float | None:
    """Days after which a training is paid for by the prompt tokens that its document no longer takes.

    `training` in some unit, `document` in tokens per call, `per_token` that unit per token. None where a number is missing, or
    nothing is saved: then it never is.
    """
    if training is None or document is None or calls_per_day is None or per_token is None:
        return None
    saved = document * calls_per_day * per_token
    return training / saved if saved > 0 else None


def upkeep(terms: Terms, *, training: float, document: float, horizon_days: float) -> Upkeep:
    """Whether an adapter pays, both costs in tokens."""
    return judge(break_even_days(training, document, terms.calls_per_day), terms, horizon_days)


def judge(days: float | None, terms: Terms, horizon_days: float) -> Upkeep:
    """Whether an adapter that breaks even after `days` pays: within the horizon, and before its facts change."""
    lasts = terms.lasts_days
    limit = horizon_days if lasts is None else min(horizon_days, lasts)
    held = f"its facts change every {lasts:.1f} days" if lasts is not None else "no change of its facts is declared"
    return Upkeep(days, limit, f"{held}, the horizon is {horizon_days:g}")
