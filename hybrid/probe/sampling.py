"""Sampling headroom: what the model can already do sometimes, which is what gradients can sharpen.

With n samples of an example of which c pass: pass@k = 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1), unbiased;
sampling gain = mean pass@k - mean pass@1; signal rate = share of groups of k that hold both a pass and a failure, the
only groups from which GRPO learns; unknown = share of examples that neither the greedy answer nor any sample got.
Control: none needed, since every number is a difference within the same samples. Cost: k completions per example.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.evidence.stats import mean_interval, paired_interval, pass_at_k, wilson
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval


def probe_sampling(context: ProbeContext, text: str = "", prefix: str = "") -> dict[str, ProbeResult]:
    """`pass_at_k`, `sampling_gain`, `signal_rate` and `unknown`, under `text`; names get `prefix`."""
    k = context.config.samples
    sampled = context.measure(text, samples=k)
    greedy = context.measure(text)
    names = ("pass_at_k", "sampling_gain", "signal_rate", "unknown")
    # An example with an answer that was not judged has fewer than k answers: it is left out.
    rows = [
        (sum(r.passed for r in row), first[0].passed)
        for row, first in zip(sampled.rollouts, greedy.rollouts, strict=True)
        if not any(r.unjudged for r in (*row, *first))
    ]
    if not rows:
        return {prefix + name: absent("no examples in `search`") for name in names}
    return {prefix + name: result for name, result in _results(rows, k, context.seed).items()}


def _results(rows: Sequence[tuple[int, bool]], k: int, seed: int) -> dict[str, ProbeResult]:
    """Results from (passes among k samples, whether the greedy answer passes) per example."""
    counts = [count for count, _ in rows]
    at_1 = [pass_at_k(k, c, 1) for c in counts]
    at_k = [pass_at_k(k, c, k) for c in counts]
    gains = [b - a for a, b in zip(at_1, at_k, strict=True)]
    mean, low, high = paired_interval(gains, 0.95)
    mixed = sum(0 < c < k for c in counts)
    missed = sum(count == 0 and not greedy for count, greedy in rows)
    signal = wilson(mixed, len(counts), 0.95)
    return {
        "pass_at_k": from_interval(mean_interval(at_k, 0.95, seed), f"k = {k}", pass_at_1=sum(at_1) / len(at_1)),
        "sampling_gain": ProbeResult(value=mean, low=low, high=high, n=len(gains), note=f"pass@{k} - pass@1"),
        "signal_rate": from_interval(signal, f"groups of {k} with a pass and a failure"),
        "unknown": from_interval(wilson(missed, len(counts), 0.95), "neither greedy nor sampled answer is right"),
    }
