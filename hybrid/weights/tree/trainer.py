"""Tree search as a training method. Importing this costs nothing: torch and TRL are loaded when training starts.

result = TreeTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.driver import Session, run
from hybrid.weights.grpo import train_after_warm_start

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class TreeTrainer:
    """The `WeightTrainer` of method `tree`.

    `use: advantages` is GRPO on the leaves of trees, with an advantage for every step of a completion (TreeRL). `use: best_leaf`
    is AlphaLLM's policy update (Tian et al. 2024, 2404.12253): every training prompt is searched with the base, and the best
    right leaf of each is taught by supervised fine-tuning.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        if job.weights.tree.use == "best_leaf":
            return run(job, load, on_progress, _fit_best_leaf)
        return train_after_warm_start(job, load, on_progress, _fit_advantages)


def _fit_advantages(session: Session) -> None:
    from hybrid.weights.tree.trl_tree import fit  # TRL takes seconds to import

    fit(session)


def _fit_best_leaf(session: Session) -> None:
    from hybrid.weights.tree.trl_best_leaf import fit  # TRL takes seconds to import

    fit(session)
