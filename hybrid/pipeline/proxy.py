"""Proxy-tuning as a weight arm: tune the small model, then find on `search` how strongly it should steer the base.

Every checkpoint of the small model steers the base at the strength nearest to 1; the best of them is tried at the other
strengths, and of about equally good ones the weakest is offered. All of it is the project's measurement, kept as rollouts: a
resumed run pays for none of it again. The winner is an adapter folder like any other, and goes to the ship gate.

Does not: open `confirm`, or know how scores are mixed (see `hybrid.backends.proxy`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter
from hybrid.capability.types import Capability
from hybrid.config.schema import ProxyConfig
from hybrid.errors import AdapterError, TrainingError
from hybrid.evidence.types import Measurement
from hybrid.pipeline.session import Session
from hybrid.pipeline.training import Judged, beats, best_of, judged_checkpoints, search_score
from hybrid.weights.base import TrainResult
from hybrid.weights.jobs import base_label
from hybrid.weights.proxy import candidate


@dataclass(frozen=True)
class Trial:
    """One strength at one checkpoint of the small model, on `search`."""

    alpha: float
    step: int
    adapter: Adapter
    measured: Measurement

    @property
    def speed(self) -> float | None:
        """Generated tokens a second; None where no time was recorded."""
        return tokens_per_second(self.measured)


@dataclass(frozen=True)
class Tried:
    """Every trial in the order made, which of them is offered to the ship gate, and where they started."""

    trials: tuple[Trial, ...]
    chosen: Trial | None
    start: Measurement

    @property
    def summary(self) -> str:
        """One line for the trail."""
        best = self.chosen or max(self.trials, key=lambda t: t.measured.mean, default=None)
        if best is None:
            return "no strength could be measured"
        said = "is offered" if self.chosen else f"does not beat {self.start.mean:.2f} on search"
        slower = (
            f", {best.speed / base:.2f} of the base's speed"
            if best.speed and (base := tokens_per_second(self.start))
            else ""
        )
        return f"alpha {best.alpha:g} at step {best.step} ({best.measured.mean:.2f} on search{slower}) {said}"


def ready(session: Session) -> TrainResult | None:
    """What a small model that was tuned before counts as: a training without steps. None where it is to be trained.

    Raises TrainingError when the folder holds no adapter.
    """
    folder = session.loaded.config.weights.proxy.adapter
    if folder is None:
        return None
    try:
        adapter = inspect_adapter(session.loaded.resolve(folder))
    except AdapterError as error:
        raise TrainingError(f"weights.proxy.adapter: {error}") from error
    return TrainResult(((0, adapter),), 0, 0.0, 0, 0, 0, (), "tuned before this run")


def steer(
    session: Session, capability: Capability, name: str, result: TrainResult, skill: str, start: Measurement
) -> tuple[TrainResult, Judged | None, Tried]:
    """Proxies in place of the small model's checkpoints, the one that beats `start` on `search` by most, and all that was tried.

    The result's checkpoints are candidates on the base, the chosen one at its own strength. `start` is the base on `search`
    with the same text.
    """
    settings = session.loaded.config.weights.proxy
    tuned = dict(result.checkpoints)
    made = tuple((step, _make(session, capability, name, step, lora, settings.first)) for step, lora in tuned.items())
    result = replace(result, checkpoints=made)
    judged = judged_checkpoints(session, capability, name, result, skill, start)
    trials = [Trial(settings.first, *found) for found in judged]
    best = best_of(session, judged)
    if best is None:
        return result, None, Tried((), None, start)
    for alpha in settings.alphas:
        if alpha == settings.first:
            continue
        adapter = _make(session, capability, name, best[0], tuned[best[0]], alpha)
        try:
            measured = _search(session, capability, skill, adapter)
        except AdapterError as error:
            session.warn(f"{capability.name}: {name}: alpha {alpha:g} was refused: {error}")
            continue
        trials.append(Trial(alpha, best[0], adapter, measured))
    winner = _weakest(session, [t for t in trials if t.step == best[0] and beats(session, t.measured, start)])
    if winner is None:
        return result, None, Tried(tuple(trials), None, start)
    chosen = (winner.step, winner.adapter, winner.measured)
    kept = tuple((step, winner.adapter if step == winner.step else adapter) for step, adapter in made)
    return replace(result, checkpoints=kept), chosen, Tried(tuple(trials), winner, start)


def _weakest(session: Session, trials: list[Trial]) -> Trial | None:
    """The weakest strength among those whose score on `search` is within the tolerance of the best; None among none."""
    worth = search_score(session.loaded.config)
    best = max((worth(t.measured) for t in trials), default=0.0)
    good = [t for t in trials if worth(t.measured) >= best - _settings(session).tolerance - 1e-9]
    return min(good, key=lambda t: t.alpha, default=None)


def _search(session: Session, capability: Capability, skill: str, adapter: Adapter) -> Measurement:
    examples = capability.splits["search"]
    return session.meter.measure(
        session.candidate(capability, skill, adapter), capability, "search", examples, stage="select"
    )


def _make(session: Session, capability: Capability, name: str, step: int, lora: Adapter, alpha: float) -> Adapter:
    """The candidate in the training's folder. Raises AdapterError when the small model's adapter must not be used."""
    out = session.folder.path / "checkpoints" / f"{capability.name}-{name}" / "proxies" / f"step-{step}-alpha-{alpha:g}"
    base = (base_label(session.loaded.config.model.path), session.backend.info().fingerprint)
    facts = {"method": "proxy", "step": step, "capability": capability.name, "apply": _settings(session).apply}
    return candidate(lora, alpha, _settings(session), base, out, facts)


def _settings(session: Session) -> ProxyConfig:
    return session.loaded.config.weights.proxy


def tokens_per_second(measured: Measurement) -> float | None:
    """Generated tokens by the seconds of their batches; None where no time was recorded."""
    rollouts = [r for row in measured.rollouts for r in row]
    seconds = sum(r.seconds for r in rollouts)
    return sum(r.tokens_out for r in rollouts) / seconds if seconds > 0 else None
