"""Measuring: a candidate on examples, in one way for text and weights alike.

A `Meter` looks every rollout up in the store first, generates what is missing in durable chunks, grades it, and enters
it in the ledger. The splits `confirm` and `test` are sealed: they can be measured only after `open_sealed` recorded who
is compared on them, and they can be opened only once with one list of candidates.

Does not: decide anything, or know where a candidate came from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hybrid.backends.base import Backend, Completion, Request
from hybrid.capability.types import Capability, Example, Split
from hybrid.errors import BudgetExhausted, RunFolderError
from hybrid.evidence.compose import compose
from hybrid.evidence.ledger import Ledger
from hybrid.evidence.rollouts import RolloutStore, judge_of, rollout_key, sample_seed
from hybrid.evidence.types import Candidate, Measurement, Rollout
from hybrid.store.folder import EventLog

SEALED: tuple[Split, ...] = ("confirm", "test")
Progress = Callable[[str, int, int], None]
"""(capability, done, total) completions of the call under way."""


def _ignore(capability: str, done: int, total: int) -> None:
    """Default progress: nobody watches."""


class Meter:
    """Measures candidates for one run. `chunk` completions are generated, then made durable, then counted."""

    def __init__(
        self,
        backend: Backend,
        store: RolloutStore,
        ledger: Ledger,
        events: EventLog,
        *,
        seed: int,
        separator: str,
        chunk: int,
    ) -> None:
        self.backend, self.store, self.ledger, self.events = backend, store, ledger, events
        self.seed, self.separator, self.chunk = seed, separator, chunk
        self.progress: Progress = _ignore
        self.reused = 0
        self._started = time.monotonic()

    def open_sealed(self, capability: Capability, split: Split, candidates: Sequence[Candidate]) -> None:
        """Record that `split` is opened to compare `candidates`; the second opening must name the same ones."""
        keys = sorted({c.key for c in candidates})
        before = self.events.last("split.opened", capability=capability.name, split=split)
        if before is None:
            self.events.append("split.opened", capability=capability.name, split=split, candidates=keys)
        elif before["data"]["candidates"] != keys:
            raise RunFolderError(
                f"{capability.name}: the {split} split was opened for other candidates before; it is opened once per run. "
                "Start a new run with --fresh or another --out"
            )

    def measure(
        self,
        candidate: Candidate,
        capability: Capability,
        split: Split,
        examples: Sequence[Example],
        *,
        samples: int = 1,
        stage: str,
    ) -> Measurement:
        """Rollouts of `candidate` on `examples`, `samples` draws each, in the order given.

        Raises BudgetExhausted after keeping what was affordable, BackendError and AdapterError from the backend.
        """
        self._check_seal(candidate, capability, split)
        wanted = [(e, s, sample_seed(self.seed, e, s)) for e in examples for s in range(samples)]
        judge = judge_of(capability)
        keys = [rollout_key(candidate, judge, split, e, s, seed) for e, s, seed in wanted]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}  # a row asked twice is paid once
        missing = sorted(i for key, i in first.items() if self.store.get(candidate, key) is None)
        self.reused += len(keys) - len(missing)
        for start in range(0, len(missing), self.chunk):
            self.ledger.check(time.monotonic() - self._started)
            part = missing[start : start + self.chunk]
            allowed = self.ledger.affordable(len(part))
            rows = [(keys[i], *wanted[i]) for i in part[:allowed]]
            self._generate(candidate, capability, split, rows, stage)
            self.progress(capability.name, start + len(rows), len(missing))
            if allowed < len(part):
                raise BudgetExhausted(
                    f"budget.calls: all {self.ledger.budget.calls} completions are spent; what was paid is kept"
                )
        found = [self.store.get(candidate, key) for key in keys]
        rollouts = [r for r in found if r is not None]
        table = tuple(tuple(rollouts[i * samples : (i + 1) * samples]) for i in range(len(examples)))
        return Measurement(candidate, tuple(e.id for e in examples), table)

    def _check_seal(self, candidate: Candidate, capability: Capability, split: Split) -> None:
        if split not in SEALED:
            return
        opened = self.events.last("split.opened", capability=capability.name, split=split)
        if opened is None or candidate.key not in opened["data"]["candidates"]:
            raise RunFolderError(f"{capability.name}: the sealed split {split!r} was not opened for this candidate")

    def _generate(
        self,
        candidate: Candidate,
        capability: Capability,
        split: Split,
        rows: Sequence[tuple[str, Example, int, int]],
        stage: str,
    ) -> None:
        if not rows:
            return
        requests = [Request(compose(e.prompt, candidate.skill, self.separator), seed) for _, e, _, seed in rows]
        completions = self.backend.generate(requests, candidate.sampling, candidate.adapter)
        graded = [
            self._grade(candidate, capability, split, row, completion, stage)
            for row, completion in zip(rows, completions, strict=True)
        ]
        self.store.put(candidate, graded)
        self.ledger.pay(graded)

    @staticmethod
    def _grade(
        candidate: Candidate,
        capability: Capability,
        split: Split,
        row: tuple[str, Example, int, int],
        completion: Completion,
        stage: str,
    ) -> Rollout:
        key, example, sample, seed = row
        score = capability.grader.grade(completion.text, example)
        return Rollout(
            key=key,
            candidate=candidate.key[:32],
            capability=capability.name,
            split=split,
            example_id=example.id,
            sample=sample,
            seed=seed,
            text=completion.text,
            value=score.value,
            passed=score.passed,
            facets=dict(score.facets),
            feedback=score.feedback,
            tokens_in=completion.tokens_in,
            tokens_out=completion.tokens_out,
            seconds=round(completion.seconds, 6),
            finish=completion.finish,
            stage=stage,
        )
