"""What kind of thing a capability is, from its measured signature. Pure.

Three scores, one per kind, each a logistic function of the same eight named values of the profile (`FEATURES`);
weights, the means and spreads that values are compared with, and the calibration families stand in `kinds.json`, fitted
by `python scripts/bench_kinds.py --fit` on capabilities of constructed kind. The probability of a verdict follows:
exactly one kind holds (procedural, factual, stylistic), at least two (mixed), or none (unclear); the likeliest verdict
is the measured kind, and its probability the confidence. Two things keep the confidence honest at small n and far from
home:

- a score is averaged over the standard errors of its values (MacKay 1992: z / sqrt(1 + pi s^2 / 8)), and a value that was not
  measured enters as its range, so that what is unknown lowers the confidence by itself;
- a signature farther from every calibration family than any calibration capability was from the others of its own is `unclear`
  with confidence 0: nothing like it was ever judged.

    judged = judge_kind(profile)
    judged.kind, judged.confidence, judged.evidence      # "factual", 0.97, ("supplied 0.91 [...] speaks for factual", ...)

Does not: look at what its owner declared; that is compared with this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hybrid.probe.base import ProbeResult, Profile

MeasuredKind = Literal["procedural", "factual", "stylistic", "mixed", "unclear"]
Single = Literal["procedural", "factual", "stylistic"]
SINGLES: tuple[Single, ...] = ("procedural", "factual", "stylistic")
FEATURES = (
    "base", "unknown", "content_gain", "format_gain", "content_gap", "supplied", "from_prompt", "style_shift",
)  # fmt: skip
"""Names of the profile; `content_gap` is the larger of those without and under the best text."""
LEAST_EXAMPLES = 16
"""Below this many examples a signature is not looked at."""
CONFIDENT = 0.8
"""From this confidence on, a kind that differs from the declared one is a warning, and what depends on the kind acts on it."""
_BOUNDED = ("unknown", "content_gain", "format_gain", "content_gap")
"""Shares of what the base does not do: where they were not measured they still lie between 0 and 1 - base."""
_SHOWN = 4


class Score(BaseModel):
    """One kind's logistic score: `bias` + sum of weight times standardised value."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bias: float
    weights: dict[str, float]


class Model(BaseModel):
    """What `kinds.json` holds. `families` are means by calibration family in standardised values, `spread` is around them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fitted_on: str
    centre: dict[str, float]
    scale: dict[str, float]
    scores: dict[Single, Score]
    families: dict[str, dict[str, float]]
    spread: dict[str, float]
    farthest: float
    """Largest distance at which a signature counts as known."""


@dataclass(frozen=True)
class Value:
    """One feature in standardised units with its standard error, and the probe result behind it."""

    value: float
    error: float
    probe: ProbeResult | None


@dataclass(frozen=True)
class Judged:
    """A measured kind: confidence is the probability of this verdict; `scores` are the three kinds' own probabilities.

    `parts` are the kinds that it consists of; `evidence` are sentences, strongest first; `nearest` is the calibration family
    that the signature is most like, `distance` how far off.
    """

    kind: MeasuredKind
    confidence: float
    scores: Mapping[Single, float]
    parts: tuple[Single, ...]
    evidence: tuple[str, ...]
    nearest: str = ""
    distance: float = 0.0


@lru_cache(maxsize=1)
def load_model() -> Model:
    """The fitted model that ships with hybrid."""
    text = resources.files("hybrid.router").joinpath("kinds.json").read_text(encoding="utf-8")
    return Model.model_validate(json.loads(text))


def side_probability(probe: ProbeResult, threshold: float) -> float:
    """Normal probability that the true value is on the same side of `threshold` as the estimate; 0.5 to 1."""
    if probe.value is None or probe.low is None or probe.high is None:
        return 0.5
    error = max(_error(probe), 1e-6)
    return 0.5 * (1 + math.erf(abs(probe.value - threshold) / (error * math.sqrt(2))))


def measured_kind(profile: Profile) -> tuple[MeasuredKind, float]:
    """The measured kind and its confidence; `judge_kind` says why."""
    judged = judge_kind(profile)
    return judged.kind, judged.confidence


def judge_kind(profile: Profile, model: Model | None = None) -> Judged:
    """The measured kind with its evidence, under the shipped model unless another is given."""
    base = profile.get("base")
    if base is None or base.value is None or base.n < LEAST_EXAMPLES:
        seen = 0 if base is None else base.n
        return Judged("unclear", 0.0, {}, (), (f"only {seen} examples: not measurable at this size",))
    model = model or load_model()
    values = {
        name: standardised(raw, model.centre[name], model.scale[name]) for name, raw in raw_values(profile).items()
    }
    scores = {kind: probability(model.scores[kind], values) for kind in SINGLES}
    nearest, distance = nearest_family(model, values)
    if distance > model.farthest:
        why = f"unlike anything judged before: {distance:.1f} from the nearest ({nearest}), the limit is {model.farthest:.1f}"
        return Judged("unclear", 0.0, scores, (), (why, *_evidence(model, values, SINGLES)), nearest, distance)
    verdicts = verdict_probabilities(scores)
    kind = max(verdicts, key=lambda name: verdicts[name])
    parts = _parts(kind, scores)
    evidence = (*_evidence(model, values, parts or SINGLES), f"most like {nearest} (distance {distance:.1f})")
    return Judged(kind, round(verdicts[kind], 4), scores, parts, evidence, nearest, distance)


def disagreement(judged: Judged, declared: Single | None) -> str | None:
    """What a report has to say where the measured kind surely is not the declared one; None where they agree or it is open."""
    if declared is None or judged.kind == "unclear" or judged.confidence < CONFIDENT or declared in judged.parts:
        return None
    found = judged.kind if judged.kind != "mixed" else f"mixed ({' and '.join(judged.parts)})"
    return (
        f"declared {declared}, measured {found} (confidence {judged.confidence:.2f}; "
        f"{declared} has {judged.scores[declared]:.2f}): {'; '.join(judged.evidence[:_SHOWN])}"
    )


def raw_values(profile: Profile) -> dict[str, tuple[float | None, float, ProbeResult | None]]:
    """(value or None, standard error, probe) of every feature, in the profile's units."""
    found: dict[str, tuple[float | None, float, ProbeResult | None]] = {}
    base = profile["base"].value or 0.0
    for name in FEATURES:
        probes = [profile.get(n) for n in ((name, f"text_{name}") if name == "content_gap" else (name,))]
        known = [p for p in probes if p is not None and p.value is not None]
        probe = max(known, key=lambda p: p.value or 0.0) if known else None
        if probe is not None:
            found[name] = (probe.value, _error(probe), probe)
        elif name in _BOUNDED:
            found[name] = ((1 - base) / 2, (1 - base) / math.sqrt(12), None)
        else:
            found[name] = (None, 0.0, None)
    return found


