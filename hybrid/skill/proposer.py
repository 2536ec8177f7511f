"""The offline proposer: edits built from training failures and kept for what trials show, without a language model.

Failures are grouped by slot value; every group gets candidate rules, supported facts, worked examples, deletions and
replacements (`drafts`), which are tried on a few training rows (`screening`). What gained is proposed, ranked by gain
times support. Works from an empty body, and knows no domain: names, lines and layouts come from the vocabulary alone.
Where no line gains alone, a line for every example is tried together with one for a single slot value; any other two
lines that only help together are not found.

    OfflineProposer(load_vocabulary(path), trials=4, seed=0).propose(context)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hybrid.config.schema import OfflineProposerConfig
from hybrid.skill.drafts import Group, Grouping
from hybrid.skill.edits import Append, Delete, Replace, apply
from hybrid.skill.labels import label_failures
from hybrid.skill.reflection import FailureLabel, Proposal, Proposer, Proven, Reflection, ReflectionContext
from hybrid.skill.screening import Screening, Tried, without_luck
from hybrid.skill.text import editable
from hybrid.skill.vocabulary import Vocabulary, load_vocabulary

__all__ = ["OfflineProposer", "Proposer", "build_proposer"]
MOST_VICTIMS = 8


def build_proposer(config: OfflineProposerConfig, vocabulary: str | None, seed: int) -> OfflineProposer:
    """The proposer that a configuration asks for. `vocabulary` is the capability's own file and goes before the
    configuration's; without either, the proposer can only delete and merge lines. Raises DataError for a bad file."""
    path = vocabulary or config.vocabulary
    words = load_vocabulary(Path(path)) if path else Vocabulary((), (), (), ())
    return OfflineProposer(words, config.trials, seed)


