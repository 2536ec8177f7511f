"""What both TRL trainers of hybrid share: arguments, order of rows, durable checkpoints, and guards before each update.

TRL and transformers are driven through their trainer classes; every private hook that is overridden here has a contract
test in `tests/integration/test_weights_contracts.py`. Does not: generate, reward or compute a loss.
"""

from __future__ import annotations

import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hybrid.backends.base import Adapter
from hybrid.backends.loading import fold_lm_head
from hybrid.backends.quantization import refuse_merge
from hybrid.errors import ConfigError, Problem, TrainingError
from hybrid.store.faults import faultpoint
from hybrid.weights.batches import resumable
from hybrid.weights.checkpoints import commit
from hybrid.weights.driver import Session
from hybrid.weights.encoding import PromptRow, check_lengths, prompt_rows
from hybrid.weights.identity import probe_policy
from hybrid.weights.labelled import score_labelled_only
from hybrid.weights.monitors import Alarm, marks
from hybrid.weights.preflight import RECOMPUTED
from hybrid.weights.rehearsal import rehearse
from hybrid.weights.results import metrics_of, monitor_of, stopped_early
from hybrid.weights.schedule import Order
from hybrid.weights.shape import keep_basis_warnings
from hybrid.weights.shard import split_if_asked
from hybrid.weights.stopping import StopRequest
from hybrid.weights.untouched import FrozenBase, check_adapter_loaded


class RowSampler(Sampler[int]):  # type: ignore[misc]
    """Row indices of the whole job in one epoch, step by step: each row `repeat` times in a row, a step `passes` times.

    TRL reads a step's rows once per forward pass (`passes`) and uses the first reading; other trainers read them once.
    """

    def __init__(self, order: Order, repeat: int, passes: int) -> None:
        self._order, self._repeat, self._passes = order, repeat, passes

    def __len__(self) -> int:
        return self._order.steps * self._order.per_step * self._repeat * self._passes

    def __iter__(self) -> Iterator[int]:
        for step in range(self._order.steps):
            rows = self._order.rows(step)
            for _ in range(self._passes):
                for row in rows:
                    yield from [row] * self._repeat


def common_arguments(session: Session) -> dict[str, Any]:
    """Arguments of both trainers. Precision follows the loaded base: bfloat16 autocast on CUDA alone, none on a CPU."""
    job, info, plan = session.job, session.loaded.info, session.plan
    cuda = info.device.startswith("cuda")
    recompute = info.parameters >= RECOMPUTED
    return {
        "output_dir": str(job.out),
        "use_cpu": not cuda,
        "bf16": cuda and info.dtype == "bfloat16",
        "fp16": False,
        "max_steps": job.steps,
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_checkpointing": recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if recompute else None,
        "save_strategy": "steps",
        "save_steps": job.weights.checkpoint_every,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "seed": job.seed,
        "optim": _optimizer(session),
        "weight_decay": 0.0,
        "dataloader_pin_memory": cuda,
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,  # every process computes the same ones; SVF's are as large as the base
    }


def _optimizer(session: Session) -> str:
    """The trainer's name of the optimiser. Raises ConfigError where the device has no such thing."""
    wanted = session.job.weights.optimizer
    if wanted == "paged_adamw_8bit" and not session.loaded.info.device.startswith("cuda"):
        message = "a paged optimiser moves its state between the memories of a GPU and its host; this run is on a CPU"
        raise ConfigError([Problem("config", 0, "weights.optimizer", message, "use adamw_8bit or adamw")])
    return {"adamw": "adamw_torch"}.get(wanted, wanted)


