"""Can a mixture of adapters, found without gradients, do what none of them can? Worlds of the reference language.

    python scripts/bench_swarm.py --seeds 0-4          # what docs/composition.md holds; one core

For each seed eight experts: five learn what one mark means (`q abcd $oak` is answered with one operation), three learn a layout
(`<answer>`, `[answer]`, `answer~9`) on operations that are named. They are trained twice: by supervised fine-tuning, and by GRPO
after a warm start of a few supervised steps. Two composite capabilities that no expert was trained on:

- layout: two of the marks, answered in one of the layouts (two experts' work in one answer, for three experts)
- chain: two of the marks in a row (one operation after the other)

On each, 200 `search` examples and no gradient: CMA-ES, Model Swarms, and random coefficients at the same number of mixtures. The
sealed test is opened once, for the base, every expert, the mixtures, the plain sum of the experts that are needed (weights 1 and
1/2), and samples: of the base, and of all supervised experts in turn, as many answers per test item as CMA-ES was given per
search example. GRPO experts are searched over by CMA-ES alone, and not chained. A run resumes: what is in --out is not paid for
again. Does not: place or ship; `hybrid run` with `method: swarm` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reference_language as language
from bench_worlds import seeds_of
from make_world import EASY
from swarm_report import KINDS, LAYOUTS, SEARCHES, by_mark, experts_table, mean, needed_by, pooled, worlds

from hybrid.backends.base import Adapter
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.swarm import Composed, compose
from hybrid.pipeline.training import cache_folder, train_adapter
from hybrid.store.atomic import write_json
from hybrid.store.folder import RunFolder
from hybrid.weights.compose.experts import experts_of
from hybrid.weights.compose.materialise import materialise

SEARCH, TEST, FRESH, FEW = 200, 150, 48, 24
SAMPLED = 60
"""Test items, the first, that are also answered by samples."""
CHAIN_EVALUATIONS = 40
"""A search without a slope to follow is as flat at the end as at the start."""
COMPOSITES = ("layout", "chain")
PARTS = (("layout", "sft"), ("layout", "grpo"), ("chain", "sft"))
Rows = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class World:
    """Marks with their operations, the two that composites need, and the layout."""

    marks: dict[str, str]
    needed: tuple[str, str]
    layout: str

    def mark_row(self, rng: random.Random, marks: Sequence[str], layout: str = "{}") -> dict[str, str]:
        """One mark of `marks` on a random argument."""
        mark, text = rng.choice(marks), language.argument(rng, 4, 5)
        return {"prompt": f"q {text} {mark}", "reference": layout.format(language.apply([self.marks[mark]], text))}

    def layout_row(self, rng: random.Random, layout: str) -> dict[str, str]:
        """A named operation in a layout."""
        operation, text = rng.choice(list(language.OPERATIONS)), language.argument(rng, 4, 5)
        return {"prompt": f"q {text} {operation}", "reference": layout.format(language.apply([operation], text))}

    def chain_row(self, rng: random.Random) -> dict[str, str]:
        """Both needed marks in a row, in either order; one that changes nothing is drawn again."""
        while True:
            first, second = rng.sample(self.needed, 2)
            text = language.argument(rng, 4, 5)
            answer = language.apply([self.marks[first], self.marks[second]], text)
            if answer != text:
                return {"prompt": f"q {text} {first} {second}", "reference": answer}

    def row(self, rng: random.Random, name: str) -> dict[str, str]:
        """A row of an expert's capability or of a composite."""
        if name == "layout":
            return self.mark_row(rng, self.needed, LAYOUTS[self.layout])
        if name == "chain":
            return self.chain_row(rng)
        return self.layout_row(rng, LAYOUTS[name]) if name in LAYOUTS else self.mark_row(rng, [f"${name}"])


def draw(seed: int) -> World:
    """The world of a seed."""
    rng = random.Random(f"swarm {seed}")
    marks = dict(zip(rng.sample(language.MARKS, 5), rng.sample(EASY, 5), strict=True))
    first, second = rng.sample(list(marks), 2)
    while language.apply([marks[first], marks[second]], "abcde") == "abcde":  # one undoes the other: no chain
        first, second = rng.sample(list(marks), 2)
    return World(marks, (first, second), sorted(LAYOUTS)[seed % len(LAYOUTS)])


def experts_in(world: World) -> list[str]:
    """Capabilities of the experts, in order."""
    return [mark.lstrip("$") for mark in world.marks] + list(LAYOUTS)


