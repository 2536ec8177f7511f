"""Which examples an edit is about: those whose prompts share its rarer words.

An edit of one line of a table concerns a few examples. Asking those first shows for few rollouts whether the edit does
anything, and the race weighs them by their share, so that nothing is flattered. A wrong guess costs rollouts, never
honesty. Does not: look at references, completions or scores.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from hybrid.capability.types import Example
from hybrid.skill.edits import Edit

COMMON = 0.5
"""A word that stands in at least this share of the prompts tells nothing about any of them."""
NEAREST = 0.5
"""Prompts with less than this share of the best prompt's weight are not what the text is about."""
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=65_536)
def words(text: str) -> frozenset[str]:
    """The distinct words of a text, case folded."""
    return frozenset(_WORD.findall(text.casefold()))


def edit_text(edits: Iterable[Edit]) -> str:
    """Everything that some edits add or remove."""
    return "\n".join(t for e in edits for t in (getattr(e, "target", ""), getattr(e, "content", "")) if t)


def about(text: str, examples: Sequence[Example]) -> list[int]:
    """Positions of the examples that a text is about, the nearest first.

    A prompt weighs the sum of log(n / prompts with the word) over the rare words that it shares with the text (inverse
    document frequency, Sparck Jones 1972); rare means in less than half of the prompts. Those with at least half of
    the largest weight are meant. An empty list: the text is about no example in particular.
    """
    prompts = [words(e.prompt_text) for e in examples]
    seen = Counter(word for prompt in prompts for word in prompt)
    telling = {w: math.log(len(prompts) / seen[w]) for w in words(text) if 0 < seen[w] < COMMON * len(prompts)}
    weights = [math.fsum(sorted(telling[w] for w in prompt & telling.keys())) for prompt in prompts]
    least = NEAREST * max(weights, default=0.0)
    return [i for _, i in sorted((-weight, i) for i, weight in enumerate(weights) if weight > 0 and weight >= least)]
