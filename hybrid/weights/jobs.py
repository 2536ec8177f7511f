"""A training job before anything is loaded: what is wrong with it, and what makes it this job and no other.

Does not: import torch, load models or touch disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybrid.capability.graders.base import GraderError
from hybrid.config.rules import multiples_near
from hybrid.errors import ConfigError, Problem
from hybrid.evidence.classify import build_classifier, classifier_fingerprint
from hybrid.store.atomic import canonical_json
from hybrid.weights.base import TrainJob
from hybrid.weights.shard import asked

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")
_SHARED = ("optimizer", "checkpoint_every", "rows_per_device")
"""Settings of the weight substrate that count for every method."""


def check_job(job: TrainJob) -> None:
    """Raise ConfigError with every setting that cannot be trained, before anything is loaded."""
    problems = [*_rewards(job), *_classifier(job), *_precision(job), *_targets(job), *_rows(job), *_teacher(job)]
    problems += [*_bitsandbytes(job), *_boundaries(job), *_tree(job)]
    if problems:
        raise ConfigError(problems)


def _rewards(job: TrainJob) -> list[Problem]:
    scaling = job.weights.grpo.scale_rewards
    if not job.reinforces or job.weights.rewards.brier_weight == 0 or scaling == "none":
        return []
    message = (
        f"dividing by a deviation of rewards makes a Brier reward teach overconfidence; {scaling!r} is not possible"
    )
    return [_problem("weights.grpo.scale_rewards", message, 'use "none", or set weights.rewards.brier_weight: 0')]


def _classifier(job: TrainJob) -> list[Problem]:
    if not job.reinforces:
        return []
    try:
        build_classifier(job.weights.monitors)
    except GraderError as error:
        return [_problem("weights.monitors.classifier", str(error), "correct the path, or use formats")]
    return []


def _precision(job: TrainJob) -> list[Problem]:
    if job.model.dtype != "float16":
        return []
    message = "float16 gradients underflow without loss scaling, which is not offered"
    return [_problem("model.dtype", message, "train in bfloat16 or float32")]


def _bitsandbytes(job: TrainJob) -> list[Problem]:
    if job.weights.optimizer == "adamw" or find_spec("bitsandbytes") is not None:
        return []
    message = f"{job.weights.optimizer} needs bitsandbytes, which is not installed"
    return [_problem("weights.optimizer", message, "`pip install 'hybrid-placement[quant]'`, or use adamw")]


def _targets(job: TrainJob) -> list[Problem]:
    section = "svf" if job.method == "svf" else "lora"
    targets = job.weights.svf.target_modules if section == "svf" else job.weights.lora.target_modules
    named = (targets,) if isinstance(targets, str) else targets
    if not any(name.rpartition(".")[2] in ("lm_head", "embed_tokens") for name in named):
        return []
    message = "the output layer and the embeddings cannot be adapted: training reads their weights directly"
    return [_problem(f"weights.{section}.target_modules", message, "leave lm_head and embed_tokens out")]


def _rows(job: TrainJob) -> list[Problem]:
    if not job.examples:
        return [_problem("capabilities", f"{job.capability} has no training rows", "add a train split")]
    known = range(len(job.examples))
    if job.stage_steps and (len(job.stage_steps) != len(job.stages) or min(job.stage_steps) < 1):
        return [_problem("weights.schedule", "every stage needs steps of its own", "correct the stages")]
    if job.stages and all(stage and all(row in known for row in stage) for stage in job.stages):
        return []
    return [_problem("weights.schedule", "a stage is empty or names a row that does not exist", "correct the stages")]


def _teacher(job: TrainJob) -> list[Problem]:
    if job.method != "distill":
        return []
    if not job.teacher.strip():
        message = f"{job.capability} has no accepted document to distill"
        return [_problem("weights.method", message, "give it a seed document that helps, or use grpo or sft")]
    if job.skill:
        message = "an adapter that reads the document has nothing to learn from a teacher that reads it"
        return [_problem("weights.method", message, "distill into an adapter without a document")]
    return []


def _boundaries(job: TrainJob) -> list[Problem]:
    """The schema's rule once more, for jobs whose settings were changed after they were validated."""
    found = []
    counts = [("weights.grpo.steps", job.steps), ("weights.checkpoint_every", job.weights.checkpoint_every)]
    counts += [("weights.schedule", steps) for steps in job.stage_steps]
    for key, value in counts:
        legal = multiples_near(value, job.iterations)
        if value not in legal:
            message = f"{value} lies within a generation phase of {job.iterations} steps"
            found.append(_problem(key, message, f"write {' or '.join(map(str, legal))}"))
    return found


