"""From committed checkpoints to candidates: clean adapter folders, and the record of a finished job.

    job.out/checkpoint-25/...         training state, see `checkpoints`
    job.out/adapters/step-25/         adapter_model.safetensors, adapter_config.json, hybrid_manifest.json
    job.out/RESULT.json               written last: with it, `train` returns at once

An exported adapter's bytes do not depend on folders or time. Does not: train, or import torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from hybrid.backends.adapters import check_files, inspect_adapter, write_manifest
from hybrid.backends.base import Adapter
from hybrid.backends.memory import mib
from hybrid.errors import AdapterError, TrainingError
from hybrid.store.atomic import write_bytes, write_json
from hybrid.store.faults import faultpoint
from hybrid.weights.base import MemoryFacts, TrainJob, TrainResult
from hybrid.weights.batches import checkpoint_steps
from hybrid.weights.checkpoints import Checkpoint, checkpoint_folders, read_checkpoint, read_sealed, refuse_other, seal
from hybrid.weights.fork import Forked
from hybrid.weights.jobs import base_label, job_identity
from hybrid.weights.monitors import Alarm, Monitor, StagedMonitor, marks, taken_back_from
from hybrid.weights.remarks import read_remarks
from hybrid.weights.tree.figures import search_notes

RESULT = "RESULT.json"
_KEYS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "seconds": "seconds",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "rewards/accuracy/mean": "accuracy",
    "rewards/brier/mean": "brier",
    "completions/clipped_ratio": "clipped_ratio",
    "completions/mean_length": "mean_length",
    "kl": "kl",
    "mean_token_accuracy": "token_accuracy",
}
"""Keys of a trainer's log line -> names in `TrainResult.history`."""
NOTE = "engine_note"
"""Key of a log line: the fast ways that were not used, and why."""
FIGURE = "monitor/"
"""Prefix in a trainer's log of the figures that the monitors read; in the history they stand without it."""
_REWARD = re.compile(r"rewards/(?P<column>.+)/mean")
"""A reward's column in a trainer's log line; the history has it as `reward/COLUMN` where `_KEYS` gives no other name."""


def metrics_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of one log line under the names of `TrainResult.history`, with `step`."""
    found = {"step": float(line["step"])}
    figures = {key: key.removeprefix(FIGURE) for key in sorted(line) if key.startswith(FIGURE)}
    columns = {key: f"reward/{match['column']}" for key in sorted(line) if (match := _REWARD.fullmatch(key))}
    for key, name in (columns | _KEYS | figures).items():
        value = line.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            found[name] = float(value)
    return found


def no_signal(history: Sequence[Mapping[str, float]], window: int) -> bool:
    """Whether no group had reward variance in any of the first `window` steps, all of which are in `history`.

    Steps that go over completions again have no rewards of their own.
    """
    seen = [line["frac_reward_zero_std"] for line in history[:window] if "frac_reward_zero_std" in line]
    return len(history) >= window and bool(seen) and min(seen) >= 1.0


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """The trainer's log lines up to a checkpoint, one per optimiser step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return [line for line in state["log_history"] if "loss" in line and "step" in line]


