"""The fast ways of a GRPO step, mixed into TRL's trainer: rollouts by `rollouts`, scores and gradients by `packed`.

    class HybridGrpo(EngineMixin, DurableMixin, GRPOTrainer): ...

Overridden, each for one reason: `_generate_single_turn` (rollouts), `_generate` (the trial of packing), `_prepare_inputs`
(groups stay together in a pass), `_get_per_token_logps_and_entropies` (packed rows), `_compute_loss` (rows without advantage
leave the update), `log` (what was not used, and why). `weights.grpo.engine: plain` leaves all of them to TRL.

Before the first use each way is compared with TRL's on this model; where they differ, or the model is of a kind that they do
not know, TRL's way goes on and a line of the log says why (`NOTE`), from where it reaches the result and the report.

Does not: change the loss. Rows without advantage have a gradient of exactly zero there; they keep their place in every mean,
with the entropies that were known when they were sampled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.trainer.utils import split_tensor_dict

from hybrid.backends import prefix
from hybrid.backends.decode import UnsupportedModelError
from hybrid.weights.driver import Session
from hybrid.weights.packed import WORTH, Layout, answer_packed, pack, score_packed
from hybrid.weights.results import NOTE
from hybrid.weights.rollouts import RolledOut, evaluating, roll_out, row_seeds
from hybrid.weights.shard import asked, whole

_ENTROPIES = "rollout_entropies"
_CHECKED_ROWS, _CHECKED_TOKENS = 3, 32
_LOGPS = {torch.float64: 1e-6, torch.float32: 2e-3}
_GRADIENT = {torch.float64: 1e-6, torch.float32: 2e-3}
_LOGPS_HALF, _GRADIENT_HALF = 0.5, 0.2
"""Allowed differences from TRL's way: of log-probabilities in nats, and of the gradient relative to its length."""


