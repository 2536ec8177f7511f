"""Which generators of reasoning-gym can be asked about: for each, 16 rows in two processes whose sets have another order.

    python scripts/check_generators.py                 all of them; minutes, because some generators are slow
    python scripts/check_generators.py chain_sum dice

Prints a line per generator: whether both processes drew the same rows, how many gold answers the generator's own scorer does not
give 1.0, how many wrong answers it lets pass, and seconds. What fails here belongs in `REFUSED` of
`hybrid/capability/suites/reasoning_gym.py`. Needs the package reasoning-gym. Generators that are refused because they, or their
scorers, run programs are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time

from hybrid.capability.suites import reasoning_gym as suite
from hybrid.capability.suites.base import SuiteError
from hybrid.config.schema import SuiteSizes

SIZES = SuiteSizes(train=4, search=3, confirm=3, test=6, variant=0)
LEFT_OUT = ("codeio", "composite", "intermediate_integration", "simple_integration")


def look(name: str) -> dict[str, str | int | float]:
    """What one process finds about a generator, whether it is refused or not."""
    suite.REFUSED.pop(name, None)
    start = time.perf_counter()
    try:
        made = suite.SUITE.build(suite.Options(generator=name), SIZES, 1)
    except SuiteError as error:
        return {"failed": str(error)}
    rows = [row for split in made.splits.values() for row in split]
    text = json.dumps([row.model_dump(mode="json") for row in rows], sort_keys=True)
    gold = sum(made.grader.grade(row.gold_completion, row).value != 1.0 for row in rows)
    wrong = sum(made.grader.grade(answer, row).passed for row in rows for answer in row.wrong)
    seconds = round(time.perf_counter() - start, 1)
    return {"rows": hashlib.sha256(text.encode()).hexdigest(), "gold": gold, "wrong": wrong, "seconds": seconds}


def _elsewhere(names: list[str], seed: str) -> dict[str, dict[str, str | int | float]]:
    """What a process with this order of sets finds."""
    command = [sys.executable, __file__, "--look", *names]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    found: dict[str, dict[str, str | int | float]] = {}
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def main() -> int:
    """Parse, start two processes per generator, print; 1 when an offered generator fails or a refused one does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        for name in options.names:
            print(json.dumps({name: look(name)}), flush=True)
        return 0
    from reasoning_gym.factory import DATASETS

    names = options.names or sorted(set(DATASETS) - set(LEFT_OUT))
    first, second = (_elsewhere(names, seed) for seed in ("1", "2"))
    surprises = 0
    for name in names:
        facts = first[name]
        same = facts.get("rows") == second[name].get("rows")
        sound = same and not facts.get("failed") and not facts["gold"] and not facts["wrong"]
        refused = name in suite.REFUSED
        surprises += sound == refused
        told = (
            f"{'same' if same else 'OTHER'} rows, {facts.get('gold')} gold below 1, {facts.get('wrong')} wrong passed"
        )
        what = facts.get("failed") or f"{told}, {facts['seconds']} s"
        print(f"{name:28} {'refused' if refused else 'offered':8} {what}")
    print(f"{surprises} generators are not what they are taken for")
    return 1 if surprises else 0


if __name__ == "__main__":
    raise SystemExit(main())
