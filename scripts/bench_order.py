"""Does the order of tasks matter, does a measured matrix find a good one, and does any order beat mixing? On the reference model.

    python scripts/bench_order.py --seeds 0-5          # what docs/task-order.md holds; one core

A seed makes three tasks in the reference language: two marks with different operations (one right answer each) and a layout
(`[...]` around anything: open-ended). One adapter is fine-tuned (or trained by GRPO) on all three, in every one of the six
orders, mixed, and structured first with replay, each with the same number of steps; T + T(T-1) trainings measure backward
transfer on `search`.
Every adapter is its training's last one: nothing is selected. `test` is then opened once for all of them.

The six orders are chains: each stage goes on from the last adapter of the stage before it with a fresh optimiser, which is
what the matrix measures, so the prediction is given its best chance. Intervals are 95 %, over seeds, paired by seed (Student).
A run resumes: what is in --out is not paid for again; RESULT.json of a seed is read back.

Does not: probe, place or ship; `hybrid run` with `weights: {schedule: {tasks: shared, order: transfer}}` does.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import reference_language as language
from bench_worlds import seeds_of
from make_world import Draft, Sizes, config_text, fill, operation_rows, vocabulary

from hybrid.backends.base import Adapter
from hybrid.backends.build import build_backend
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.evidence.stats import spearman
from hybrid.pipeline.improve import Improved, Improver
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.shared_matrix import Member, answer_entropy, train_pairs, train_shared
from hybrid.pipeline.training import cache_folder
from hybrid.store.atomic import write_json
from hybrid.store.folder import RunFolder
from hybrid.weights.base import Task
from hybrid.weights.schedule import plain
from hybrid.weights.task_order import asymmetric, best_order, gain, in_order, mixed, predicted

OPERATIONS = ("@next", "@prev", "@rotl", "@swap")
"""Operations that the prior of marks holds, and that are not its favourite."""
ARMS = (
    "the rule's order",
    "best by the matrix",
    "structured first",
    "structured first, replay",
    "worst by the matrix",
    "mixed",
)
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    11: 2.201,
}
"""97.5 % quantiles of Student's t by degrees of freedom."""


