"""Supervised fine-tuning of a LoRA adapter on gold completions through TRL. Torch and TRL load when training starts.

result = SftTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.driver import Session, run

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class SftTrainer:
    """The `WeightTrainer` of method `sft`: next-token loss on gold completions and their end token, not on prompts."""

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        return run(job, load, on_progress, _fit)


def _fit(session: Session) -> None:
    from hybrid.weights.trl_sft import fit  # TRL takes seconds to import

    fit(session)
