"""The TRL side of `tree` with best leaves: the project's SFT trainer on what the search found.

Does not: search (see `harvest`), or change anything of supervised fine-tuning but its rows and the figures of step 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hybrid.weights.driver import Session
from hybrid.weights.encoding import GoldRow
from hybrid.weights.preflight import foresee
from hybrid.weights.results import FIGURE
from hybrid.weights.schedule import Stages
from hybrid.weights.tree.harvest import Harvest, gather
from hybrid.weights.trl_common import quiet, ready_to_sample, start
from hybrid.weights.trl_sft import HybridSft


def fit(session: Session) -> None:
    """Search, then train the session's job; its checkpoints are the result. Errors: see `WeightTrainer.train`."""
    job, prompts = session.job, ready_to_sample(session)
    # Before the search, which is dear: a leaf may be as long as an answer ever gets.
    session = foresee(session, [(row.ids, job.max_new_tokens) for row in prompts])
    harvest = gather(session, prompts)
    taught = sorted(harvest.best)
    rows = [GoldRow((*prompts[row].ids, *harvest.best[row]), len(prompts[row].ids)) for row in taught]
    stages = staged(job.stages, taught)
    part = dataclasses.replace(session, job=dataclasses.replace(job, stages=stages))
    with quiet():
        start(HybridBestLeaf(part, rows, harvest), part)


class HybridBestLeaf(HybridSft):
    """Supervised fine-tuning whose first step carries the figures and the seconds of the search before it."""

    def __init__(self, session: Session, rows: Sequence[GoldRow], harvest: Harvest) -> None:
        super().__init__(session, rows)
        self._harvest = harvest if session.resume is None else None

    def start_clock(self) -> None:
        """Count the search in, once."""
        super().start_clock()
        if self._harvest is not None:
            self._logged_at -= self._harvest.seconds
            for name, value in self._harvest.figures.items():
                self._metrics["train"][FIGURE + name].append(value)


def staged(stages: Stages, taught: list[int]) -> Stages:
    """Stages over training rows as stages over the rows that are taught, without the stages that have none."""
    place = {row: number for number, row in enumerate(taught)}
    found = (tuple(place[row] for row in stage if row in place) for stage in stages)
    return tuple(stage for stage in found if stage)
