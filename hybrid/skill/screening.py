"""Trying drafts on training rows, cheaply: a few rows first, the rest for survivors, independent groups in one body.

Cost: with g groups, c drafts each and t rows a draft, at most g * c * t scores, plus at most g * t scores of the body
itself where they are not known yet. A group stops early at a draft that makes every row right.
Does not: build drafts (`drafts`) or choose among survivors (`proposer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hybrid.capability.types import Example
from hybrid.skill.drafts import EVERYTHING, Draft, Group, Grouping
from hybrid.skill.edits import Append, apply
from hybrid.skill.reflection import ReflectionContext, RolloutView
from hybrid.skill.vocabulary import Slot, Vocabulary

CHUNK = 4
"""Drafts of a group that are tried before looking whether one of them settles it."""
_RIGHT = 1 - 1e-9


@dataclass(frozen=True)
class Tried:
    """A draft that gained: the gain on each row, by example id, and whether it made every row right."""

    draft: Draft
    gains: dict[str, float]
    settled: bool

    @property
    def gain(self) -> float:
        """Mean gain per row."""
        return sum(self.gains.values()) / len(self.gains)


def without_luck(vocabulary: Vocabulary, context: ReflectionContext) -> ReflectionContext:
    """The context with failures that an irrelevant line mends counted as successes, at one score per failure.

    A failure that is luck goes away under most changes, so edits tried on it would look useful (regression to the mean).
    The irrelevant line is a rule about a slot value that the row does not mention; where the vocabulary or the
    training rows offer none, the failure stays one.
    """
    rules = [t for t in vocabulary.rules if t.fields]
    slots = sorted({s for e in context.train for s in vocabulary.slots_of(e.prompt_text)})
    lines = [(slot, line) for slot in slots for t in rules if (line := t.fill(dict(slot)))]
    asked: dict[str, list[RolloutView]] = {}
    for view in context.failures:
        own = {value for slot in vocabulary.slots_of(view.example.prompt_text) for _, value in slot}
        other = next((line for slot, line in lines if not own & {value for _, value in slot}), None)
        if other is not None:
            asked.setdefault(apply(context.body, [Append(content=other)]).body, []).append(view)
    mended: dict[str, RolloutView] = {}
    for body, views in sorted(asked.items()):
        scores = context.trial([body], [view.example for view in views])[0]
        for view, score in zip(views, scores, strict=True):
            if score > view.value:
                mended[view.example.id] = replace(view, value=score, passed=True)
    failures = tuple(view for view in context.failures if view.example.id not in mended)
    return replace(context, failures=failures, successes=(*context.successes, *mended.values()))


class Screening:
    """The trials of one reflection."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping, self.context = grouping, grouping.context
        views = (*self.context.failures, *self.context.successes)
        self.known = {view.example.id: view.value for view in views}

    def run(self, groups: Sequence[Group]) -> dict[Slot, list[Tried]]:
        """The drafts that gained, best first, for every group that has any. Failed ones enter the trial book."""
        found: dict[Slot, list[Tried]] = {}
        for wave in self._waves([g for g in groups if g.drafts and g.rows]):
            found.update(self._wave(wave))
        return {slot: sorted(tried, key=lambda t: -t.gain) for slot, tried in found.items() if tried}

    def _waves(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Groups split so that within a wave no trial row of one is about another's slot."""
        waves: list[list[Group]] = []
        for group in groups:
            wave = next((w for w in waves if all(self._apart(group, other) for other in w)), None)
            if wave is None:
                waves.append([group])
            else:
                wave.append(group)
        return waves

    def _apart(self, a: Group, b: Group) -> bool:
        if EVERYTHING in (a.slot, b.slot):
            return False
        slots = self.grouping.slots
        return not any(b.slot in slots[e.id] for e in a.rows) and not any(a.slot in slots[e.id] for e in b.rows)

    def _wave(self, groups: Sequence[Group]) -> dict[Slot, list[Tried]]:
        found: dict[Slot, list[Tried]] = {g.slot: [] for g in groups}
        start = 0
        active = list(groups)
        while active:
            chunk = [(g, d) for g in active for d in g.drafts[start : start + CHUNK]]
            first = self._try([(g, d, g.rows[: self.grouping.screen]) for g, d in chunk])
            survivors = [(g, d) for (g, d), gains in zip(chunk, first, strict=True) if sum(gains.values()) > 0]
            second = self._try([(g, d, g.rows[self.grouping.screen :]) for g, d in survivors])
            whole = {(g.slot, d): gains for (g, d), gains in zip(chunk, first, strict=True)}
            for (g, d), gains in zip(survivors, second, strict=True):
                whole[g.slot, d] = {**whole[g.slot, d], **gains}
            for g, d in chunk:
                self._enter(g, d, whole[g.slot, d], found[g.slot])
            start += CHUNK
            active = [g for g in active if len(g.drafts) > start and not any(t.settled for t in found[g.slot])]
        return found

    def _enter(self, group: Group, draft: Draft, gains: dict[str, float], found: list[Tried]) -> None:
        """Keep a draft that gained; remember one that did not: while the setting lasts, or only while the body
        does where a row is about other unknown things too."""
        if sum(gains.values()) > 0:
            settled = all(self.known[row] + gain >= _RIGHT for row, gain in gains.items())
            found.append(Tried(draft, gains, settled))
            return
        for example in group.rows:
            if example.id in gains:
                mixed = self.grouping.strangers(example, group.slot) > 0
                self.grouping.failed(self.grouping.hash if mixed else group.setting, draft).add(example.id)

    def _try(self, asked: Sequence[tuple[Group, Draft, Sequence[Example]]]) -> list[dict[str, float]]:
        """Gains of each draft on its rows, by example id. The k-th drafts of all groups share one body."""
        self._baseline(e for _, _, rows in asked for e in rows)
        gains: list[dict[str, float]] = [{} for _ in asked]
        turns: dict[Slot, int] = {}
        by_turn: dict[int, list[int]] = {}
        for index, (group, _, rows) in enumerate(asked):
            if rows:
                by_turn.setdefault(turns.get(group.slot, 0), []).append(index)
                turns[group.slot] = turns.get(group.slot, 0) + 1
        bodies: dict[tuple[str, ...], list[tuple[str, list[int]]]] = {}
        rows_of: dict[tuple[str, ...], list[Example]] = {}
        for turn in sorted(by_turn):
            for body, members in self._bundles([(i, asked[i][1]) for i in by_turn[turn]]):
                rows = [e for i in members for e in asked[i][2]]
                key = tuple(e.id for e in rows)
                rows_of[key] = rows
                bodies.setdefault(key, []).append((body, members))
        for key, bundles in bodies.items():
            scores = self.context.trial([body for body, _ in bundles], rows_of[key])
            for (_, members), values in zip(bundles, scores, strict=True):
                owners = [i for i in members for _ in asked[i][2]]
                for owner, row, value in zip(owners, key, values, strict=True):
                    gains[owner][row] = value - self.known[row]
        return gains

    def _bundles(self, drafts: Sequence[tuple[int, Draft]]) -> list[tuple[str, list[int]]]:
        """Bodies that hold the drafts, as few as possible; drafts that exclude each other get bodies of their own."""
        bundles: list[tuple[str, list[int]]] = []
        left = list(drafts)
        while left:
            body, members = self.context.body, []
            for index, draft in left:
                result = apply(body, [draft.edit])
                if result.applied:
                    body = result.body
                    members.append(index)
            if not members:
                raise AssertionError("drafts are checked to apply alone")
            bundles.append((body, members))
            left = [(i, d) for i, d in left if i not in members]
        return bundles

    def _baseline(self, examples: Iterable[Example]) -> None:
        """Score the body itself on rows where that is not known yet."""
        missing = {e.id: e for e in examples if e.id not in self.known}
        if missing:
            rows = list(missing.values())
            scores = self.context.trial([self.context.body], rows)[0]
            self.known.update(zip(missing, scores, strict=True))
