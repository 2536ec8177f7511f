"""What a probe gets and what it gives. One file per probe; the profile of a capability is all of them together.

Does not: route, or read any split but `search` and `variant`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from hybrid.backends.base import Adapter, Sampling
from hybrid.backends.ranks import Ranks
from hybrid.capability.types import Capability, Example, Split
from hybrid.config.schema import ProbeConfig, RouterConfig
from hybrid.evidence.measure import Meter
from hybrid.evidence.stated import Reader
from hybrid.evidence.types import Candidate, Interval, Measurement


class ProbeResult(BaseModel):
    """One number with its 95 % interval and the examples behind it; None where it is not measurable at this size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""
    details: dict[str, float | str] = Field(default_factory=dict)


Profile = Mapping[str, ProbeResult]
"""Probe name -> result, for one capability."""


def absent(note: str) -> ProbeResult:
    """A probe that could not be measured, and why."""
    return ProbeResult(value=None, note=note)


def from_interval(interval: Interval, note: str = "", **details: float | str) -> ProbeResult:
    """An interval as a probe result."""
    return ProbeResult(
        value=interval.mean, low=interval.low, high=interval.high, n=interval.n, note=note, details=dict(details)
    )


DAYS_PER_MONTH = 30.0


@dataclass(frozen=True)
class Terms:
    """What the owner declares about a capability's use: cost terms, not measurements. None: not declared."""

    volatility: float | None = None
    """Changes a month of what is right."""
    calls_per_day: float | None = None
    portable: bool | None = None

    @property
    def lasts_days(self) -> float | None:
        """Days until what is right changes; None where no change is declared."""
        return DAYS_PER_MONTH / self.volatility if self.volatility else None


@dataclass(frozen=True)
class ProbeContext:
    """A capability under probing: the meter, the examples (of `search` and `variant`), greedy decoding, settings.

    `policy` holds the thresholds of the decision that the probes feed, `ranker` ranks given tokens where the backend can,
    `reader` reads stated confidences where answers have them.
    """

    meter: Meter
    capability: Capability
    config: ProbeConfig
    model_fingerprint: str
    greedy: Sampling
    seed: int
    policy: RouterConfig = field(default_factory=RouterConfig)
    ranker: Ranks | None = None
    reader: Reader | None = None
    terms: Terms = Terms()

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples that every probe shares, so that their results pair: the first of `search`."""
        return self.capability.splits["search"][: self.config.examples]

    def candidate(self, skill: str = "", *, sampled: bool = False, adapter: Adapter | None = None) -> Candidate:
        """The base model with a text, greedy or sampled at the probe temperature."""
        sampling = self.greedy
        if sampled:
            sampling = sampling.model_copy(update={"temperature": self.config.temperature, "top_p": 1.0})
        return Candidate(self.model_fingerprint, skill, adapter, sampling)

    def measure(
        self, skill: str = "", *, split: Split = "search", examples: Sequence[Example] | None = None, samples: int = 1
    ) -> Measurement:
        """Measure the base with a text: greedily when `samples` is 1, otherwise by sampling."""
        chosen = self.examples if examples is None else examples
        candidate = self.candidate(skill, sampled=samples > 1)
        return self.meter.measure(candidate, self.capability, split, chosen, samples=samples, stage="probe")
