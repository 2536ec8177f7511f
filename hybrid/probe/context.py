"""Context headroom: what a text can give, against a text that is irrelevant.

text score o = greedy score with the best of the given texts; control = the better of the score without text (z) and
with an irrelevant text of the same make (o0). Context gain = o - max(z, o0), paired by example. The best text is chosen
on these same examples, so the interval is taken at level 1 - 0.05/m for m texts (Bonferroni): picking the luckiest of m
texts does not make it look better than it is. Cost: m + 1 completions per example.
"""

from __future__ import annotations

from collections.abc import Mapping

from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval


def probe_context(
    context: ProbeContext, base: Measurement, texts: Mapping[str, str], control: str
) -> tuple[dict[str, ProbeResult], str]:
    """`text_score` and `context_gain`, and the best text itself ("" when there is none to try).

    `texts` maps where a text comes from (seed, draft, worked examples, oracle) to the text; `control` is the irrelevant
    text. Empty texts are left out.
    """
    tried = {name: context.measure(text) for name, text in texts.items() if text.strip()}
    if not tried or not base.rollouts:
        note = "no text to try" if base.rollouts else "no examples in `search`"
        return {"text_score": absent(note), "context_gain": absent(note)}, ""
    best = max(tried, key=lambda name: (tried[name].mean, name == "seed"))
    irrelevant = context.measure(control) if control.strip() else base
    reference = irrelevant if irrelevant.mean > base.mean else base
    differences = [a - b for a, b in zip(tried[best].values, reference.values, strict=True)]
    mean, low, high = paired_interval(differences, 1 - 0.05 / len(tried))
    scores: dict[str, float | str] = {f"score_{name}": m.mean for name, m in tried.items()}
    result = {
        "text_score": from_interval(mean_interval(tried[best].values, 0.95, context.seed), f"best text: {best}"),
        "context_gain": ProbeResult(
            value=mean,
            low=low,
            high=high,
            n=len(differences),
            note=f"best text ({best}) over the better of no text and an irrelevant text",
            details={**scores, "score_control": irrelevant.mean, "score_no_text": base.mean},
        ),
    }
    return result, texts[best]
