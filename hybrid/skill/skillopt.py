"""The SkillOpt loop: a document trained like weights, by bounded edits that a gate on held-out examples must accept.

Source: SkillOpt (arXiv 2605.23904), Algorithm 1: roll out a batch, reflect in minibatches of failures, aggregate,
select within the edit budget of the step, update, gate. Differences, all in favour of honest measurement: the gate is
a race of paired scores (`evidence.race`); a bundle that it turns down is tried edit by edit, because bundles hide
good edits; the memory of rejected edits lasts for the whole run and is part of the result; a deletion pass ends the
run; there is no slow update and no optimiser memory, which need a language model. Whether the result ships is decided
elsewhere, on `confirm`.

Everything is deterministic given the task. There are no state files: a resumed run replays, and `measure` answers from
what was paid before. An exhausted budget passes through as `measure` raises it.

    result = optimise(SkillTask(capability="units", train=..., search=..., ...))
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hybrid.capability.types import Example, Split
from hybrid.config.schema import SearchGateConfig, SkillConfig
from hybrid.evidence.race import Race
from hybrid.evidence.types import Verdict
from hybrid.skill.edits import Applied, Delete, Edit, apply
from hybrid.skill.prune import Check, prune
from hybrid.skill.record import AcceptedEdit, Attempt, Refused, SkillResult, StepRecord
from hybrid.skill.reflection import (
    Proposal,
    Proposer,
    ReflectionContext,
    RejectedEdit,
    RolloutView,
    Trial,
    TrialBook,
    body_hash,
)
from hybrid.skill.schedule import edit_budget
from hybrid.skill.text import normal

Measure: TypeAlias = Callable[[str, Sequence[Example], Split], Sequence[RolloutView]]
"""(body, rows, split) -> one view per row, in order. Only `train` and `search` are asked. What was paid for once should
come from a store: the loop asks for the incumbent's scores again and again."""
PRUNE_BATCHES = 4
"""Batches of training rows that the deletion pass checks at most."""


def _nobody(record: StepRecord) -> None:
    """Default progress: nobody watches."""


@dataclass(frozen=True)
class SkillTask:
    """One optimisation: whose, on what, from which body, how, and with whose help.

    `seed_body` is the body of the seed document without front matter, "" for none. `count_tokens` counts the model's
    tokens; `config.max_tokens` caps the body. `trial` scores many bodies on training rows in one go (default: one after
    the other through `measure`). `on_progress` is called with each finished step.
    """

    capability: str
    train: tuple[Example, ...]
    search: tuple[Example, ...]
    seed_body: str
    config: SkillConfig
    gate: SearchGateConfig
    proposer: Proposer
    measure: Measure
    count_tokens: Callable[[str], int]
    seed: int
    trial: Trial | None = None
    on_progress: Callable[[StepRecord], None] = _nobody


def optimise(task: SkillTask) -> SkillResult:
    """Run the loop to its end and return the final body with its history. Errors of `measure` pass through."""
    loop = _Loop(task)
    stopped = loop.run()
    # A run that accepted nothing returns the seed as it was: shortening it was not asked for.
    body, dropped = prune(loop.body, loop.checks() if loop.accepted else None, task.seed)
    if dropped:
        loop.versions.append(body)
    return SkillResult(
        body=body,
        history=tuple(loop.history),
        accepted=tuple(loop.accepted),
        rejected=tuple(loop.rejected),
        versions=tuple(loop.versions),
        dropped=dropped,
        stopped=stopped,
    )


