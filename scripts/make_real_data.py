"""Write the data of the real-model demonstration: six capabilities as JSONL, and a manifest of their sources.

    pip install "hybrid-placement[demo]" && pip install --no-deps bfcl-eval
    python scripts/make_real_data.py --out data/real --seed 0

The same seed and package versions give the same bytes. The oracle texts of the two factual capabilities are written
too; vocabularies, the other oracles and SOURCES.md are by hand and not touched. No model is needed.

Does not: grade, or replace anything before all six capabilities have been built and checked.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import real_facts
import real_tasks
from real_rows import Splits

PACKAGES = ("countryinfo", "reasoning-gym", "bfcl-eval")
BUILDERS: dict[str, Callable[[int], Splits]] = {
    "capitals": real_facts.capitals,
    "currencies": real_facts.currencies,
    "chain-sum": real_tasks.chain_sum,
    "leap-year": real_tasks.leap_year,
    "layout": real_tasks.layout,
    "function-call": real_tasks.function_call,
}


def check(name: str, splits: Splits) -> None:
    """Raise `ValueError` when a prompt or id occurs twice, or a variant's parent is not a test row."""
    rows = [row for split in splits.values() for row in split]
    for what, values in (("prompt", [row.prompt_text for row in rows]), ("id", [row.id for row in rows])):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{name}: the {what} {value!r} occurs {count} times")
    parents = {row.id for row in splits["test"]}
    orphan = next((row.id for row in splits["variant"] if row.parent_id not in parents), None)
    if orphan:
        raise ValueError(f"{name}: the variant {orphan!r} has no parent among the test rows")


def render(splits: Splits) -> dict[str, bytes]:
    """File name -> content: one JSON object a line, keys sorted, empty fields left out."""
    files = {}
    for split, rows in splits.items():
        dumps = (row.model_dump(mode="json", exclude_defaults=True) for row in rows)
        lines = [json.dumps(row, sort_keys=True, allow_nan=False) for row in dumps]
        files[f"{split}.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
    return files


def make(out: Path, seed: int) -> dict[str, int]:
    """Build, check and write everything; returns the number of rows by capability."""
    contents: dict[str, bytes] = {}
    counts: dict[str, int] = {}
    for name, build in BUILDERS.items():
        splits = build(seed)
        check(name, splits)
        counts[name] = sum(map(len, splits.values()))
        contents |= {f"{name}/{file}": content for file, content in render(splits).items()}
        if name in real_facts.FACT:
            contents[f"{name}/oracle.txt"] = real_facts.oracle(name, splits).encode()
    for file, content in contents.items():
        target = out / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    manifest = {
        "seed": seed,
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "sha256": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return counts


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the data of the real-model demonstration.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into, for example data/real")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        counts = make(options.out, options.seed)
    except ImportError as missing:  # of a module, or of a package whose data files are read
        print(f"error: {missing}; the head of {Path(__file__).name} says what to install", file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{options.out / name}: {count} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