def _tree(job: TrainJob) -> list[Problem]:
    if job.method != "tree":
        return []
    found = []
    tree, grpo, (_, count) = job.weights.tree, job.weights.grpo, processes()
    needed = min(tree.first, grpo.generations) * job.max_new_tokens
    if tree.budget_tokens is not None and tree.budget_tokens < needed:
        message = (
            f"{tree.budget_tokens} tokens may not hold the first {tree.first} completions ({needed} tokens at most)"
        )
        found.append(_problem("weights.tree.budget_tokens", message, "raise it, or lower weights.tree.first"))
    if tree.use == "advantages" and grpo.prompts_per_step % count:
        message = f"{grpo.prompts_per_step} trees cannot be grown whole on {count} processes"
        found.append(_problem("weights.grpo.prompts_per_step", message, f"make it a multiple of {count}"))
    return found


def _problem(key: str, message: str, fix: str) -> Problem:
    return Problem("config", 0, key, message, fix)


def job_identity(job: TrainJob) -> dict[str, Any]:
    """Everything in the job that its result depends on, as flat dotted keys with JSON values.

    Left out on purpose: `job.out`, the model's folder (its fingerprint counts, once it is loaded), device and threads.
    """
    weights = job.weights.model_dump(mode="json", include={*_SHARED, *_sections(job)})
    if job.method == "svf":  # which has a learning rate of its own
        del weights[job.trainer]["learning_rate"]
    if job.reinforces:
        weights["rewards"] = job.weights.rewards.model_dump(mode="json")
        monitors = job.weights.monitors
        weights["monitors"] = monitors.model_dump(mode="json", exclude={"formats", "classifier"})
        weights["monitors"]["formats"] = classifier_fingerprint(monitors)
        if job.weights.warm_start is not None:
            weights["warm_start"] = job.weights.warm_start.model_dump(mode="json")
    taught: dict[str, Any] = {}
    if job.tasks:
        taught["tasks"] = [[t.capability, _digest(t.skill), t.first, t.rows] for t in job.tasks]
    if job.stage_steps:
        taught["stage_steps"] = list(job.stage_steps)
    if job.start is not None:
        taught["start"] = job.start.sha256
    if job.method == "distill":
        taught["teacher"] = _digest(job.teacher)
        taught["completions"] = _digest([[example.id, example.gold_completion] for example in job.examples])
    nested = {
        "capability": job.capability,
        "method": job.method,
        "examples": _digest([example.fingerprint() for example in job.examples]),
        "skill": _digest(job.skill),
        "stages": _digest([list(stage) for stage in job.stages]),
        "grader": job.grader.fingerprint(),
        "model": job.model.model_dump(mode="json", exclude={"path", "device", "threads"}),
        "weights": weights,
        "max_new_tokens": job.max_new_tokens,
        "seed": job.seed,
        **taught,
    }
    return _flat(nested)


def _sections(job: TrainJob) -> set[str]:
    """Sections of the weight substrate that count for the job's method."""
    if job.method == "svf":
        return {"svf", job.trainer}
    if job.method == "tree":
        return {"lora", "tree", "grpo", *(() if job.reinforces else ("sft",))}
    return {"lora", job.method}


def machine_identity(processes: int) -> dict[str, Any]:
    """What the bytes of a half-trained state depend on besides the job: library versions, number of processes, and whether
    they split the base."""
    split = {"base": "split"} if asked(os.environ, processes) else {}
    return _flat({"versions": {name: _version(name) for name in _PACKAGES}, "processes": processes}) | split


def packing_identity(job: TrainJob) -> dict[str, Any]:
    """`machine_identity` of what packs weights and optimiser states; empty for a job that packs neither."""
    packs = job.model.quantization is not None or job.weights.optimizer != "adamw"
    return {"versions.bitsandbytes": _version("bitsandbytes")} if packs else {}


def base_label(path: str) -> str:
    """Name of the base for an adapter's configuration: `reference` and hub ids as they are, a folder by its last part.

    An absolute path would put the user's folders into every exported adapter and make its bytes depend on them.
    """
    folder = Path(path).expanduser()
    local = folder.is_absolute() or path.startswith((".", "~")) or folder.exists()
    return folder.name if local and folder.name else path


def processes() -> tuple[int, int]:
    """(rank, number of processes) as `accelerate launch` and `torchrun` announce them; (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