class EngineMixin:
    """See the module. Mixed in before TRL's trainer; `session` and `_ids` must be set before its constructor runs."""

    session: Session

    # Set by the trainer this is mixed into.
    accelerator: Any
    args: Any
    model: Any
    state: Any
    temperature: float
    beta: float
    num_iterations: int
    _buffered_inputs: Any
    _step: int

    def start_engine(self) -> None:
        """Decide from configuration and model what may be used. Called once the trainer is built, before training.

        What a resumed training's log says was given up stays given up.
        """
        self._rollouts_checked = self._packing_checked = False
        self._silent: torch.Tensor | None = None
        self._known: torch.Tensor | None = None
        self._sampled: list[list[float]] | None = None
        self._notes: dict[str, str] = {}
        self._own_head = not self.session.loaded.info.device.startswith("cuda")  # there, TRL's head is a kernel
        self._fast = self.session.job.weights.grpo.engine == "auto"
        if not self._fast:
            return
        base = self._policy().get_base_model()
        reason = prefix.unsupported(base)
        if reason is not None:
            self._give_up("rollouts", reason)
        split = "the base is split over processes" if asked(os.environ, self.accelerator.num_processes) else None
        reason = reason or split or _unpackable(base, self.args)
        if reason is not None:
            self._give_up("packing", reason)
        elif self._own_head:
            answer_packed(base)

    def _policy(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _uses(self, way: str) -> bool:
        return self._fast and way not in self._notes

    def _give_up(self, way: str, reason: str) -> None:
        self._notes.setdefault(way, reason)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's log, with what was not used and why."""
        if self._notes:
            logs[NOTE] = dict(sorted(self._notes.items()))  # type: ignore[assignment]
        super().log(logs, start_time)  # type: ignore[misc]

    # Rollouts

    def _generate_single_turn(self, prompt_ids: Any, images: Any, *rest: Any, **options: Any) -> Any:
        """(Token ids of every completion, None), as TRL's; the same rows on any number of processes."""
        self._check_rollouts()
        found = None
        with whole(self._policy()):
            if self._uses("rollouts") and images is None and min(map(len, prompt_ids)) > 1:
                found = self._roll_out(prompt_ids)
            self._sampled = found.entropies if found else None
            if found is not None:
                return found.ids, None
            return super()._generate_single_turn(prompt_ids, images, *rest, **options)  # type: ignore[misc]

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's (prompt ids, completion ids, ...), whoever sampled them; packing is tried on the first before its use."""
        self._recall()
        found = super()._generate(prompts)  # type: ignore[misc]
        self._check_packing(found[0], found[1])
        return found

    def _recall(self) -> None:
        """Give up what the log of a resumed training says was given up."""
        if self._packing_checked or not self.state.log_history:
            return
        for way, reason in self.state.log_history[-1].get(NOTE, {}).items():
            self._give_up(way, reason)

    def _roll_out(self, prompts: Sequence[Sequence[int]]) -> RolledOut | None:
        job = self.session.job
        first = self.accelerator.process_index * len(prompts)
        try:
            return roll_out(
                self._policy(),
                prompts,
                row_seeds(job.seed, self.state.global_step, first, len(prompts)),
                max_new_tokens=job.max_new_tokens,
                stop_ids=self.session.loaded.stop_ids,
                temperature=self.temperature,
            )
        except UnsupportedModelError as error:
            self._give_up("rollouts", str(error))
            return None

    def _check_rollouts(self) -> None:
        """Compare the decoder with the plain model once, on the base, so that a resumed run comes to the same verdict."""
        if self._rollouts_checked or not self._uses("rollouts"):
            self._rollouts_checked = True
            return
        self._rollouts_checked = True
        policy = self._policy()
        with torch.no_grad(), evaluating(policy), policy.disable_adapter(), whole(policy):
            reason, _ = prefix.check(policy.get_base_model())
        self._agree("rollouts", reason)

    def _agree(self, way: str, reason: str | None) -> None:
        """What one process found holds for all: they take the same way."""
        found = [text for text in gather_object([reason]) if text is not None]
        if found:
            self._give_up(way, found[0])

    def rollout_logits(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[RolledOut, torch.Tensor] | None:
        """Greedy rollouts and their scores (b, tokens, v), for the policy probe; None where TRL generates."""
        self._recall()
        self._check_rollouts()
        if not self._uses("rollouts") or min(map(len, prompts)) < 2:
            return None
        seen: list[torch.Tensor] = []
        options: dict[str, Any] = {"max_new_tokens": tokens, "stop_ids": (), "temperature": 1.0}
        with whole(self._policy()):
            # Once with the adapter's layers as they are, for who watches them; what counts is how completions are sampled.
            roll_out(self._policy(), prompts, None, fold=False, **options)
            found = roll_out(self._policy(), prompts, None, logits=seen, **options)
        return found, torch.stack(seen, dim=1)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's rollouts and rewards, with the entropies of the sampled tokens beside them."""
        self._sampled = None
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self._sampled is not None:
            ids = output["completion_ids"]
            table = torch.zeros(ids.shape, dtype=torch.float32)
            for row, values in enumerate(self._sampled):
                table[row, : len(values)] = torch.tensor(values)
            output[_ENTROPIES] = table.to(ids.device)
        return output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's buffer of rollouts without its shuffle, which would scatter a group over all passes of a step."""
        if not self._fast or not self.model.training:
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        passes = self.args.steps_per_generation
        if self._step % (passes * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), passes)
        return self._buffered_inputs[self._step % passes]

    # Update

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss; rows whose advantage is 0 everywhere are not computed where they have no gradient."""
        if (
            self._fast
            and self.beta == 0.0
            and self.num_iterations == 1  # later steps compare with the log-probabilities of every row
            and _ENTROPIES in inputs
            and not getattr(self, "_entropy_bonus_enabled", False)
        ):
            advantages = inputs["advantages"]
            silent = (advantages == 0) if advantages.dim() == 1 else (advantages == 0).all(dim=1)
            if bool(silent.all()) and self.accelerator.num_processes > 1:
                silent[0] = False  # every process has to take part in the exchange of gradients
            self._silent, self._known = silent, inputs[_ENTROPIES]
        try:
            loss: torch.Tensor = super()._compute_loss(model, inputs)  # type: ignore[misc]
            return loss
        finally:
            self._silent = self._known = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
        """Log-probabilities and entropies (b, logits_to_keep), 0 where the mask is; the way that `_score` finds."""
        options: dict[str, Any] = {"batch_size": batch_size, "compute_entropy": compute_entropy, **more}
        silent = self._silent
        if silent is None or not bool(silent.any()):
            scored: tuple[torch.Tensor, torch.Tensor | None, Any] = self._score(
                model, input_ids, attention_mask, logits_to_keep, options
            )
            return scored
        assert self._known is not None
        shape = (input_ids.shape[0], logits_to_keep)
        logps, entropies = self._known.new_zeros(shape), self._known.masked_fill(~silent[:, None], 0.0)
        active = (~silent).nonzero()[:, 0]
        if not len(active):
            anchor = torch.stack([(p * 0.0).sum().float() for p in self._policy().parameters() if p.requires_grad])
            return logps + anchor.sum(), entropies, None
        found, known, extra = self._score(model, input_ids[active], attention_mask[active], logits_to_keep, options)
        logps = logps.to(found.dtype).index_copy(0, active, found)
        if known is not None:
            entropies = entropies.to(known.dtype).index_copy(0, active, known.detach())
        return logps, entropies if compute_entropy else None, extra

    def _score(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, options: dict[str, Any]) -> Any:
        """TRL's result, by packed rows where they are used and worth it."""
        plain = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        known = {"batch_size", "compute_entropy"}
        usable = self._packing_checked and self._uses("packing") and keep > 0
        if not usable or any(
            value is not None and value is not False for k, value in options.items() if k not in known
        ):
            return plain(model, ids, mask, keep, **options)
        size = options["batch_size"] or ids.shape[0]
        layouts = []
        for start in range(0, ids.shape[0], size):
            layout = _layout(ids[start : start + size], mask[start : start + size], keep)
            if layout is None or layout.ratio < WORTH:
                return plain(model, ids, mask, keep, **options)
            layouts.append(layout)
        parts = [
            self._packed(model, layout, min(size, ids.shape[0] - i * size), keep) for i, layout in enumerate(layouts)
        ]
        entropies = torch.cat([entropy for _, entropy in parts]) if options["compute_entropy"] else None
        return torch.cat([logps for logps, _ in parts]), entropies, None

    def _packed(self, model: Any, layout: Layout, rows: int, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        logps, entropies = score_packed(model, layout, self.temperature, self.accelerator.autocast(), self._own_head)
        place = tuple(torch.tensor(axis, device=logps.device) for axis in (layout.rows, layout.columns))
        empty = logps.new_zeros(rows, keep)
        return empty.index_put(place, logps), empty.to(entropies.dtype).index_put(place, entropies)

    def _check_packing(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> None:
        """Once, on rows of the first step: log-probabilities and the adapter's gradient must equal TRL's way."""
        if self._packing_checked or not self._uses("packing"):
            self._packing_checked = True
            return
        chosen = _some_rows(prompts)
        ids, mask, keep = _padded(
            [prompts[i] for i in chosen],
            [list(completions[i])[:_CHECKED_TOKENS] for i in chosen],
            self.accelerator.device,
        )
        policy = self._policy()
        plain = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        with _kept_apart():
            try:
                expected = _slope(policy, plain(policy, ids, mask, keep)[0])
                layout = _layout(ids, mask, keep)
                assert layout is not None
                found = _slope(policy, self._packed(policy, layout, len(chosen), keep)[0])
                reason = _difference(expected, found, self.session.loaded.model.dtype)
            except (UnsupportedModelError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
                first = next(iter(str(error).splitlines()), "")
                reason = f"it failed on a trial ({type(error).__name__}: {first[:200]})"
        self._packing_checked = True
        self._agree("packing", reason)


def _unpackable(base: Any, args: Any) -> str | None:
    """Why rows may not be packed, although the decoder may be used."""
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    scaling = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    named = [name for name in scaling if getattr(config, name, None) not in (None, 1.0)]
    if args.gradient_checkpointing:
        return "activations are computed again backwards"
    if head is None or getattr(head, "bias", None) is not None or not hasattr(head, "weight"):
        return "its output layer is not a plain matrix"
    return f"its scores are changed by {named[0]}" if named else None


def _layout(ids: torch.Tensor, mask: torch.Tensor, keep: int) -> Layout | None:
    """The packed row of padded rows whose last `keep` columns are completions; None where a mask has holes."""
    width = ids.shape[1] - keep
    ids_list, mask_list = ids.tolist(), mask.tolist()
    prompts, completions = [], []
    for row, seen in zip(ids_list, mask_list, strict=True):
        before, after = sum(map(bool, seen[:width])), sum(map(bool, seen[width:]))
        if not before or not all(seen[width - before : width + after]):
            return None
        prompts.append(tuple(row[width - before : width]))
        completions.append(tuple(row[width : width + after]))
    layout = pack(prompts, completions)
    return layout if layout.scored else None


def _padded(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: Any
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(ids, mask, completion columns) as TRL pads them."""
    width, keep = max(map(len, prompts)), max(map(len, completions))
    rows = list(zip(prompts, completions, strict=True))
    ids = [[0] * (width - len(p)) + [*p, *c] + [0] * (keep - len(c)) for p, c in rows]
    mask = [[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (keep - len(c)) for p, c in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device), keep


def _some_rows(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Two rows of the first prompt and one of another, as far as there are such."""
    same = [i for i, ids in enumerate(prompts) if list(ids) == list(prompts[0])][: _CHECKED_ROWS - 1]
    other = [i for i, ids in enumerate(prompts) if list(ids) != list(prompts[0])][:1]
    return same + other


def _slope(policy: Any, logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the adapter's gradient of a fixed sum of them, flat."""
    weights = torch.cos(torch.arange(logps.numel(), device=logps.device)).view(logps.shape)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad((logps.float() * weights).sum(), parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return logps.detach().double(), torch.cat([g.flatten().double() for g in flat])


def _difference(
    expected: tuple[torch.Tensor, torch.Tensor], found: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype
) -> str | None:
    """Why two results are not the same up to rounding, or None."""
    gap = float((expected[0] - found[0]).abs().max())
    turn = float((expected[1] - found[1]).norm() / expected[1].norm().clamp(min=1e-12))
    if not gap <= _LOGPS.get(dtype, _LOGPS_HALF):
        return f"on a trial its log-probabilities differ by {gap:.2g} nats"
    if not turn <= _GRADIENT.get(dtype, _GRADIENT_HALF):
        return f"on a trial its gradient differs by {turn:.2g} of its length"
    return None


@contextmanager
def _kept_apart() -> Iterator[None]:
    """Random numbers drawn inside are not missed afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(torch.enable_grad())
        yield
