"""Is the placement right? Worlds of known truth, run whole, every arm trained, compared with the truth.

    python scripts/bench_worlds.py --seeds 0-9                 # what docs/worlds.md holds; about five minutes a world
    python scripts/bench_worlds.py --seeds 0-2 --no-counterfactual

For each seed: make the world, run `hybrid run` on it in a process of its own, read `placement.json`, and print each
capability's truth, placement, what the counterfactual arms say, and the test scores behind it. The share of placements
that equal the truth comes with its Wilson interval. Runs resume: the same command goes on after an interruption.

Does not: read truth.json before the run is over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from make_world import make_world

from hybrid.evidence.stats import wilson


def seeds_of(text: str) -> list[int]:
    """`0-3,7` -> [0, 1, 2, 3, 7]."""
    out: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        out += range(int(low), int(high or low) + 1)
    return out


def run_world(seed: int, root: Path, counterfactual: bool) -> tuple[dict[str, Any], dict[str, str], float]:
    """The report, the truth, and the seconds that the run took now (0 where it was done before)."""
    folder = root / str(seed)
    truth = make_world(seed, folder, counterfactual)
    started = time.monotonic()
    command = [sys.executable, "-m", "hybrid", "run", str(folder / "config.yaml"), "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"seed {seed}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    report = json.loads((folder / "run" / "report" / "placement.json").read_text(encoding="utf-8"))
    return report, truth, time.monotonic() - started


def arm_text(capability: dict[str, Any]) -> str:
    """`base .02 skill .99/.97`: test score and, after the slash, variant score of every arm."""
    parts = []
    for name in ("base", "skill", "weights", "both"):
        arm = capability["arms"][name]
        if arm:
            variant = f"/{arm['variant']['mean']:.2f}" if arm["variant"] else ""
            parts.append(f"{name} {arm['test']['mean']:.2f}{variant}")
    return " ".join(parts)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--out", type=Path, default=Path("runs/worlds"))
    parser.add_argument("--no-counterfactual", action="store_true")
    args = parser.parse_args()
    right = confirmed = total = 0
    print("| seed | capability | truth | placed | all arms say | test / variant scores |\n|---|---|---|---|---|---|")
    for seed in seeds_of(args.seeds):
        report, truth, seconds = run_world(seed, args.out, not args.no_counterfactual)
        for capability in report["capabilities"]:
            placed = capability["placement"]
            other = (capability["counterfactual"] or {}).get("placement")
            wanted = truth[capability["name"]]
            total += 1
            right += placed == wanted
            confirmed += other == wanted
            mark = "" if placed == wanted else " **wrong**"
            cells = (seed, capability["name"], wanted, placed + mark, other or "-", arm_text(capability))
            print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)
        ledger = report["ledger"]
        print(f"<!-- seed {seed}: {seconds:.0f} s now, {ledger['calls']} completions, "
              f"{ledger['train_seconds']:.0f} s of training -->", flush=True)  # fmt: skip
    for what, count in (("placements equal the truth", right), ("counterfactuals equal the truth", confirmed)):
        interval = wilson(count, total)
        print(f"\n{what}: {count} of {total} = {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]")


if __name__ == "__main__":
    main()
