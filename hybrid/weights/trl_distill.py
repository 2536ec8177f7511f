"""The TRL side of distillation on next-token distributions: a thin subclass of the project's SFT trainer.

Before training, the base reads the document once with every prompt and answer; what it holds likely next is kept (the most
likely `top_k` tokens one by one, the rest as one). Training minimises the divergence of the student, without the document,
from that. Everything else (rows, order, checkpoints, guards) is supervised fine-tuning's.

Does not: sample from the student, or keep a second model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from hybrid.backends.loading import fold_lm_head
from hybrid.weights.driver import Session
from hybrid.weights.encoding import GoldRow, check_lengths, gold_rows, prompt_rows, split
from hybrid.weights.preflight import foresee
from hybrid.weights.trl_common import quiet, start
from hybrid.weights.trl_sft import IGNORED, HybridSft


@dataclass(frozen=True)
class Targets:
    """The teacher's next-token log-probabilities at the n positions of one answer: `ids` and `top` (n, k), `rest` (n,).

    `rest` is of all other tokens together; None where k is the whole vocabulary.
    """

    ids: torch.Tensor
    top: torch.Tensor
    rest: torch.Tensor | None


def targets_of(logits: torch.Tensor, top_k: int) -> Targets:
    """Targets from logits (n, vocabulary)."""
    logps = torch.log_softmax(logits.float(), dim=-1)
    top, ids = logps.topk(min(top_k, logps.shape[-1]), dim=-1)
    return Targets(ids, top, rest_of(logps, ids))


def rest_of(logps: torch.Tensor, ids: torch.Tensor) -> torch.Tensor | None:
    """Log-probability (n,) of all tokens but `ids` (n, k); None when there are no others."""
    if ids.shape[-1] == logps.shape[-1]:
        return None
    return logps.scatter(-1, ids, float("-inf")).logsumexp(dim=-1)


def divergence(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """KL(teacher || student) in nats at each of n positions, over the k tokens and the rest as one more outcome.

    A lower bound of the divergence over the vocabulary, and 0 exactly where both agree on these outcomes. `logits` is
    (n, vocabulary); gradients flow into it alone.
    """
    logps = torch.log_softmax(logits.float(), dim=-1)
    found = (targets.top.exp() * (targets.top - logps.gather(-1, targets.ids))).sum(dim=-1)
    rest = rest_of(logps, targets.ids)
    if rest is not None and targets.rest is not None:
        found = found + targets.rest.exp() * (targets.rest - rest)
    return found


class HybridDistill(HybridSft):
    """Supervised fine-tuning whose loss is the divergence from the teacher. `targets` has one entry per row."""

    data_collator: Any

    def __init__(self, session: Session, rows: Sequence[GoldRow], targets: Sequence[Targets], tokens: int) -> None:
        super().__init__(session, rows)
        self._targets = tuple(targets)
        self.data_collator = _Numbered(self.data_collator)
        if session.resume is None:
            self._total_train_tokens = tokens  # what the teacher read is part of the cost

    def dataset(self, rows: Sequence[GoldRow]) -> Dataset:
        """The rows, each with its number."""
        return super().dataset(rows).add_column("row", list(range(len(rows))))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean divergence over answer tokens of the whole step, with the metrics of supervised fine-tuning."""
        labels = inputs["labels"]
        columns = (labels != IGNORED).any(dim=0).nonzero()
        first = int(columns[0]) - 1  # the position before a label predicts it
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=labels.shape[1] - first,
        )
        wanted = labels[:, first + 1 :]
        counted = wanted != IGNORED
        logits = outputs.logits[:, :-1][counted]
        each = divergence(logits, _joined([self._targets[row] for row in inputs["row"].tolist()], logits.device))
        count = counted.sum() if num_items_in_batch is None else num_items_in_batch
        loss = each.sum() / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the count is over all processes, gradients are averaged
        self._note(logits.detach(), wanted[counted], inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss

    def _note(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> None:
        logps = torch.log_softmax(logits.float(), dim=-1)
        entropy = -(logps.exp() * logps).sum()
        right = (logits.argmax(dim=-1) == labels).sum()
        sums = torch.stack([entropy, right.float(), torch.tensor(float(len(labels)), device=logits.device)])
        total = self.accelerator.gather(sums[None]).sum(dim=0).tolist()
        metrics = self._metrics["train"]
        metrics["entropy"].append(total[0] / max(total[2], 1.0))
        metrics["mean_token_accuracy"].append(total[1] / max(total[2], 1.0))
        self._total_train_tokens += int(self.accelerator.gather(mask.sum()).sum())
        metrics["num_tokens"] = [self._total_train_tokens]


def fit(session: Session) -> None:
    """Train the session's job; its checkpoints are the result. Errors: see `WeightTrainer.train`."""
    job, loaded = session.job, session.loaded
    rows = gold_rows(job, loaded.tokenizer)
    taught = _with_document(session, rows)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    check_lengths(job, [len(row.ids) for row in taught], limit)
    fold_lm_head(loaded.model)
    session = foresee(session, [split(row) for row in rows])
    with quiet():
        targets = ask_teacher(session, taught)
        tokens = sum(len(row.ids) for row in taught) * session.plan.processes
        start(HybridDistill(session, rows, targets, tokens), session)


def ask_teacher(session: Session, rows: Sequence[GoldRow]) -> list[Targets]:
    """What the bare base holds likely at every answer token of `rows`, kept on the CPU. Deterministic.

    It is asked again after a resume: the same batches in the same order give the same numbers.
    """
    model, per_pass = session.loaded.model, session.plan.per_device
    pad = session.loaded.tokenizer.pad_token_id
    device = next(model.parameters()).device
    found: list[Targets] = []
    with torch.no_grad():
        for begin in range(0, len(rows), per_pass):
            part = rows[begin : begin + per_pass]
            width = max(len(row.ids) for row in part)
            first = min(row.prompt for row in part) - 1
            ids = torch.tensor([[*row.ids, *[pad] * (width - len(row.ids))] for row in part], device=device)
            mask = torch.tensor([[1] * len(r.ids) + [0] * (width - len(r.ids)) for r in part], device=device)
            output = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - first)
            for row, logits in zip(part, output.logits, strict=True):
                answer = logits[row.prompt - 1 - first : len(row.ids) - 1 - first]
                kept = targets_of(answer, session.job.weights.distill.top_k)
                found.append(_moved(kept, torch.device("cpu")))
    return found


def _with_document(session: Session, rows: Sequence[GoldRow]) -> list[GoldRow]:
    """The same answer tokens after the prompts that the teacher reads."""
    job = dataclasses.replace(session.job, skill=session.job.teacher)
    prompts = prompt_rows(job, session.loaded.tokenizer)
    return [
        GoldRow((*prompt.ids, *row.ids[row.prompt :]), len(prompt.ids))
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def _moved(targets: Targets, device: torch.device) -> Targets:
    rest = None if targets.rest is None else targets.rest.to(device)
    return Targets(targets.ids.to(device), targets.top.to(device), rest)


def _joined(parts: Sequence[Targets], device: torch.device) -> Targets:
    rests = [part.rest for part in parts if part.rest is not None]
    rest = torch.cat(rests) if rests else None
    joined = Targets(torch.cat([part.ids for part in parts]), torch.cat([part.top for part in parts]), rest)
    return _moved(joined, device)


class _Numbered:
    """A collator that also hands over which rows a batch is made of."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate([{k: v for k, v in row.items() if k != "row"} for row in rows])
        return {**batch, "row": torch.tensor([row["row"] for row in rows])}
