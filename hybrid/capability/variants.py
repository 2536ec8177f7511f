"""One element removed: twins of a problem that tell a procedure from a template.

Bernier, Ghamizi, Dogoulis and Cordy (2026, arXiv 2603.23004) test a trained model on the same problems with one element taken
out, as power engineers do (N and N-1). What was learnt as a procedure is as right there; what was learnt as a template still
gives the old answer. A removal is *active* when the answer changes, which tests solving again, and *inactive* when it stays,
which tests reading and is the control: a model that is thrown off by any change fails both.

    kind = Closable("way")                       # knows the elements of a problem, and solves it
    for twin in twins(kind, instance):
        twin.removed, twin.active, twin.answer

The convention for rows, of these generators and of your own JSONL files alike: `parent_id` names the row that lost an element,
`metadata.removed` says which, `metadata.active` is true or false. A variant that is only harder has `metadata.change` and no
`removed`.

Does not: phrase questions (suites do), or compare accuracies (`evidence.generality` does).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from hybrid.capability.types import Example

Instance = TypeVar("Instance")
Which = Literal["both", "active", "inactive"]


class ProblemKind(Protocol[Instance]):
    """Problems of one kind, each a value that is never changed. All three are pure."""

    def elements(self, instance: Instance) -> Sequence[str]:
        """Names of the elements that can be taken out, in the order of the problem; each name once."""
        ...

    def without(self, instance: Instance, element: str) -> Instance:
        """The problem without that element."""
        ...

    def solve(self, instance: Instance) -> str | None:
        """The one right answer; None where there is none, or more than one."""
        ...


@dataclass(frozen=True)
class Twin(Generic[Instance]):
    """A problem that has lost one element, with its own answer. `active`: it is not the answer of the whole problem."""

    removed: str
    instance: Instance
    answer: str
    active: bool


def twins(kind: ProblemKind[Instance], instance: Instance) -> list[Twin[Instance]]:
    """Every removal that leaves exactly one right answer, in the order of the elements. The problem itself must have one."""
    whole = kind.solve(instance)
    if whole is None:
        raise ValueError("the problem has no single answer, so no removal can be called active or inactive")
    found = []
    for element in kind.elements(instance):
        smaller = kind.without(instance, element)
        answer = kind.solve(smaller)
        if answer is not None:
            found.append(Twin(element, smaller, answer, answer != whole))
    return found


def chosen(kind: ProblemKind[Instance], instance: Instance, which: Which, rng: random.Random) -> list[Twin[Instance]]:
    """At most one active and one inactive removal of a problem, drawn from those that there are; the active one first."""
    every = twins(kind, instance)
    groups = [[t for t in every if t.active], [t for t in every if not t.active]]
    wanted = {"both": groups, "active": groups[:1], "inactive": groups[1:]}[which]
    return [rng.choice(group) for group in wanted if group]


def has_both(kind: ProblemKind[Instance], instance: Instance) -> bool:
    """Whether the problem has one answer, and both an active and an inactive removal."""
    if kind.solve(instance) is None:
        return False
    return len({twin.active for twin in twins(kind, instance)}) == 2


def twin_rows(
    parents: Sequence[tuple[Example, Instance]],
    kind: ProblemKind[Instance],
    ask: Callable[[Instance, str], Example],
    which: Which,
    rng: random.Random,
) -> Iterator[Example]:
    """Rows of twins, parent by parent. `ask` phrases an instance with its answer; id, parent and marks are set here.

    The parent's answer is listed as wrong where the removal is active: it is what a template says.
    """
    for parent, instance in parents:
        for twin in chosen(kind, instance, which, rng):
            row = ask(twin.instance, twin.answer)
            marks: Mapping[str, Any] = {"removed": twin.removed, "active": twin.active, "change": "one element removed"}
            wrong = dict.fromkeys([*((parent.gold_completion,) if twin.active else ()), *row.wrong])
            yield row.model_copy(
                update={
                    "id": f"{parent.id}-{'active' if twin.active else 'inactive'}",
                    "parent_id": parent.id,
                    "metadata": {**row.metadata, **marks},
                    "wrong": tuple(wrong),
                }
            )


def marks_of(example: Example) -> Literal["active", "inactive", "other"]:
    """What kind of variant a row is, by the convention above; `other` where no element was removed."""
    active = example.metadata.get("active")
    if "removed" not in example.metadata or not isinstance(active, bool):
        return "other"
    return "active" if active else "inactive"
