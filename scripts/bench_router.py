"""What the choice is worth: policies replayed on worlds of six known truths (`regret_worlds.py`), against their cost.

    python scripts/bench_router.py --collect 0-29        # the fitting worlds: every arm built; some 20 CPU seconds a world
    python scripts/bench_router.py --collect 1000-1107   # the held-out worlds
    python scripts/bench_router.py                       # replays every policy on the held-out table, prints the figures

A world that has its row is not run again, so the same command goes on after an interruption; several may run side by side
on different seeds. `--backwards` takes the seeds from the end.

Does not: decide what a policy does (see `regret_policies`) or fit thresholds (`hybrid router fit`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench_worlds import seeds_of


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", default="", help="seeds to build rows of, as 0-29,1000")
    parser.add_argument("--table", type=Path, default=Path("runs/router/table"))
    parser.add_argument("--work", type=Path, default=Path("runs/router/work"), help="run folders, removed when done")
    parser.add_argument("--backwards", action="store_true")
    args = parser.parse_args()
    if args.collect:
        from regret_table import collect

        backend, seeds = None, seeds_of(args.collect)
        for seed in reversed(seeds) if args.backwards else seeds:
            backend = collect(seed, args.work, args.table, backend)


if __name__ == "__main__":
    main()
