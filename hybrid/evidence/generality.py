"""Does a gain carry over? The transfer ratio tau = gain on variants / gain in distribution, and their difference.

    found = generality(Gains.of(before, after, families), Gains.of(before_v, after_v, families_v))
    found.tau, found.tau_low, found.tau_high      # 1: a procedure was learnt; about 0: a template
    found.did                                     # gain in distribution minus gain on variants (difference in differences)

Both gains are means of paired differences with the interval of `intervals.paired_interval`; where a family has several
members whole families are resampled (a studentised bootstrap over parents). tau and the difference are put together from these
by MOVER (Zou and Donner 2008, Statistics in Medicine 27:1693; Donner and Zou 2012, Statistical Methods in Medical Research
21:347), with the correlation over the families that are in both samples. Unlike a percentile bootstrap of the ratio, this
holds where no variant at all changed and where the denominator is noisy.

tau needs a denominator: where the gain in distribution is not above zero by its interval, tau has no interval, and the note
says "not measurable". Pure. Does not: know where gains come from, or decide anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from hybrid.evidence.gate import paired_differences
from hybrid.evidence.intervals import Delta, paired_interval

LEAST_FAMILIES = 8
"""Fewest families of variants from which a ratio is told."""
LEVEL = 0.95


@dataclass(frozen=True)
class Gains:
    """Paired differences in [-1, 1] (after minus before), each with the name of its family."""

    differences: tuple[float, ...]
    families: tuple[Hashable, ...]

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], families: Sequence[Hashable] | None = None) -> Gains:
        """From scores in [0, 1] that are paired by position; without names every example is a family of its own. A pair that was
        not judged (NaN) is left out.

        Raises ValueError for unpaired or impossible scores.
        """
        found = paired_differences(before, after)
        named = families if families is not None else [object() for _ in found]
        if len(named) != len(found):
            raise ValueError(f"{len(named)} family names for {len(found)} examples")
        pairs = [(d, name) for d, name in zip(found, named, strict=True) if not math.isnan(d)]
        return cls(tuple(d for d, _ in pairs), tuple(name for _, name in pairs))

    def interval(self, level: float, seed: int) -> Delta:
        """Mean and interval, by families where one has several members."""
        alone = len(set(self.families)) == len(self.families)
        return paired_interval(self.differences, level, groups=None if alone else self.families, seed=seed)

    def errors(self, mean: float) -> dict[Hashable, float]:
        """What each family adds to the mean's error."""
        found: dict[Hashable, float] = {}
        for name, value in zip(self.families, self.differences, strict=True):
            found[name] = found.get(name, 0.0) + (value - mean) / len(self.differences)
        return found


class Generality(BaseModel):
    """How a gain carries over. Every interval is two-sided at 95 %; `families` counts those of variants.

    `tau` is None where there are too few variants or nothing was gained in distribution; its ends are None where the
    denominator may be zero. `note` says why, and is empty where all is measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    gain: float
    gain_low: float
    gain_high: float
    n: int
    variant_gain: float
    variant_low: float
    variant_high: float
    variants: int
    families: int
    did: float
    did_low: float
    did_high: float
    tau: float | None = None
    tau_low: float | None = None
    tau_high: float | None = None
    note: str = ""


def generality(inside: Gains, outside: Gains, *, level: float = LEVEL, seed: int = 0) -> Generality:
    """Compare the gain `inside` the distribution with the gain on variants, `outside` it."""
    gain, other = inside.interval(level, seed), outside.interval(level, seed)
    r = _correlation(inside, gain.mean, outside, other.mean)
    families = len(set(outside.families))
    tau, low, high, note = _ratio(other, gain, r, families)
    did_low, did_high = _difference(gain, other, r)
    return Generality(
        gain=gain.mean, gain_low=gain.low, gain_high=gain.high, n=len(inside.differences),
        variant_gain=other.mean, variant_low=other.low, variant_high=other.high,
        variants=len(outside.differences), families=families,
        did=gain.mean - other.mean, did_low=did_low, did_high=did_high,
        tau=tau, tau_low=low, tau_high=high, note=note,
    )  # fmt: skip


def told(found: Generality) -> str:
    """tau in words, with its interval and sizes."""
    sizes = f"{found.variants} variants of {found.families} families, {found.n} examples"
    if found.tau is None:
        return f"transfer ratio {found.note} ({sizes})"
    ends = f" [{found.tau_low:.2f}, {found.tau_high:.2f}]" if found.tau_low is not None else f" ({found.note})"
    return f"transfer ratio {found.tau:.2f}{ends}, variant gain {found.variant_gain:+.2f} ({sizes})"


def _ratio(other: Delta, gain: Delta, r: float, families: int) -> tuple[float | None, float | None, float | None, str]:
    if families < LEAST_FAMILIES:
        return None, None, None, f"not measurable: {families} families of variants, fewer than {LEAST_FAMILIES}"
    if gain.mean <= 0:
        return None, None, None, "not measurable: nothing was gained in distribution"
    tau = other.mean / gain.mean
    if gain.low <= 0:
        shown = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        return tau, None, None, f"not measurable: the gain in distribution {shown} may be zero"
    low = _root(lambda t: _end(other, gain, t, r, -1), gain.low)
    high = _root(lambda t: _end(other, gain, t, r, 1), gain.low)
    return tau, min(low, tau), max(high, tau), ""


def _end(other: Delta, gain: Delta, t: float, r: float, side: int) -> float:
    """The lower (side -1) or upper (+1) MOVER limit of `other - t * gain`."""
    a = other.mean - other.low if side < 0 else other.high - other.mean
    up, down = gain.high - gain.mean, gain.mean - gain.low
    b = abs(t) * (up if (side < 0) == (t >= 0) else down)
    signed = r if t >= 0 else -r
    return other.mean - t * gain.mean + side * math.sqrt(max(0.0, a * a + b * b - 2.0 * signed * a * b))


def _root(f: Callable[[float], float], least: float) -> float:
    """Where a function that falls from + to - crosses zero. Beyond 4 / `least` either sign is certain."""
    below, above = -4.0 / least, 4.0 / least
    for _ in range(100):
        middle = (below + above) / 2.0
        below, above = (middle, above) if f(middle) > 0 else (below, middle)
    return (below + above) / 2.0


def _difference(gain: Delta, other: Delta, r: float) -> tuple[float, float]:
    """Interval of gain minus other, cut to what differences of two means in [-1, 1] can be."""
    did = gain.mean - other.mean
    below = _half(gain.mean - gain.low, other.high - other.mean, r)
    above = _half(gain.high - gain.mean, other.mean - other.low, r)
    return max(-2.0, did - below), min(2.0, did + above)


def _half(a: float, b: float, r: float) -> float:
    return math.sqrt(max(0.0, a * a + b * b - 2.0 * r * a * b))


def _correlation(inside: Gains, gain: float, outside: Gains, other: float) -> float:
    """Of the two means' errors, over families; 0 where no family is in both samples or nothing varies."""
    a, b = inside.errors(gain), outside.errors(other)
    shared = math.fsum(a[name] * b[name] for name in a.keys() & b.keys())
    size = math.sqrt(math.fsum(x * x for x in a.values()) * math.fsum(x * x for x in b.values()))
    return max(-1.0, min(1.0, shared / size)) if size > 0 else 0.0
