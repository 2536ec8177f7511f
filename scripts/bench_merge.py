"""One merged adapter or separate ones: what the composer decides on worlds of two procedures, and what a merge would cost.

    python scripts/bench_merge.py --seeds 0-4        # what docs/merging.md holds

For each seed and method (GRPO, SFT) a world of two capabilities that only weights can learn (a mark with an operation each),
taken through `hybrid run` with `weights.merge`. Two marks need two operations, so a merge has to keep both apart; beside it the
same world with one operation for both marks, where one adapter's work helps the other's. The run merges on `search`, asks the
gates on `confirm` and reports the sealed test of what ships.

One JSON per seed, method and world in --out; what is there is read. Does not: choose scales on anything but `search`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reference_language as language
from bench_lifecycle import write_rows
from bench_worlds import seeds_of
from make_world import Sizes, fill, operation_rows

from hybrid.config.loader import load_config
from hybrid.evidence.stats import wilson
from hybrid.pipeline.run import run
from hybrid.report.schema import Report, load_report

SIZES = Sizes(train=64, search=64, confirm=160, test=160, variant=24)
WORLDS = ("two operations", "one operation")
METHODS = ("grpo", "sft")
OPERATIONS = ("@rev", "@rotl", "@next", "@prev")
MINIMUM_EFFECT = 0.05


def make_world(seed: int, world: str, method: str, folder: Path) -> Path:
    """Two marks with an operation each, or one operation for both; the configuration."""
    rng = random.Random(f"compose {seed} {world}")
    marks = rng.sample(language.MARKS, 2)
    drawn = rng.sample(OPERATIONS, 2) if world == WORLDS[0] else [rng.choice(OPERATIONS)] * 2
    for name, mark, operation in zip(("first", "second"), marks, drawn, strict=True):
        make, vary = operation_rows({mark: operation})
        write_rows(folder / name, fill(rng, SIZES, make, vary))
    rows = [
        f"  - {{name: {name}, source: {{type: jsonl, path: {name}}}, grader: {{type: exact}}, decoding: {{max_new_tokens: 14}}}}"
        for name in ("first", "second")
    ]
    lines = [
        f"name: compose-{seed}",
        "model: {path: reference, dtype: float32, device: cpu}",
        "capabilities:",
        *rows,
        "router: {force: {first: weights, second: weights}}",
        "weights:",
        f"  method: {method}",
        "  lora: {rank: 8, alpha: 16}",
        "  grpo: {steps: 40, prompts_per_step: 8, generations: 8, learning_rate: 0.0005}",
        "  sft: {steps: 60, learning_rate: 0.001}",
        "  checkpoint_every: 20",
        "  merge: {scales: [1.0, 0.8, 0.65, 0.5]}",
        f"gate: {{ship: {{minimum_effect: {MINIMUM_EFFECT}}}}}",
        f"seed: {seed}",
    ]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def told(report: Report) -> dict[str, Any]:
    """What is kept of a report."""
    found = report.merger
    return {
        "merger": None if found is None else found.model_dump(mode="json"),
        "placements": {c.name: c.placement for c in report.capabilities},
        "test": {
            c.name: c.arms.weights.test.mean if c.arms.weights is not None and c.arms.weights.test is not None else None
            for c in report.capabilities
        },
    }


def row_of(seed: int, method: str, world: str, kept: dict[str, Any]) -> str:
    """One line of the table."""
    head = f"| {world} | {method} | {seed} "
    found = kept["merger"]
    if found is None:
        return (
            head + "| - | - | - | not offered: " + ", ".join(f"{n} {p}" for n, p in kept["placements"].items()) + " |"
        )
    tried = next(t for t in found["tried"] if t["scale"] == found["chosen"])
    own = " / ".join(f"{m['own']['mean']:.2f}" for m in found["members"].values())
    merged = " / ".join(f"{e['mean']:.2f}" for e in tried["search"].values())
    lost = " / ".join(
        f"{m['against_own']['delta']:+.3f} [{m['against_own']['low']:+.3f}, {m['against_own']['high']:+.3f}]"
        for m in found["members"].values()
    )
    return (
        head + f"| {own} | {merged} (x {found['chosen']:g}) | {lost} | {'merged' if found['merged'] else 'separate'} |"
    )


def summary(kept: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """How often a merge ships, and what it loses on `confirm`, by world and method: mean and range over capabilities."""
    out = []
    for world in WORLDS:
        for method in METHODS:
            found = [k["merger"] for w, m, k in kept if (w, m) == (world, method) and k["merger"]]
            if not found:
                continue
            ships = wilson(sum(f["merged"] for f in found), len(found))
            lost = [m["against_own"]["delta"] for f in found for m in f["members"].values()]
            mean = sum(lost) / len(lost)
            out.append(
                f"- {world}, {method}: the merge ships on {sum(f['merged'] for f in found)} of {len(found)} "
                f"[{ships.low:.2f}, {ships.high:.2f}]; against the own adapters {mean:+.3f} "
                f"({min(lost):+.3f} to {max(lost):+.3f}) over {len(lost)} capabilities"
            )
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("runs/merge"))
    args = parser.parse_args()
    print("| world | method | seed | own, search | merged, search | merged minus own, confirm | decision |")
    print("|---|---|---|---|---|---|---|")
    kept = []
    for world in WORLDS:
        for method in METHODS:
            for seed in seeds_of(args.seeds):
                name = f"{world.split()[0]}-{method}-{seed}"
                path = args.out / f"{name}.json"
                if not path.exists():
                    config = make_world(seed, world, method, args.out / name)
                    report = load_report(
                        run(load_config(config), args.out / name / "run", on_event=lambda kind, data: None)
                    )
                    path.write_text(json.dumps(told(report), indent=2) + "\n", encoding="utf-8")
                kept.append((world, method, json.loads(path.read_text(encoding="utf-8"))))
                print(row_of(seed, method, world, kept[-1][2]), flush=True)
    print("\n" + "\n".join(summary(kept)))


if __name__ == "__main__":
    main()
