"""The TRL side of GRPO: a thin subclass of TRL's trainer and the call that runs it.

Overridden, each for one reason: `_tokenize_prompts` (the ids that measurement reads), `_calculate_rewards` (non-finite
rewards, groups without variance, figures for the monitors), `_get_train_sampler` and `_save_checkpoint` (resume to the
same bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from hybrid.capability.graders.base import UNJUDGED
from hybrid.errors import TrainingError
from hybrid.weights.driver import Session
from hybrid.weights.encoding import PromptRow
from hybrid.weights.engine import EngineMixin
from hybrid.weights.observe import Observer, figures
from hybrid.weights.preflight import foresee
from hybrid.weights.results import FIGURE
from hybrid.weights.rewards import Rewards, filled, signal_share
from hybrid.weights.schedule import Order
from hybrid.weights.shape import adapter_config
from hybrid.weights.trl_common import DurableMixin, common_arguments, quiet, ready_to_sample, start


class HybridGrpo(EngineMixin, DurableMixin, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPO trainer under hybrid's order, checkpoints, guards and fast ways."""

    def __init__(self, session: Session, prompts: Sequence[PromptRow]) -> None:
        job, plan = session.job, session.plan
        grpo = job.weights.grpo
        self.session = session
        # One row of the order per generation phase; its rows are read once per forward pass of every step of it.
        lengths = tuple(steps // job.iterations for steps in job.stage_steps)
        self.order = Order(job.stages, job.steps // job.iterations, grpo.prompts_per_step, job.seed, lengths)
        self.repeat, self.passes = grpo.generations, plan.accumulation * job.iterations
        self._prompts = tuple(prompts)
        self._ids = {row.text: list(row.ids) for row in prompts}
        self._observer = Observer(job.weights.monitors, job.examples, job.grader)
        self._graded = Rewards(job.examples, job.grader, job.weights.rewards)
        functions = _reward_functions(session, self._graded)
        weights = [column.weight for column in self._graded.columns]
        super().__init__(
            model=session.loaded.model,
            reward_funcs=functions,
            args=_arguments(session, weights),
            train_dataset=Dataset.from_dict({"prompt": [r.text for r in prompts], "row": list(range(len(prompts)))}),
            processing_class=session.loaded.tokenizer,
            peft_config=adapter_config(session),
        )
        self.start_engine()

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The ids that the backend reads. TRL's own call would add a second begin-of-text token to a chat template."""
        return [list(self._ids[text]) for text in prompts], None, {}

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """TRL's rewards (rows of all processes, columns functions), refused when not finite; silent groups counted."""
        rewards: torch.Tensor = super()._calculate_rewards(*arguments, **options)
        if not bool(torch.isfinite(rewards).all()):
            step = self.state.global_step + 1
            raise TrainingError(f"step {step}: a reward is not finite; the weights were not updated. Check the grader")
        names = [column.name for column in self._graded.columns]
        if UNJUDGED in names:
            rewards = rewards.new_tensor(filled(rewards.tolist(), names.index(UNJUDGED), self.num_generations))
        totals = (rewards * self.reward_weights.to(rewards.device)).sum(dim=1).tolist()
        self._silent_share = 1.0 - signal_share(totals, self.num_generations)
        samples = gather_object(self._observer.samples(self._graded.newest()))
        self._figures = figures(samples, self.num_generations)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's rollouts, with our count of silent groups (under `scale_rewards: batch` TRL's hides them) and figures."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train"]
        metrics["frac_reward_zero_std"][-1] = self._silent_share
        for name, value in self._figures.items():
            metrics[FIGURE + name].append(value)
        if self.beta == 0.0 and self.session.job.weights.monitors.kl is not None:
            metrics["kl"].append(self._kl_to_base(output))
        return output

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _kl_to_base(self, output: dict[str, Any]) -> float:
        """Mean over completion tokens of exp(d) - d - 1, d = base minus policy log-probability (Schulman's k3), in nats.

        TRL computes it only when it is part of the loss.
        """
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        counted = output["completion_mask"].float()
        arguments = (self.model, ids, mask, output["completion_ids"].size(1), self.args.per_device_train_batch_size)
        policy, _, _ = self._get_per_token_logps_and_entropies(*arguments)
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            base, _, _ = self._get_per_token_logps_and_entropies(*arguments)
        gap = base - policy
        sums = torch.stack([((torch.exp(gap) - gap - 1.0) * counted).sum(), counted.sum()])
        total, count = self.accelerator.gather(sums[None]).sum(dim=0).tolist()
        return float(total / count)

    def probe_prompts(self) -> list[list[int]]:
        """Two prompts for the policy probe."""
        return [list(row.ids) for row in self._prompts[:2]]

    def score(self, ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
        """Log-probabilities (B, count) of the last tokens as the loss computes them."""
        logps, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, count)
        found: torch.Tensor = logps
        return found


def fit(session: Session) -> None:
    """Train the session's job; its checkpoints are the result. Errors: see `WeightTrainer.train`."""
    prompts = ready_to_sample(session)
    session = foresee(session, [(row.ids, session.job.max_new_tokens) for row in prompts])
    with quiet():
        start(HybridGrpo(session, prompts), session)


def _arguments(session: Session, reward_weights: list[float]) -> GRPOConfig:
    grpo = session.job.weights.grpo
    return GRPOConfig(
        **common_arguments(session),
        learning_rate=session.job.learning_rate,
        lr_scheduler_type="constant",
        num_generations=grpo.generations,
        max_completion_length=session.job.max_new_tokens,
        temperature=grpo.temperature,
        beta=grpo.beta,
        loss_type=grpo.loss,
        scale_rewards=grpo.scale_rewards,
        reward_weights=reward_weights,
        num_iterations=grpo.iterations,
        shuffle_dataset=False,
        disable_dropout=True,
        use_vllm=False,
        log_completions=False,
    )


def _reward_functions(session: Session, rewards: Rewards) -> list[Any]:
    """One reward function in TRL's calling convention per column; TRL logs each under its name, whatever it weighs."""
    tokenizer, stops = session.loaded.tokenizer, set(session.loaded.stop_ids)

    def texts(completion_ids: list[list[int]]) -> list[str]:
        # The rule by which the backend makes the text that is measured.
        cut = [next((ids[:i] for i, token in enumerate(ids) if token in stops), ids) for ids in completion_ids]
        return [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in cut]

    def function(name: str) -> Any:
        def reward(completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float]:
            return rewards.column(name, row, texts(completion_ids))

        reward.__name__ = name
        return reward

    return [function(column.name) for column in rewards.columns]
