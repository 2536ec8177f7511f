"""Composing an adapter without gradients: which experts, the search, the last comparison on fresh data.

    found = compose(session, capability, "weights", skill="")
    found.built                                     # the arm's adapter, or None where nothing beat the base

Fitness is the project's measurement of one materialised mixture on `search` examples, so an evaluation is cached by the
mixture's bytes and a killed run makes the same search again for nothing. What the search found meets the best single expert
and the base on examples that the search did not read. Does not: ship (the gate on `confirm` judges it like any adapter),
train, or decide which capabilities are composed (see `CapabilityConfig.method`).
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.backends.adapters import check_adapter, inspect_adapter
from hybrid.backends.base import Adapter, MixingBackend, Mixture
from hybrid.capability.types import Capability, Example, Split
from hybrid.errors import AdapterError
from hybrid.evidence.stats import mean_interval
from hybrid.evidence.types import Interval, Measurement
from hybrid.pipeline.session import Session
from hybrid.store.faults import faultpoint
from hybrid.weights.compose.materialise import Materialised, gates
from hybrid.weights.compose.mixer import Mixer, mixer_of
from hybrid.weights.compose.race import MixtureRace
from hybrid.weights.compose.search import Point, build_search

LEAST_FRESH = 32
"""Fewer examples of `search` that are left over decide nothing; rows of `train`, which no search reads, then do."""


@dataclass(frozen=True)
class Composed:
    """A search and what came of it.

    `mixture` is what the search found (None: the base), `built` the adapter of the arm; None where nothing beat the base on the
    fresh examples. `chosen` says which it is: `mixture`, `best expert` or `base`; `best` names that expert. `fresh` are the
    scores of the three there, without one that was refused. `evaluations` counts the mixtures looked at, `asked` their answers,
    `saved` the answers that racing spared.
    """

    experts: tuple[str, ...]
    coefficients: Point
    mixture: Adapter | None
    built: Adapter | None
    chosen: str
    best: str
    fresh: Mapping[str, Interval]
    search: str
    evaluations: int
    asked: int
    saved: int
    rank: int
    error: float

    def told(self) -> str:
        """One sentence for the trail."""
        parts = ", ".join(f"{c:+.2f} {n}" for n, c in zip(self.experts, self.coefficients, strict=True) if c)
        names = {"best expert": f"best expert {self.best}"}
        scores = ", ".join(f"{names.get(n, n)} {i.mean:.2f}" for n, i in self.fresh.items())
        lossy = f", compressed to rank {self.rank} with a relative error of {self.error:.3f}" if self.error else ""
        spared = f"{self.saved:,} answers spared by racing" if self.saved else "nothing spared by racing"
        n = next(iter(self.fresh.values())).n
        return (
            f"{self.search} over {len(self.experts)} experts, {self.evaluations} mixtures, {self.asked:,} answers, {spared}: "
            f"{parts or 'the base'}{lossy}; on {n} fresh examples {scores}"
        )


def composed_last(session: Session, names: Sequence[str]) -> list[int]:
    """Positions of capabilities in the order of building: what others are composed of comes first, otherwise as written."""
    return sorted(range(len(names)), key=lambda i: session.method(names[i]) == "swarm")


def check_folders(session: Session) -> None:
    """Raise AdapterError for a configured folder that cannot be an expert of this base, before anything is paid for."""
    config = session.loaded.config
    if all(config.method_of(c.name) != "swarm" for c in config.capabilities):
        return
    if folders := [adapter for _, adapter in _folders(session)]:
        mixer_of(folders, session.backend.info().fingerprint, config.weights.swarm, config.seed)


def find_experts(session: Session, capability: Capability) -> dict[str, Adapter]:
    """The experts by name, in the order of the configuration; a capability without an adapter is passed over with a warning."""
    config = session.loaded.config
    listed = config.weights.swarm.experts
    names = [c.name for c in config.capabilities if config.method_of(c.name) != "swarm" and c.name != capability.name]
    found: dict[str, Adapter] = {}
    folders = dict(_folders(session))
    for entry in listed or names:
        if entry in folders:
            found[entry] = folders[entry]
        elif entry in session.adapters:
            found[entry] = session.adapters[entry]
        elif entry in listed and entry != capability.name:
            session.warn(f"{capability.name}: {entry} built no adapter of its own, so it is no expert of the mixture")
    return found


def compose(session: Session, capability: Capability, arm: str, skill: str) -> Composed | str:
    """Search a mixture for `capability`, read after `skill`; a sentence instead where there is nothing to mix.

    Raises AdapterError for experts that cannot be mixed, BudgetExhausted as every measurement does.
    """
    named = find_experts(session, capability)
    if not named:
        return "no expert to mix: no other capability of this run built an adapter"
    settings, info = session.loaded.config.weights.swarm, session.backend.info()
    experts, seed = tuple(named.values()), session.loaded.config.seed
    mixer = mixer_of(experts, info.fingerprint, settings, seed)
    searched, split, fresh = parts(capability, settings.examples)
    place = session.folder.path / "checkpoints" / f"{capability.name}-{arm}"
    bench = _Bench(session, capability, skill, experts, mixer, place / "mixtures")
    race = MixtureRace(lambda p, r: bench.scores(p, [searched[i] for i in r]), len(searched), settings, seed)
    search, told, count = build_search(settings, len(experts), seed), dict[Point, float](), 0
    while (generation := search.ask()).points:
        values = race.run(generation)
        search.tell(values)
        told |= dict(zip(generation.points, values, strict=True))
        count += len(generation.points)
        data = {"capability": capability.name, "stage": arm, "done": count, "total": settings.evaluations}
        session.on_event("progress", {**data, "unit": "mixtures", "best": round(max(told.values()), 4)})
        faultpoint("stage.swarm-generation")
    found = search.answer()
    final = bench.write(found, place / "adapters" / "mixture", settings.rank) if any(found) else None
    alone = max(range(len(experts)), key=lambda i: told.get(_only(i, len(experts)), -math.inf))
    rivals = {"base": None, "best expert": experts[alone], "mixture": final.adapter if final else None}
    measured = bench.compared(rivals, split, fresh)
    shutil.rmtree(place / "mixtures", ignore_errors=True)
    chosen = choose({name: m.mean for name, m in measured.items()}, session.loaded.config.gate.search.margin)
    return Composed(
        experts=tuple(named),
        coefficients=found,
        mixture=rivals["mixture"],
        built=rivals[chosen],
        chosen=chosen,
        best=list(named)[alone],
        fresh={name: mean_interval(m.values, 0.95, 0) for name, m in measured.items()},
        search=settings.search,
        evaluations=count,
        asked=race.asked,
        saved=race.saved,
        rank=final.rank if final else 0,
        error=final.error if final else 0.0,
    )


def parts(capability: Capability, examples: int) -> tuple[tuple[Example, ...], Split, tuple[Example, ...]]:
    """What is searched on, and the split and rows of the last comparison, which the search does not read."""
    search = capability.splits["search"]
    searched, left = search[:examples], search[examples:]
    if len(left) >= LEAST_FRESH or not capability.splits.get("train"):
        return searched, "search", left or search
    return searched, "train", capability.splits["train"][:examples]


def choose(means: Mapping[str, float], margin: float) -> str:
    """The best by the fresh examples; of equals the simpler one, which stands first. `base` unless it is beaten by `margin`."""
    best = max(means, key=lambda name: means[name])  # the first of equals
    return best if means[best] > means["base"] + margin else "base"


def _only(i: int, n: int) -> Point:
    return tuple(float(i == j) for j in range(n))


def _folders(session: Session) -> list[tuple[str, Adapter]]:
    """Experts that are named by their folder. Raises AdapterError for one that is not whole."""
    names = {c.name for c in session.capabilities}
    fingerprint = session.backend.info().fingerprint
    found = []
    for text in session.loaded.config.weights.swarm.experts:
        if text not in names:
            path = session.loaded.resolve(text)
            check_adapter(path, fingerprint)
            found.append((text, inspect_adapter(path)))
    return found


class _Bench:
    """Measures mixtures: an expert alone is the adapter that it is, the zero mixture the base, others are written down first.

    Where the backend can, the mixtures of a call share batches over one stack of the experts.
    """

    def __init__(
        self,
        session: Session,
        capability: Capability,
        skill: str,
        experts: tuple[Adapter, ...],
        mixer: Mixer,
        folder: Path,
    ) -> None:
        self._session, self._capability, self._skill = session, capability, skill
        self._experts, self._mixer, self._folder = experts, mixer, folder
        self._stack: tuple[Adapter, tuple[int, ...]] | None = None
        self._known: dict[Point, Adapter] = {}
        self._mixes = isinstance(session.backend, MixingBackend) and not skill

    def measure(self, adapter: Adapter | None, split: Split, examples: Sequence[Example]) -> Measurement:
        """One candidate, in the run's way."""
        candidate = self._session.candidate(self._capability, self._skill, adapter)
        return self._session.meter.measure(candidate, self._capability, split, examples, stage="compose")

    def compared(
        self, rivals: Mapping[str, Adapter | None], split: Split, examples: Sequence[Example]
    ) -> dict[str, Measurement]:
        """The rivals on the same examples, without one that the base cannot compute with."""
        found = {}
        for name, adapter in rivals.items():
            try:
                found[name] = self.measure(adapter, split, examples)
            except AdapterError as error:
                self._session.warn(f"{self._capability.name}: {name} was refused: {error}")
        return found

    def write(self, point: Point, out: Path, rank: int | None) -> Materialised:
        """The mixture as a folder, compressed to `rank` where one is given."""
        return self._mixer.write(point, out, rank=rank, facts={"method": "swarm", "capability": self._capability.name})

    def scores(self, points: Sequence[Point], examples: Sequence[Example]) -> list[list[float]]:
        """Scores of mixtures on `search`; zeros for one that the base cannot compute with."""
        if self._mixes:
            try:
                candidates = [self._session.candidate(self._capability, "", self._adapter(p)) for p in points]
                measure = self._session.meter.measure_many
                return [m.values for m in measure(candidates, self._capability, "search", examples, stage="compose")]
            except AdapterError as error:
                self._mixes = False
                self._session.warn(f"{self._capability.name}: mixtures are measured one by one: {error}")
        return [self._alone(point, examples) for point in points]

    def _alone(self, point: Point, examples: Sequence[Example]) -> list[float]:
        try:
            return self.measure(self._adapter(point), "search", examples).values
        except AdapterError as error:
            self._session.warn(f"{self._capability.name}: a mixture was refused and counts as 0: {error}")
            return [0.0] * len(examples)

    def _adapter(self, point: Point) -> Adapter | None:
        """What a point is measured with; an expert alone has its own identity, so that its answers are paid for once."""
        if not any(point):
            return None
        if point not in self._known:
            alone = next((e for i, e in enumerate(self._experts) if point == _only(i, len(point))), None)
            out = self._folder / hashlib.sha256(repr(point).encode()).hexdigest()[:24]
            self._known[point] = alone or self.write(point, out, None).adapter
        found = self._known[point]
        if self._mixes and self._stack is None:
            self._stack = self._mixer.stack(self._folder / "stack")
            self._mixes = self._stack is not None
        if not self._mixes or self._stack is None:
            return found
        return Mixture(found.path, found.sha256, self._stack[0], gates(point, self._stack[1]))