def standardised(raw: tuple[float | None, float, ProbeResult | None], centre: float, scale: float) -> Value:
    """A feature as the model reads it; one that was not measured is the average one, give or take the whole spread."""
    value, error, probe = raw
    return Value(0.0, 1.0, None) if value is None else Value((value - centre) / scale, error / scale, probe)


def probability(score: Score, values: Mapping[str, Value]) -> float:
    """The score's probability, averaged over the standard errors of its values."""
    z = score.bias + sum(score.weights[name] * v.value for name, v in values.items())
    spread = sum((score.weights[name] * v.error) ** 2 for name, v in values.items())
    z /= math.sqrt(1 + math.pi * spread / 8)
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, z))))


def verdict_probabilities(scores: Mapping[Single, float]) -> dict[MeasuredKind, float]:
    """Probability of every verdict from the three kinds' own, taken as independent. They sum to 1."""
    none = math.prod(1 - scores[k] for k in SINGLES)
    found: dict[MeasuredKind, float] = {
        kind: scores[kind] * math.prod(1 - scores[k] for k in SINGLES if k != kind) for kind in SINGLES
    }
    found["mixed"] = max(0.0, 1 - none - sum(found.values()))
    found["unclear"] = none
    return found


def nearest_family(model: Model, values: Mapping[str, Value]) -> tuple[str, float]:
    """The calibration family that a signature is most like, and the root mean square distance from it in spreads."""

    def distance(family: Mapping[str, float]) -> float:
        off = [(v.value - family[n]) ** 2 / (model.spread[n] ** 2 + v.error**2) for n, v in values.items()]
        return math.sqrt(sum(off) / len(off))

    name = min(model.families, key=lambda n: distance(model.families[n]))
    return name, distance(model.families[name])


def _error(probe: ProbeResult) -> float:
    """Standard error behind a 95 % interval; 0 without one."""
    return 0.0 if probe.low is None or probe.high is None else (probe.high - probe.low) / (2 * 1.96)


def _parts(kind: MeasuredKind, scores: Mapping[Single, float]) -> tuple[Single, ...]:
    if kind == "mixed":
        likely = tuple(k for k in SINGLES if scores[k] >= 0.5)
        return likely if len(likely) > 1 else tuple(sorted(SINGLES, key=lambda k: -scores[k])[:2])
    return () if kind == "unclear" else (kind,)


def _evidence(model: Model, values: Mapping[str, Value], kinds: tuple[Single, ...]) -> tuple[str, ...]:
    """The measured values that move the scores of `kinds` most, with what each speaks for."""
    said = []
    for name, v in values.items():
        if v.probe is None or v.probe.value is None:
            continue
        moved = {kind: model.scores[kind].weights[name] * v.value for kind in kinds}
        kind = max(moved, key=lambda k: abs(moved[k]))
        shown = f"{v.probe.value:.2f}"
        if v.probe.low is not None and v.probe.high is not None:
            shown += f" [{v.probe.low:.2f}, {v.probe.high:.2f}]"
        direction = "for" if moved[kind] > 0 else "against"
        said.append((abs(moved[kind]), f"{name} {shown}, n={v.probe.n} speaks {direction} {kind} ({moved[kind]:+.1f})"))
    return tuple(text for _, text in sorted(said, key=lambda row: (-row[0], row[1]))[:_SHOWN])
