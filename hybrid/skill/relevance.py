"""Which examples an edit is about: those whose prompts share its rarer words.

An edit of one line of a table concerns a few examples. Asking those first shows for few rollouts whether the edit does
anything, and the race weighs them by their share, so that nothing is flattered. A wrong guess costs rollouts, never
honesty. Does not: look at references, completions or scores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from hybrid.capability.types import Example
from hybrid.skill.edits import Edit

COMMON = 0.5
"""A word that stands in at least this share of the prompts tells nothing about any of them."""
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=65_536)
def words(text: str) -> frozenset[str]:
    """The distinct words of a text, case folded."""
    return frozenset(_WORD.findall(text.casefold()))


def edit_text(edits: Iterable[Edit]) -> str:
    """Everything that some edits add or remove."""
    return "\n".join(t for e in edits for t in (getattr(e, "target", ""), getattr(e, "content", "")) if t)


def about(text: str, examples: Sequence[Example]) -> list[int]:
    """Positions of the examples that share a telling word with `text`, those with the most such words first.

    A word tells when it stands in at least one and in less than half of the prompts. An empty list means that the text
    is about no example in particular.
    """
    prompts = [words(e.prompt_text) for e in examples]
    seen = Counter(word for prompt in prompts for word in prompt)
    telling = {w for w in words(text) if 0 < seen[w] < COMMON * len(examples)}
    shared = [(-len(telling & prompt), i) for i, prompt in enumerate(prompts)]
    return [i for count, i in sorted(shared) if count < 0]
