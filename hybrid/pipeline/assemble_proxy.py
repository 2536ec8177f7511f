"""The report's part about proxy-tuning, from what the search over strengths left. Nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.config.proxy import SAME
from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.pipeline.proxy import Trial, Tried, tokens_per_second
from hybrid.pipeline.session import Session
from hybrid.report import schema as r
from hybrid.weights.jobs import base_label

if TYPE_CHECKING:
    from hybrid.pipeline.run import Outcome


def assembled(session: Session, outcome: Outcome, arm: str | None) -> r.Proxy | None:
    """What was tried for the placed arm, or for the first that tried anything; None where nothing did."""
    found = outcome.improved.proxies
    name = arm if arm in found else min(found, default=None)
    tried = next((t for a, t in found.items() if a == name), None)
    if tried is None:
        return None
    settings = session.loaded.config.weights.proxy
    fields = session.steering
    return r.Proxy(
        small=settings.small if settings.small == SAME else base_label(settings.small),
        small_fingerprint=fields.get("small"),
        apply=settings.apply,
        trained_by="an earlier training" if settings.adapter is not None else settings.train,
        alpha=tried.chosen.alpha if tried.chosen else None,
        trials=tuple(_trial(t, tried, session.loaded.config.seed) for t in tried.trials),
        base_tokens_per_second=tokens_per_second(tried.start),
    )


def _trial(trial: Trial, tried: Tried, seed: int) -> r.ProxyTrial:
    i = mean_interval(trial.measured.values, 0.95, seed)
    pairs = list(zip(tried.start.values, trial.measured.values, strict=True))
    judged = [after - before for before, after in pairs if after == after and before == before]  # NaN: not judged
    delta, low, high = paired_interval(judged, 0.95)
    return r.ProxyTrial(
        alpha=trial.alpha,
        step=trial.step,
        search=r.Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n),
        gain=r.Effect(delta=delta, low=low, high=high, n=len(judged)),
        tokens_per_second=trial.speed,
    )
