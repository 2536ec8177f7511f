"""GRPO with a LoRA adapter through TRL. Importing this costs nothing: torch and TRL are loaded when training starts.

result = GrpoTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.driver import Session, run

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class GrpoTrainer:
    """The `WeightTrainer` of method `grpo` (Shao et al. 2024, 2402.03300): rewards sampled completions.

    Stops early, with a note and no candidates, when no group of completions had reward variance in the first
    `checkpoint_every` steps.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        return run(job, load, on_progress, _fit)


def _fit(session: Session) -> None:
    from hybrid.weights.trl_grpo import fit  # TRL takes seconds to import

    fit(session)
