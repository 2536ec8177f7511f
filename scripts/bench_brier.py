"""What a Brier reward does to stated confidence, and what it does when it weighs more than being right.

    python scripts/bench_brier.py --seeds 0-4            # what docs/calibration.md holds; one core, resumes

The reference model answers `q ? abcd $ash` with an answer and a confidence (`bcda~7`). For each seed there are four kinds of
questions: an operation named directly (always answerable), two marks whose operation holds for 70 % and 35 % of the
questions (the rest has random answers), and a mark whose answers are all random. A warm start teaches the format with
answers from the model's own prior and uniformly random digits; from there GRPO takes equal steps on equal seeds with

    accuracy          the grader's value alone
    brier 1           accuracy + 1 * Brier, what the configuration allows at most
    brier 2, brier 4  more than that. `RewardConfig` refuses it, which is shown first; this script goes round the check

and answers the same held-out questions greedily. Intervals are 95 %: over questions where they are pooled, over seeds
(Student's t) where means of seeds are given. A result is a JSON file in --out and is not computed again.

Does not: select checkpoints, gate or ship; every arm is judged at its last step.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reference_language as language
from bench_worlds import seeds_of
from pydantic import ValidationError

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example
from hybrid.config.schema import (
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    RegexGrader,
    RewardConfig,
    TransformersBackendConfig,
    WarmStartConfig,
    WeightsConfig,
)
from hybrid.evidence.calibration import auroc, brier, ece
from hybrid.evidence.stats import paired_interval
from hybrid.weights.base import TrainJob
from hybrid.weights.build import build_trainer
from hybrid.weights.rewards import parse_confidence
from hybrid.weights.schedule import plain

ARMS = {"accuracy": 0.0, "brier 1": 1.0, "brier 2": 2.0, "brier 4": 4.0}
ARMS_FIRST = "accuracy"
KINDS = {"named": 1.0, "mark 70": 0.7, "mark 35": 0.35, "random": 0.0}
"""Kind of question -> the share of it that can be answered at all."""
NAMED = ("@rev", "@rotl", "@rotr", "@next", "@prev", "@swap", "@tail", "@head")
HIDDEN = ("@rev", "@next", "@rotl", "@prev", "@swap")
PATTERN, SCALE = r"~(?P<confidence>\d)\s*$", 9.0
LONGEST = 10


def questions(seed: int, per_kind: int, split: str) -> list[Example]:
    """`per_kind` questions of every kind, in a fixed order. Marks and their operations depend on the seed alone."""
    draw = random.Random(f"calibration {seed}")
    marks = dict(zip([k for k in KINDS if k != "named"], draw.sample(language.MARKS, 3), strict=True))
    hidden = {kind: draw.choice(HIDDEN) for kind in marks}
    rng = random.Random(f"calibration {seed} {split}")
    rows = []
    for number in range(per_kind):
        for kind, share in KINDS.items():
            text = language.argument(rng, 4, 5)
            slot = marks.get(kind) or rng.choice(NAMED)
            known = rng.random() < share
            answer = language.apply([hidden.get(kind, slot)], text) if known else language.value(rng, 5)
            taught = language.apply(
                [slot if kind == "named" else language.weighted(rng, language.OPERATION_PRIOR)], text
            )
            rows.append(
                Example(
                    id=f"{split}-{kind}-{number}",
                    prompt=f"q ? {text} {slot}",
                    reference=answer,
                    gold=f"{taught}~{rng.randrange(10)}",  # what the warm start teaches: the format, and nothing else
                    metadata={"kind": kind},
                )
            )
    return rows


def weights(arm: str, steps: int, rate: float) -> WeightsConfig:
    """The configuration of an arm. Above 1 the weight is put in behind the check's back."""
    settings = WeightsConfig(
        method="grpo",
        lora=LoraConfig(rank=8, alpha=16),
        rewards=RewardConfig(confidence_pattern=PATTERN, confidence_scale=SCALE, brier_weight=min(1.0, ARMS[arm])),
        grpo=GrpoConfig(steps=steps, prompts_per_step=8, generations=8, learning_rate=rate, scale_rewards="none"),
        warm_start=WarmStartConfig(steps=40, batch=32, learning_rate=5e-4),
        checkpoint_every=steps,
    )
    rewards = settings.rewards.model_copy(update={"brier_weight": ARMS[arm]})  # copies without validating
    return settings.model_copy(update={"rewards": rewards})


def refused() -> str:
    """What the configuration says to a Brier weight above the weight of accuracy."""
    try:
        RewardConfig(brier_weight=1.5)
    except ValidationError as error:
        return "; ".join(str(found["msg"]) for found in error.errors())
    raise SystemExit("the configuration accepted brier_weight 1.5: it has to refuse it")


