"""Style shift: how much of the right answers the base would not have said that way, with and without the document.

A token of a right answer is shifted where the base, given the prompt and the tokens before it, ranks it below 3; the
value is the share of shifted tokens, mean over examples (URIAL, arXiv 2312.01552, where 7.8 % of the tokens of
aligned models are). Style sits in few tokens that most answers share; facts and results sit in many that differ. So
the details also hold `common`: the share that is shifted among tokens which at least half of the answers have (the
layout, if there is one).
Control: the same tokens after the irrelevant text, where there is one (`control`). Interval: bootstrap over examples.
Cost: one forward pass per example and text, no completion; kept in the events, so that a resumed run pays none.
Needs a backend that is a `Ranks`. Does not: look at what the model says by itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from hybrid.backends.ranks import Ranked, Ranks
from hybrid.capability.types import Example
from hybrid.errors import BackendError
from hybrid.evidence.compose import compose
from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval

HIGHEST = 3
"""Worst rank of a token that is not shifted."""
Rows = Sequence[tuple[int, int, int, int]]
"""Per example: tokens, shifted ones, common tokens, shifted common ones."""


def probe_style(context: ProbeContext, text: str, control: str) -> dict[str, ProbeResult]:
    """`style_shift` without a text and `text_style_gain`, how much of it `text` takes away."""
    names = ("style_shift", "text_style_gain")
    if context.ranker is None:
        return dict.fromkeys(names, absent("this backend does not rank tokens that it did not choose"))
    examples = [e for e in context.examples if e.gold_completion.strip()]
    if not examples:
        return dict.fromkeys(names, absent("no right answers to rank"))
    try:
        rows = {name: _rows(context, examples, t) for name, t in (("plain", ""), ("text", text), ("control", control))}
    except BackendError as error:  # a right answer may be longer than any that is generated
        return dict.fromkeys(names, absent(f"not ranked: {error}"))
    shares = {name: [shifted / tokens for tokens, shifted, _, _ in found] for name, found in rows.items()}
    plain = from_interval(
        mean_interval(shares["plain"], 0.95, context.seed),
        f"share of the right answers' tokens that the base ranks below {HIGHEST}, no text",
        **_details(rows),
    )
    if not text.strip():
        return {"style_shift": plain, "text_style_gain": absent("no text to try")}
    better = min(("plain", "control"), key=lambda name: sum(shares[name]))
    mean, low, high = paired_interval([a - b for a, b in zip(shares[better], shares["text"], strict=True)], 0.95)
    note = "shifted tokens that the best text takes away, over the better of no text and an irrelevant text"
    return {
        "style_shift": plain,
        "text_style_gain": ProbeResult(value=mean, low=low, high=high, n=len(examples), note=note),
    }


def _details(rows: Mapping[str, Rows]) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for name, table in rows.items():
        common = sum(row[2] for row in table)
        if common:
            found["common" if name == "plain" else f"common_{name}"] = sum(row[3] for row in table) / common
    return found


def _rows(context: ProbeContext, examples: Sequence[Example], text: str) -> Rows:
    """The counts of every example after `text`, from the events where they are known."""
    assert context.ranker is not None
    asked = [context.model_fingerprint, text, *(e.fingerprint() for e in examples)]
    key = hashlib.sha256("\n".join(asked).encode()).hexdigest()
    events, name = context.meter.events, context.capability.name
    known = events.last("probe.ranked", capability=name, key=key)
    if known is None:
        rows = counted(_ranked(context.ranker, examples, text, context.meter.separator))
        known = events.append("probe.ranked", capability=name, key=key, rows=[list(row) for row in rows])
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in known["data"]["rows"]]


def _ranked(ranker: Ranks, examples: Sequence[Example], text: str, separator: str) -> list[Ranked]:
    return ranker.target_ranks([(compose(e.prompt, text, separator), e.gold_completion) for e in examples])


def counted(ranked: Sequence[Ranked]) -> Rows:
    """Tokens, shifted tokens, common tokens and shifted common tokens of every target. Pure."""
    holders = Counter(token for target in ranked for token in set(target.ids))
    common = {token for token, count in holders.items() if 2 * count >= len(ranked)}
    return [
        (
            len(target.ids),
            sum(rank > HIGHEST for rank in target.ranks),
            sum(token in common for token in target.ids),
            sum(r > HIGHEST and t in common for t, r in zip(target.ids, target.ranks, strict=True)),
        )
        for target in ranked
    ]
