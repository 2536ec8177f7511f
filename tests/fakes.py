"""Stand-ins with known truth: a backend that is a function, capabilities of any size, a meter over a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid.backends.base import Adapter, Completion, ModelInfo, Request, Sampling
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Capability, Example, Grader, Message, Split
from hybrid.config.schema import BudgetConfig, ExactGrader
from hybrid.evidence.ledger import Ledger
from hybrid.evidence.measure import Meter
from hybrid.evidence.rollouts import RolloutStore
from hybrid.evidence.types import Candidate
from hybrid.store.folder import EventLog

FINGERPRINT = "f" * 64
Answer = Callable[[str, int, Adapter | None], str]
"""(prompt as the model reads it, seed, adapter) -> completion."""


def text_of(prompt: str | tuple[Message, ...]) -> str:
    """The prompt as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(m.content for m in prompt)


class FakeBackend:
    """A backend that answers by a function and remembers what it was asked.

    `fail_at` names the completion (from 1, over all calls) before which `error` is raised, once.
    """

    def __init__(self, answer: Answer, *, seconds: float = 0.0) -> None:
        self.answer, self.seconds = answer, seconds
        self.asked: list[tuple[str, int, Adapter | None]] = []
        self.batches: list[int] = []
        self.fail_at: int | None = None
        self.error: Exception | None = None

    def info(self) -> ModelInfo:
        """The same model every time."""
        return ModelInfo(path="fake", fingerprint=FINGERPRINT, parameters=1, dtype="float32", device="cpu")

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """Every answer in order; each takes `seconds` and as many tokens as it has words."""
        if self.fail_at is not None and len(self.asked) + len(requests) >= self.fail_at:
            self.fail_at = None
            assert self.error is not None
            raise self.error
        self.batches.append(len(requests))
        out = []
        for request in requests:
            prompt = text_of(request.prompt)
            self.asked.append((prompt, request.seed, adapter))
            answer = self.answer(prompt, request.seed, adapter)
            out.append(Completion(answer, len(prompt.split()), len(answer.split()) + 1, self.seconds, "stop"))
        return out


def examples(count: int, split: str = "search", **changes: str) -> tuple[Example, ...]:
    """`count` questions `q N?` whose reference is `aN`, numbered within the split."""
    return tuple(
        Example(id=f"{split}-{i}", prompt=f"{split} q{i}?", reference=f"a{i}", **changes)  # type: ignore[arg-type]
        for i in range(count)
    )


def capability(name: str = "units", *, grader: Grader | None = None, **sizes: int) -> Capability:
    """A capability with so many examples of each named split; splits that are not named are empty."""
    names: tuple[Split, ...] = ("train", "search", "confirm", "test", "variant")
    splits = {s: examples(sizes.get(s, 0), s) for s in names}
    return Capability(name, splits, grader or build_grader(ExactGrader(type="exact")))


def candidate(skill: str = "", adapter: Adapter | None = None, temperature: float = 0.0) -> Candidate:
    """A candidate over the fake model."""
    return Candidate(FINGERPRINT, skill, adapter, Sampling(temperature=temperature))


def meter(
    folder: Path, backend: FakeBackend, *, budget: BudgetConfig | None = None, chunk: int = 4, seed: int = 0
) -> Meter:
    """A meter on the run folder `folder`, as a new attempt would build it: everything on disk is read again."""
    store = RolloutStore(folder / "rollouts")
    events = EventLog(folder / "events.jsonl")
    ledger = Ledger(budget or BudgetConfig(), store.all(), events.wall_seconds())
    return Meter(backend, store, ledger, events, seed=seed, separator="\n", chunk=chunk)
