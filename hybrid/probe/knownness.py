"""Known-ness of facts: does the model know the answer, whatever stands before the question?

The four classes of SliCK (Gekhman et al. 2024, 2405.05904, section 3) per row: the greedy answer is right in every
context (highly), in some (maybe), in none but a sample is (weakly), never (unknown). Contexts: no text, the
irrelevant text, the worked examples of the context probe, and `probe.contexts` further sets of two worked examples. A
context that holds the row's reference shows nothing of what is known, so it does not count there; what it shows is
`right_when_held` in the details: a fact is right exactly where it is held, a procedure has nothing to copy.
Value: the share of unknown rows, with a Wilson interval. Control: the contexts that do not hold the answer. Cost:
`probe.contexts` completions for each of up to 32 rows; the rest was paid for by other probes.
Does not: read any split but `search` and, for worked examples, `train`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from hybrid.capability.types import Example
from hybrid.evidence.known import known
from hybrid.evidence.stats import wilson
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent, from_interval

ROWS = 32
"""Most rows asked again in every further context."""
SET = 2
"""Worked examples in a further context: few, so that most rows' answers are not among them."""


def further_contexts(train: Sequence[Example], count: int, seed: int) -> list[str]:
    """`count` different sets of worked examples with different references, drawn by seed. Pure."""
    found: list[str] = []
    for number in range(4 * count):
        if len(found) == count:
            break
        rows = list(train)
        random.Random(f"{seed} context {number}").shuffle(rows)
        chosen: list[Example] = []
        for row in rows:
            if len(chosen) < SET and all(row.reference != c.reference for c in chosen):
                chosen.append(row)
        text = "\n".join(f"{e.prompt_text} {e.gold_completion}" for e in chosen)
        if len(chosen) == SET and text not in found:
            found.append(text)
    return found


def probe_knownness(
    context: ProbeContext, measured: Mapping[str, Measurement], samples: Measurement | None
) -> tuple[ProbeResult, int]:
    """`unknown_facts`, and the completions that it asked for. `measured` are greedy measurements of `context.examples` by text,
    the bare base under ""; `samples` those without a text, on the first of them."""
    examples = context.examples[:ROWS]
    texts = further_contexts(context.capability.splits["train"], context.config.contexts, context.seed)
    tables = {text: m.rollouts[: len(examples)] for text, m in measured.items()}
    fresh = [text for text in texts if text not in tables]
    tables |= {text: context.measure(text, examples=examples).rollouts for text in fresh}
    if not examples:
        return absent("no examples in `search`"), 0
    classes: Counter[str] = Counter()
    held: list[bool] = []
    for i, example in enumerate(examples):
        greedy = []
        for text, rows in tables.items():
            if rows[i][0].unjudged:
                continue
            if example.reference.strip() and example.reference in text:
                held.append(rows[i][0].passed)
            else:
                greedy.append(rows[i][0].passed)
        drawn = samples.rollouts[i] if samples is not None and i < len(samples.rollouts) else ()
        classes[_class(greedy, [r.passed for r in drawn if not r.unjudged])] += 1
    details: dict[str, float | str] = {name: float(classes[name]) for name in ("highly", "maybe", "weakly", "unknown")}
    details["contexts"] = float(len(tables))
    if held:
        details |= {"right_when_held": sum(held) / len(held), "held": float(len(held))}
    unknown = wilson(classes["unknown"], len(examples), 0.95)
    note = "rows that are right in no context without their answer, greedy or sampled"
    return from_interval(unknown, note, **details), len(fresh) * len(examples)


def _class(greedy: Sequence[bool], sampled: Sequence[bool]) -> str:
    """SliCK's class; `known` takes one greedy answer, so some right ones among several are `maybe`."""
    if any(greedy):
        return "highly" if all(greedy) else "maybe"
    return known(False, sampled)
