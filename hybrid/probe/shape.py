"""What the answers are made of: numbers from completions that were already paid for, and from the data.

- `format_gain`: valid format with the best text minus without, by example. A style is what a text can repair here.
  Control: the better of no text and the irrelevant text.
- `content_gap`, `text_content_gap` (without and with the best text): share of answers that hold the reference and are
  wrong all the same: the content is there, the form is not. Control: how often they hold references of other rows, or
  their own with its characters shuffled, whichever is more.
- `content_gain`: the right content in any form, with the best text minus without: what a text tells, apart from how
  to say it. Control: as for `content_gap`.
- `supplied`: share of references that stand in the best text word for word: facts are copied, procedures are not.
  Control: the same reference with its characters shuffled (a letter or a digit stands in any text).
- `from_prompt`: share of the reference's characters (of its words, where it has several) that the own prompt holds,
  minus what other rows' prompts hold: the answer is worked out of the question, not looked up by it.

Intervals: paired over examples. Cost: none. Does not: measure anything itself. Completions are hostile: only 2,000
characters count.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from hybrid.capability.types import Example
from hybrid.evidence.stats import paired_interval
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeResult, absent

_LONGEST = 2_000
_LONG_WORD = 16
_TRIES = 8


def _plain(text: str) -> str:
    return " ".join(text[:_LONGEST].casefold().split())


def _shuffled(reference: str, seed: int) -> str:
    """The same characters in a seeded order: what a text of this make holds by chance."""
    rng = random.Random(f"{seed} {reference}")
    drawn = ("".join(rng.sample(reference, len(reference))) for _ in range(_TRIES))
    return next((other for other in drawn if other != reference), reference)


def _paired(differences: Sequence[float], note: str) -> ProbeResult:
    mean, low, high = paired_interval(differences, 0.95)
    return ProbeResult(value=mean, low=low, high=high, n=len(differences), note=note)


def _readable(measured: Measurement) -> list[float | None]:
    return [row[0].facets.get("format") if not row[0].unjudged else None for row in measured.rollouts]


def format_gain(base: Measurement, best: Measurement | None, control: Measurement) -> ProbeResult:
    """`format_gain`; absent without a text or where the grader reports no format."""
    if best is None:
        return absent("no text was tried")
    plain, other = _readable(base), _readable(control)
    reference = max((plain, other), key=lambda row: sum(v or 0.0 for v in row))
    pairs = zip(_readable(best), reference, strict=True)
    differences = [float(a >= 1.0) - float(b >= 1.0) for a, b in pairs if a is not None and b is not None]
    if not differences:
        return absent("the grader reports no format")
    return _paired(differences, "valid format with the best text minus without it")


def content_gap(examples: Sequence[Example], measured: Measurement | None, which: str) -> ProbeResult:
    """`content_gap` of one measurement's first answers; absent where rows have no reference."""
    if measured is None:
        return absent("no text was tried")
    held = zip(_content(examples, measured), measured.rollouts, strict=True)
    differences = [0.0 if row[0].passed else share for share, row in held if share is not None]
    if not differences:
        return absent("no row has a reference to look for")
    return _paired(differences, f"answers {which} that hold the reference and are wrong, less chance")


def content_gain(examples: Sequence[Example], base: Measurement, best: Measurement | None) -> ProbeResult:
    """`content_gain` of the best text over none; absent without a text or where rows have no reference."""
    if best is None:
        return absent("no text was tried")
    pairs = zip(_content(examples, best), _content(examples, base), strict=True)
    differences = [max(-1.0, min(1.0, a - b)) for a, b in pairs if a is not None and b is not None]
    if not differences:
        return absent("no row has a reference to look for")
    return _paired(differences, "answers with the right content, in any form: with the best text minus without")


def _content(examples: Sequence[Example], measured: Measurement) -> list[float | None]:
    """By example: 1 where the answer passed, otherwise whether it holds the reference, less chance; None without either."""
    references = [_plain(e.reference) for e in examples]
    distinct = sorted(set(references) - {""})
    found: list[float | None] = []
    for reference, row in zip(references, measured.rollouts, strict=True):
        if row[0].unjudged or not reference:
            found.append(None)
        elif row[0].passed:
            found.append(1.0)
        else:
            answer = _plain(row[0].text)
            others = [r for r in distinct if r != reference]
            chance = sum(r in answer for r in others) / len(others) if others else 0.0
            found.append(float(reference in answer) - max(chance, float(_shuffled(reference, 0) in answer)))
    return found


def supplied(examples: Sequence[Example], text: str, seed: int) -> ProbeResult:
    """`supplied` by `text`; absent without one."""
    if not text.strip():
        return absent("no text to look into")
    body = " ".join(text.casefold().split())
    differences = []
    for reference in (" ".join(e.reference.casefold().split()) for e in examples):
        if reference:
            differences.append(float(reference in body) - float(_shuffled(reference, seed) in body))
    if not differences:
        return absent("no row has a reference to look for")
    return _paired(differences, "references that stand in the text, less shuffled ones")


def from_prompt(examples: Sequence[Example]) -> ProbeResult:
    """`from_prompt`, from the data alone."""
    rows = [(_pieces(e.reference), _held(e.prompt_text)) for e in examples if e.reference.strip()]
    if len(rows) < 2:
        return absent("fewer than two rows have a reference")
    differences = []
    for i, ((pieces, by_word), own) in enumerate(rows):
        shares = [sum(p in held[by_word] for p in pieces) / len(pieces) for _, held in rows] if pieces else [0.0]
        mine = sum(p in own[by_word] for p in pieces) / len(pieces) if pieces else 0.0
        others = [share for j, share in enumerate(shares) if j != i]
        differences.append(mine - sum(others) / len(others) if others else 0.0)
    return _paired(differences, "what the reference shares with its own prompt, less with other rows' prompts")


def _pieces(reference: str) -> tuple[frozenset[str], int]:
    """The parts of a reference, and whether they are words (1) or characters (0)."""
    words = re.findall(r"\w+", reference.casefold())
    by_word = len(words) > 1 or len(reference) > _LONG_WORD
    return frozenset(words if by_word else "".join(words)), int(by_word)


def _held(prompt: str) -> tuple[frozenset[str], frozenset[str]]:
    """The characters and the words of a prompt."""
    text = prompt[-_LONGEST:].casefold()
    return frozenset(text), frozenset(re.findall(r"\w+", text))
