"""The one target of all methods, its memory, and the count of what each method asks of it.

Decoding is greedy, so a document and a prompt have one answer: it is computed once, for whichever method asks first, and
remembered, on disk too. The memory saves the benchmark's time and changes no count: `Count` counts what a method asks.
Does not: know of methods.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example, Score
from hybrid.config.schema import ExactGrader
from text_bench.world import LONGEST_ANSWER

Answer = Callable[[str, Sequence[str]], list[str]]
"""(document, prompts) -> one completion per prompt."""


class Spent(BaseException):
    """The budget of rollouts is used up. Not an `Exception`, so that no method's own error handling takes it for one."""


@dataclass
class Count:
    """Rollouts that a method asked for, by what they were for."""

    most: int
    by: dict[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> int:
        """All of them."""
        return sum(self.by.values())

    def pay(self, rollouts: int, what: str) -> None:
        """Count rollouts that are about to be made. Raises Spent when nothing is left; the last request may go beyond."""
        if self.spent >= self.most:
            raise Spent
        self.note(rollouts, what)

    def note(self, rollouts: int, what: str) -> None:
        """Count rollouts of a method that looks at the budget itself."""
        self.by[what] = self.by.get(what, 0) + rollouts


def shown(document: str) -> str:
    """The document as the model reads it: without blank lines and without the markers of protected sections.

    The target was made with neither, and each method has a layout of its own: none is to win or lose by white space.
    """
    kept = (line.strip() for line in document.split("\n"))
    return "\n".join(line for line in kept if line and not line.startswith("<!--"))


class Target:
    """Answers and scores of documents on examples."""

    def __init__(self, answer: Answer, count_tokens: Callable[[str], int], memory: Path | None = None) -> None:
        self._answer, self._count_tokens, self._file = answer, count_tokens, memory
        self._known: dict[tuple[str, str], str] = {}
        self._grader = build_grader(ExactGrader(type="exact"))
        self.computed = 0
        if memory is not None and memory.exists():
            self._load(memory)

    def ask(self, document: str, examples: Sequence[Example]) -> list[tuple[str, Score]]:
        """Completion and score of every example under a document."""
        text = shown(document)
        mark = hashlib.sha256(text.encode()).hexdigest()[:20]
        prompts = [example.prompt_text for example in examples]
        new = [prompt for prompt in dict.fromkeys(prompts) if (mark, prompt) not in self._known]
        if new:
            fresh = dict(zip(new, self._answer(text, new), strict=True))
            self._known |= {(mark, prompt): completion for prompt, completion in fresh.items()}
            self.computed += len(new)
            self._save(mark, fresh)
        found = [self._known[mark, prompt] for prompt in prompts]
        return [(c, self._grader.grade(c, e)) for c, e in zip(found, examples, strict=True)]

    def scores(self, document: str, examples: Sequence[Example]) -> list[float]:
        """Scores alone."""
        return [score.value for _, score in self.ask(document, examples)]

    def tokens(self, document: str) -> int:
        """The model's tokens in the document as it is shown."""
        return self._count_tokens(shown(document))

    def _save(self, mark: str, fresh: dict[str, str]) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([mark, fresh]) + "\n")

    def _load(self, memory: Path) -> None:
        """What was answered before; a line that was cut off by a kill is dropped, and asked again."""
        text = memory.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(memory, len(whole.encode()))
        for line in whole.splitlines():
            mark, fresh = json.loads(line)
            self._known |= {(mark, prompt): completion for prompt, completion in fresh.items()}


def reference_target(memory: Path | None, threads: int) -> Target:
    """The shipped reference model through hybrid's transformers backend, greedy, on the CPU."""
    from hybrid.backends.base import Request, Sampling
    from hybrid.backends.build import build_backend, default_cache_dir
    from hybrid.config.schema import ModelConfig, TransformersBackendConfig
    from hybrid.evidence.compose import compose

    model = ModelConfig(path="reference", dtype="float32", device="cpu", threads=threads)
    backend = build_backend(model, TransformersBackendConfig(), Path, default_cache_dir())
    sampling = Sampling(max_new_tokens=LONGEST_ANSWER)

    def answer(document: str, prompts: Sequence[str]) -> list[str]:
        requests = [Request(compose(prompt, document, model.skill_separator), 0) for prompt in prompts]
        return [completion.text for completion in backend.generate(requests, sampling, None)]

    return Target(answer, backend.count_tokens, memory)
