"""What each probe says, in words, and to which question of an explanation it belongs.

A probe that is not known here is shown under its own name, with everything that it reports: `hybrid explain` loses none.
Does not: measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from hybrid.report.parts import ProbeResult
from hybrid.report.schema import CapabilityReport
from hybrid.report.text import extras, free, interval, line, num

Question = Literal["base", "text", "samples", "cost", "other"]
_UNDER = "text_"
WORDS: Mapping[str, tuple[Question, str]] = {
    "base": ("base", "the base alone, on `search`"),
    "format": ("base", "share of its answers that the grader can read"),
    "variant_gap": ("base", "how much worse it is on variants"),
    "paraphrase_consistency": ("base", "agreement of its answers to paraphrases, beyond what its accuracy alone gives"),
    "calibration_error": ("base", "distance of stated confidence from correctness"),
    "depth_slope": ("base", "loss of accuracy per further step that an answer takes"),
    "style_shift": ("base", "share of target tokens that it ranks low"),
    "content_gap": ("base", "wrong answers that hold the reference, over chance: the content is there, the form is not"),
    "from_prompt": ("base", "how much of the reference its own prompt holds, over other prompts: worked out, or looked up"),
    "context_gain": ("text", "gain of the best text over the better of no text and an irrelevant text"),
    "text_score": ("text", "score with the best text"),
    "text_format": ("text", "share of answers under it that the grader can read"),
    "format_gain": ("text", "readable answers that the text adds, over its control"),
    "text_style_gain": ("text", "low-ranked target tokens that the text takes away, over its control"),
    "content_gain": ("text", "right content in any form that the text adds"),
    "text_content_gap": ("text", "wrong answers under it that hold the reference, over chance"),
    "depth_slope_text": ("text", "loss of accuracy per further step, under a text that spells the steps out"),
    "lapse_share": ("text", "share of failures that break a rule which the document already has"),
    "supplied": ("text", "references that stand in the text word for word, over chance: facts are copied, procedures are not"),
    "pass_at_k": ("samples", "at least one right answer among k samples"),
    "sampling_gain": ("samples", "what the best of k samples adds to one"),
    "signal_rate": ("samples", "share of groups of samples with both right and wrong answers, from which gradients learn"),
    "unknown": ("samples", "share of examples that neither the greedy answer nor any sample gets right"),
    "between_share": ("samples", "share of the variance of scores between prompts: near 1, groups agree and teach nothing"),
    "unknown_facts": ("samples", "share of rows that the model never gets right, in any context that does not hold the answer"),
    "probe_saved": ("cost", "completions that probes left out, since the decision that they feed was closed"),
    "volatility": ("cost", "changes a month"),
    "calls_per_day": ("cost", "calls a day"),
    "portable": ("cost", "whether it has to move to other models"),
}  # fmt: skip
_DECLARED = ("volatility", "calls_per_day", "portable")
_MOST_EXTRAS = 8


def question_of(name: str) -> Question:
    """The question that a probe helps to answer."""
    return _known(name)[0]


def _known(name: str) -> tuple[Question, str]:
    if name in WORDS:
        return WORDS[name]
    plain = name.removeprefix(_UNDER)
    if plain != name and plain in WORDS:
        group, words = WORDS[plain]
        return group, f"{words}, under the best text"
    return "other", ""


def probe_lines(c: CapabilityReport, question: Question) -> Iterator[str]:
    """One sentence per probe that helps to answer a question, measured ones first."""
    mine = [(name, probe) for name, probe in sorted(c.profile.items()) if question_of(name) == question]
    for name, probe in sorted(mine, key=lambda pair: pair[1].value is None):
        yield probe_line(name, probe)


def probe_line(name: str, probe: ProbeResult) -> str:
    """`context_gain 0.310 [0.200, 0.420], n=64: gain of the best text ... (note; details)`."""
    value = "is not measurable" if probe.value is None else f"{num(probe.value)} {interval(probe)}".rstrip()
    size = "" if name in _DECLARED else f", n={probe.n}"
    words = _known(name)[1]
    found = extras(probe)
    more = [line(probe.note, 400)] * bool(probe.note.strip())
    more += [line(f"{key} {free(value)}", 160) for key, value in found[:_MOST_EXTRAS]]
    more += [f"{len(found) - _MOST_EXTRAS} more in placement.json"] * (len(found) > _MOST_EXTRAS)
    said = f"{line(name, 60)} {value}{size}"
    said += f": {words}" if words else ""
    return f"{said} ({'; '.join(more)})" if more else said


def unmeasured(c: CapabilityReport) -> list[str]:
    """Names of the probes that had nothing to say."""
    return [line(name, 60) for name, probe in sorted(c.profile.items()) if probe.value is None]