def write_rows(world: World, name: str, folder: Path, seed: int) -> None:
    """Rows of a capability, no prompt twice."""
    composite = name in COMPOSITES
    sizes = {"train": FRESH if composite else 160, "search": SEARCH if composite else FEW, "confirm": 8}
    sizes["test"] = TEST if composite else FEW
    rng, seen = random.Random(f"rows {seed} {name}"), set()
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        rows: Rows = []
        while len(rows) < size:
            row = world.row(rng, name)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                rows.append({"id": f"{split}-{len(rows):04d}", **row})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def world_config(seed: int, folder: Path, evaluations: int) -> tuple[LoadedConfig, World]:
    """Data and configuration of a seed. Plain operations, which the base knows, show what an expert forgets."""
    world = draw(seed)
    names = [*experts_in(world), *COMPOSITES]
    for name in names:
        write_rows(world, name, folder / name, seed)
    capabilities = [
        f"  - {{name: {name}, source: {{type: jsonl, path: {name}}}, grader: {{type: exact}}, decoding: {{max_new_tokens: 14}}}}"
        for name in names
    ]
    text = [
        f"name: swarm-{seed}",
        "model: {path: reference, dtype: float32, device: cpu, threads: 1}",
        "capabilities:",
        *capabilities,
        "weights:",
        "  method: grpo",
        "  lora: {rank: 8, alpha: 16}",
        "  sft: {steps: 20, batch: 16, learning_rate: 0.001}",
        "  warm_start: {steps: 8, batch: 16, learning_rate: 0.001}",
        "  grpo: {steps: 10, prompts_per_step: 4, generations: 8, learning_rate: 0.001}",
        "  checkpoint_every: 20",
        f"  swarm: {{evaluations: {evaluations}, population: 10, examples: {SEARCH}, block: 20}}",
        f"seed: {seed}",
    ]
    (folder / "config.yaml").write_text("\n".join(text) + "\n", encoding="utf-8")
    return load_config(folder / "config.yaml"), world


def with_weights(loaded: LoadedConfig, **changes: Any) -> LoadedConfig:
    """The configuration with another `weights` section."""
    weights = loaded.config.weights.model_copy(update=changes)
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"weights": weights}))


@dataclasses.dataclass
class Bench:
    """One seed."""

    session: Session
    world: World
    by_name: dict[str, Capability]

    def values(self, name: str, adapter: Adapter | None, split: str = "search") -> list[float]:
        """Greedy scores of a candidate on a capability's rows."""
        capability = self.by_name[name]
        candidate = self.session.candidate(capability, "", adapter)
        return self.session.meter.measure(candidate, capability, split, capability.splits[split], stage="bench").values  # type: ignore[arg-type]

    def train(self, kind: str) -> dict[str, Adapter]:
        """The experts of one kind."""
        loaded = self.session.loaded
        self.session.loaded = with_weights(loaded, **KINDS[kind])
        found = {}
        for name in experts_in(self.world):
            result = train_adapter(self.session, self.by_name[name], "", kind)
            if result.checkpoints:
                found[name] = result.checkpoints[-1][1]
        self.session.loaded = loaded
        return found

    def search(self, name: str, kind: str, search: str, experts: dict[str, Adapter]) -> Composed:
        """What a search over the experts finds on a composite."""
        loaded = self.session.loaded
        swarm = loaded.config.weights.swarm.model_copy(update={"search": search, "experts": tuple(experts)})
        if name == "chain":
            swarm = swarm.model_copy(update={"evaluations": CHAIN_EVALUATIONS})
        self.session.loaded, self.session.adapters = with_weights(loaded, swarm=swarm), experts
        found = compose(self.session, self.by_name[name], f"{kind}-{search}", "")
        self.session.loaded = loaded
        assert isinstance(found, Composed)
        return found

    def sums(self, name: str, kind: str, experts: dict[str, Adapter]) -> dict[str, Adapter]:
        """The plain sum of the experts that the composite needs, by its weight."""
        needed = needed_by(name, self.world.needed, self.world.layout)
        fingerprint = self.session.backend.info().fingerprint
        read = experts_of(list(experts.values()), fingerprint)
        out = {}
        for weight in (1.0, 0.5):
            place = self.session.folder.path / "checkpoints" / f"{name}-{kind}-sum-{weight}"
            coefficients = [weight if e in needed else 0.0 for e in experts]
            out[f"sum x {weight:g}"] = materialise(read, coefficients, place, fingerprint).adapter
        return out


