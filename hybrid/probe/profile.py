"""All probes of one capability, cheapest first, as one profile.

What is cheap tells what the dear probes may leave out (`stopping`): the base, then texts, variants and ranks, then
samples, then samples under a text and known-ness. What comes from answers that were paid for already (`shape`,
`variance`, `calibration`) is free.
Does not: make the texts (they come from the caller, who may ask a proposer for a draft).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.capability.types import Example
from hybrid.evidence.types import Measurement
from hybrid.probe import shape
from hybrid.probe.base import ProbeContext, ProbeResult, absent
from hybrid.probe.calibration import calibration_probe
from hybrid.probe.context import Headroom, probe_context
from hybrid.probe.declared import declared_terms
from hybrid.probe.depth import probe_depth
from hybrid.probe.knownness import probe_knownness
from hybrid.probe.paraphrase import probe_paraphrases
from hybrid.probe.sampling import probe_sampling
from hybrid.probe.score import probe_score
from hybrid.probe.stopping import (
    Savings,
    base_closes,
    knownness_closes,
    sampling_rows,
    text_sampling_closes,
)
from hybrid.probe.style import probe_style
from hybrid.probe.variance import variance_probe
from hybrid.probe.variants import probe_variants


@dataclass(frozen=True)
class Probed:
    """A profile, and the text that served best while probing ("" when none helped)."""

    profile: dict[str, ProbeResult]
    best_text: str


def worked_examples(examples: Sequence[Example], count: int) -> str:
    """The first `count` training rows as question and answer lines, a text that any capability can have."""
    rows = [f"{e.prompt_text} {e.gold_completion}" for e in examples[:count]]
    return "\n".join(rows)


def irrelevant_text(
    own: str, others: Sequence[str], seed: int, *, letters: bool = True, mine: Sequence[str] = ()
) -> str:
    """A control of the same make: another capability's text, otherwise the own text with its words shuffled.

    A text half of whose lines stand in the own one, or in one of `mine` (other texts of the same capability), is no control:
    capabilities that share a document would each be measured against a copy of their own. A word can be what helps
    wherever it stands ("angle" of "form angle"), so the `letters` within words are shuffled too.
    "" where neither gives another text: the own text must never be its own control.
    """
    known = {line for text in (own, *mine) for line in _lines(text)}
    for other in others:
        lines = _lines(other)
        if lines and other.split() != own.split() and 2 * sum(line in known for line in lines) < len(lines):
            return other
    words, rng = own.split(), random.Random(seed)
    shuffled = rng.sample(words, len(words))
    if letters:
        shuffled = ["".join(rng.sample(word, len(word))) for word in shuffled]
    if shuffled == words:
        shuffled = words[1:] + words[:1]
    return " ".join(shuffled) if shuffled != words else ""


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def profile_capability(context: ProbeContext, texts: Mapping[str, str], control: str) -> Probed:
    """Run every probe whose decision is open, and say in `probe_saved` what was left out."""
    savings, results = Savings(), declared_terms(context.terms)
    found, base = probe_score(context)
    results |= found
    savings.pay("base", len(base.rollouts))
    results["calibration_error"] = calibration_probe(base, context.reader, context.seed)
    results |= probe_variants(context, base)
    savings.pay("variants", results["variant_gap"].n)
    results["paraphrase_consistency"], extra = probe_paraphrases(context)
    savings.pay("paraphrases", extra)
    closed = base_closes(results["base"], context.config, context.policy)
    if closed is None:
        headroom = probe_context(context, base, texts, control, savings)
    else:
        headroom = _left_out(context, base, texts, control, closed, savings)
    results |= headroom.results
    results |= _shapes(context, base, headroom, texts, control)
    results |= probe_depth(context, base, headroom.text)
    if closed is None:
        results |= probe_style(context, headroom.text, control)
        results |= _samples(context, results, base, headroom, savings)
    else:
        results |= {name: absent(f"left out: {closed}") for name in _DEAR}
    results["probe_saved"] = savings.result()
    return Probed(results, headroom.text)


_DEAR = (
    "style_shift", "text_style_gain", "pass_at_k", "sampling_gain", "signal_rate", "unknown", "between_share", "unknown_facts",
)  # fmt: skip
"""What a base that surely does it leaves out, apart from the texts."""


def _left_out(
    context: ProbeContext, base: Measurement, texts: Mapping[str, str], control: str, closed: str, savings: Savings
) -> Headroom:
    """No text and no sample is asked for: what that saves, in completions."""
    each = len(base.rollouts)
    named = sum(bool(text.strip()) for text in texts.values())
    savings.add("texts", each * named, closed)
    savings.add("control", each if named and control.strip() else 0, closed)
    savings.add("samples", each * context.config.samples, closed)
    note = absent(f"left out: {closed}")
    return Headroom({"text_score": note, "context_gain": note}, measured={"": base})


def _shapes(
    context: ProbeContext, base: Measurement, headroom: Headroom, texts: Mapping[str, str], control: str
) -> dict[str, ProbeResult]:
    """What the answers are made of; free."""
    examples, best = context.examples, headroom.best
    text = headroom.text or next((t for t in texts.values() if t.strip()), "")
    return {
        "format_gain": shape.format_gain(base, best, headroom.measured.get(control, base)),
        "content_gap": shape.content_gap(examples, base, "without a text"),
        "text_content_gap": shape.content_gap(examples, best, "under the best text"),
        "content_gain": shape.content_gain(examples, base, best),
        "supplied": shape.supplied(examples, text, context.seed),
        "from_prompt": shape.from_prompt(examples),
    }


def _samples(
    context: ProbeContext, so_far: Mapping[str, ProbeResult], base: Measurement, headroom: Headroom, savings: Savings
) -> dict[str, ProbeResult]:
    """Samples with and without a text, the variance among them, and known-ness."""
    config, policy, each = context.config, context.policy, len(base.rollouts)
    most, why = sampling_rows(so_far, headroom.source, config, policy)
    savings.add("samples", (each - min(most, each)) * config.samples, why)
    sampled = probe_sampling(context, most=most, savings=savings)
    results = dict(sampled.results)
    scores = [[r.value for r in row] for row in sampled.samples.rollouts if not any(r.unjudged for r in row)]
    results["between_share"] = variance_probe(scores, context.seed)
    gain = so_far["context_gain"]
    if headroom.text and gain.low is not None and gain.low > 0:
        # Sampling under a text is measured only where that text gained something: otherwise it is closed.
        under = text_sampling_closes(so_far, config, policy)
        if under is None:
            results |= probe_sampling(context, headroom.text, "text_", savings=savings).results
        else:
            savings.add("text_samples", each * config.samples, under)
    closed = knownness_closes({**so_far, **results}, config, policy)
    if closed is None:
        results["unknown_facts"], asked = probe_knownness(context, headroom.measured, sampled.samples)
        savings.pay("contexts", asked)
    else:
        results["unknown_facts"] = absent(f"left out: {closed}")
    return results