class _Loop:
    """The state of one run."""

    def __init__(self, task: SkillTask) -> None:
        self.task = task
        self.body = normal(task.seed_body)
        self.versions = [self.body]
        self.history: list[StepRecord] = []
        self.accepted: list[AcceptedEdit] = []
        self.rejected: list[RejectedEdit] = []
        self.book = TrialBook()

    def run(self) -> str:
        """All epochs, or fewer; why it ended."""
        config, train = self.task.config, self.task.train
        if not train or not self.task.search:
            return "no examples in `train` or in `search`"
        per_epoch = -(-len(train) // config.batch)
        for epoch in range(config.epochs):
            rows = sorted(train, key=lambda e: e.id)
            self._rng("epoch", epoch).shuffle(rows)
            for index in range(per_epoch):
                batch = rows[index * config.batch : (index + 1) * config.batch]
                record = self._step(epoch * per_epoch + index, config.epochs * per_epoch, epoch, batch)
                self.history.append(record)
                self.task.on_progress(record)
            steps = self.history[-per_epoch:]
            if not any(s.failed for s in steps):
                return f"no failures in epoch {epoch + 1}"
            if not any(s.proposed for s in steps):
                return f"no proposals in epoch {epoch + 1}"
        return "all epochs done"

    def checks(self) -> tuple[Check, Check]:
        """What a shorter body must keep up: scores on `search`, and on a few batches of training rows."""
        rows = sorted(self.task.train, key=lambda e: e.id)
        self._rng("prune").shuffle(rows)
        part = self.task.gate.part
        return (
            Check(self.task.search, lambda body, part: self._scores(body, part, "search"), part),
            Check(
                tuple(rows[: PRUNE_BATCHES * self.task.config.batch]),
                lambda body, part: self._scores(body, part, "train"),
                part,
            ),
        )

    def _rng(self, *what: object) -> random.Random:
        return random.Random("\n".join(str(w) for w in (self.task.seed, *what)))

    def _scores(self, body: str, rows: Sequence[Example], split: Split) -> list[float]:
        return [view.value for view in self.task.measure(body, rows, split)]

    def _trial(self, bodies: Sequence[str], rows: Sequence[Example]) -> list[list[float]]:
        """Scores of trial bodies on training rows, all at once where the task can."""
        wanted = [normal(b) for b in bodies]
        if self.task.trial is not None:
            return self.task.trial(wanted, rows)
        return [self._scores(body, rows, "train") for body in wanted]

    def _step(self, step: int, total: int, epoch: int, batch: Sequence[Example]) -> StepRecord:
        before = body_hash(self.body)
        budget = edit_budget(step, total, self.task.config.edits)
        views = self.task.measure(self.body, batch, "train")
        failures = [v for v in views if not v.passed]
        successes = tuple(v for v in views if v.passed)
        proposed = self._reflect(step, budget, failures, successes)
        # Deletions first: they make room under the token cap.
        selected = sorted(proposed[:budget], key=lambda p: not isinstance(p.edit, Delete))
        update = self._apply([p.edit for p in selected])
        attempts: list[Attempt] = []
        refused = update.refused
        if any(p.expected_gain > 0 for p in selected if p.edit in update.applied):
            attempts.append(self._attempt(step, update))
            if len(update.applied) > 1 and not attempts[0].accepted:
                refused += self._one_by_one(step, update.applied, proposed, attempts)
        return StepRecord(
            step=step,
            epoch=epoch,
            rows=len(batch),
            failed=len(failures),
            budget=budget,
            proposed=tuple(proposed),
            applied=update.applied,
            refused=tuple(Refused(edit=edit, why=why) for edit, why in refused),
            attempts=tuple(attempts),
            before=before,
            after=body_hash(self.body),
        )

    def _reflect(
        self, step: int, budget: int, failures: list[RolloutView], successes: tuple[RolloutView, ...]
    ) -> list[Proposal]:
        """Proposals for every minibatch of failures, aggregated, best first."""
        config = self.task.config
        self._rng("reflect", step).shuffle(failures)
        found: list[Proposal] = []
        for start in range(0, len(failures), config.minibatch):
            context = ReflectionContext(
                body=self.body,
                failures=tuple(failures[start : start + config.minibatch]),
                successes=successes,
                train=self.task.train,
                budget=budget,
                rejected=tuple(self.rejected),
                trial=self._trial,
                fits=lambda body: self.task.count_tokens(body) <= config.max_tokens,
                book=self.book,
            )
            found += self.task.proposer.propose(context)[:budget]
        return aggregate(found)

    def _apply(self, edits: Sequence[Edit]) -> Applied:
        return apply(self.body, edits, self.task.count_tokens, self.task.config.max_tokens)

    def _one_by_one(
        self, step: int, edits: Sequence[Edit], proposed: Sequence[Proposal], attempts: list[Attempt]
    ) -> tuple[tuple[Edit, str], ...]:
        """Try the edits of a rejected bundle alone, best first, each on top of those accepted; edits that only tidy
        are left out, because alone they cannot win. Returns what could not be applied."""
        refused: tuple[tuple[Edit, str], ...] = ()
        for proposal in proposed:
            if proposal.edit not in edits or proposal.expected_gain <= 0:
                continue
            update = self._apply([proposal.edit])
            refused += update.refused
            if update.applied:
                attempts.append(self._attempt(step, update))
        return refused

    def _attempt(self, step: int, update: Applied) -> Attempt:
        """Put a body before the gate; on acceptance it is the new incumbent, else its only edit is remembered."""
        before = body_hash(self.body)
        verdict = self._race(self.body, update.body)
        accepted = verdict.decision == "accept"
        edits = update.applied
        if accepted:
            self.body = update.body
            self.versions.append(self.body)
            self.accepted += [AcceptedEdit(step=step, edit=e, verdict=verdict, together=len(edits)) for e in edits]
        elif len(edits) == 1:
            self.rejected.append(RejectedEdit(before=before, edit=edits[0], verdict=verdict))
        return Attempt(edits=edits, before=before, after=body_hash(update.body), verdict=verdict, accepted=accepted)

    def _race(self, incumbent: str, challenger: str) -> Verdict:
        """The gate's verdict on `search`. Each pair of bodies has its own seeded order of the examples."""
        order = hashlib.sha256(f"{self.task.seed}\n{incumbent}\0{challenger}".encode()).digest()
        race = Race(len(self.task.search), self.task.gate, int.from_bytes(order[:4], "big"))
        while (part := race.next_part()) is not None:
            rows = [self.task.search[i] for i in part]
            race.observe(self._scores(incumbent, rows, "search"), self._scores(challenger, rows, "search"))
        verdict = race.verdict
        if verdict is None:
            raise AssertionError("a race without a next part has a verdict")
        return verdict


def aggregate(proposals: Sequence[Proposal]) -> list[Proposal]:
    """One proposal per edit, with the sum of its support and its mean gain by support; those from failures first, then
    by gain times support. A tie goes by the edit's text, so the order of the minibatches does not matter."""
    by_edit: dict[Edit, list[Proposal]] = {}
    for proposal in proposals:
        by_edit.setdefault(proposal.edit, []).append(proposal)
    merged = []
    for same in by_edit.values():
        support = sum(p.support for p in same)
        gain = sum(p.weight for p in same) / support if support else 0.0
        source = min((p.source for p in same), key=("failure", "success").index)
        best = max(same, key=lambda p: (p.weight, p.rationale))
        merged.append(best.model_copy(update={"support": support, "expected_gain": gain, "source": source}))
    return sorted(merged, key=lambda p: (p.source != "failure", -p.weight, p.edit.model_dump_json()))
