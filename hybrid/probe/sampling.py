"""Sampling headroom: what the model can already do sometimes, which is what gradients can sharpen.

With n samples of an example of which c pass: pass@k = 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1), unbiased;
sampling gain = mean pass@k - mean pass@1; signal rate = share of groups of k that hold both a pass and a failure, the
only groups from which GRPO learns; unknown = share of examples that neither the greedy answer nor any sample got.
Control: none needed, since every number is a difference within the same samples. Cost: k completions per example, 16
examples at a time until the decision is closed (`stopping`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.evidence.stats import mean_interval, paired_interval, pass_at_k, wilson
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval
from hybrid.probe.stopping import BLOCK, Savings, sampling_closes

Counts = Sequence[tuple[int, bool]]
"""(passes among k samples, whether the greedy answer passes) per example."""


@dataclass(frozen=True)
class Sampled:
    """The results, and the samples behind them, on the first examples."""

    results: dict[str, ProbeResult]
    samples: Measurement


def probe_sampling(
    context: ProbeContext, text: str = "", prefix: str = "", most: int | None = None, savings: Savings | None = None
) -> Sampled:
    """`pass_at_k`, `sampling_gain`, `signal_rate` and `unknown`, under `text`; names get `prefix`. At most `most` examples."""
    savings = savings if savings is not None else Savings()
    k, examples = context.config.samples, context.examples
    whole = len(examples)
    looked = examples[: whole if most is None else most]
    looks = range(BLOCK, len(looked), BLOCK) if context.config.stop else ()
    level = 1 - 0.05 / (len(looks) + 1)
    used = len(looked)
    for size in looks:
        rows = _rows(context, text, size)[0]
        if rows:
            gain, rate = _gain(rows, k, level), _rate(rows, k, level)
            why = sampling_closes(gain, rate, context.config, context.policy)
            if why is not None:
                used = size
                savings.add(f"{prefix}samples", (len(looked) - used) * k, why)
                break
    savings.pay(f"{prefix}samples", used * k)
    rows, sampled = _rows(context, text, used)
    names = ("pass_at_k", "sampling_gain", "signal_rate", "unknown")
    found = _results(rows, k, context.seed) if rows else dict.fromkeys(names, absent("no examples in `search`"))
    return Sampled({prefix + name: result for name, result in found.items()}, sampled)


def _rows(context: ProbeContext, text: str, size: int) -> tuple[Counts, Measurement]:
    """Counts of the first `size` examples, and their samples."""
    examples = context.examples[:size]
    sampled = context.measure(text, examples=examples, samples=context.config.samples)
    greedy = context.measure(text, examples=examples)
    # An example with an answer that was not judged has fewer than k answers: it is left out.
    rows = [
        (sum(r.passed for r in row), first[0].passed)
        for row, first in zip(sampled.rollouts, greedy.rollouts, strict=True)
        if not any(r.unjudged for r in (*row, *first))
    ]
    return rows, sampled


def _gain(rows: Counts, k: int, level: float) -> ProbeResult:
    gains = [pass_at_k(k, c, k) - pass_at_k(k, c, 1) for c, _ in rows]
    mean, low, high = paired_interval(gains, level)
    return ProbeResult(value=mean, low=low, high=high, n=len(gains), note=f"pass@{k} - pass@1")


def _rate(rows: Counts, k: int, level: float) -> ProbeResult:
    mixed = sum(0 < c < k for c, _ in rows)
    return from_interval(wilson(mixed, len(rows), level), f"groups of {k} with a pass and a failure")


def _results(rows: Counts, k: int, seed: int) -> dict[str, ProbeResult]:
    counts = [count for count, _ in rows]
    at_k = [pass_at_k(k, c, k) for c in counts]
    missed = sum(count == 0 and not greedy for count, greedy in rows)
    at_1 = sum(pass_at_k(k, c, 1) for c in counts) / len(counts)
    return {
        "pass_at_k": from_interval(mean_interval(at_k, 0.95, seed), f"k = {k}", pass_at_1=at_1),
        "sampling_gain": _gain(rows, k, 0.95),
        "signal_rate": _rate(rows, k, 0.95),
        "unknown": from_interval(wilson(missed, len(counts), 0.95), "neither greedy nor sampled answer is right"),
    }
