"""The TRL side of SFT: a thin subclass of TRL's trainer on rows that are tokenised here, and the call that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from trl import SFTConfig, SFTTrainer

from hybrid.backends.loading import fold_lm_head
from hybrid.weights.driver import Session
from hybrid.weights.encoding import GoldRow, check_lengths, gold_rows, split
from hybrid.weights.preflight import foresee
from hybrid.weights.results import read_log
from hybrid.weights.schedule import Order, staged_decay
from hybrid.weights.shape import adapter_config
from hybrid.weights.trl_common import DurableMixin, common_arguments, quiet, start

IGNORED = -100
"""Label of a token without loss (torch's cross entropy ignores it)."""


class HybridSft(DurableMixin, SFTTrainer):  # type: ignore[misc]
    """TRL's SFT trainer under hybrid's order, checkpoints and guards."""

    lr_scheduler: Any

    def __init__(self, session: Session, rows: Sequence[GoldRow]) -> None:
        job = session.job
        self.session = session
        self.order = Order(job.stages, job.steps, job.supervised.batch, job.seed, job.stage_steps)
        self._rows = tuple(rows)
        super().__init__(
            model=session.loaded.model,
            args=_arguments(session),
            train_dataset=self.dataset(rows),
            processing_class=session.loaded.tokenizer,
            peft_config=adapter_config(session),
        )
        if session.resume is not None:  # TRL counts from zero again after a resume
            self._total_train_tokens = int(read_log(session.resume.path)[-1]["num_tokens"])

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The trainer's schedule; where tasks have stages of their own, it starts anew with each. Over the whole training the
        last task would be left with hardly any learning rate."""
        lengths = self.session.job.stage_steps
        if len(lengths) < 2:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            factor = partial(staged_decay, lengths)
            self.lr_scheduler = LambdaLR(optimizer if optimizer is not None else self.optimizer, factor)
        return self.lr_scheduler

    def dataset(self, rows: Sequence[GoldRow]) -> Dataset:
        """What the trainer reads: ids, and labels on the answers alone."""
        ids = [list(row.ids) for row in rows]
        labels = [[IGNORED] * row.prompt + list(row.ids[row.prompt :]) for row in rows]
        return Dataset.from_dict({"input_ids": ids, "labels": labels})

    def probe_prompts(self) -> list[list[int]]:
        """Two prompts for the policy probe."""
        return [list(row.ids[: row.prompt]) for row in self._rows[:2]]

    def score(self, ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
        """Log-probabilities (B, count) of the last tokens as the loss computes them."""
        labels = ids.masked_fill(mask == 0, IGNORED)
        labels[:, :-count] = IGNORED
        with self.accelerator.autocast():
            output = self.model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        found: torch.Tensor = output.log_probs[:, -count:]
        return found


def fit(session: Session) -> None:
    """Train the session's job; its checkpoints are the result. Errors: see `WeightTrainer.train`."""
    job, loaded = session.job, session.loaded
    rows = gold_rows(job, loaded.tokenizer)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    check_lengths(job, [len(row.ids) for row in rows], limit)
    fold_lm_head(loaded.model)
    session = foresee(session, [split(row) for row in rows])
    with quiet():
        start(HybridSft(session, rows), session)


def _arguments(session: Session) -> Any:
    return SFTConfig(
        **common_arguments(session),
        learning_rate=session.job.learning_rate,
        lr_scheduler_type="linear",
        max_length=None,
        packing=False,
        completion_only_loss=False,  # the labels say it already
        dataset_kwargs={"skip_prepare_dataset": True},
    )
