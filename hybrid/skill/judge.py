"""Whether a changed body stays while searching: the screen on failing training rows, and the gate on `search`.

Three rules. `race` drops a challenger as soon as it falls behind and accepts a clear winner early (`evidence.race`);
`strict` is the published rule of SkillOpt (arXiv 2605.23904), a higher mean over all of `search`; `none` accepts
everything, for ablations. Does not: propose, apply edits, or decide what ships.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from hybrid.capability.types import Example, Split
from hybrid.evidence.gate import paired_differences, strictly_better, verdict
from hybrid.evidence.intervals import judged
from hybrid.evidence.race import Race
from hybrid.evidence.stats import paired_interval, paired_test
from hybrid.evidence.types import Decision, Verdict
from hybrid.skill.edits import Edit
from hybrid.skill.reflection import RolloutView
from hybrid.skill.relevance import about, edit_text
from hybrid.skill.task import SkillTask

_RIGHT = 1 - 1e-9


class Judge:
    """The verdicts of one optimisation. The same bodies and rows in the same `epoch` always get the same verdict."""

    def __init__(self, task: SkillTask) -> None:
        self.task = task
        self.epoch = 0

    def scores(self, body: str, rows: Sequence[Example], split: Split) -> list[float]:
        """Scores of a body, paid for once."""
        return [view.value for view in self.task.measure(body, rows, split)]

    def gate(self, incumbent: str, challenger: str, edits: Sequence[Edit]) -> Verdict:
        """The verdict on `search` under the configured rule."""
        rule = self.task.config.gate_rule
        if rule == "none":
            return _told("accept", "no gate: every edit is kept", [])
        if rule == "strict":
            return self._strict(incumbent, challenger)
        return self._race(incumbent, challenger, edits)

    def screen(self, body: str, changed: str, edit: Edit, failures: Sequence[RolloutView]) -> Verdict | None:
        """Reject an edit that mends none of a few training rows; None lets it go on to the gate.

        Rows that the edit is about come first, from all of `train`, failures of this step before others; where it is about
        none, or none of them fails under `body`, other failures of this step are asked. Every rollout is on `train`, so
        that `search` is asked about edits that do something.
        """
        count = self.task.config.screen
        if count == 0 or not failures:
            return None
        failed = {view.example.id for view in failures}
        train = self.task.train
        near = sorted(about(edit_text([edit]), train), key=lambda i: train[i].id not in failed)
        rows, kind = [train[i] for i in near[:count]], "training rows that it is about"
        before = self.scores(body, rows, "train")
        if not any(value < _RIGHT for value in before):
            rows, kind = [view.example for view in failures][:count], "failing training rows"
            before = self.scores(body, rows, "train")
        after = self.scores(changed, rows, "train")
        if any(b > a for a, b in zip(before, after, strict=True)):
            return None
        return _told("reject", f"mends none of {len(rows)} {kind}", paired_differences(before, after))

    def _strict(self, incumbent: str, challenger: str) -> Verdict:
        rows = self.task.search
        before, after = self.scores(incumbent, rows, "search"), self.scores(challenger, rows, "search")
        better = strictly_better(before, after)
        reason = f"the mean over all {len(rows)} examples is {'higher' if better else 'not higher'}"
        return _told("accept" if better else "reject", reason, paired_differences(before, after))

    def _race(self, incumbent: str, challenger: str, edits: Sequence[Edit]) -> Verdict:
        """One seeded order of the examples for all races of an epoch, so that what is known of an incumbent serves them all;
        those that the edits are about come first."""
        search = self.task.search
        order = hashlib.sha256(f"{self.task.seed}\n{self.epoch}".encode()).digest()
        first = about(edit_text(edits), search)
        race = Race(len(search), self.task.gate, int.from_bytes(order[:4], "big"), first)
        while (part := race.next_part()) is not None:
            rows = [search[i] for i in part]
            race.observe(self.scores(incumbent, rows, "search"), self.scores(challenger, rows, "search"))
        found = race.verdict
        if found is None:
            raise AssertionError("a race without a next part has a verdict")
        return found


def _told(decision: Literal["accept", "reject"], reason: str, differences: Sequence[float]) -> Verdict:
    """A verdict with its interval described from the differences, which may be none."""
    differences, _ = judged(differences)
    said: Decision = decision
    return verdict(said, reason, differences, paired_interval(differences), paired_test(differences), {})