def sampled(bench: Bench, name: str, adapters: Sequence[Adapter | None], draws: int) -> list[list[float]]:
    """For each of the first test items the scores of `draws` samples at temperature 1, the candidates taking turns."""
    capability, meter = bench.by_name[name], bench.session.meter
    items = capability.splits["test"][:SAMPLED] if draws else ()
    rows: list[list[float]] = [[] for _ in items]
    for candidate in sampling_candidates(bench, name, adapters) if items else ():
        each = -(-draws // len(adapters))
        found = meter.measure(candidate, capability, "test", items, samples=each, stage="bench")
        for row, rollouts in zip(rows, found.rollouts, strict=True):
            row += [r.value for r in rollouts]
    return rows


def sampling_candidates(bench: Bench, name: str, adapters: Sequence[Adapter | None]) -> list[Any]:
    """The same candidates at temperature 1."""
    plain = [bench.session.candidate(bench.by_name[name], "", adapter) for adapter in adapters]
    return [dataclasses.replace(c, sampling=c.sampling.model_copy(update={"temperature": 1.0})) for c in plain]


def one_composite(
    bench: Bench, name: str, kind: str, experts: dict[str, Adapter], searches: Sequence[str]
) -> dict[str, Any]:
    """Searches and the sealed test of one composite with the experts of one kind."""
    found = {search: bench.search(name, kind, search, experts) for search in searches}
    candidates: dict[str, Adapter | None] = {"base": None, **experts, **bench.sums(name, kind, experts)}
    candidates |= {search: composed.mixture for search, composed in found.items()}
    draws = round(found[searches[0]].asked / SEARCH) if len(searches) > 1 else 0
    return {
        "kind": kind,
        "composite": name,
        "candidates": candidates,
        "draws": draws,
        "searches": {
            search: {
                "coefficients": dict(zip(c.experts, c.coefficients, strict=True)),
                "evaluations": c.evaluations,
                "asked": c.asked,
                "saved": c.saved,
                "chosen": c.chosen,
                "fresh": {n: i.mean for n, i in c.fresh.items()},
            }
            for search, c in found.items()
        },
    }


def run_seed(seed: int, composite: str, kind: str, root: Path, evaluations: int) -> dict[str, Any]:
    """Everything about one composite of a seed with the experts of one kind, as plain data."""
    folder = root / str(seed)
    loaded, world = world_config(seed, folder, evaluations)
    capabilities = load_capabilities(loaded)
    with RunFolder(folder / f"run-{kind}") as run:
        config = loaded.config
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_folder(run.path))
        run.claim(identity_fields(loaded, capabilities, backend), resolved_json(config, loaded.root))
        session = open_session(loaded, run, capabilities, backend, lambda kind, data: None)
        bench = Bench(session, world, {c.name: c for c in capabilities})
        experts = bench.train(kind)
        own = {
            name: {
                "base": mean(bench.values(name, None)),
                "own": mean(bench.values(name, adapter)),
                "others": {other: mean(bench.values(other, adapter)) for other in experts if other != name},
            }
            for name, adapter in experts.items()
        }
        searches = SEARCHES if (composite, kind) == ("layout", "sft") else SEARCHES[:1]
        part = one_composite(bench, composite, kind, experts, searches)
        return {"seed": seed, "world": dataclasses.asdict(world), "own": own, **tested(bench, part)}


def tested(bench: Bench, part: dict[str, Any]) -> dict[str, Any]:
    """The sealed test of a composite, opened once."""
    name, candidates = part["composite"], part["candidates"]
    capability = bench.by_name[name]
    pool = [candidates[e] for e in experts_in(bench.world) if e in candidates] if part["draws"] else []
    greedy = [bench.session.candidate(capability, "", adapter) for adapter in candidates.values()]
    bench.session.meter.open_sealed(capability, "test", [*greedy, *sampling_candidates(bench, name, [None, *pool])])
    return {
        **{key: value for key, value in part.items() if key != "candidates"},
        "test": {label: bench.values(name, adapter, "test") for label, adapter in candidates.items()},
        "base samples": sampled(bench, name, [None], part["draws"]),
        "expert samples": sampled(bench, name, pool, part["draws"]),
    }


def finished(seed: int, composite: str, kind: str, root: Path, evaluations: int) -> dict[str, Any]:
    """The record of a seed, a composite and a kind of experts, made where it is not there yet."""
    path = root / f"{seed}-{composite}-{kind}.json"
    if not path.exists():
        write_json(path, run_seed(seed, composite, kind, root, evaluations))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def parts_of(text: str) -> list[tuple[str, str]]:
    """`layout-sft,chain-sft` -> composites and kinds of experts."""
    found = [(composite, kind) for composite, kind in PARTS if f"{composite}-{kind}" in text.split(",")]
    if len(found) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"of {', '.join('-'.join(part) for part in PARTS)}")
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("runs/swarm"))
    parser.add_argument("--evaluations", type=int, default=60, help="mixtures of one search")
    parser.add_argument("--parts", type=parts_of, default=PARTS, help="such as layout-sft,chain-sft; default: all")
    args = parser.parse_args()
    wall, processor = time.monotonic(), time.process_time()
    records = []
    for composite, kind in args.parts:
        for seed in seeds_of(args.seeds):
            records.append(finished(seed, composite, kind, args.out, args.evaluations))
            print(f"{composite}, {kind}, seed {seed}: done after {time.monotonic() - wall:.0f} s", flush=True)
    lines = experts_table(records)
    for composite, kind in args.parts:
        lines += pooled(records, composite, kind)
    print("\n".join([*lines, *worlds(records), *by_mark(records, args.out)]))
    print(f"\n{time.process_time() - processor:.0f} s of processor time, {time.monotonic() - wall:.0f} s on the clock")


if __name__ == "__main__":
    main()
