"""What the probes of one capability get from a session, and what the run says of a kind that differs from the declared one.

Does not: probe (see `hybrid.probe`) or judge kinds (see `hybrid.router.kinds`).
"""

from __future__ import annotations

from hybrid.backends.ranks import Ranks
from hybrid.capability.types import Capability
from hybrid.evidence.stated import Reader
from hybrid.pipeline.session import Session
from hybrid.pipeline.sharded import ShardedBackend
from hybrid.probe.base import ProbeContext, Profile, Terms
from hybrid.report import schema as r
from hybrid.router.kinds import disagreement, judge_kind


def probe_context_of(session: Session, capability: Capability) -> ProbeContext:
    """The context of a capability's probes. Tokens are ranked by this process alone, also where several share completions."""
    config, settings = session.loaded.config, session.settings(capability)
    own = session.backend.own if isinstance(session.backend, ShardedBackend) else session.backend
    return ProbeContext(
        session.meter,
        capability,
        config.probe,
        own.info().fingerprint,
        session.sampling(capability),
        config.seed,
        policy=config.router,
        ranker=own if isinstance(own, Ranks) else None,
        reader=Reader.of(config.weights.rewards),
        terms=Terms(settings.volatility, settings.calls_per_day, settings.portable),
    )


def kind_of(capability: Capability, profile: Profile) -> r.Kind:
    """Measured and declared kind with the evidence, for the report."""
    judged = judge_kind(profile)
    return r.Kind(
        measured=judged.kind,
        declared=capability.declared_kind,
        confidence=judged.confidence,
        scores={str(kind): score for kind, score in judged.scores.items()},
        evidence=judged.evidence,
        disagreement=disagreement(judged, capability.declared_kind),
    )


def tell_kind(session: Session, capability: Capability, profile: Profile) -> None:
    """Warn where a capability surely is another kind of thing than it was declared to be."""
    told = disagreement(judge_kind(profile), capability.declared_kind)
    if told is not None:
        session.warn(f"{capability.name}: {told}")
