"""Does an adapter keep what its document taught? Distillation on worlds of the reference language, sealed test and variants.

    python scripts/bench_distill.py --seeds 0-5          # what docs/distillation.md holds; one core

For each seed: make the world, let the text arm find a document for `named-rules` (a procedure) and `fact-table` (facts),
distil that document into an adapter that reads nothing, once by text and once by logits, select the checkpoint on `search`,
and open `test` once for the base, the document and both adapters. Every interval is 95 %, differences are paired by example.
A run resumes: what is in --out is not paid for again.

Does not: probe, place or ship; `hybrid run` with `weights: {method: distill}` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_worlds import seeds_of
from make_world import make_world

from hybrid.backends.base import Adapter
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.evidence.stats import mean_interval, paired_interval
from hybrid.evidence.types import Measurement
from hybrid.pipeline.improve import Improved, Improver
from hybrid.pipeline.lessons import lessons
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.training import cache_folder, select_checkpoint, train_adapter
from hybrid.store.folder import RunFolder

NAMES = ("named-rules", "fact-table")
TARGETS = ("text", "logits")
HEAD = "| seed | capability | what answers | tokens per prompt | test | minus document | variants | minus document |"


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm of one capability in one world."""

    seed: int
    capability: str
    arm: str
    test: Measurement
    variant: Measurement
    step: int | None = None
    rules: int = 0
    """Lines of the document."""

    @property
    def tokens(self) -> float:
        """Mean tokens that it reads before it answers a test question."""
        read = [row[0].tokens_in for row in self.test.rollouts]
        return sum(read) / len(read)


def world_config(seed: int, folder: Path) -> LoadedConfig:
    """The world of a seed with the two capabilities and distillation; thresholds and LoRA as the world sets them."""
    make_world(seed, folder, counterfactual=False)
    loaded = load_config(folder / "config.yaml", ["weights.method=distill", "weights.checkpoint_every=50"])
    kept = tuple(c for c in loaded.config.capabilities if c.name in NAMES)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"capabilities": kept}))


def with_targets(loaded: LoadedConfig, targets: str) -> LoadedConfig:
    """The same configuration with other targets of distillation."""
    weights = loaded.config.weights
    distill = weights.distill.model_copy(update={"targets": targets})
    config = loaded.config.model_copy(update={"weights": weights.model_copy(update={"distill": distill})})
    return dataclasses.replace(loaded, config=config)


def distil(session: Session, capability: Capability, document: str) -> dict[str, tuple[int, Adapter]]:
    """The selected checkpoint of each kind of targets; one that does not beat the base on `search` is left out."""
    found = {}
    loaded = session.loaded
    bare = session.candidate(capability)
    start = session.meter.measure(bare, capability, "search", capability.splits["search"], stage="select")
    for targets in TARGETS:
        session.loaded = with_targets(loaded, targets)
        arm = f"weights-{targets}"
        result = train_adapter(session, capability, "", arm, lessons(session, capability, document))
        chosen = select_checkpoint(session, capability, arm, result, "", start)
        if chosen is not None:
            found[targets] = (chosen[0], chosen[1])
    session.loaded = loaded
    return found


def compare(session: Session, seed: int, capability: Capability) -> list[Row]:
    """Base, document and adapters on the sealed test, opened once, and on the variants."""
    improved = Improved()
    Improver(session, capability).skill_arm(improved)
    if "skill" not in improved.built:
        raise SystemExit(f"seed {seed}: {capability.name}: no document was accepted, so nothing can be distilled")
    document = improved.built["skill"].skill
    adapters = distil(session, capability, document)
    candidates = {"base": session.candidate(capability), "document": session.candidate(capability, document)}
    candidates |= {f"adapter, {t}": session.candidate(capability, "", a) for t, (_, a) in adapters.items()}
    session.meter.open_sealed(capability, "test", list(candidates.values()))
    rows, lines = [], len(document.strip().splitlines())
    for arm, candidate in candidates.items():
        test, variant = (
            session.meter.measure(candidate, capability, split, capability.splits[split], stage="verify")
            for split in ("test", "variant")
        )
        rows.append(Row(seed, capability.name, arm, test, variant, adapters.get(arm[9:], (None,))[0], lines))
    return rows


def run_seed(seed: int, root: Path) -> list[Row]:
    """All rows of one world."""
    loaded = world_config(seed, root / str(seed))
    capabilities = load_capabilities(loaded)
    with RunFolder(root / str(seed) / "run") as folder:
        config = loaded.config
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_folder(folder.path))
        folder.claim(identity_fields(loaded, capabilities, backend), resolved_json(config, loaded.root))
        session = open_session(loaded, folder, capabilities, backend, lambda kind, data: None)
        return [row for name in NAMES for c in capabilities if c.name == name for row in compare(session, seed, c)]


def shown(measured: Measurement) -> str:
    """`0.97 [0.93, 0.99]`."""
    interval = mean_interval(measured.values, 0.95)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def difference(pairs: Sequence[tuple[Measurement, Measurement]]) -> str:
    """Mean of (second minus first) over all pairs of examples, with its interval."""
    each = [b - a for before, after in pairs for a, b in zip(before.values, after.values, strict=True)]
    mean, low, high = paired_interval(each, 0.95)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def line(row: Row, document: Row) -> str:
    """One row of the table."""
    taught = row.arm.startswith("adapter")
    arm = row.arm + (f", step {row.step}" if row.step else "")
    cells: list[Any] = [row.seed, f"{row.capability}, {row.rules} lines", arm]
    cells += [f"{row.tokens:.1f}", shown(row.test), difference([(document.test, row.test)]) if taught else "-"]
    cells += [shown(row.variant), difference([(document.variant, row.variant)]) if taught else "-"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def summary(rows: Sequence[Row]) -> str:
    """Over all seeds: is the adapter's accuracy within the document's interval, and the pooled differences."""
    documents = {(r.seed, r.capability): r for r in rows if r.arm == "document"}
    out = []
    for name in NAMES:
        for targets in TARGETS:
            mine = [r for r in rows if r.capability == name and r.arm == f"adapter, {targets}"]
            pairs = [(documents[r.seed, name], r) for r in mine]
            if not pairs:
                out.append(f"- {name}, {targets}: no adapter beat the base on search")
                continue
            kept = sum(mean_interval(d.test.values, 0.95).low <= r.test.mean for d, r in pairs)
            saved = sum(d.tokens - r.tokens for d, r in pairs) / len(pairs)
            test = difference([(d.test, r.test) for d, r in pairs])
            variant = difference([(d.variant, r.variant) for d, r in pairs])
            out.append(
                f"- {name}, {targets}: not below the document's interval on test in {kept} of {len(pairs)} worlds; pooled "
                f"difference {test} on test, {variant} on variants; {saved:.1f} tokens less per prompt"
            )
    return "\n".join(out)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-5")
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    args = parser.parse_args()
    wall, processor = time.monotonic(), time.process_time()
    print(f"{HEAD}\n|---|---|---|---|---|---|---|---|")
    every: list[Row] = []
    for seed in seeds_of(args.seeds):
        rows = run_seed(seed, args.out)
        documents = {r.capability: r for r in rows if r.arm == "document"}
        for row in rows:
            print(line(row, documents[row.capability]), flush=True)
        every += rows
    print(f"\n{summary(every)}")
    spent = time.process_time() - processor
    print(f"\n{spent:.0f} s of processor time, {time.monotonic() - wall:.0f} s on the clock")


if __name__ == "__main__":
    main()