def run_arm(seed: int, arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one arm and answer the test questions; rows of [kind, correct, confidence or null]."""
    from hybrid.backends.loading import LoadedModel, load_base
    from hybrid.backends.transformers_backend import TransformersBackend

    model = ModelConfig(path="reference", device="cpu", threads=1)
    grader = build_grader(RegexGrader(type="regex", pattern=r"{reference}~\d"))
    out = args.out / f"{seed}-{arm.replace(' ', '-')}"
    first = args.out / f"{seed}-{ARMS_FIRST}" / "warm-start"
    if first.is_dir() and not out.exists():
        shutil.copytree(first, out / "warm-start")  # the same job in every arm: it is read, not trained again
    began = time.process_time()

    def load() -> LoadedModel:
        return load_base(model, Path, args.out / "cache")

    job = TrainJob(
        capability="stated-confidence",
        examples=tuple(questions(seed, args.train, "train")),
        skill="",
        stages=plain(4 * args.train),
        grader=grader,
        model=model,
        weights=weights(arm, args.steps, args.rate),
        max_new_tokens=LONGEST,
        seed=seed,
        out=out,
        method="grpo",
    )
    result = build_trainer("grpo").train(job, load, lambda step, steps, metrics: None)
    backend = TransformersBackend(load(), TransformersBackendConfig())
    test = questions(seed, args.test, "test")
    sampling = Sampling(max_new_tokens=LONGEST)
    answered = {}
    adapters: dict[str, Adapter] = {arm: result.checkpoints[-1][1]}
    if arm == "accuracy":
        adapters["start"] = result.checkpoints[0][1]  # the warm start's, the same in every arm
    for name, adapter in adapters.items():
        completions = backend.generate([Request(example.prompt, seed=0) for example in test], sampling, adapter)
        answered[name] = [
            [e.metadata["kind"], grader.grade(c.text, e).passed, parse_confidence(c.text, re.compile(PATTERN), SCALE)]
            for e, c in zip(test, completions, strict=True)
        ]
    return {"seconds": round(time.process_time() - began, 1), "answered": answered}


def kept(seed: int, arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """`run_arm`, from its file where it is there."""
    path = args.out / f"{seed}-{arm.replace(' ', '-')}.json"
    if not path.is_file():
        found = run_arm(seed, arm, args)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


Rows = Sequence[Sequence[Any]]


def stated(rows: Rows) -> list[tuple[float, bool]]:
    """(confidence, correct) of the answers that state one."""
    return [(row[2], row[1]) for row in rows if row[2] is not None]


def accuracy(rows: Rows) -> float:
    """Share of right answers."""
    return sum(row[1] for row in rows) / len(rows)


def over_seeds(values: Sequence[float]) -> str:
    """Mean over seeds with Student's t interval (n is the number of seeds)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = quantile.get(len(values), 2.228) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def line(name: str, by_seed: Sequence[Rows]) -> str:
    """One row of the table: means over seeds, AUROC pooled, and accuracy by kind of question."""
    pairs = [stated(rows) for rows in by_seed]
    errors = [found.mean for p in pairs if (found := ece(p)) is not None]
    losses = [found.mean for p in pairs if (found := brier(p)) is not None]
    pooled = auroc([pair for p in pairs for pair in p])
    area = "-" if pooled is None else f"{pooled.mean:.3f} [{pooled.low:.3f}, {pooled.high:.3f}]"
    silent = 1.0 - sum(map(len, pairs)) / sum(map(len, by_seed))
    right, sure = [], []
    for kind in KINDS:
        mine = [row for rows in by_seed for row in rows if row[0] == kind]
        right.append(f"{accuracy(mine):.2f}")
        said = [row[2] for row in mine if row[2] is not None]
        sure.append(f"{statistics.fmean(said):.2f}" if said else "-")
    cells = [name, over_seeds([accuracy(rows) for rows in by_seed]), over_seeds(errors), over_seeds(losses), area]
    return "| " + " | ".join([*cells, " / ".join(right), " / ".join(sure), f"{silent:.3f}"]) + " |"


def versus(reference: Sequence[Rows], by_seed: Sequence[Rows]) -> str:
    """An arm against accuracy alone: accuracy paired by question, and in how many seeds its ECE is at most half."""
    each = [
        float(b[1]) - float(a[1])
        for old, new in zip(reference, by_seed, strict=True)
        for a, b in zip(old, new, strict=True)
    ]
    mean, low, high = paired_interval(each, 0.95)
    ratios = []
    for old, new in zip(reference, by_seed, strict=True):
        before, after = ece(stated(old)), ece(stated(new))
        if before is not None and after is not None:
            ratios.append(after.mean / before.mean)
    halved = sum(ratio <= 0.5 for ratio in ratios)
    return (
        f"accuracy {mean:+.3f} [{low:+.3f}, {high:+.3f}] (paired, {len(each)} answers); ECE times {over_seeds(ratios)}, "
        f"at most half in {halved} of {len(ratios)} seeds"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--arms", nargs="*", default=["accuracy", "brier 1", "brier 4", "brier 2"], choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--train", type=int, default=150, help="training questions per kind")
    parser.add_argument("--test", type=int, default=50, help="test questions per kind")
    parser.add_argument("--out", type=Path, default=Path("runs/brier"))
    args = parser.parse_args()
    print(f"brier_weight 1.5: {refused()}\n", flush=True)
    results: dict[str, list[Rows]] = {}
    spent = 0.0
    for seed in seeds_of(args.seeds):
        for arm in args.arms:
            found = kept(seed, arm, args)
            spent += found["seconds"]
            for name, rows in found["answered"].items():
                results.setdefault(name, []).append(rows)
            print(f"seed {seed}, {arm}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    kinds = ", ".join(KINDS)
    print(
        f"| reward | accuracy | ECE | Brier | AUROC, pooled | accuracy on {kinds} | mean confidence on them | states none |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in ["start", *args.arms]:
        if name in results:
            print(line(name, results[name]))
    print()
    for arm in args.arms:
        if arm != "accuracy" and "accuracy" in results:
            print(f"- {arm} against accuracy: {versus(results['accuracy'], results[arm])}")
    print(f"\n{spent:.0f} s of processor time")


if __name__ == "__main__":
    main()
