"""The TRL side of `tree` with advantages: the project's GRPO trainer on leaves of trees, with one advantage per token.

Overridden: `_generate_single_turn` (the group of a prompt is grown as a tree), `_calculate_rewards` (returns of the leaves are
kept), `_generate_and_score_completions` (advantages (B, T) from the trees, figures, critics) and `_save` (critics go into the
checkpoint before it is committed). Order, guards, probes, monitors and checkpoints are those of `HybridGrpo`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.numpy import load_file, save_file

from hybrid.capability.types import Score
from hybrid.weights.driver import Session
from hybrid.weights.encoding import PromptRow
from hybrid.weights.preflight import foresee
from hybrid.weights.results import FIGURE
from hybrid.weights.tree.credit import row_advantages
from hybrid.weights.tree.critics import Critics
from hybrid.weights.tree.figures import facts, figures
from hybrid.weights.tree.forest import Forest, Root
from hybrid.weights.tree.grading import Remembered
from hybrid.weights.tree.search import Tree
from hybrid.weights.trl_common import quiet, ready_to_sample, start
from hybrid.weights.trl_grpo import HybridGrpo

CRITICS = "critics.safetensors"


class HybridTree(HybridGrpo):
    """GRPO on trees."""

    def __init__(self, session: Session, prompts: Sequence[PromptRow]) -> None:
        self._grader = Remembered(session.job.grader)
        job = dataclasses.replace(session.job, grader=self._grader)
        super().__init__(dataclasses.replace(session, job=job), prompts)
        self._critics = Critics(job.weights.tree.critics)
        self._forest = Forest(job, session.loaded, self._critics, self._grade, self.args.per_device_train_batch_size)
        self._trees: list[Tree] = []
        self._roots: list[Root] = []
        self._returns: list[float] = []
        # A checkpoint of this job has it, or does not verify; one of another method, that a fork goes on from, has none.
        if session.resume is not None and (session.resume.path / CRITICS).exists():
            self._critics.restore(load_file(session.resume.path / CRITICS))

    def _grade(self, row: int, text: str) -> Score | None:
        return self._grader.verdict(text, self.session.job.examples[row])

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, num_generations: int, **_: Any
    ) -> tuple[list[list[int]], None]:
        """The leaves of one tree per group, in the order in which they were found; a short tree's stand there again."""
        self._roots = [
            Root(row, tuple(ids))
            for row, ids in zip(self._step_rows[::num_generations], prompt_ids[::num_generations], strict=True)
        ]
        place = self.accelerator.process_index * len(self._roots)
        policy = self.accelerator.unwrap_model(self.model_wrapped)
        self._recall()
        self._trees = self._forest.grow(policy, self._roots, str(self.state.global_step), place)
        self._rows = [[k % len(tree.leaves) for k in range(num_generations)] for tree in self._trees]
        pairs = zip(self._trees, self._rows, strict=True)
        found = [list(tree.leaves[k].tokens) for tree, rows in pairs for k in rows]
        self._check_packing(prompt_ids, found)
        return found, None

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Rewards as ever; those of this process are the returns of its leaves."""
        rewards: torch.Tensor = super()._calculate_rewards(*arguments, **options)
        totals = (rewards * self.reward_weights.to(rewards.device)).sum(dim=1).tolist()
        count = len(self._step_rows)
        first = self.accelerator.process_index * count
        self._returns, self._spread = totals[first : first + count], _deviation(totals)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """A step's rows with `advantages` (B, T), T the width of `completion_ids`; padding has 0."""
        self._grader.forget()
        self._step_rows = [int(row["row"]) for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        output["advantages"] = self._advantages(output["completion_ids"])
        for name, value in (self._critics.figures(self._forest.consulted) | self._figures_of_trees()).items():
            self._metrics["train"][FIGURE + name].append(value)
        self._learn()
        return output

    def _advantages(self, completions: torch.Tensor) -> torch.Tensor:
        """Credit of every token (B, T), divided as `scale_rewards` says (TRL's own division is of one number per row)."""
        settings = self.session.job.weights
        dense = torch.zeros(completions.shape, dtype=torch.float32, device=completions.device)
        for place, (tree, rows) in enumerate(zip(self._trees, self._rows, strict=True)):
            group = self._group(place)
            scale = {"none": 1.0, "group": _deviation(group), "batch": self._spread}[settings.grpo.scale_rewards]
            for k, row in enumerate(row_advantages(tree, rows, group[: len(tree.leaves)], settings.tree)):
                values = torch.tensor(row, dtype=torch.float32, device=dense.device)
                dense[place * self.num_generations + k, : len(row)] = values / scale
        return dense

    def _group(self, place: int) -> list[float]:
        """Rewards of the rows of one tree; its leaves come first, in order."""
        return self._returns[place * self.num_generations : (place + 1) * self.num_generations]

    def _figures_of_trees(self) -> dict[str, float]:
        own = [facts(tree, self._group(k)[: len(tree.leaves)]) for k, tree in enumerate(self._trees)]
        prompts = [len(root.ids) * len(tree.leaves) for root, tree in zip(self._roots, self._trees, strict=True)]
        return figures(gather_object(own), sum(gather_object(prompts)))

    def _learn(self) -> None:
        """Rows of all processes for the critics, the same on each, and a fit when its step has come."""
        if not self.session.job.weights.tree.critics.use:
            return
        self._forest.judge(self._roots, self._trees)
        policy = self.accelerator.unwrap_model(self.model_wrapped)
        for lesson in gather_object(self._forest.lessons(policy, self._roots, self._trees)):
            self._critics.add(lesson.critic, lesson.features, lesson.targets, lesson.prompts)
        if (self.state.global_step + 1) % self.session.job.weights.tree.critics.fit_every == 0:
            self._critics.fit()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The adapter, and what the critics know: it has to be there before the checkpoint is committed."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_file(self._critics.tensors(), Path(output_dir or self.args.output_dir) / CRITICS)


def _deviation(values: Sequence[float]) -> float:
    """Sample deviation, plus what TRL adds to it."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) + 1e-4


def fit(session: Session) -> None:
    """Train the session's job; its checkpoints are the result. Errors: see `WeightTrainer.train`."""
    prompts = ready_to_sample(session)
    session = foresee(session, [(row.ids, session.job.max_new_tokens) for row in prompts])
    with quiet():
        start(HybridTree(session, prompts), session)
