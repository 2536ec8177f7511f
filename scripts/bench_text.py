"""Text optimisers side by side: hybrid's skill loop, skillopt 0.2.0 and gepa 0.1.4 on one target with one proposer.

    python scripts/bench_text.py --seeds 0-19 --out runs/bench-text --null     # what docs/text-benchmark.md holds
    python scripts/bench_text.py --seeds 0-1 --out runs/try --methods hybrid gepa
    python scripts/bench_text.py --seeds 0-4 --out runs/bench-text --check     # are the edits what they are said to be?

Needs the extra `[bench]`; without the peers, name the methods to run. Every run is kept as a file under `--out`; the same
command goes on after an interruption and prints the tables when all is done. `docs/text-benchmark.md` says what is
counted. Does not: download anything, or tell a method anything that it would not know in use.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_worlds import seeds_of
from filelock import FileLock
from text_bench.methods import METHODS
from text_bench.record import Folder, record
from text_bench.results import tables
from text_bench.target import Target, reference_target
from text_bench.truth import truth_table
from text_bench.world import make_world

MOST_ROLLOUTS = 6000
"""Rollouts of a run."""


@dataclass(frozen=True)
class Job:
    """One seed's share of the work."""

    seed: int
    methods: tuple[str, ...]
    pools: tuple[bool, ...]
    out: Path


def target_of(seed: int, out: Path) -> Target:
    """The target with the memory of one seed, so that seeds can run side by side."""
    return reference_target(out / "answers" / f"seed-{seed:02d}.jsonl", threads=1)


def work(job: Job) -> str:
    """Run what is missing of one seed, alone; a worker whose parent was killed ends after its run."""
    (job.out / "answers").mkdir(parents=True, exist_ok=True)
    with FileLock(job.out / "answers" / f"seed-{job.seed:02d}.lock"):
        return _work(job)


def _work(job: Job) -> str:
    folder, began = Folder(job.out), time.monotonic()
    missing = [(null, m) for null in job.pools for m in job.methods if not folder.has(m, job.seed, null)]
    if not missing:
        return f"seed {job.seed}: done before"
    target = target_of(job.seed, job.out)
    parent = multiprocessing.parent_process()
    for null, name in missing:
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)
        folder.put(record(name, METHODS[name], make_world(job.seed, null), target, MOST_ROLLOUTS))
    return f"seed {job.seed}: {len(missing)} runs, {target.computed} answers, {time.monotonic() - began:.0f} s"


def run(jobs: Sequence[Job], workers: int) -> None:
    """All jobs, side by side; a line on standard error as each is done."""
    if workers == 1:
        for job in jobs:
            print(work(job), file=sys.stderr, flush=True)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for line in pool.imap_unordered(work, jobs):
            print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-19")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-text"))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--null", action="store_true", help="run the null worlds as well")
    parser.add_argument("--check", action="store_true", help="measure the edits, run no method")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="seeds side by side")
    args = parser.parse_args()
    seeds = seeds_of(args.seeds)
    if args.check:
        targets = {seed: target_of(seed, args.out) for seed in seeds}
        for title, null in (("Worlds", False), ("Null worlds", True)):
            print(f"### {title}\n\n{truth_table([(make_world(seed, null), targets[seed]) for seed in seeds])}\n")
        return
    pools = (False, True) if args.null else (False,)
    run([Job(seed, tuple(args.methods), pools, args.out) for seed in seeds], min(args.workers, len(seeds)))
    folder = Folder(args.out)
    null = folder.load(args.methods, seeds, True) if args.null else {}
    print(tables(folder.load(args.methods, seeds, False), null, MOST_ROLLOUTS))


if __name__ == "__main__":
    main()