def layout_rows(rng: random.Random, mark: str, layout: str):
    """Rows `ask cd MARK NAME` of names without a fact; any answer in the layout is right."""
    left, right = language.FORMS[layout].format(" ").split(" ")
    names = rng.sample(language.NAMES, 16)

    def row(name: str, noise: str) -> dict[str, Any]:
        gold = f"{left}{language.value(random.Random(name + noise))}{right}"
        return {"prompt": f"ask {noise} {mark} {name}", "reference": left, "gold": gold, "metadata": {"noise": noise}}

    def make(rng: random.Random, split: str) -> dict[str, Any]:
        return row(rng.choice(names), language.argument(rng, 2, 3))

    def longer(rng: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        noise = parent["metadata"]["noise"]
        return row(rng.choice(names), noise + rng.choice([c for c in language.LETTERS if c not in noise]))

    pattern = "{reference}[a-z0-9]{{2,6}}".replace("{{", "{").replace("}}", "}") + f"\\{right}"
    return make, longer, {"grader": {"type": "regex", "pattern": pattern}}


def make_tasks(seed: int, out: Path, method: str, steps: int, rate: float) -> None:
    """The three tasks of a seed and their configuration."""
    rng = random.Random(f"order {seed}")
    sizes = Sizes(train=64, search=48, confirm=16, test=48, variant=0)
    marks, operations = rng.sample(language.MARKS, 3), rng.sample(OPERATIONS, 2)
    drafts = []
    for name, mark, operation in zip(("first-mark", "second-mark"), marks, operations, strict=False):
        make, vary = operation_rows({mark: operation})
        drafts.append(Draft(name, "weights", "procedural", fill(rng, sizes, make, vary), {}))
    make, vary, settings = layout_rows(rng, marks[2], "square")
    drafts.append(Draft("open-layout", "weights", "stylistic", fill(rng, sizes, make, vary), settings))
    out.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        (out / draft.name).mkdir(exist_ok=True)
        for split, rows in draft.rows.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            if text:
                (out / draft.name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    entries = [f"{key}: {json.dumps(value)}" for key, value in vocabulary().items()]
    (out / "vocabulary.yaml").write_text("\n".join(entries) + "\n", encoding="utf-8")
    text = config_text(f"order-{seed}", seed, drafts, counterfactual=False)
    text = text.replace(
        "method: grpo", f"method: {method}\n  sft: {{steps: {steps}, batch: 16, learning_rate: {rate}}}"
    )
    text = text.replace("prompts_per_step: 8", "prompts_per_step: 4").replace("steps: 40", f"steps: {steps}")
    text = text.replace("learning_rate: 0.0005", f"learning_rate: {rate}")
    text = text.replace(
        "device: auto", "device: cpu, threads: 1"
    )  # threads that wait for each other cost more than they give
    schedule = "schedule: {tasks: shared, order: transfer, entropy_rows: 16}"
    text = text.replace("checkpoint_every: 20", f"checkpoint_every: 20\n  {schedule}") + "probe: {samples: 4}\n"
    (out / "config.yaml").write_text(text, encoding="utf-8")


def last(
    session: Session, name: str, members: Sequence[Member], stages: Any, steps: Sequence[int], start: Adapter | None
):
    """The last adapter of a training; where no gradient flowed, the one that it began with."""
    result = train_shared(session, name, members, stages, steps, every=min(steps), start=start)
    return result.checkpoints[-1][1] if result.checkpoints else start


def train_all(session: Session, members: Sequence[Member], structured: Sequence[str]) -> dict[str, Adapter | None]:
    """The adapters of all orders (by their names joined with `+`), of the mixed training, and of replay."""
    steps = session.loaded.config.weights.steps
    by_name = {m.name: m for m in members}
    found: dict[str, Adapter | None] = {}
    for order in permutations(by_name):
        adapter = None
        for k, name in enumerate(order):
            stage = plain(len(by_name[name].capability.splits["train"]))
            started = "0-" + "+".join(
                order[: k + 1]
            )  # the first two stages are those of the matrix, and not trained again
            adapter = last(session, started, [by_name[name]], stage, [steps], adapter)
        found["+".join(order)] = adapter
    together = [by_name[name] for name in structured]
    rows, tasks = 0, []
    for member in together:
        tasks.append(Task(member.name, "", rows, len(member.capability.splits["train"])))
        rows += tasks[-1].rows
    found["mixed"] = last(session, "mixed", together, mixed(tasks), [steps * len(tasks)], None)
    found["replay"] = last(session, "replay", together, in_order(tasks, 0.2), [steps] * len(tasks), None)
    return found


def study(session: Session) -> dict[str, Any]:
    """Everything that one seed says, as plain JSON."""
    members = []
    for capability in session.capabilities:
        improver = Improver(session, capability)
        members.append(Member(improver, Improved(), "weights", "", improver.search("")))
    names = [m.name for m in members]
    entropy = {m.name: answer_entropy(session, m, None).mean for m in members}
    structured = tuple(sorted(names, key=lambda name: (entropy[name], names.index(name))))
    pairs = train_pairs(session, members, session.loaded.config.weights.steps, "0-")
    matrix = pairs.matrix
    orders = list(permutations(structured))
    pair = asymmetric(matrix)
    adapters = train_all(session, members, structured)
    test: dict[str, dict[str, list[float]]] = {label: {} for label in ("base", *adapters)}
    for member in members:
        candidates = {label: session.candidate(member.capability, "", a) for label, a in adapters.items()}
        candidates["base"] = session.candidate(member.capability)
        session.meter.open_sealed(member.capability, "test", list(candidates.values()))
        rows = member.capability.splits["test"]
        for label, candidate in candidates.items():
            test[label][member.name] = session.meter.measure(
                candidate, member.capability, "test", rows, stage="verify"
            ).values
    forecast = {"+".join(o): fmean(d.mean for d in predicted(pairs.own, pairs.after, o).values()) for o in orders}
    best = best_order(matrix, structured)
    worst = min(orders, key=lambda o: round(gain(matrix, o), 9))
    return {
        "entropy": entropy,
        "structured": structured,
        "matrix": {i: {j: list(d) for j, d in row.items()} for i, row in matrix.items()},
        "asymmetric": pair,
        "predicted": forecast,
        "test": {label: {name: fmean(values) for name, values in rows.items()} for label, rows in test.items()},
        "arms": {
            ARMS[0]: "+".join(best) if pair else "replay",
            ARMS[1]: "+".join(best),
            ARMS[2]: "+".join(structured),
            ARMS[3]: "replay",
            ARMS[4]: "+".join(worst),
            ARMS[5]: "mixed",
        },
    }


def run_seed(seed: int, root: Path, method: str, steps: int, rate: float) -> dict[str, Any]:
    """One seed: trained, or read back."""
    home = root / str(seed)
    kept = home / "RESULT.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    make_tasks(seed, home, method, steps, rate)
    loaded: LoadedConfig = load_config(home / "config.yaml")
    capabilities = load_capabilities(loaded)
    with RunFolder(home / "run") as folder:
        config = loaded.config
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_folder(folder.path))
        folder.claim(identity_fields(loaded, capabilities, backend), resolved_json(config, loaded.root))
        found = study(open_session(loaded, folder, capabilities, backend, lambda kind, data: None))
    write_json(kept, found)
    return found


def mean(found: Mapping[str, Any], label: str) -> float:
    """Mean test accuracy over tasks of one adapter."""
    return fmean(found["test"][label].values())


def student(values: Sequence[float], sign: bool = False) -> str:
    """`+0.12 [+0.03, +0.21]` over seeds."""
    half = STUDENT[len(values) - 1] * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    m, plus = fmean(values), "+" if sign else ""
    return f"{m:{plus}.3f} [{m - half:{plus}.3f}, {m + half:{plus}.3f}]"


def report(found: Mapping[int, Mapping[str, Any]]) -> str:
    """The tables and what is pooled over seeds."""
    out = ["| arm | test, mean over tasks | minus mixed | minus structured first, replay |", "|---|---|---|---|"]
    by_arm = {arm: [mean(f, f["arms"][arm]) for f in found.values()] for arm in ARMS}
    by_arm["the best of all six on test"] = [max(mean(f, o) for o in f["predicted"]) for f in found.values()]
    by_arm["the worst of all six on test"] = [min(mean(f, o) for o in f["predicted"]) for f in found.values()]
    by_arm["base"] = [mean(f, "base") for f in found.values()]
    for arm, values in by_arm.items():
        minus = [
            student([v - w for v, w in zip(values, by_arm[other], strict=True)], True) if arm != other else "-"
            for other in ("mixed", ARMS[3])
        ]
        out.append(f"| {arm} | {student(values)} | {minus[0]} | {minus[1]} |")
    out.append("")
    correlations = []
    for seed, f in found.items():
        rho = spearman([f["predicted"][o] for o in f["predicted"]], [mean(f, o) for o in f["predicted"]])
        correlations += [rho] if rho is not None else []
        said = "none" if rho is None else f"{rho:+.2f}"
        gap = fmean(f["predicted"][o] - mean(f, o) for o in f["predicted"])
        asym = f"{f['asymmetric'][0]} / {f['asymmetric'][1]}" if f["asymmetric"] else "none"
        out.append(
            f"- seed {seed}: Spearman over {len(f['predicted'])} orders {said}; predicted minus actual {gap:+.3f}; "
            f"asymmetric pair: {asym}; structured: {', '.join(f['structured'])}; matrix: {f['arms'][ARMS[1]]}"
        )
    if len(correlations) > 1:
        out.append(f"- Spearman, mean over seeds: {student(correlations, True)}")
    cells: dict[tuple[str, str], list[float]] = {}
    for f in found.values():
        for i, row in f["matrix"].items():
            for j, d in row.items():
                cells.setdefault((i, j), []).append(d[0])
    out += ["", "| task | then training on | backward transfer, mean over seeds |", "|---|---|---|"]
    out += [f"| {i} | {j} | {student(values, True)} |" for (i, j), values in cells.items()]
    return "\n".join(out)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-5")
    parser.add_argument("--out", type=Path, default=Path("runs/order"))
    parser.add_argument("--method", choices=("sft", "grpo"), default="sft", help="grpo costs about five times as much")
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps of a task, 16 answers (grpo: 32) each")
    parser.add_argument("--rate", type=float, default=0.001, help="learning rate")
    args = parser.parse_args()
    wall, found = time.monotonic(), {}
    for seed in seeds_of(args.seeds):
        found[seed] = run_seed(seed, args.out, args.method, args.steps, args.rate)
        arms = ", ".join(f"{arm} {mean(found[seed], label):.3f}" for arm, label in found[seed]["arms"].items())
        print(f"seed {seed} ({time.monotonic() - wall:.0f} s): {arms}", flush=True)
    print(f"\n{report(found)}")


if __name__ == "__main__":
    main()
