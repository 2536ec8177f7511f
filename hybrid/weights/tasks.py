"""Several capabilities in one training: their rows put together, and a grader that judges each row as its own would.

    examples, tasks, grader = put_together([("signs", "", signs), ("marks", "", marks)])

Does not: order the tasks (see `schedule` and `task_order`) or train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hybrid.capability.types import Capability, Example, Grader, Score
from hybrid.weights.base import Task


class TaskGrader:
    """The `Grader` of a shared job: an example is judged, under its own id, by the grader of its capability.

    Where one of them is a judge that may give no verdict, `may_fail` is true of all.
    """

    def __init__(self, members: Sequence[Capability]) -> None:
        self._rows = {shared_id(c, e): (c.grader, e) for c in members for e in c.splits["train"]}
        self._fingerprint = hashlib.sha256(
            json.dumps([[c.name, c.grader.fingerprint()] for c in members]).encode()
        ).hexdigest()
        self.may_fail = any(getattr(c.grader, "may_fail", False) for c in members)

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion of an example that `put_together` made; KeyError for any other."""
        grader, own = self._rows[example.id]
        return grader.grade(completion, own)

    def fingerprint(self) -> str:
        """sha256 (hex) over the members' names and graders."""
        return self._fingerprint


def shared_id(capability: Capability, example: Example) -> str:
    """The id of a training row among those of other capabilities, which may use the same ids."""
    return f"{capability.name}/{example.id}"


def put_together(
    members: Sequence[tuple[Capability, str]],
) -> tuple[tuple[Example, ...], tuple[Task, ...], Grader]:
    """The training rows of (capability, text) one after another, whose rows are whose, and the grader of all of them."""
    examples: list[Example] = []
    tasks = []
    for capability, skill in members:
        rows = capability.splits["train"]
        tasks.append(Task(capability.name, skill, len(examples), len(rows)))
        examples += [row.model_copy(update={"id": shared_id(capability, row)}) for row in rows]
    return tuple(examples), tuple(tasks), TaskGrader([capability for capability, _ in members])
