"""Skill defect or execution lapse: what a failure is a failure of, told from trials and without a language model.

A failure is a *lapse* when the document holds a line about every thing that the row is about and no tried draft beats
those lines; it is a *defect* when a draft gained, or when there is no such line. Where neither is known (drafts that were
not tried yet, a row about nothing that the vocabulary knows), there is no label. Failures that are luck are not here: the
proposer tells them apart with an irrelevant line (`screening.without_luck`).
Source of the distinction: EmbodiSkill (arXiv 2605.10332), SkillOpt's skill-aware reflection; there a language model judges
and calls what it is unsure of a lapse, which would send unsure cases to the weights.
Does not: try anything.
"""

from __future__ import annotations

from hybrid.capability.types import Example
from hybrid.skill.drafts import Group, Grouping
from hybrid.skill.edits import Delete
from hybrid.skill.reflection import FailureLabel, Proven, RolloutView
from hybrid.skill.text import has_marker, lines_of, mentions
from hybrid.skill.vocabulary import Slot


def label_failures(grouping: Grouping) -> tuple[FailureLabel, ...]:
    """At most one label per failing row of the grouping's context, in their order, as the trial book has it now."""
    if not grouping.context.failures:
        return ()
    judge = _Judge(grouping)
    views = {view.example.id: view for view in grouping.context.failures}
    labels = (judge.label(view) for view in views.values())
    return tuple(label for label in labels if label is not None)


class _Judge:
    """What trials and templates say about each group of failures, under one body."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self.vocabulary = grouping.vocabulary
        body = grouping.context.body
        # Lines of protected sections are read by the model too, though no edit reaches them.
        self.lines = [line for line in lines_of(body) if line.strip() and not has_marker(line)]
        edits = (p.edit for known in grouping.context.book.proven.values() for p in known)
        self.proven_lines = {line for e in edits if not isinstance(e, Delete) for line in e.content.split("\n")}
        self.everything = grouping.everything()
        self.groups = {group.slot: group for group in grouping.groups()}

    def label(self, view: RolloutView) -> FailureLabel | None:
        """The label of one failing row, or None where nothing can be told."""
        slots = self.grouping.slots[view.example.id]
        common = self._gained(self.everything)
        gained = [p for slot in slots for p in self._gained(self.groups[slot])]
        # A line for every example that mends some rows need not mend this one, unless it made every row right.
        gained += [p for p in common if p.settled or not slots]
        if gained:
            return self._label(view, "defect", f"an edit mends it: {max(gained, key=lambda p: p.gain).rationale}")
        missing = next((slot for slot in slots if not self._about(slot)), None)
        if missing is not None:
            return self._label(view, "defect", f"no line of the document is about {_name(missing)}")
        if common:
            return None
        if slots and all(self._unbeaten(self.groups[slot], view.example) for slot in slots):
            about = " and ".join(_name(slot) for slot in slots)
            return self._label(view, "lapse", f"the document has a line about {about}, and no tried draft beats it")
        if not slots and self._unbeaten_for_all():
            return self._label(view, "lapse", "the document has the line for every example that no tried draft beats")
        return None

    @staticmethod
    def _label(view: RolloutView, kind: str, why: str) -> FailureLabel:
        return FailureLabel.model_validate({"example_id": view.example.id, "kind": kind, "why": why})

    def _gained(self, group: Group) -> list[Proven]:
        """Edits that gained in trials of this group and that no gate turned down."""
        proven = self.grouping.context.book.proven.get(group.setting, [])
        return [p for p in proven if self.grouping.allowed(p.edit)]

    def _about(self, slot: Slot) -> list[str]:
        return [line for line in self.lines if all(mentions(line, value) for _, value in slot)]

    def _unbeaten(self, group: Group, example: Example) -> bool:
        """Whether a rule or fact about the group's slot won its trials, or all rivals of what stands there lost theirs."""
        about = self._about(group.slot)
        values = dict(group.slot)
        rules = {line for t in self.vocabulary.rules if t.fields and (line := t.fill(values))}
        stems = tuple(stem for t in self.vocabulary.facts if (stem := t.stem(values)))
        if any(line in self.proven_lines and (line in rules or line.startswith(stems)) for line in about):
            return True
        facts = {t.fill({**values, "reference": example.reference}) for t in self.vocabulary.facts}
        # Without rivals, only a line that states this row's own fact is known to be right.
        return not group.drafts and (bool(rules) or any(line in facts for line in about))

    def _unbeaten_for_all(self) -> bool:
        """The same for lines that concern every example: only a line of the vocabulary is known to be such a line."""
        plain = {t.fill({}) for t in self.vocabulary.rules if not t.fields}
        common = [line for line in self.lines if line in plain]
        return bool(common) and (not self.everything.drafts or any(line in self.proven_lines for line in common))


def _name(slot: Slot) -> str:
    return ", ".join(f"{name} {value}" for name, value in slot)
