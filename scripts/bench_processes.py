"""One run by one process and by two on a CPU: the same evaluations, placed alike, and how long each took.

    python scripts/bench_processes.py --out runs/processes

Runs the quickstart once with one process and twice under `accelerate launch` with two (batches of 32 and of 256 rows), one
thread per process, each into a folder of its own that a second call goes on from. Compares every kept completion by its key:
candidate, example, sampling and seed. Candidates with an adapter trained in the run have other keys in each run, since the
sum of gradients over processes rounds otherwise; all others must be equal in every field but the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hybrid.store.folder import EventLog
from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs" / "accelerate" / "cpu-2.yaml")]
RUNS = {"one": (1, 32), "two": (2, 32), "two, large batches": (2, 256)}


def run(config: Path, out: Path, processes: int, batch: int) -> None:
    """Run or go on; nothing to do where the report is there."""
    if (out / "report" / "placement.json").exists():
        return
    settings = ["model.device=cpu", "model.threads=1", "backend.type=transformers", f"backend.batch_size={batch}"]
    arguments = ["-m", "hybrid", "run", str(config), "--out", str(out), *(f"--set={setting}" for setting in settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *(LAUNCH if processes > 1 else []), *arguments], env=environment, check=True)


def kept(out: Path) -> dict[str, dict[str, Any]]:
    """Completions by key, without what a clock wrote. Raises ValueError where one was evaluated twice."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((out / "rollouts").glob("*.jsonl")):
        for row in RecordLog(path).read():
            if row["key"] in found:
                raise ValueError(f"{path}: {row['key']} was evaluated twice")
            found[row["key"]] = {name: value for name, value in row.items() if name != "seconds"}
    return found


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    placements, rows = {}, {}
    print("| run | seconds | evaluations | by process | shared keys | equal |\n|---|---|---|---|---|---|")
    for name, (processes, batch) in RUNS.items():
        out = options.out / name.replace(", ", "-").replace(" ", "-")
        run(options.config, out, processes, batch)
        report = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
        placements[name] = {c["name"]: c["placement"] for c in report["capabilities"]}
        rows[name] = kept(out)
        shares = EventLog(out / "events.jsonl").last("run.shared")
        by = " + ".join(map(str, shares["data"]["completions"])) if shares else str(len(rows[name]))
        both = rows["one"].keys() & rows[name].keys()
        equal = sum(rows["one"][key] == rows[name][key] for key in both)
        seconds = report["ledger"]["wall_seconds"]
        print(f"| {name} | {seconds:.0f} | {len(rows[name])} | {by} | {len(both)} | {equal} |")
    same = all(found == placements["one"] for found in placements.values())
    print(f"placements {'equal' if same else 'DIFFER'}: {json.dumps(placements['one'] if same else placements)}")


if __name__ == "__main__":
    main()
