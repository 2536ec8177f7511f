"""Singular value fine-tuning by the project's own trainers: GRPO, or supervised fine-tuning to measure that it is worse.

result = SvfTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.grpo import GrpoTrainer
from hybrid.weights.sft import SftTrainer

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class SvfTrainer:
    """The `WeightTrainer` of method `svf` (Sun et al. 2025, 2501.06252). Everything but the adapter's shape and its learning
    rate is that of the trainer that `weights.svf.train` names. The paper's trainer is REINFORCE on one greedy sample; this
    one has groups of samples and their mean as baseline.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        trainer = GrpoTrainer() if job.reinforces else SftTrainer()
        return trainer.train(job, load, on_progress)
