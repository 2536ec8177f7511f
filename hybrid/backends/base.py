"""Who generates: the `Backend` protocol and the plain data that crosses it.

Does not: grade, cache, count budgets or know what a skill is: the prompt that arrives here is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from hybrid.capability.types import Message


class Sampling(BaseModel):
    """Decoding settings. `temperature` 0 is greedy. Tokens are counted in the model's own tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_new_tokens: int = Field(default=64, ge=1, le=32_768)
    temperature: float = Field(default=0.0, ge=0.0, le=5.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)


@dataclass(frozen=True)
class Request:
    """One completion to make. `seed` starts this request's own random stream; greedy decoding ignores it."""

    prompt: str | tuple[Message, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What came back. `seconds` is this row's share of the batch's wall time."""

    text: str
    tokens_in: int
    tokens_out: int
    seconds: float
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter on disk: its folder and the sha256 (hex) of its weights and configuration."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Mixture(Adapter):
    """An adapter that is the sum of a stack's rows, each times a factor: `stack` is one adapter that holds all of them.

    `path` and `sha256` are those of the mixture written out, which gives the same answers up to rounding. `gates` has one factor
    for each row of the stack's rank.
    """

    stack: Adapter
    gates: tuple[float, ...]


@dataclass(frozen=True)
class ModelInfo:
    """Identity and facts of the loaded base model. `fingerprint` is a sha256 (hex) over weights, config and tokenizer."""

    path: str
    fingerprint: str
    parameters: int
    dtype: str
    device: str


class Backend(Protocol):
    """Generates completions from the base model, with or without an adapter.

    `generate` returns one completion per request, in order. A completion depends on its prompt, sampling, seed and
    adapter alone, whatever else is in the call, up to rounding. It raises `BackendError` when the model cannot be used
    and `AdapterError` when the adapter cannot (wrong base, unmatched keys, non-finite weights): never a completion of
    the bare base in place of the adapted model. `count_tokens` counts the model's tokens in a text.
    """

    def info(self) -> ModelInfo:
        """Facts of the base model."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One completion per request, in the order asked."""
        ...

    def count_tokens(self, text: str) -> int:
        """Number of the model's tokens in `text`, without special tokens."""
        ...


@runtime_checkable
class MixingBackend(Protocol):
    """A backend that answers for many mixtures of one stack in one batch, for the price of the stack alone."""

    def generate_mixed(
        self, requests: Sequence[Request], sampling: Sampling, mixtures: Sequence[Mixture]
    ) -> list[Completion]:
        """One completion per request under its own mixture, in order; all mixtures are of one stack.

        Raises as `Backend.generate` does, and AdapterError where the model does not keep a request's numbers in a row of their
        own.
        """
        ...
