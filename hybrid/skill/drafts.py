"""Which edits might mend a group of failures: built from a vocabulary and training rows, not judged here.

Failures are grouped by slot value (see `vocabulary`); one more group holds all of them, for lines that concern every
example. Pure. Does not: try anything (`screening`) or choose (`proposer`).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.capability.types import Example
from hybrid.skill.edits import Append, Delete, Edit, Replace, apply
from hybrid.skill.reflection import ReflectionContext, RolloutView, body_hash
from hybrid.skill.text import editable, mentions
from hybrid.skill.vocabulary import Slot, Template, Vocabulary

EVERYTHING: Slot = ()
SCREEN, MOST_RIVALS = 2, 2
"""Least rows of the first, cheap stage of a trial; lines about a slot value that a new one may replace."""
LONG_ANSWER = 12
"""From this many characters on, a training answer may enter a rule line by no way at all."""
MOST_DRAFTS, MOST_FACTS, MOST_EXAMPLES = 48, 3, 2
MOST_REPLACED, MOST_DELETED, STRIKES = 4, 8, 2
What: TypeAlias = Literal["rule", "fact", "example", "deletion"]


@dataclass(frozen=True)
class Draft:
    """An untested edit and what it is made of."""

    edit: Edit
    what: What

    @property
    def key(self) -> str:
        """The edit as JSON: its identity in the trial book."""
        return self.edit.model_dump_json()


@dataclass(frozen=True)
class Group:
    """Failures with one slot value in common: whose they are, the rows to try edits on (screening rows first), and the
    setting: a hash of the lines of the body that matter to them."""

    slot: Slot
    failures: tuple[RolloutView, ...]
    rows: tuple[Example, ...]
    setting: str
    drafts: tuple[Draft, ...] = ()


class Grouping:
    """Groups of one reflection with their drafts. `trials` is the number of rows to try an edit on."""

    def __init__(self, vocabulary: Vocabulary, trials: int, seed: int, context: ReflectionContext) -> None:
        self.vocabulary, self.trials, self.seed, self.context = vocabulary, trials, seed, context
        views = (*context.failures, *context.successes)
        self.slots = {e.id: vocabulary.slots_of(e.prompt_text) for e in (*context.train, *(v.example for v in views))}
        self.lines = [line for _, line in editable(context.body)]
        known = sorted({value for slots in self.slots.values() for slot in slots for _, value in slot})
        self.unbound = [line for line in self.lines if not any(mentions(line, value) for value in known)]
        self.answers = sorted({e.reference.strip() for e in context.train if len(e.reference.strip()) >= LONG_ANSWER})
        self.hash = body_hash(context.body)
        # A race in which no pair differed says nothing against an edit: `search` happened not to ask.
        self.strikes = Counter(r.edit for r in context.rejected if r.alone and r.verdict.improved + r.verdict.regressed)
        self.refused = {r.edit for r in context.rejected if r.alone and r.before == self.hash}

    def groups(self) -> list[Group]:
        """One group per slot value among the failures, largest first, with the drafts that are still worth a trial."""
        by_slot: defaultdict[Slot, list[RolloutView]] = defaultdict(list)
        for view in self.context.failures:
            for slot in self.slots[view.example.id]:
                by_slot[slot].append(view)
        ordered = sorted(by_slot, key=lambda slot: (-len(by_slot[slot]), slot))
        return [self._group(slot, by_slot[slot]) for slot in ordered]

    def everything(self) -> Group:
        """The group of all failures, with drafts of lines that concern every example."""
        return self._group(EVERYTHING, list(self.context.failures))

    @property
    def screen(self) -> int:
        """Rows that a draft has to gain on before the rest is paid for: half of the trials, at least two.

        Where answers are sampled, a right line fails on any one row by chance; more trials make the screen kinder.
        """
        return max(SCREEN, self.trials // 2)

    def allowed(self, edit: Edit) -> bool:
        """Whether the edit can be applied and no gate turned it down: on this body, or often enough on any."""
        refused = edit in self.refused or self.strikes[edit] >= STRIKES
        return not refused and bool(apply(self.context.body, [edit]).applied)

    def failed(self, setting: str, draft: Draft) -> set[str]:
        """The rows on which a draft gained nothing, as the trial book has them; adding to the set writes the book."""
        return self.context.book.failed.setdefault((setting, draft.key), set())

    def strangers(self, example: Example, slot: Slot) -> int:
        """How many other things the example is about that the body does not mention yet: they can spoil a trial."""
        others = (s for s in self.slots[example.id] if s != slot)
        return sum(1 for s in others if not any(self._about(line, s) for line in self.lines))

    @staticmethod
    def _about(line: str, slot: Slot) -> bool:
        return all(mentions(line, value) for _, value in slot)

    def _group(self, slot: Slot, failures: list[RolloutView]) -> Group:
        about = [line for line in self.lines if slot and self._about(line, slot)]
        content = "\n".join([repr(slot), *self.unbound, "", *about])
        setting = hashlib.sha256(content.encode()).hexdigest()[:16]
        group = Group(slot, tuple(failures), self._rows(slot, failures), setting)
        drafts = self._everything_drafts(group) if slot == EVERYTHING else self._slot_drafts(group, about)
        return Group(slot, group.failures, group.rows, setting, tuple(self._worth(group, drafts)))

    def pairs(self, group: Group) -> Group:
        """The group with drafts that change one line for every example and one of its own in a single edit."""
        about = [line for line in self.lines if self._about(line, group.slot)]
        own = [d for d in self._slot_drafts(group, about) if d.what in ("rule", "fact")]
        common = [d for d in self._everything_drafts(self.everything()) if d.what in ("rule", "deletion")]
        joined = ((_joined(c.edit, d.edit), d.what) for c in common for d in own)
        drafts = [Draft(edit, what) for edit, what in joined if edit is not None]
        return Group(group.slot, group.failures, group.rows, group.setting, tuple(self._worth(group, drafts)))

    def _rows(self, slot: Slot, failures: Sequence[RolloutView]) -> tuple[Example, ...]:
        """Rows to try on: failures that are about little else first, then successes, new rows and failures in turn."""
        mine = self._order((v.example for v in failures), slot)
        screen, rest = mine[: self.screen], mine[self.screen :]
        right = self._order((v.example for v in self.context.successes if self._belongs(v.example, slot)), slot)
        seen = {e.id for e in (*mine, *right)}
        new = self._order((e for e in self.context.train if e.id not in seen and self._belongs(e, slot)), slot)
        mixed = [e for row in itertools.zip_longest(right, new, rest) for e in row if e is not None]
        return tuple((screen + mixed)[: max(self.trials, 1)])

    def _belongs(self, example: Example, slot: Slot) -> bool:
        return slot == EVERYTHING or slot in self.slots[example.id]

    def _order(self, examples: Iterable[Example], slot: Slot) -> list[Example]:
        """Seeded order with clean rows first; for the group of everything, rows about different things in turn."""
        shuffled = sorted(examples, key=lambda e: e.id)
        random.Random(f"{self.seed}\n{self.hash}\n{slot!r}").shuffle(shuffled)
        if slot != EVERYTHING:
            return sorted(shuffled, key=lambda e: self.strangers(e, slot))
        turn: Counter[tuple[Slot, ...]] = Counter()
        keyed = []
        for example in shuffled:
            keyed.append((turn[self.slots[example.id]], example))
            turn[self.slots[example.id]] += 1
        return [e for _, e in sorted(keyed, key=lambda pair: pair[0])]

    def _slot_drafts(self, group: Group, about: list[str]) -> list[Draft]:
        values = dict(group.slot)
        made = [(t, line, "fact") for t, line in self._facts(group)]
        made += [(t, line, "rule") for t in self.vocabulary.rules if t.fields and (line := t.fill(values))]
        first: list[Draft] = []
        later: list[Draft] = []
        for template, line, what in made:
            stem = template.stem(values)
            same = [old for old in about if stem and old.startswith(stem) and old != line][:MOST_REPLACED]
            kind: What = "fact" if what == "fact" else "rule"
            first += [Draft(Replace(target=old, content=line), kind) for old in same] or [
                Draft(Append(content=line), kind)
            ]
            if not same:
                later += [Draft(Replace(target=old, content=line), kind) for old in about[:MOST_RIVALS] if old != line]
        deletions = [Draft(Delete(target=line), "deletion") for line in about[:MOST_DELETED]]
        return first + deletions + later + self._worked(group)

    def _everything_drafts(self, group: Group) -> list[Draft]:
        plain = [(t.text, "rule") for t in self.vocabulary.rules if not t.fields and t.fill({}) is not None]
        lines = [Template(text).fill({}) or "" for text, _ in plain]
        appends = [Draft(Append(content=line), "rule") for line in lines]
        facts = [Draft(Append(content=line), "fact") for _, line in self._facts(group)]
        deletions = [Draft(Delete(target=line), "deletion") for line in self.unbound[:MOST_DELETED]]
        swaps = [
            Draft(Replace(target=old, content=line), "rule") for line in lines for old in self.unbound[:MOST_REPLACED]
        ]
        return facts + appends + deletions + swaps + self._worked(group)

    def _facts(self, group: Group) -> list[tuple[Template, str]]:
        """Fact lines whose reference recurs in at least two training rows of the group with different prompts."""
        prompts: defaultdict[str, set[str]] = defaultdict(set)
        for example in self.context.train:
            if self._belongs(example, group.slot):
                prompts[example.reference.strip()].add(example.prompt_text)
        supported = sorted((r for r, p in prompts.items() if r and len(p) >= 2), key=lambda r: (-len(prompts[r]), r))
        values = dict(group.slot)
        templates = [t for t in self.vocabulary.facts if (t.fields - {"reference"}) <= set(values)]
        templates = [t for t in templates if bool(t.fields - {"reference", "prompt"}) == bool(group.slot)]
        filled = ((t, t.fill({**values, "reference": r})) for r in supported[:MOST_FACTS] for t in templates)
        return [(t, line) for t, line in filled if line]

    def _worked(self, group: Group) -> list[Draft]:
        """Worked examples from training rows of the group that no trial of the group uses."""
        if not self.vocabulary.examples:
            return []
        used = {e.id for e in group.rows}
        rows = [e for e in self.context.train if e.id not in used and self._belongs(e, group.slot)]
        chosen = self._order(rows, group.slot)[:MOST_EXAMPLES]
        fills = [
            t.fill({**dict(group.slot), "prompt": e.prompt_text, "reference": e.reference})
            for e in chosen
            for t in self.vocabulary.examples
        ]
        return [Draft(Append(content=line), "example") for line in fills if line]

    def _worth(self, group: Group, drafts: Iterable[Draft]) -> list[Draft]:
        """Drafts that can be applied, were not refused, copy no answer, and did not fail enough trials already."""
        kept: dict[Edit, Draft] = {}
        screen = {e.id for e in group.rows[: self.screen]}
        for draft in drafts:
            edit = draft.edit
            failed = self.failed(group.setting, draft) | self.failed(self.hash, draft)
            if edit in kept or not self.allowed(edit):
                continue
            if len(failed) >= self.trials or screen <= failed:
                continue
            if not isinstance(edit, Delete):
                copied = draft.what == "rule" and any(answer in edit.content for answer in self.answers)
                if copied or edit.content in self.lines:
                    continue
            kept[edit] = draft
        return list(kept.values())[:MOST_DRAFTS]


def _joined(common: Edit, own: Edit) -> Edit | None:
    """One edit that does the work of two, or None where no single edit can."""
    if isinstance(own, Append) and isinstance(common, Append):
        return Append(content=f"{common.content}\n{own.content}")
    if isinstance(own, Append) and isinstance(common, Delete):
        return Replace(target=common.target, content=own.content)
    if isinstance(own, Append) and isinstance(common, Replace):
        return Replace(target=common.target, content=f"{common.content}\n{own.content}")
    if isinstance(own, Replace) and isinstance(common, Append):
        return Replace(target=own.target, content=f"{common.content}\n{own.content}")
    return None
