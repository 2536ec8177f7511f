"""Measuring: a candidate on examples, in one way for text and weights alike.

A `Meter` looks every rollout up in the store first, generates what is missing in durable chunks, grades it, and enters
it in the ledger. The splits `confirm` and `test` are sealed: they can be measured only after `open_sealed` recorded who
is compared on them, and they can be opened only once with one list of candidates.

Does not: decide anything, or know where a candidate came from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid.backends.base import Backend, Completion, MixingBackend, Mixture, Request
from hybrid.capability.graders.base import UNJUDGED, Unjudged
from hybrid.capability.types import Capability, Example, Score, Split
from hybrid.errors import BudgetExhausted, RunFolderError
from hybrid.evidence.compose import as_turns, compose
from hybrid.evidence.ledger import Ledger
from hybrid.evidence.rollouts import RolloutStore, judge_of, rollout_key, sample_seed
from hybrid.evidence.types import Candidate, Measurement, Rollout
from hybrid.store.folder import EventLog

SEALED: tuple[Split, ...] = ("confirm", "test")
_REASON = 500
"""Characters that are kept of why an answer was not judged."""
Progress = Callable[[str, int, int], None]
"""(capability, done, total) completions of the call under way."""


def _ignore(capability: str, done: int, total: int) -> None:
    """Default progress: nobody watches."""


@dataclass(frozen=True)
class _Owed:
    """One completion that was asked for and is not in the store."""

    key: str
    candidate: Candidate
    example: Example
    sample: int
    seed: int


class Meter:
    """Measures candidates for one run. `chunk` completions are generated, then made durable, then counted. With `turns` a
    text prompt is asked as a user's turn, so that its document becomes the system message."""

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
        turns: bool = False,
    ) -> None:
        self.backend, self.store, self.ledger, self.events = backend, store, ledger, events
        self.seed, self.separator, self.chunk, self.turns = seed, separator, chunk, turns
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
        return self.measure_many([candidate], capability, split, examples, samples=samples, stage=stage)[0]

    def measure_many(
        self,
        candidates: Sequence[Candidate],
        capability: Capability,
        split: Split,
        examples: Sequence[Example],
        *,
        samples: int = 1,
        stage: str,
    ) -> list[Measurement]:
        """`measure` for several candidates on the same examples; those with one decoding and adapter share batches."""
        judge = judge_of(capability)
        owed: dict[str, _Owed] = {}
        asked: list[tuple[Candidate, list[str]]] = []
        for candidate in candidates:
            self._check_seal(candidate, capability, split)
            keys = []
            for example in examples:
                for sample in range(samples):
                    seed = sample_seed(self.seed, example, sample)
                    key = rollout_key(candidate, judge, split, example, sample, seed)
                    keys.append(key)
                    if key not in owed and self.store.get(candidate, key) is None:
                        owed[key] = _Owed(key, candidate, example, sample, seed)
            asked.append((candidate, keys))
        self.reused += sum(len(keys) for _, keys in asked) - len(owed)
        self._pay(list(owed.values()), capability, split, stage)
        return [self._table(candidate, keys, examples, samples) for candidate, keys in asked]

    def _table(
        self, candidate: Candidate, keys: Sequence[str], examples: Sequence[Example], samples: int
    ) -> Measurement:
        rollouts = [r for key in keys if (r := self.store.get(candidate, key)) is not None]
        rows = tuple(tuple(rollouts[i * samples : (i + 1) * samples]) for i in range(len(examples)))
        return Measurement(candidate, tuple(e.id for e in examples), rows)

    def _pay(self, owed: Sequence[_Owed], capability: Capability, split: Split, stage: str) -> None:
        """Generate what is owed, chunk by chunk; every chunk is durable before the next one starts."""
        groups: dict[tuple[str, str], list[_Owed]] = {}
        for row in owed:
            together = self._together(row.candidate)
            groups.setdefault((row.candidate.sampling.model_dump_json(), together), []).append(row)
        done = 0
        for rows in groups.values():
            for start in range(0, len(rows), self.chunk):
                self.ledger.check(time.monotonic() - self._started)
                part = rows[start : start + self.chunk]
                allowed = self.ledger.affordable(len(part))
                self._generate(part[:allowed], capability, split, stage)
                done += allowed
                self.progress(capability.name, done, len(owed))
                if allowed < len(part):
                    raise BudgetExhausted(
                        f"budget.calls: all {self.ledger.budget.calls} completions are spent; what was paid is kept. "
                        "Raise budget.calls and give the same command to go on"
                    )

    def _together(self, candidate: Candidate) -> str:
        """Candidates of one decoding share batches where this is the same."""
        if self._mixed(candidate):
            assert isinstance(candidate.adapter, Mixture)
            return f"mixed {candidate.adapter.stack.sha256}"
        return candidate.adapter.sha256 if candidate.adapter else ""

    def _mixed(self, candidate: Candidate) -> bool:
        """Whether mixtures of a stack are answered for in one batch. A text is read once per adapter, not once per row: that is
        worth more."""
        return (
            isinstance(candidate.adapter, Mixture) and not candidate.skill and isinstance(self.backend, MixingBackend)
        )

    def _check_seal(self, candidate: Candidate, capability: Capability, split: Split) -> None:
        if split not in SEALED:
            return
        opened = self.events.last("split.opened", capability=capability.name, split=split)
        if opened is None or candidate.key not in opened["data"]["candidates"]:
            raise RunFolderError(f"{capability.name}: the sealed split {split!r} was not opened for this candidate")

    def _generate(self, rows: Sequence[_Owed], capability: Capability, split: Split, stage: str) -> None:
        if not rows:
            return
        prompts = [as_turns(r.example.prompt) if self.turns else r.example.prompt for r in rows]
        composed = [compose(p, r.candidate.skill, self.separator) for p, r in zip(prompts, rows, strict=True)]
        requests = [Request(p, r.seed) for p, r in zip(composed, rows, strict=True)]
        first = rows[0].candidate
        if isinstance(self.backend, MixingBackend) and self._mixed(first):
            mixtures = [r.candidate.adapter for r in rows if isinstance(r.candidate.adapter, Mixture)]
            completions = self.backend.generate_mixed(requests, first.sampling, mixtures)
        else:
            completions = self.backend.generate(requests, first.sampling, first.adapter)
        by_candidate: dict[str, list[tuple[_Owed, Completion]]] = {}
        for row, completion in zip(rows, completions, strict=True):
            by_candidate.setdefault(row.candidate.key, []).append((row, completion))
        for pairs in by_candidate.values():
            graded = [_graded(row, completion, capability, split, stage) for row, completion in pairs]
            self.store.put(pairs[0][0].candidate, graded)
            self.ledger.pay(graded)


def _graded(row: _Owed, completion: Completion, capability: Capability, split: Split, stage: str) -> Rollout:
    try:
        score = capability.grader.grade(completion.text, row.example)
    except Unjudged as error:  # stored like the others, so that it is neither generated nor judged again
        score = Score(0.0, False, {UNJUDGED: 1.0}, str(error)[:_REASON])
    return Rollout(
        key=row.key,
        candidate=row.candidate.key[:32],
        capability=capability.name,
        split=split,
        example_id=row.example.id,
        sample=row.sample,
        seed=row.seed,
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