class DurableMixin:
    """Mixed into a TRL trainer, before it in the bases: the order of rows, committed checkpoints, finite updates.

    Attributes `session` and `order` must be set before the trainer's constructor runs. `repeat` is how often a row
    follows itself within a step, `passes` how often a step's rows are read.
    """

    session: Session
    order: Order
    repeat: int = 1
    passes: int = 1

    frozen: FrozenBase
    """Set when training starts."""

    # Set by the trainer this is mixed into.
    accelerator: Any
    lr_scheduler: Any
    optimizer: Any
    args: Any
    model: Any
    model_wrapped: Any
    state: Any

    def _send_telemetry(self) -> None:
        """Nothing about a run leaves the machine."""

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:
        """No model card: an exported adapter has a manifest, a placed model a card of its own."""

    def _get_train_sampler(self, _dataset: Any = None) -> RowSampler:
        return RowSampler(self.order, self.repeat, self.passes)

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """The trainer's step; its loss is kept for `check_finite`."""
        loss: torch.Tensor = super().training_step(*arguments, **options)  # type: ignore[misc]
        self._losses = [*getattr(self, "_losses", []), loss.detach().float()]
        return loss

    def check_finite(self) -> None:
        """Raise TrainingError, on every process alike, unless loss and gradients are finite; no weight has moved then.

        A gradient that is not finite was summed over processes, so each sees it; losses are gathered.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        losses = self.accelerator.gather(torch.stack(self._losses))
        self._losses = []
        step = self.state.global_step + 1
        if not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                f"step {step}: the loss is not finite; the weights were not updated. Lower the learning rate"
            )
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"step {step}: a gradient is not finite; the weights were not updated. Lower the learning rate"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's log with the wall seconds since the last one and the memory, so that they survive in the checkpoint."""
        now = time.perf_counter()
        logs["seconds"] = now - getattr(self, "_logged_at", now)
        logs |= self.session.forecast.measured() if self.session.forecast is not None else {}
        self._logged_at = now
        super().log(logs, start_time)  # type: ignore[misc]

    def start_clock(self) -> None:
        """Start counting the seconds of the first step."""
        self._logged_at = time.perf_counter()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The adapter alone: no pickled arguments, no tokenizer, no card, and no look at a hub."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        tensors = get_peft_model_state_dict(model, state_dict=state_dict, save_embedding_layers=False)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        faultpoint("checkpoint.after-adapter")
        model.peft_config["default"].save_pretrained(str(folder))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The trainer's, between two places where a test can kill it."""
        faultpoint("checkpoint.before-optimizer")
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        faultpoint("checkpoint.after-optimizer")

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        faultpoint("checkpoint.after-streams")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The trainer's; under other settings than the checkpoint's, the configured learning rate and not the saved one."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None or not self.session.other_settings:
            return
        rate = self.args.learning_rate
        schedule = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        schedule.base_lrs = [rate for _ in schedule.base_lrs]
        now = [rate * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        schedule._last_lr = now
        for group, value in zip(self.optimizer.param_groups, now, strict=True):
            group["initial_lr"], group["lr"] = rate, value

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The trainer's checkpoint, then our manifest: before it, the checkpoint does not exist."""
        moved = self.frozen.moved()
        # Where the base is split, only the process that holds a part sees that it moved; all of them have to stop.
        if bool(self.accelerator.gather(torch.tensor([bool(moved)], device=self.accelerator.device)).any()):
            raise self.frozen.error(self.state.global_step, moved)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)  # left by a killed run, invalid: its files must not mix with the new ones
        faultpoint("checkpoint.before")
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            commit(folder, step=self.state.global_step, identity=self.session.identity, base=self.session.base)
        self.accelerator.wait_for_everyone()


