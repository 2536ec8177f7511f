"""Context distillation: an adapter learns to answer without a document as the base answers with it.

result = DistillTrainer().train(job, load=lambda: load_base(...), on_progress=lambda step, total, metrics: None)

The job's examples carry the teacher's answers as gold completions, and `job.teacher` the document. Does not: ask the teacher
(answers are measured and paid for before, see `hybrid.pipeline.training`). Torch and TRL load when training starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.weights.base import Progress, TrainJob, TrainResult
from hybrid.weights.driver import Session, run

if TYPE_CHECKING:
    from hybrid.backends.loading import LoadedModel


class DistillTrainer:
    """The `WeightTrainer` of method `distill` (Askell et al. 2021, 2112.00861; Snell et al. 2022, 2209.15189).

    `targets: text` is supervised fine-tuning on the answers; `targets: logits` minimises the divergence from the teacher's
    next-token distribution along them.
    """

    def train(self, job: TrainJob, load: Callable[[], LoadedModel], on_progress: Progress) -> TrainResult:
        """See `WeightTrainer.train`."""
        return run(job, load, on_progress, _fit_logits if job.weights.distill.targets == "logits" else _fit_text)


def _fit_text(session: Session) -> None:
    from hybrid.weights.trl_sft import fit  # TRL takes seconds to import

    fit(session)


def _fit_logits(session: Session) -> None:
    from hybrid.weights.trl_distill import fit  # TRL takes seconds to import

    fit(session)
