"""In which order tasks share an adapter: stages with replay, the mixed training beside them, and backward transfer.

B[i, j] is what training on j, after i, does to i (2507.14783 call it backward transfer): A_i(after i then j) - A_i(after i),
on the same examples. Positive: j helps i; negative: i is forgotten. The best order by the matrix has the greatest sum of
B[i, j] over all i before j, and predicts for task i the accuracy A_i(after i) plus B[i, j] of every later j. That adds up
effects of pairs, which is an assumption and not a finding; compare it with what the order gave.

    matrix = backward_transfer(own, pairs)
    if asymmetric(matrix): order = best_order(matrix, first_by_entropy)

Does not: measure or train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice, permutations

from hybrid.evidence.stats import Delta, paired_interval
from hybrid.evidence.strata import stratified
from hybrid.weights.base import Task
from hybrid.weights.schedule import Stages

MOST_TASKS = 8
"""Above so many tasks the orders are not all tried (8! = 40,320) and the pairs not all trained."""
_Z = 1.959963984540054
_ERRORS = 2.0
"""Standard errors by which B[i, j] and B[j, i] must differ for some pair before the matrix orders anything."""

Matrix = Mapping[str, Mapping[str, Delta]]
Scores = Mapping[str, Sequence[float]]


def in_order(tasks: Sequence[Task], replay: float) -> Stages:
    """A stage for every task: its rows, and rows of earlier tasks in turn, a share `replay` (below 1) of the stage."""
    stages: list[tuple[int, ...]] = []
    for number, task in enumerate(tasks):
        own = tuple(_rows(task))
        extra = math.ceil(len(own) * replay / (1.0 - replay)) if number else 0
        stages.append(own + tuple(islice(_in_turn(tasks[:number]), extra)))
    return tuple(stages)


def mixed(tasks: Sequence[Task]) -> Stages:
    """One stage with all tasks, each as often as the others: rows of smaller tasks come again."""
    most = max(task.rows for task in tasks)
    return (tuple(row for task in tasks for row in islice(cycle(_rows(task)), most)),)


def _rows(task: Task) -> range:
    return range(task.first, task.first + task.rows)


def _in_turn(tasks: Sequence[Task]) -> cycle[int]:
    """Rows of the tasks in turn: the first of each, the second of each, ..."""
    most = max((task.rows for task in tasks), default=0)
    return cycle([task.first + k % task.rows for k in range(most) for task in tasks])


def checkpoint_every(steps: int, wanted: int, phase: int = 1) -> int:
    """The greatest divisor of a stage's `steps` that is at most `wanted`, so that every stage ends on a checkpoint.

    It is a multiple of `phase`, which divides `steps`: no checkpoint lies within a generation phase.
    """
    return max((size for size in range(phase, min(steps, wanted) + 1, phase) if steps % size == 0), default=phase)


def backward_transfer(own: Scores, pairs: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, dict[str, Delta]]:
    """The matrix from per-example scores: `own[i]` of task i after i, `pairs[i, j]` of task i after i then j.

    Intervals are paired by example, 95 %.
    """
    matrix: dict[str, dict[str, Delta]] = {name: {} for name in own}
    for (first, then), after in pairs.items():
        matrix[first][then] = paired_interval([b - a for a, b in zip(own[first], after, strict=True)])
    return matrix


def asymmetric(matrix: Matrix) -> tuple[str, str] | None:
    """The pair whose B[i, j] and B[j, i] differ most beyond two standard errors, the greater one first; or None.

    Standard errors are the half widths of the 95 % intervals over 1.96, which are not 0 where no example changed.
    """
    found: list[tuple[float, tuple[str, str]]] = []
    for i, row in matrix.items():
        for j, there in row.items():
            back = matrix[j][i]
            error = math.hypot(_error(there), _error(back))
            ratio = (there.mean - back.mean) / error if error else math.inf
            if there.mean > back.mean and ratio > _ERRORS:
                found.append((ratio, (i, j)))
    return max(found, key=lambda item: item[0])[1] if found else None


def _error(delta: Delta) -> float:
    return (delta.high - delta.low) / (2.0 * _Z)


def best_order(matrix: Matrix, otherwise: Sequence[str]) -> tuple[str, ...]:
    """The order with the greatest sum of B[i, j] over i before j. Among equals, the first in lexical order of positions in
    `otherwise`, which itself comes first. All orders are tried: at most `MOST_TASKS` tasks, else ValueError."""
    if len(otherwise) > MOST_TASKS:
        raise ValueError(f"{len(otherwise)} tasks have too many orders to try them all; at most {MOST_TASKS}")
    return max(permutations(otherwise), key=lambda order: round(gain(matrix, order), 9))


def gain(matrix: Matrix, order: Sequence[str]) -> float:
    """The sum of B[i, j] over all i before j."""
    return math.fsum(matrix[i][j].mean for k, i in enumerate(order) for j in order[k + 1 :])


def predicted(own: Scores, pairs: Mapping[tuple[str, str], Sequence[float]], order: Sequence[str]) -> dict[str, Delta]:
    """Per task the accuracy after the whole `order`: A_i(after i) + sum of B[i, j] over later j, with its 95 % interval.

    Examples are the units: an example's own terms are added up before the interval is taken, so that what they share is
    counted once. Values beyond [0, 1] are possible for an example and cut for the task.
    """
    found = {}
    for k, i in enumerate(order):
        later = [pairs[i, j] for j in order[k + 1 :]]
        # In units of the widest possible range, because intervals of differences are made for [-1, 1].
        span = len(later) + 1.0
        sums = [(a + math.fsum(after[n] - a for after in later)) / span for n, a in enumerate(own[i])]
        found[i] = Delta(*(min(1.0, max(0.0, span * value)) for value in paired_interval(sums)))
    return found


def overall(parts: Sequence[Delta]) -> Delta:
    """The mean over tasks, every task counting the same."""
    return stratified(parts)