class Watch(TrainerCallback):  # type: ignore[misc]
    """Guards and progress: probes the policy, checks each update, reports each step, feeds the monitors, and stops a job
    that has no signal or whose alarm says so."""

    def __init__(self, trainer: Any, session: Session, request: StopRequest) -> None:
        self._trainer, self._session, self._request = trainer, session, request
        self._monitor, self._fed = monitor_of(session.job), 0

    def on_train_begin(self, _args: TrainingArguments, _state: TrainerState, _c: TrainerControl, **_: Any) -> None:
        """Prove that rollouts come from the model that is trained, that this is the checkpoint's, and that the largest step
        fits."""
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        self._trainer.frozen = FrozenBase(model)
        if self._session.resume is not None:
            found = get_peft_model_state_dict(model, save_embedding_layers=False)
            check_adapter_loaded(self._session.resume.path, found)
        self._probe()
        if self._session.job.weights.memory.rehearse and self._session.forecast is not None:
            rehearse(self._trainer, self._session.forecast)
        self._trainer.start_clock()

    def on_pre_optimizer_step(
        self, _args: TrainingArguments, _state: TrainerState, _c: TrainerControl, **_: Any
    ) -> None:
        """Nothing that is not finite reaches the weights."""
        self._trainer.check_finite()

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report the step; stop when the first steps had nothing to learn from, or when an alarm ends the training."""
        lines = [line for line in state.log_history if "loss" in line]
        if lines and lines[-1] is state.log_history[-1]:
            fired = self._watch(lines)
            if state.is_world_process_zero:
                metrics = metrics_of(lines[-1]) | marks(fired, state.global_step)
                self._session.on_progress(state.global_step, state.max_steps, metrics)
            ended = any(alarm.ends_training for alarm in fired)
            if ended or stopped_early(self._session.job, [metrics_of(line) for line in lines]):
                control.should_save = True
                control.should_training_stop = True
        return control

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop where a signal asked for it: at the next boundary, with a checkpoint."""
        faultpoint("training.step")
        if resumable(state.global_step, self._session.job.iterations) and self._asked_to_stop():
            control.should_save = True
            control.should_training_stop = True
        return control

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal: all of them have to stop at the same step."""
        asked = self._request.asked is not None
        if self._session.plan.processes == 1:
            return asked
        device = self._trainer.accelerator.device
        flags = self._trainer.accelerator.gather(torch.tensor([float(asked)], device=device))
        if bool(flags.any()):
            self._request.asked = self._request.asked or signal.SIGTERM
        return bool(flags.any())

    def on_save(self, _args: TrainingArguments, _state: TrainerState, _c: TrainerControl, **_: Any) -> None:
        """Prove again at every checkpoint: what samples is made anew from base and adapter at each step, and may go stale."""
        self._probe()

    def _watch(self, lines: list[dict[str, Any]]) -> list[Alarm]:
        """Feed the monitor the lines that it has not seen: one, or after a resume all that the checkpoint holds."""
        if self._monitor is None:
            return []
        fresh, self._fed = lines[self._fed :], len(lines)
        return [alarm for line in fresh for alarm in self._monitor.feed(metrics_of(line))]

    def _probe(self) -> None:
        probe_policy(self._trainer, self._trainer.probe_prompts(), self._trainer.score)


def ready_to_sample(session: Session) -> list[PromptRow]:
    """The prompts of a job that samples its completions, each with room for the longest one; the model is made ready too.

    Raises TrainingError for a prompt that does not fit.
    """
    job, loaded = session.job, session.loaded
    prompts = prompt_rows(job, loaded.tokenizer)
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    check_lengths(job, [len(row.ids) + job.max_new_tokens for row in prompts], limit)
    fold_lm_head(loaded.model)
    return prompts


def begin_with(trainer: Any, adapter: Adapter) -> None:
    """Put the tensors of `adapter` into the trainer's. Raises TrainingError unless they fill it exactly."""
    found = load_file(adapter.path / "adapter_model.safetensors")
    model = trainer.accelerator.unwrap_model(trainer.model)
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in wanted.items()}:
        raise TrainingError(f"{adapter.path}: its tensors are not those of the adapter that is trained")
    set_peft_model_state_dict(model, found)


def start(trainer: Any, session: Session) -> None:
    """Train from the session's checkpoint or from its start, without terminal output."""
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # TRL rounds the adapter of a quantised base to bfloat16, where steps of a small learning rate round to nothing
            # and a resumed optimiser is another one. On a plain base it is in float32 already.
            parameter.data = parameter.data.float()
    refuse_merge(trainer.model)
    keep_basis_warnings(session, trainer.accelerator.process_index)
    if session.start is not None and session.resume is None:
        begin_with(trainer, session.start)
    split_if_asked(trainer.model, session.plan.processes)
    trainer.remove_callback(PrinterCallback)
    if not session.loaded.info.device.startswith("cuda"):
        score_labelled_only(trainer.accelerator.unwrap_model(trainer.model).get_base_model())
    request = StopRequest()
    trainer.add_callback(Watch(trainer, session, request))
    if trainer.args.world_size != session.plan.processes:
        raise TrainingError(
            f"{trainer.args.world_size} processes train, but the launcher announced {session.plan.processes}"
        )
    with request:
        trainer.train(resume_from_checkpoint=str(session.resume.path) if session.resume else None)
    request.reraise()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' notes off the terminal; what matters is checked and raised."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL's use of names that transformers deprecates
            # Of a split base: the scores are a view. Nothing is written into it, and its root is whole until the step's end.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield
    finally:
        transformers.logging.set_verbosity(level)
