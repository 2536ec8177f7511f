"""Best leaves: every training prompt searched once with the base, and the best right completion of each.

    harvest = gather(session, prompts)        # searched, or read from disk
    harvest.best                              # {3: (17, 4, 2)}: training row -> tokens of its leaf

    job.out/search/samples.jsonl    what was sampled, a wave per line: a killed search pays for nothing twice
    job.out/search/LEAVES.json      written last

The critics learn along the way, and choose among the leaves that the checker passed: AlphaLLM chooses by its critics and
filters by its outcome critic, which has no checker to ask. Under several processes the first one searches and the others wait.
Does not: train.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.capability.types import Score
from hybrid.errors import TrainingError
from hybrid.store.atomic import canonical_json, write_json
from hybrid.store.faults import faultpoint
from hybrid.store.records import RecordLog
from hybrid.weights.base import TrainJob
from hybrid.weights.checkpoints import read_sealed, refuse_other, seal
from hybrid.weights.driver import Session
from hybrid.weights.encoding import PromptRow
from hybrid.weights.jobs import job_identity, processes
from hybrid.weights.tree.critics import Critics
from hybrid.weights.tree.figures import facts, figures
from hybrid.weights.tree.forest import Forest, Root
from hybrid.weights.tree.grading import Remembered
from hybrid.weights.tree.search import Tree

FOLDER, SAMPLES, LEAVES = "search", "samples.jsonl", "LEAVES.json"
_WAIT_S = 24 * 3600.0


@dataclass(frozen=True)
class Harvest:
    """`best` maps training rows to the tokens of their best right leaf, end token included; `figures` are for the log.

    `seconds` are wall seconds of the search, without what a killed attempt took.
    """

    best: Mapping[int, tuple[int, ...]]
    figures: Mapping[str, float]
    seconds: float


class Samples:
    """The `SampleLog` of one job on disk. Raises RunFolderError for that of another one."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._log = RecordLog(path)
        self._log.repair()
        digest = hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()
        records = list(self._log.read())
        if not records:
            self._log.append([{"job": digest}])
        else:
            refuse_other(path, {"job": records[0].get("job")}, {"job": digest})
        self._waves: dict[tuple[int, ...], list[list[int]]] = {
            tuple(record["seeds"]): record["tokens"] for record in records[1:]
        }

    def get(self, seeds: Sequence[int]) -> list[list[int]] | None:
        """See `SampleLog`."""
        return self._waves.get(tuple(seeds))

    def add(self, seeds: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """See `SampleLog`."""
        self._log.append([{"seeds": list(seeds), "tokens": [list(row) for row in tokens]}])


def gather(session: Session, prompts: Sequence[PromptRow]) -> Harvest:
    """Search every prompt, or read what an earlier call found. Raises TrainingError when no leaf is right."""
    path = session.job.out / FOLDER / LEAVES
    found = _read(path, session.job)
    if found is None and processes()[0] == 0:
        found = _search(session, prompts)
        body = {
            "schema": 1,
            "identity": job_identity(session.job),
            "best": [[row, list(tokens)] for row, tokens in sorted(found.best.items())],
            "figures": dict(found.figures),
            "seconds": round(found.seconds, 3),
        }
        faultpoint("leaves.before")
        write_json(path, seal(body))
    elif found is None:
        found = _await(path, session.job)
    if not found.best:
        count, leaves = len(prompts), session.job.weights.grpo.generations
        raise TrainingError(
            f"{session.job.capability}: none of the leaves of {count} prompts is right ({leaves} each): there is nothing to "
            "teach. Raise weights.grpo.generations, try easier rows, a skill, or use: advantages after a warm start"
        )
    return found


def _search(session: Session, prompts: Sequence[PromptRow]) -> Harvest:
    job, model, begun = session.job, session.loaded.model, time.perf_counter()
    settings, per_chunk = job.weights.tree, job.weights.grpo.prompts_per_step
    critics = Critics(settings.critics)
    samples = Samples(job.out / FOLDER / SAMPLES, job_identity(job))

    grader = Remembered(job.grader)

    def grade(row: int, text: str) -> Score | None:
        return grader.verdict(text, job.examples[row])

    forest = Forest(job, session.loaded, critics, grade, session.plan.per_device, samples)
    order = sorted({row for stage in job.stages for row in stage})
    best: dict[int, tuple[int, ...]] = {}
    grown: list[dict[str, float]] = []
    asked: Counter[str] = Counter()
    read = 0
    for number, begin in enumerate(range(0, len(order), per_chunk), start=1):
        roots = [Root(row, prompts[row].ids) for row in order[begin : begin + per_chunk]]
        asked.update(forest.consulted)
        trees = forest.grow(model, roots, stream=f"search {number}", first=0)
        forest.judge(roots, trees)
        for root, tree in zip(roots, trees, strict=True):
            texts = [forest.text(leaf.tokens) if forest.finished(leaf.tokens) else None for leaf in tree.leaves]
            verdicts = [grade(root.row, text) if text is not None else None for text in texts]
            right = [verdict is not None and verdict.passed for verdict in verdicts]
            chosen = best_leaf(tree, right)
            if chosen is not None:
                best[root.row] = tree.leaves[chosen].tokens
            grown.append(facts(tree, [leaf.score for leaf in tree.leaves]))
            read += len(root.ids) * len(tree.leaves)
        if settings.critics.use:
            for lesson in forest.lessons(model, roots, trees):
                critics.add(lesson.critic, lesson.features, lesson.targets, lesson.prompts)
            if number % settings.critics.fit_every == 0:
                critics.fit()
    taught = {"tree/taught": float(len(best)), "tree/searched": float(len(order))}
    shares = {
        f"critic/{name}/used": asked[name] / len(range(0, len(order), per_chunk)) for name in settings.critics.use
    }
    logged = figures(grown, read) | critics.figures(forest.consulted) | shares | taught
    return Harvest(best, logged, time.perf_counter() - begun)


def best_leaf(tree: Tree, right: Sequence[bool]) -> int | None:
    """The right leaf whose states score best, the first of equals; None when none is right."""
    scores = tree.path_scores()
    return max((leaf for leaf, passed in enumerate(right) if passed), key=lambda leaf: scores[leaf], default=None)


def _read(path: Path, job: TrainJob) -> Harvest | None:
    body = read_sealed(path)
    if isinstance(body, str):
        return None
    refuse_other(path, body["identity"], job_identity(job))
    return Harvest({int(row): tuple(tokens) for row, tokens in body["best"]}, body["figures"], body["seconds"])


def _await(path: Path, job: TrainJob) -> Harvest:
    """What the first process found."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        found = _read(path, job)
        if found is not None:
            return found
        time.sleep(0.2)
    raise TrainingError(f"{path}: the first process recorded no leaves within {_WAIT_S:.0f} s; resume the run")