class OfflineProposer:
    """A `Proposer` without a model. `trials` is the number of training rows on which each draft is tried.

    Holds no state of its own: what trials showed is kept in the context's book, so one instance can serve many runs.
    """

    tries = True

    def __init__(self, vocabulary: Vocabulary, trials: int, seed: int) -> None:
        if trials < 1:
            raise ValueError(f"trials must be at least 1, not {trials}")
        self.vocabulary, self.trials, self.seed = vocabulary, trials, seed

    def propose(self, context: ReflectionContext) -> Reflection:
        """At most `context.budget` edits, best first, and what each failure is a failure of. Only training rows are tried.

        A look at successes gives only deletions of lines that stand in the body twice: there is nothing to mend, and no
        model to say what made them succeed.
        """
        if context.source == "success":
            return Reflection(proposals=tuple(self._merges(context)[: context.budget]))
        context = without_luck(self.vocabulary, context)
        grouping = Grouping(self.vocabulary, self.trials, self.seed, context)
        screening = Screening(grouping)
        found: list[Proposal] = []
        if context.failures and not self._reflect(grouping, screening, [grouping.everything()], found):
            groups = grouping.groups()
            self._reflect(grouping, screening, groups, found)
            if groups and not found:
                self._pairs(grouping, screening, groups, found)
        found += self._merges(context)
        ranked = sorted(found, key=lambda p: (-p.weight, p.edit.model_dump_json()))[: context.budget]
        return Reflection(proposals=tuple(self._make_room(context, ranked)), labels=label_failures(grouping))

    def label(self, context: ReflectionContext) -> tuple[FailureLabel, ...]:
        """The labels alone, from the context's book as it is: nothing is tried or paid, and luck is not told apart."""
        return label_failures(Grouping(self.vocabulary, self.trials, self.seed, context))

    def _reflect(
        self, grouping: Grouping, screening: Screening, groups: Sequence[Group], found: list[Proposal]
    ) -> bool:
        """Add the proposals of `groups`, known or freshly tried; whether one of them settles the first group."""
        book = grouping.context.book
        known = {g.slot: [p for p in book.proven.get(g.setting, []) if grouping.allowed(p.edit)] for g in groups}
        # Twice the budget: groups beyond it could not be proposed now, and their failures come back.
        fresh = [g for g in groups if g.drafts and not known[g.slot]][: 2 * grouping.context.budget]
        for slot, tried in screening.run(fresh).items():
            group = next(g for g in fresh if g.slot == slot)
            known[slot] = [Proven(t.draft.edit, t.gain, _rationale(group, t), t.settled) for t in _cover(tried)]
            book.proven.setdefault(group.setting, []).extend(known[slot])
        for group in groups:
            found += [
                Proposal(
                    edit=p.edit,
                    support=len(group.failures),
                    source="failure",
                    rationale=p.rationale,
                    expected_gain=p.gain,
                )
                for p in known[group.slot]
            ]
        return bool(groups) and any(p.settled for p in known[groups[0].slot])

    def _pairs(self, grouping: Grouping, screening: Screening, groups: Sequence[Group], found: list[Proposal]) -> None:
        """Where no line helps alone: two lines together, for the one group of this body that was chosen first."""
        tried = grouping.context.book.failed.setdefault(("pairs", grouping.hash), {repr(groups[0].slot)})
        chosen = [grouping.pairs(g) for g in groups if repr(g.slot) in tried]
        self._reflect(grouping, screening, chosen, found)

    def _merges(self, context: ReflectionContext) -> list[Proposal]:
        """Deletions of lines that stand in the body twice."""
        lines = [line for _, line in editable(context.body)]
        twice = [line for line, count in Counter(lines).items() if count > 1]
        if not twice:
            return []
        grouping = Grouping(self.vocabulary, self.trials, self.seed, context)
        return [
            Proposal(edit=edit, support=1, source="success", rationale="the line stands there twice", expected_gain=0.0)
            for edit in (Delete(target=line) for line in twice)
            if grouping.allowed(edit)
        ]

    def _make_room(self, context: ReflectionContext, ranked: list[Proposal]) -> list[Proposal]:
        """Where an addition would break the token cap, put it in the place of a line whose removal hurts no success."""
        out = []
        for proposal in ranked:
            edit = proposal.edit
            if isinstance(edit, Append) and not context.fits(apply(context.body, [edit]).body):
                victim = self._victim(context, edit)
                if victim is None:
                    continue
                swap = Replace(target=victim, content=edit.content)
                why = f"{proposal.rationale}; it takes the place of a line that no tried row needs"
                proposal = proposal.model_copy(update={"edit": swap, "rationale": why})
            out.append(proposal)
        return out

    def _victim(self, context: ReflectionContext, edit: Append) -> str | None:
        """The first line that can make room for `edit` without loss on a few successes."""
        rows = list(context.successes[: self.trials])
        options = []
        for _, line in editable(context.body)[:MOST_VICTIMS]:
            swapped = apply(context.body, [Replace(target=line, content=edit.content)])
            if swapped.applied and context.fits(swapped.body):
                options.append((line, apply(context.body, [Delete(target=line)]).body))
        if not options or not rows:
            return options[0][0] if options else None
        scores = context.trial([body for _, body in options], [view.example for view in rows])
        before = sum(view.value for view in rows)
        return next((line for (line, _), values in zip(options, scores, strict=True) if sum(values) >= before), None)


def _rationale(group: Group, tried: Tried) -> str:
    about = ", ".join(f"{name} {value}" for name, value in group.slot) or "every example"
    return f"{tried.draft.what} for {about}: {tried.gain:+.2f} per row on {len(tried.gains)} training rows"


def _cover(tried: Sequence[Tried]) -> list[Tried]:
    """The best draft, then others of another sort that gain on a row where none before did: rivals stay out."""
    chosen: list[Tried] = []
    better: set[str] = set()
    for one in tried:
        rows = {row for row, gain in one.gains.items() if gain > 0}
        if rows - better and all(one.draft.what != other.draft.what for other in chosen):
            chosen.append(one)
            better |= rows
    return chosen
