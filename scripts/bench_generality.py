"""Does a gain carry over? An adapter trained on single applications of a rule, and one that also saw some applied twice.

    python scripts/bench_generality.py --seeds 0-5               # sft; one core
    python scripts/bench_generality.py --seeds 0-5 --method grpo # grpo after a warm start of the same rows

For each seed: a world's `named-rules` with variants (the rule applied twice) of `train` and of `test` rows. Two adapters are
trained for equal steps and batches, selected on `search` alone: on `train`, and on `train` with variants of `train` rows as a
quarter of all rows. `test` is opened once, for the base, the document that defines the rules, and both adapters. tau is the gain
on variants of `test` rows per gain on `test`, DiD the difference of the gains; families are `test` rows with their variants.
`thrice` are `test` rows with the rule applied three times, which nobody was trained on. Intervals are 95 %.
A run resumes: what is in --out is not paid for again. Does not: place or ship; `hybrid run` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reference_language as language
from bench_worlds import seeds_of
from make_world import TWICE, make_world

from hybrid.backends.build import build_backend
from hybrid.capability.families import family
from hybrid.capability.types import Capability, Example
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.evidence.generality import Gains, Generality, generality
from hybrid.evidence.stats import mean_interval
from hybrid.evidence.types import Measurement
from hybrid.pipeline.generality import added, held, watch
from hybrid.pipeline.known import Rows
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.training import cache_folder, select_checkpoint, train_adapter
from hybrid.store.folder import RunFolder

NAME = "named-rules"
HEAD = "| seed | what answers | step | test | variants | thrice | tau | DiD |"
METHODS = {
    "sft": [
        "weights.method=sft",
        "weights.sft.steps=150",
        "weights.sft.learning_rate=0.001",
        "weights.checkpoint_every=75",
    ],
    "grpo": [
        "weights.method=grpo",
        "weights.warm_start={steps: 60, learning_rate: 0.001}",
        "weights.grpo.steps=40",
        "weights.checkpoint_every=20",
    ],
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate in one world: on `test`, on the held variants, on rows with the rule applied three times."""

    seed: int
    arm: str
    step: int | None
    test: Measurement
    variant: Measurement
    thrice: Measurement


