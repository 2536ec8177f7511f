"""How a model ranks given tokens: an optional capability of a backend.

    if isinstance(backend, Ranks):
        backend.target_ranks([("2 + 2 =", " 4")])[0].ranks      # (1, 1): what it would have said, end token included

A backend that cannot look at scores of tokens that it did not choose (an endpoint, say) does not have the method.
Does not: generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hybrid.capability.types import Message


@dataclass(frozen=True)
class Ranked:
    """One target: its token ids, the end token last, and the rank of each, from 1 for the most likely token."""

    ids: tuple[int, ...]
    ranks: tuple[int, ...]


@runtime_checkable
class Ranks(Protocol):
    """Ranks target tokens under the bare base, each after the prompt and the target tokens before it.

    One `Ranked` per (prompt, target), in order, from one forward pass over both and no generation. Equally likely tokens share
    the better rank. The prompt is complete, as in `Backend.generate`. Raises BackendError where prompt and target do not fit.
    """

    def target_ranks(self, pairs: Sequence[tuple[str | tuple[Message, ...], str]]) -> list[Ranked]:
        """The ranks of every target's tokens."""
        ...
