"""Context headroom: what a text can give, against a text that is irrelevant.

text score o = greedy score with the best of the given texts; control = the better of the score without text (z) and
with an irrelevant text of the same make (o0). Context gain = o - max(z, o0), paired by example. The best text is
chosen on these same examples, so the interval is taken at level 1 - 0.05/m for m texts (Bonferroni): picking the
luckiest of m texts does not make it look better than it is. Cost: m + 1 completions per example; texts after one that
surely does it are left out, and so is the control where no text gains anything over none (`stopping`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval
from hybrid.probe.stopping import Savings, control_closes, text_closes

ORDER = ("seed", "draft", "oracle")
"""Texts are tried in this order, others after them: those first that a placement would use."""


@dataclass(frozen=True)
class Headroom:
    """`text_score` and `context_gain`; the best text and where it comes from ("" when there is none); measurements by text."""

    results: dict[str, ProbeResult]
    text: str = ""
    source: str = ""
    measured: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def best(self) -> Measurement | None:
        """What the best text measured."""
        return self.measured.get(self.text) if self.text else None


def probe_context(
    context: ProbeContext, base: Measurement, texts: Mapping[str, str], control: str, savings: Savings | None = None
) -> Headroom:
    """Measure texts until one surely does it, and the control unless nothing gains.

    `texts` maps where a text comes from (seed, draft, worked examples, oracle) to the text; `control` is the irrelevant
    text. Empty texts are left out.
    """
    savings = savings if savings is not None else Savings()
    order = sorted(texts, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    wanted = [name for name in order if texts[name].strip()]
    if not wanted or not base.rollouts:
        note = "no text to try" if base.rollouts else "no examples in `search`"
        return Headroom({"text_score": absent(note), "context_gain": absent(note)}, measured={"": base})
    level, each = 1 - 0.05 / len(wanted), len(base.rollouts)
    tried: dict[str, Measurement] = {}
    for number, name in enumerate(wanted, 1):
        tried[name] = context.measure(texts[name])
        savings.pay("texts", each)
        score, gain = _score(context, tried[name]), _gain(tried[name], base, level)
        why = text_closes(name, score, gain, context.config, context.policy)
        if why is not None:
            savings.add("texts", each * (len(wanted) - number), why)
            break
    best = max(tried, key=lambda name: (tried[name].mean, name == "seed"))
    measured = {"": base, **{texts[name]: m for name, m in tried.items()}}
    over_none = _gain(tried[best], base, level)
    why = control_closes(over_none, context.config, context.policy)
    details: dict[str, float | str] = {f"score_{name}": m.mean for name, m in tried.items()}
    reference, over = base, "no text"
    if why is not None:
        savings.add("control", each if control.strip() else 0, why)
    elif control.strip():
        measured[control] = irrelevant = context.measure(control)
        savings.pay("control", each)
        details["score_control"] = irrelevant.mean
        reference = irrelevant if irrelevant.mean > base.mean else base
        over = "the better of no text and an irrelevant text"
    gained = _gain(tried[best], reference, level)
    gained = gained.model_copy(
        update={"note": f"best text ({best}) over {over}", "details": {**details, "score_no_text": base.mean}}
    )
    scored = _score(context, tried[best]).model_copy(update={"note": f"best text: {best}"})
    return Headroom({"text_score": scored, "context_gain": gained}, texts[best], best, measured)


def _score(context: ProbeContext, measured: Measurement) -> ProbeResult:
    return from_interval(mean_interval(measured.values, 0.95, context.seed))


def _gain(measured: Measurement, reference: Measurement, level: float) -> ProbeResult:
    differences = [a - b for a, b in zip(measured.values, reference.values, strict=True)]
    mean, low, high = paired_interval(differences, level)
    return ProbeResult(value=mean, low=low, high=high, n=len(differences))