def rules_of(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The operation of every name, from its rows: the easy one that explains all of them."""
    found = {}
    for slot in sorted({r["metadata"]["slot"] for r in rows}):
        mine = [r for r in rows if r["metadata"]["slot"] == slot]
        fits = [o for o in TWICE if all(language.apply([o], r["metadata"]["text"]) == r["reference"] for r in mine)]
        if len(fits) != 1:
            raise SystemExit(f"{slot}: {len(fits)} operations explain its rows")
        found[slot] = fits[0]
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def repeated(row: dict[str, Any], rules: dict[str, str], times: int) -> dict[str, Any]:
    """A row with its rule applied `times` times."""
    slot, text = row["metadata"]["slot"], row["metadata"]["text"]
    answer = language.apply([rules[slot]] * times, text)
    return {
        "id": f"{row['id']}-x{times}",
        "prompt": f"q {text} " + " ".join([slot] * times),
        "reference": answer,
        "metadata": row["metadata"],
        "parent_id": row["id"],
    }


def world(seed: int, folder: Path, method: str) -> tuple[LoadedConfig, dict[str, str]]:
    """The world of a seed with variants of `train` and `test` rows, and its rules."""
    make_world(seed, folder, counterfactual=False)
    data = folder / NAME
    train, test = read(data / "train.jsonl"), read(data / "test.jsonl")
    rules = rules_of(train)
    variants = [repeated(row, rules, 2) for row in (*train, *test)]
    text = "".join(json.dumps(row) + "\n" for row in variants)
    (data / "variant.jsonl").write_text(text, encoding="utf-8")
    overrides = [*METHODS[method], "weights.generality.augment=variants", "model.threads=1"]
    loaded = load_config(folder / "config.yaml", overrides)
    kept = tuple(c for c in loaded.config.capabilities if c.name == NAME)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"capabilities": kept})), rules


def trained(session: Session, capability: Capability) -> dict[str, tuple[int, Any]]:
    """(step, adapter) of both trainings; one that does not beat the base on `search` is left out."""
    bare = session.candidate(capability)
    start = session.meter.measure(bare, capability, "search", capability.splits["search"], stage="select")
    found = {}
    for arm, rows in (("N only", Rows()), ("N and variants", Rows(variants=added(session, capability)))):
        name = arm.replace(" ", "-")
        result = train_adapter(session, capability, "", name, None, rows)
        chosen = select_checkpoint(session, capability, name, result, "", start)
        if chosen is not None:
            found[arm] = (chosen[0], chosen[1])
        for point in watch(session, capability, "", result, start):
            tau = "-" if point.found.tau is None else f"{point.found.tau:.2f}"
            print(
                f"  seed {session.loaded.config.seed}, {arm}, step {point.step}: search {point.search:.3f}, "
                f"watched variants {point.variant.mean:.3f}, tau {tau}"
            )
    return found


def compare(session: Session, seed: int, capability: Capability, rules: dict[str, str]) -> list[Row]:
    """Base, document and adapters on the sealed test, opened once, on held variants and on deeper ones."""
    adapters = trained(session, capability)
    document = "\n".join(f"rule {name} {operation}." for name, operation in rules.items())
    candidates = {"base": session.candidate(capability), "document": session.candidate(capability, document)}
    candidates |= {arm: session.candidate(capability, "", adapter) for arm, (_, adapter) in adapters.items()}
    session.meter.open_sealed(capability, "test", list(candidates.values()))
    test, variants = capability.splits["test"], held(session, capability)
    parents = {e.parent_id for e in variants}
    deeper = [Example(**repeated(e.model_dump(), rules, 3)) for e in test if e.id in parents]
    rows = []
    for arm, candidate in candidates.items():
        measured = (
            session.meter.measure(candidate, capability, split, examples, stage="verify")
            for split, examples in (("test", test), ("variant", variants), ("variant", deeper))
        )
        rows.append(Row(seed, arm, adapters.get(arm, (None,))[0], *measured))
    return rows


def run_seed(seed: int, root: Path, method: str) -> tuple[list[Row], dict[str, str]]:
    """All rows of one world, and the parent of every variant."""
    loaded, rules = world(seed, root / str(seed), method)
    capabilities = load_capabilities(loaded)
    with RunFolder(root / str(seed) / "run") as folder:
        config = loaded.config
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_folder(folder.path))
        folder.claim(identity_fields(loaded, capabilities, backend), resolved_json(config, loaded.root))
        session = open_session(loaded, folder, capabilities, backend, lambda kind, data: None)
        parents = {e.id: family(e) for e in capabilities[0].splits["variant"]}
        return compare(session, seed, capabilities[0], rules), parents


def carried(pairs: Sequence[tuple[Row, Row]], parents: dict[str, str]) -> Generality:
    """tau and DiD of (before, after) rows, pooled over worlds; a family is one `test` row of one world."""

    def gains(part: str) -> Gains:
        found = [(getattr(a, part), getattr(b, part), a.seed) for a, b in pairs]
        before = [v for a, _, _ in found for v in a.values]
        after = [v for _, b, _ in found for v in b.values]
        names = [(seed, parents.get(i, i)) for a, _, seed in found for i in a.example_ids]
        return Gains.of(before, after, names)

    return generality(gains("test"), gains("variant"))


def shown(measured: Measurement) -> str:
    """`0.97 [0.93, 0.99]`."""
    interval = mean_interval(measured.values, 0.95)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def ratio(found: Generality) -> str:
    """tau with its interval, or why there is none."""
    if found.tau is None or found.tau_low is None:
        return found.note
    return f"{found.tau:.2f} [{found.tau_low:.2f}, {found.tau_high:.2f}]"


def difference(found: Generality) -> str:
    """DiD with its interval."""
    return f"{found.did:+.3f} [{found.did_low:+.3f}, {found.did_high:+.3f}]"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-5")
    parser.add_argument("--method", choices=sorted(METHODS), default="sft")
    parser.add_argument("--out", type=Path, default=Path("runs/generality"))
    args = parser.parse_args()
    wall, processor = time.monotonic(), time.process_time()
    every: list[Row] = []
    parents: dict[str, str] = {}
    lines = []
    for seed in seeds_of(args.seeds):
        rows, named = run_seed(seed, args.out / args.method, args.method)
        parents |= named
        base = rows[0]
        for row in rows:
            found = carried([(base, row)], parents)
            cells = [seed, row.arm, row.step or "-", shown(row.test), shown(row.variant), shown(row.thrice)]
            cells += ["-", "-"] if row.arm == "base" else [ratio(found), difference(found)]
            lines.append("| " + " | ".join(str(c) for c in cells) + " |")
        every += rows
    print(f"\n{HEAD}\n|---|---|---|---|---|---|---|---|", *lines, sep="\n")
    bases = {r.seed: r for r in every if r.arm == "base"}
    print()
    for arm in ("document", "N only", "N and variants"):
        pairs = [(bases[r.seed], r) for r in every if r.arm == arm]
        if pairs:
            found = carried(pairs, parents)
            deeper = mean_interval([v for _, r in pairs for v in r.thrice.values], 0.95)
            print(
                f"- {arm}: {len(pairs)} worlds, pooled gain {found.gain:+.3f} on test, {found.variant_gain:+.3f} on variants, "
                f"tau {ratio(found)}, DiD {difference(found)}; thrice {deeper.mean:.3f} "
                f"[{deeper.low:.3f}, {deeper.high:.3f}]"
            )
    spent = time.process_time() - processor
    print(f"\n{spent:.0f} s of processor time, {time.monotonic() - wall:.0f} s on the clock")


if __name__ == "__main__":
    main()