def stopped_early(job: TrainJob, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether this job ends here because there is nothing to learn from.

    A task without signal is no reason to leave the others of a shared job untrained: only a whole training without is.
    """
    window = job.steps if job.tasks else min(job.weights.checkpoint_every, job.steps)
    return job.reinforces and no_signal(history, window)


def monitor_of(job: TrainJob) -> Monitor | StagedMonitor | None:
    """A fresh monitor of a job; None for a method that is not watched. Stages of a shared job are other tasks, and the
    first steps of one say nothing of the last ones of another: each is watched by itself."""
    if not job.reinforces:
        return None
    settings, groups, completions = job.weights.monitors, job.weights.grpo.prompts_per_step, job.rows_per_step
    if job.tasks and len(job.stages) > 1:
        return StagedMonitor(settings, groups, completions, job.stage_steps)
    return Monitor(settings, groups, completions)


def alarms_of(job: TrainJob, history: Sequence[Mapping[str, float]]) -> tuple[Alarm, ...]:
    """The alarms of a job's history, in order: the same whether it was trained in one go or resumed."""
    monitor = monitor_of(job)
    return tuple(alarm for line in history for alarm in monitor.feed(line)) if monitor is not None else ()


def is_finished(job: TrainJob, checkpoint: Checkpoint | None) -> bool:
    """Whether nothing is left to train after `checkpoint`."""
    if checkpoint is None:
        return False
    if checkpoint.step >= job.steps:
        return True
    history = [metrics_of(line) for line in read_log(checkpoint.path)]
    return stopped_early(job, history) or any(alarm.ends_training for alarm in alarms_of(job, history))


def export(job: TrainJob, checkpoint: Checkpoint) -> Adapter:
    """The checkpoint's adapter as a clean folder; an existing one is replaced unless it is whole already."""
    folder = job.out / "adapters" / f"step-{checkpoint.step}"
    config = json.loads((checkpoint.path / "adapter_config.json").read_text(encoding="utf-8"))
    # PEFT writes sets in hash order, and the folder that the base was loaded from.
    config = {
        k: sorted(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v for k, v in config.items()
    }
    config |= {"base_model_name_or_path": base_label(job.model.path), "revision": job.model.revision}
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    faultpoint("adapter.before-export")
    write_bytes(folder / "adapter_model.safetensors", (checkpoint.path / "adapter_model.safetensors").read_bytes())
    write_json(folder / "adapter_config.json", config)
    facts: dict[str, Any] = {"method": job.method, "step": checkpoint.step, "capability": job.capability}
    if job.model.quantization is not None:  # the fingerprint covers it; a person should not have to guess
        facts["base_quantization"] = job.model.quantization.model_dump(mode="json")
    if job.method == "distill":  # whose text this adapter stands for
        facts["document_sha256"] = hashlib.sha256(job.teacher.encode()).hexdigest()
    if job.tasks:
        facts["tasks"] = [task.capability for task in job.tasks]
    write_manifest(folder, checkpoint.base["fingerprint"], facts)
    faultpoint("adapter.after-export")
    return inspect_adapter(folder)


def adopt(job: TrainJob, warm: TrainResult) -> Adapter:
    """The adapter that a warm start ended with, as a candidate of this job; an existing copy is replaced."""
    folder = job.out / "adapters" / "step-0"
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(warm.checkpoints[-1][1].path.iterdir()):
        write_bytes(folder / path.name, path.read_bytes())
    return inspect_adapter(folder)


def finish(
    job: TrainJob,
    last: Checkpoint,
    identity: Mapping[str, Any],
    processes: int,
    warm: TrainResult | None = None,
    forked: Forked | None = None,
) -> TrainResult:
    """Export every valid checkpoint up to `last` that no alarm took back, record the result durably, and return it.

    A warm start's adapter is a candidate too, also where no gradient flowed after it, and what it cost is added.
    """
    log = read_log(last.path)
    history = [metrics_of(line) for line in log]
    alarms = alarms_of(job, history)
    history = [line | marks(alarms, line["step"]) for line in history]
    remarks = [*([forked.remark] if forked is not None and forked.remark else []), *read_remarks(job.out)]
    notes = [*remarks, *_alarm_notes(job, alarms, last.step), *search_notes(job.weights, history)]
    given_up = {way: reason for line in log for way, reason in line.get(NOTE, {}).items()}
    end = taken_back_from(alarms) or last.step + 1
    candidates: list[tuple[int, Adapter]] = []
    if warm is not None:
        candidates.append((0, adopt(job, warm)))
        losses = [line["loss"] for line in warm.history]
        notes.append(f"warm start: {warm.steps} supervised steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    if stopped_early(job, history):
        notes.append(_no_signal_note(len(history), job))
    else:
        # Others lie where a signal stopped an attempt: they are no candidates, or stopping would change the result.
        offered = {*checkpoint_steps(job.steps, job.weights.checkpoint_every), last.step}
        for step, folder in sorted(checkpoint_folders(job.out)):
            if step not in offered or step > last.step or step >= end:
                continue
            found = last if step == last.step else read_checkpoint(folder, identity, processes)
            if isinstance(found, Checkpoint):
                candidates.append((step, export(job, found)))
            else:
                remarks.append(f"{found}; it is no candidate")
                notes.append(remarks[-1])
    result = TrainResult(
        checkpoints=tuple(candidates),
        steps=last.step,
        seconds=round(sum(line.get("seconds", 0.0) for line in history) + (warm.seconds if warm else 0.0), 3),
        completions=_completions(job, history),
        **_tokens(job, log, warm.tokens_in if warm else 0),
        history=tuple(history),
        note="; ".join(notes),
        alarms=alarms,
        memory=_memory(log),
        remarks=tuple(remarks),
        warnings=tuple(f"{way} by TRL's own way: {reason}" for way, reason in sorted(given_up.items())),
    )
    _record(job, result)
    return result


def _memory(log: Sequence[Mapping[str, Any]]) -> MemoryFacts | None:
    """The prediction and the greatest peak of all attempts: a training that was killed reaches it in one of them."""
    lines = [line for line in log if "rows_per_device" in line]
    if not lines:
        return None
    measured = [line["peak_memory"] for line in lines if line.get("peak_memory") is not None]
    predicted = lines[-1].get("predicted_memory")
    return MemoryFacts(
        rows_per_device=int(lines[-1]["rows_per_device"]),
        predicted_mib=None if predicted is None else mib(predicted),
        measured_mib=mib(max(measured)) if measured else None,
    )


def _alarm_notes(job: TrainJob, alarms: Sequence[Alarm], last: int) -> list[str]:
    """What the alarms changed; what they said is in the alarms themselves."""
    notes = []
    ending = [alarm.monitor for alarm in alarms if alarm.ends_training]
    if ending:
        notes.append(f"{' and '.join(ending)} stopped the training at step {last} of {job.steps}")
    end = taken_back_from(alarms)
    if end is not None:
        notes.append(f"checkpoints of step {end} and later were taken back")
    return notes


def _no_signal_note(steps: int, job: TrainJob) -> str:
    count = ceil(steps / job.iterations) * job.weights.grpo.prompts_per_step
    return (
        f"no signal: in the first {steps} steps none of {count} groups of {job.weights.grpo.generations} completions "
        "had rewards that differ, so training stopped; if all are 0, try easier rows, a skill, or sft first"
    )


def _completions(job: TrainJob, history: Sequence[Mapping[str, float]]) -> int:
    if job.method == "tree":
        return int(sum(line.get("tree/leaves", 0.0) for line in history))
    return ceil(len(history) / job.iterations) * job.rows_per_step if job.reinforces else 0


def _tokens(job: TrainJob, log: Sequence[Mapping[str, Any]], before: int) -> dict[str, int]:
    """Tokens read and generated. Leaves of a tree share what they begin with: the search counts what it sampled and read."""
    total = int(max((line.get("num_tokens", 0) for line in log), default=0))  # not in steps without completions
    if job.method == "tree":
        read, made = (sum(int(line.get(f"{FIGURE}tree/{key}", 0)) for line in log) for key in ("read", "tokens"))
        return {"tokens_in": before + read + (0 if job.reinforces else total), "tokens_out": made}
    lengths = [float(line.get("completions/mean_length", 0.0)) for line in log]
    out = sum(round(length * job.rows_per_step) for length in lengths) if job.reinforces else 0
    return {"tokens_in": before + total - out, "tokens_out": out}


def _record(job: TrainJob, result: TrainResult) -> None:
    body = {
        "schema": 1,
        "identity": job_identity(job),
        "checkpoints": [[step, adapter.path.name, adapter.sha256] for step, adapter in result.checkpoints],
        "steps": result.steps,
        "seconds": result.seconds,
        "completions": result.completions,
        "tokens_in": result.tokens_in,
        "tokens_out": result.tokens_out,
        "history": list(result.history),
        "note": result.note,
        "alarms": [alarm.as_json() for alarm in result.alarms],
        "memory": None if result.memory is None else dataclasses.asdict(result.memory),
        "remarks": list(result.remarks),
        "warnings": list(result.warnings),
    }
    if (job.out / RESULT).is_dir() and not (job.out / RESULT).is_symlink():
        shutil.rmtree(job.out / RESULT)  # nothing of ours is a folder of that name
    faultpoint("result.before")
    write_json(job.out / RESULT, seal(body))
    faultpoint("result.after")


def read_result(job: TrainJob, *, of_any_job: bool = False) -> TrainResult | None:
    """The recorded result of exactly this job, with every adapter still as recorded; None when there is none.

    Raises RunFolderError when a whole record of another job lies there.
    """
    body = read_sealed(job.out / RESULT)
    if isinstance(body, str):
        return None
    if not of_any_job:
        refuse_other(job.out / RESULT, body["identity"], job_identity(job))
    found: list[tuple[int, Adapter]] = []
    for step, name, sha256 in body["checkpoints"]:
        try:
            check_files(job.out / "adapters" / Path(name).name)
            adapter = inspect_adapter(job.out / "adapters" / Path(name).name)
        except AdapterError:
            return None
        if adapter.sha256 != sha256:
            return None
        found.append((step, adapter))
    numbers = {key: body[key] for key in ("steps", "seconds", "completions", "tokens_in", "tokens_out", "note")}
    alarms = tuple(Alarm(**alarm) for alarm in body["alarms"])
    history, remarks, warnings = (tuple(body.get(key, ())) for key in ("history", "remarks", "warnings"))
    memory = MemoryFacts(**body["memory"]) if body.get("memory") else None
    return TrainResult(
        checkpoints=tuple(found),
        history=history,
        alarms=alarms,
        memory=memory,
        remarks=remarks,
        warnings=warnings,
        **numbers,
    )


def require_last(job: TrainJob, checkpoint: Checkpoint | None) -> Checkpoint:
    """The checkpoint that ends the job. Raises TrainingError when training returned without leaving a valid one."""
    if checkpoint is None or not is_finished(job, checkpoint):
        at = "none" if checkpoint is None else f"step {checkpoint.step}"
        raise TrainingError(
            f"{job.out}: training ended but its last valid checkpoint is {at}; check the disk, then resume"
        )
    return checkpoint
