"""The SkillOpt loop: a document trained like weights, by bounded edits that a gate on held-out examples must accept.

Source: SkillOpt (arXiv 2605.23904), Algorithm 1: roll out a batch, reflect in minibatches, merge, rank to the edit budget of
the step, update, gate; at the end of an epoch look back and rewrite a protected section. `method: skillopt` is that
algorithm with its strict gate and a memory of rejected edits that lasts for an epoch. `method: honest` is the same loop with
other judges: an edit that nothing vouches for is first tried on a few training rows, the gate is a race of paired scores
(`judge`), a bundle that is turned down is tried edit by edit, because bundles hide good edits, the memory lasts for the
whole run, and a deletion pass ends it. In both, edits that change or match nothing are reported back and cost no rollout, and
the slow update passes the gate like any edit. Whether the result ships is decided elsewhere, on `confirm`.

Everything is deterministic given the task. There are no state files: a resumed run replays, and `measure` answers from
what was paid before. An exhausted budget passes through as `measure` raises it.

    result = optimise(SkillTask(capability="units", train=..., search=..., ...))
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hybrid.capability.types import Example
from hybrid.evidence.types import Verdict
from hybrid.skill.edits import Append, Applied, Delete, Edit, apply
from hybrid.skill.evidence_editor import aggregate
from hybrid.skill.front import FRONT_ROWS, Front
from hybrid.skill.judge import Judge
from hybrid.skill.prune import Check, prune
from hybrid.skill.record import AcceptedEdit, Attempt, EpochRecord, Refused, SkillResult, StepRecord
from hybrid.skill.reflection import (
    Comparison,
    FailureLabel,
    Proposal,
    ReflectionContext,
    RefusedEdit,
    RejectedEdit,
    Review,
    ReviewContext,
    RolloutView,
    TrialBook,
    body_hash,
)
from hybrid.skill.schedule import edit_budget
from hybrid.skill.slow_section import slow_text, with_slow
from hybrid.skill.task import Measure, SkillTask
from hybrid.skill.text import normal

__all__ = ["Measure", "SkillTask", "optimise"]
PRUNE_BATCHES = 4
"""Batches of training rows that the deletion pass checks at most."""
MOST_EDITS = 64
"""Edits of one step where the proposer chooses how many."""


def optimise(task: SkillTask) -> SkillResult:
    """Run the loop to its end and return the final body with its history. Errors of `measure` pass through."""
    loop = _Loop(task)
    stopped = loop.run()
    # A run that accepted nothing returns the seed as it was: shortening it was not asked for. Nor does the published
    # algorithm shorten anything.
    checks = loop.checks() if loop.accepted and task.config.method == "honest" else None
    body, dropped = prune(loop.body, checks, task.seed)
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
        epochs=tuple(loop.epochs),
    )


class _Loop:
    """The state of one run."""

    def __init__(self, task: SkillTask) -> None:
        self.task = task
        self.judge = Judge(task)
        self.body = normal(task.seed_body)
        self.versions = [self.body]
        self.history: list[StepRecord] = []
        self.epochs: list[EpochRecord] = []
        self.accepted: list[AcceptedEdit] = []
        self.rejected: list[RejectedEdit] = []
        self.shown_from = 0
        self.refused: list[RefusedEdit] = []
        self.book = TrialBook()
        self.memory = ""
        self.reviewed: str | None = None
        rows = sorted(task.search, key=lambda e: e.id)
        self._rng("front").shuffle(rows)
        self.front = Front(
            self.body, task.config.parents, lambda body: self.judge.scores(body, rows[:FRONT_ROWS], "search")
        )

    def run(self) -> str:
        """All epochs, or fewer; why it ended."""
        config, train = self.task.config, self.task.train
        if not train or not self.task.search:
            return "no examples in `train` or in `search`"
        total = config.epochs * len(train)
        before = self.body
        for epoch in range(config.epochs):
            rows = sorted(train, key=lambda e: e.id)
            self._rng("epoch", epoch).shuffle(rows)
            self.judge.epoch = epoch
            if config.method == "skillopt":  # published: the buffer lives for one epoch
                self.shown_from = len(self.rejected)
            steps: list[StepRecord] = []
            while rows:
                batch, rows = self._batch(rows)
                done = epoch * len(train) + len(train) - len(rows) - len(batch)
                steps.append(self._step(len(self.history), done, total, epoch, batch))
                self.history.append(steps[-1])
                self.task.on_progress(steps[-1])
            # Nothing new to learn from a document that was looked back on already; the published algorithm asks all the same.
            if epoch > 0 and (config.method == "skillopt" or self.body != self.reviewed):
                self._look_back(epoch, before)
                self.reviewed = self.body
            self._join_parents()
            if config.reflects_on == "failures" and not any(s.failed for s in steps):
                return f"no failures in epoch {epoch + 1}"
            if not any(s.proposed for s in steps):
                return f"no proposals in epoch {epoch + 1}"
            before = self.body
        return "all epochs done"

    def _batch(self, rows: list[Example]) -> tuple[list[Example], list[Example]]:
        """The rows of the next step, and those left for later steps.

        Where an untried edit has to show something on rows of its own, more failures than one reflection looks at are of
        no use: rows are rolled out a minibatch at a time until a minibatch of failures is there.
        """
        config = self.task.config
        most = config.batch * config.accumulation
        if config.method != "honest" or self.task.proposer.tries:
            return rows[:most], rows[most:]
        size, failed, taken = config.minibatch, 0, 0
        while failed < size and taken < min(most, len(rows)):
            views = self.task.measure(self.body, rows[taken : min(taken + size, most)], "train")
            failed += sum(not view.passed for view in views)
            taken += len(views)
        return rows[:taken], rows[taken:]

    def checks(self) -> tuple[Check, Check]:
        """What a shorter body must keep up: scores on `search`, and on a few batches of training rows."""
        rows = sorted(self.task.train, key=lambda e: e.id)
        self._rng("prune").shuffle(rows)
        part, scores = self.task.gate.part, self.judge.scores
        return (
            Check(self.task.search, lambda body, part: scores(body, part, "search"), part),
            Check(
                tuple(rows[: PRUNE_BATCHES * self.task.config.batch]),
                lambda body, part: scores(body, part, "train"),
                part,
            ),
        )

    def _rng(self, *what: object) -> random.Random:
        return random.Random("\n".join(str(w) for w in (self.task.seed, *what)))

    def _trial(self, bodies: Sequence[str], rows: Sequence[Example]) -> list[list[float]]:
        """Scores of trial bodies on training rows, all at once where the task can."""
        wanted = [normal(b) for b in bodies]
        if self.task.trial is not None:
            return self.task.trial(wanted, rows)
        return [self.judge.scores(body, rows, "train") for body in wanted]

    def _join_parents(self) -> None:
        """End an epoch with the best parent, or with two of them in one document where the gate prefers that."""
        if self.task.config.parents < 2:
            return
        self.body = self.front.best()
        pair = self.front.merged()
        if pair is None or self.task.count_tokens(pair[1]) > self.task.config.max_tokens:
            return
        best, both = pair
        if not self.task.guard(both, best) and self.judge.gate(best, both, ()).decision == "accept":
            self._adopt(both)

    def _step(self, step: int, done: int, total: int, epoch: int, batch: Sequence[Example]) -> StepRecord:
        """One step after `done` of `total` rows, which the edit budget falls with."""
        if self.task.config.parents > 1:
            self.body = self.front.choose(self._rng("parent", step))
        before = body_hash(self.body)
        budget = edit_budget(done, total, self.task.config.edits)
        views = self.task.measure(self.body, batch, "train")
        failures = [v for v in views if not v.passed]
        successes = tuple(v for v in views if v.passed)
        proposed, labels, notes = self._reflect(step, budget or MOST_EDITS, failures, successes)
        selected = self.task.editor.rank(self.body, proposed, budget, self.memory)[: budget or MOST_EDITS]
        # Deletions first: they make room under the token cap.
        update = self._apply([p.edit for p in sorted(selected, key=lambda p: not isinstance(p.edit, Delete))])
        refused = list(update.refused)
        attempts: list[Attempt] = []
        self._judge(step, [p for p in selected if p.edit in update.applied], failures, attempts, refused)
        self.refused += [RefusedEdit(before=before, edit=edit, why=why) for edit, why in refused]
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
            labels=labels,
            notes=notes,
        )

    def _reflect(
        self, step: int, budget: int, failures: list[RolloutView], successes: tuple[RolloutView, ...]
    ) -> tuple[list[Proposal], tuple[FailureLabel, ...], tuple[str, ...]]:
        """Proposals of every minibatch, merged; the labels of failures; notes."""
        size = self.task.config.minibatch
        self._rng("reflect", step).shuffle(failures)
        contexts = [
            self._context(budget, tuple(failures[i : i + size]), successes) for i in range(0, len(failures), size)
        ]
        if self.task.config.reflects_on == "both":
            contexts += [
                self._context(budget, (), successes[i : i + size], "success") for i in range(0, len(successes), size)
            ]
        looks = [self.task.proposer.propose(context) for context in contexts]
        of_failures = [look.proposals[:budget] for look, c in zip(looks, contexts, strict=True) if c.failures]
        of_successes = [look.proposals[:budget] for look, c in zip(looks, contexts, strict=True) if not c.failures]
        labels = tuple(label for look in looks for label in look.labels)
        return self._merge(of_failures, of_successes), labels, tuple(n for look in looks for n in look.notes)

    def _context(
        self,
        budget: int,
        failures: tuple[RolloutView, ...],
        successes: tuple[RolloutView, ...],
        source: str = "failure",
    ) -> ReflectionContext:
        config = self.task.config
        return ReflectionContext(
            body=self.body,
            failures=failures,
            successes=successes,
            train=self.task.train,
            budget=budget,
            rejected=tuple(self.rejected[self.shown_from :]) if config.rejected_memory else (),
            trial=self._trial,
            fits=lambda body: self.task.count_tokens(body) <= config.max_tokens,
            book=self.book,
            source="success" if source == "success" else "failure",
            refused=tuple(self.refused) if config.rejected_memory else (),
            memory=self.memory,
        )

    def _merge(
        self, of_failures: Sequence[Sequence[Proposal]], of_successes: Sequence[Sequence[Proposal]]
    ) -> list[Proposal]:
        """The reflections of a step as one list: a tree over those on failures, one over those on successes, then both
        together, as published. A lone reflection only loses its repeats, which costs no call."""
        if sum(1 for look in (*of_failures, *of_successes) if look) < 2:
            return aggregate([p for look in (*of_failures, *of_successes) for p in look])
        trees = [self._tree(looks) for looks in (of_failures, of_successes)]
        found = [p for tree in trees for p in tree]
        return self.task.editor.merge(self.body, found, self.memory) if all(trees) else found

    def _tree(self, looks: Sequence[Sequence[Proposal]]) -> list[Proposal]:
        """Merge `merge_batch` lists at a time, level by level, until one is left."""
        level = [list(look) for look in looks if look]
        size = self.task.config.merge_batch
        while len(level) > 1:
            groups = [level[i : i + size] for i in range(0, len(level), size)]
            merge = self.task.editor.merge
            level = [
                merge(self.body, [p for look in group for p in look], self.memory) if len(group) > 1 else group[0]
                for group in groups
            ]
        return level[0] if level else []

    def _apply(self, edits: Sequence[Edit]) -> Applied:
        """The body after the edits that can be applied, change something and pass the guard, one after the other."""
        config, current = self.task.config, self.body
        applied: list[Edit] = []
        refused: list[tuple[Edit, str]] = []
        for edit in edits:
            result = apply(current, [edit], self.task.count_tokens, config.max_tokens)
            faults = [] if result.refused else self.task.guard(result.body, current)
            if result.refused or faults or result.body == current:
                refused.append((edit, result.refused[0][1] if result.refused else "; ".join(faults) or "no change"))
                continue
            current = result.body
            applied.append(edit)
        return Applied(current, tuple(applied), tuple(refused))

    def _judge(
        self,
        step: int,
        proposals: Sequence[Proposal],
        failures: Sequence[RolloutView],
        attempts: list[Attempt],
        refused: list[tuple[Edit, str]],
    ) -> None:
        """Screen, then gate: the bundle first; where the race turns it down, its edits alone, best first, each on top of
        those accepted. Edits that only tidy never go alone, because alone they cannot win."""
        alone = self.task.config.gate_rule == "race"
        kept = [p for p in proposals if not alone or self._screened(p, failures, attempts)]
        if all(p.tidies for p in kept):
            return
        update = self._apply([p.edit for p in sorted(kept, key=lambda p: not isinstance(p.edit, Delete))])
        attempts.append(self._attempt(step, update))
        if attempts[-1].accepted or len(update.applied) < 2 or not alone:
            return
        for proposal in kept:
            if not proposal.tidies:
                single = self._apply([proposal.edit])
                refused += single.refused
                if single.applied:
                    attempts.append(self._attempt(step, single))

    def _screened(self, proposal: Proposal, failures: Sequence[RolloutView], attempts: list[Attempt]) -> bool:
        """Whether an edit may go before the gate. Only an edit that was never tried is asked to show something first."""
        if proposal.expected_gain is not None:
            return True
        single = self._apply([proposal.edit])
        if not single.applied:  # it builds on another edit of the bundle, and is judged with it
            return True
        verdict = self.judge.screen(self.body, single.body, proposal.edit, failures)
        if verdict is not None:
            attempts.append(self._record(single, verdict, "screen"))
        return verdict is None

    def _attempt(self, step: int, update: Applied) -> Attempt:
        """Put a body before the gate; on acceptance it is the new incumbent."""
        verdict = self.judge.gate(self.body, update.body, update.applied)
        attempt = self._record(update, verdict, "gate")
        if attempt.accepted:
            self._adopt(update.body)
            together = len(update.applied)
            self.accepted += [
                AcceptedEdit(step=step, edit=e, verdict=verdict, together=together) for e in update.applied
            ]
        return attempt

    def _record(self, update: Applied, verdict: Verdict, by: str) -> Attempt:
        """The attempt, with what was turned down remembered: a lone edit, or the whole bundle where none is tried alone."""
        before, accepted = body_hash(self.body), verdict.decision == "accept"
        if not accepted and (len(update.applied) == 1 or self.task.config.gate_rule != "race"):
            together = len(update.applied)
            self.rejected += [
                RejectedEdit(before=before, edit=e, verdict=verdict, together=together) for e in update.applied
            ]
        return Attempt(
            edits=update.applied,
            before=before,
            after=body_hash(update.body),
            verdict=verdict,
            accepted=accepted,
            by="screen" if by == "screen" else "gate",
        )

    def _adopt(self, body: str) -> None:
        self.body = body
        self.versions.append(body)
        if self.task.config.parents > 1:
            self.front.add(body)

    def _look_back(self, epoch: int, before: str) -> None:
        """The slow update: compare the last epoch's document with the present one on the same training rows."""
        config, editor = self.task.config, self.task.editor
        if not editor.looks_back or not (config.slow_update or config.optimiser_memory):
            return
        rows = sorted(self.task.train, key=lambda e: e.id)
        self._rng("slow", epoch).shuffle(rows)
        rows = rows[: config.slow_rows]
        pairs = zip(self.task.measure(before, rows, "train"), self.task.measure(self.body, rows, "train"), strict=True)
        compared = tuple(Comparison(a, b) for a, b in pairs)
        review = editor.review(
            ReviewContext(
                body=self.body,
                slow=slow_text(self.body),
                compared=compared,
                accepted=tuple(a.edit for a in self.accepted),
                rejected=tuple(self.rejected),
                memory=self.memory,
            )
        )
        groups = [c.group for c in compared]
        verdict, refused = self._slow(review) if review is not None and config.slow_update else (None, "")
        if review is not None and review.memory is not None and config.optimiser_memory:
            self.memory = review.memory
        self.epochs.append(
            EpochRecord(
                epoch=epoch,
                improved=groups.count("improved"),
                regressed=groups.count("regressed"),
                failing=groups.count("failing"),
                solved=groups.count("solved"),
                slow=review.slow if review is not None else None,
                verdict=verdict,
                accepted=verdict is not None and verdict.decision == "accept",
                refused=refused,
                memory=self.memory,
                notes=review.notes if review is not None else (),
            )
        )

    def _slow(self, review: Review) -> tuple[Verdict | None, str]:
        """Put a new slow section before the gate; the verdict, or why there is none."""
        if review.slow is None:
            return None, ""
        try:
            body = with_slow(self.body, review.slow)
        except ValueError as error:
            return None, str(error)
        config = self.task.config
        if body == self.body:
            return None, "it changes nothing"
        if self.task.count_tokens(body) > max(config.max_tokens, self.task.count_tokens(self.body)):
            return None, f"the body would have more than {config.max_tokens} tokens"
        faults = self.task.guard(body, self.body)
        if faults:
            return None, "; ".join(faults)
        told = review.slow or slow_text(self.body)
        verdict = self.judge.gate(self.body, body, [Append(content=told)])
        if verdict.decision == "accept":
            self._adopt(body)
        return verdict, ""
