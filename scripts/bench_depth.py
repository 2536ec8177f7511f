"""Iteration without a document, with one that spells the steps out, and after training; and where the product then puts it.

    python scripts/train_numeric.py --out runs/numeric-member     # once: the member that is asked
    python scripts/bench_depth.py --seeds 0-4                     # accuracy against depth
    python scripts/bench_depth.py --seeds 0-4 --product           # what the router makes of deep and shallow ones
    python scripts/bench_depth.py --summary --figure docs/depth.svg

Curves, d = 1 to 8 (`numeric_language.py`), mostly of `@next`, whose answers were practised equally at once and in steps. Each
seed draws other rows and trains anew. Arms: at once; the document `form step.`, under which the member writes every step; at
once after GRPO on d = 1 to 4 of other numbers (the last checkpoint). Beside it an operation practised at once with d = 1 alone
(`@prev`), and a pair of operations as one step that was not practised as a pair (`@prev @rotr`). b is the slope of
`hybrid.probe.depth`.

Product: what the router attempts and recommends, from the probes alone (`hybrid probe`), with the same document as seed skill:
`@next` to d = 7 (`deep`), the pair to d = 4 (`deep-pair`), single steps. With --whole `hybrid run`.

One JSON per seed in --out; a run resumes. Does not: train the member.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numeric_language as numeric
import reference_language as language
from bench_worlds import seeds_of

from hybrid.backends.base import Adapter
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability, Example
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.config.router import RouterConfig
from hybrid.evidence.stats import wilson
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.run import run
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.training import cache_folder, train_adapter
from hybrid.probe.base import ProbeResult
from hybrid.probe.depth import DepthFit, fit_depth
from hybrid.router.route import route
from hybrid.store.folder import RunFolder

DOCUMENT = "---\nname: steps\ndescription: Write every value down.\n---\n" + numeric.STEP_LINE + "\n"
ARMS = (
    "at once",
    "document",
    "at once, after GRPO",
    "only single steps practised, at once",
    "unpractised pair, at once",
    "unpractised pair, document",
)


def options(slots: Iterable[str], depths: Iterable[int], seed: int) -> str:
    """The options of the suite `numeric_iteration` for operations of the dialect, as YAML.

    Numbers have four different digits, as everything that the member has practised; 300 of them train, 300 others do not.
    """
    different = ["".join(digits) for digits in itertools.permutations("0123456789", numeric.WIDTH)]
    starts = [int(x) for x in random.Random(f"starts {seed}").sample(different, 600)]
    return json.dumps(
        {
            "family": "digits",
            "width": numeric.WIDTH,
            "alphabet": language.LETTERS,
            "maps": {slot: numeric.GIVENS[slot] for slot in slots},
            "template": "q {d} {x} {name}",
            "depths": list(depths),
            "train_starts": starts[:300],
            "held_starts": starts[300:],
        }
    )


def capability(name: str, chosen: str, sizes: tuple[int, int, int, int, int], document: str = "SKILL.md") -> list[str]:
    """Configuration lines of a capability."""
    shown = dict(zip(("train", "search", "confirm", "test", "variant"), sizes, strict=True))
    return [
        f"  - name: {name}",
        f"    source: {{type: suite, name: numeric_iteration, options: {chosen}, sizes: {json.dumps(shown)}}}",
        f"    skill: {document}",
        "    decoding: {max_new_tokens: 110}",
        "    kind: procedural",
    ]


def write_world(folder: Path, name: str, member: Path, seed: int, capabilities: Iterable[list[str]]) -> Path:
    """The configuration with its document and vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "SKILL.md").write_text(DOCUMENT, encoding="utf-8")
    (folder / "OTHER.md").write_text(DOCUMENT.replace(numeric.STEP_LINE, "rule Kar @rev."), encoding="utf-8")
    rules = ["form plain.", "form angle.", "form square.", numeric.STEP_LINE]
    (folder / "vocabulary.yaml").write_text(
        "slots: []\nfacts: []\nexamples: []\nrules: " + json.dumps(rules) + "\n", encoding="utf-8"
    )
    lines = [
        f"name: {name}",
        f"model: {{path: {json.dumps(str(member.absolute()))}, dtype: float32, device: cpu, threads: 1}}",
        "capabilities:",
        *(line for lines in capabilities for line in lines),
        "skill: {epochs: 1, batch: 8, proposer: {type: offline, vocabulary: vocabulary.yaml, trials: 1}}",
        "weights:",
        "  lora: {rank: 8, alpha: 16}",
        "  grpo: {steps: 40, prompts_per_step: 4, generations: 8, learning_rate: 0.0005}",
        "  checkpoint_every: 40",
        "probe: {examples: 48, samples: 2, worked_examples: 0}",
        "gate: {ship: {minimum_effect: 0.15}}",
        f"seed: {seed}",
    ]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def curve_world(folder: Path, member: Path, seed: int) -> LoadedConfig:
    """`@next` asked to depth 8 and trained to depth 4; two other operations asked to depth 8."""
    deep, sizes = range(1, numeric.DEEPEST + 1), (8, 4, 4, 64, 0)
    parts = [
        capability("next", options(["@next"], deep, seed), sizes),
        capability("taught", options(["@next"], range(1, 5), seed), (64, 4, 4, 4, 0)),
        capability("prev", options(["@prev"], deep, seed), sizes),
        capability("pair", options(["@prev @rotr"], deep, seed), sizes),
    ]
    return load_config(write_world(folder, f"depth-{seed}", member, seed, parts))


def trained(session: Session, part: Capability) -> Adapter | None:
    """The last checkpoint; None where no gradient ever flowed."""
    result = train_adapter(session, part, "", "grpo")
    return result.checkpoints[-1][1] if result.checkpoints else None


def counts(session: Session, part: Capability, rows: Sequence[Example], text: str, adapter: Adapter | None) -> Any:
    """Depth -> [right, asked], greedily."""
    measured = session.meter.measure(session.candidate(part, text, adapter), part, "variant", rows, stage="verify")
    found: dict[str, list[int]] = {}
    for row, answers in zip(rows, measured.rollouts, strict=True):
        cell = found.setdefault(str(row.metadata["depth"]), [0, 0])
        cell[0] += answers[0].passed
        cell[1] += 1
    return found


def run_curves(seed: int, root: Path, member: Path) -> dict[str, Any]:
    """Every arm of one seed."""
    loaded = curve_world(root / str(seed), member, seed)
    capabilities = load_capabilities(loaded)
    parts = {c.name: c for c in capabilities}
    with RunFolder(root / str(seed) / "run") as folder:
        backend = build_backend(loaded.config.model, loaded.config.backend, loaded.resolve, cache_folder(folder.path))
        folder.claim(identity_fields(loaded, capabilities, backend), resolved_json(loaded.config, loaded.root))
        session = open_session(loaded, folder, capabilities, backend, lambda kind, data: None)
        adapter = trained(session, parts["taught"])
        asked = (
            ("at once", "next", "", None),
            ("document", "next", numeric.STEP_LINE, None),
            ("at once, after GRPO", "next", "", adapter),
            ("only single steps practised, at once", "prev", "", None),
            ("unpractised pair, at once", "pair", "", None),
            ("unpractised pair, document", "pair", numeric.STEP_LINE, None),
        )
        return {arm: counts(session, parts[n], parts[n].splits["test"], text, used) for arm, n, text, used in asked}


def product_world(folder: Path, member: Path, seed: int) -> Path:
    """Seven steps that have to be executed, four of a step that goes wrong now and then, and single steps after each.

    Single steps have another document: a capability's irrelevant control is its neighbour's text.
    """
    sizes = (32, 64, 96, 96, 0)
    parts = [
        capability("deep", options(["@next"], range(1, 8), seed), sizes),
        capability("single-next", options(["@next"], [1], seed), sizes, "OTHER.md"),
        capability("deep-pair", options(["@prev @rotr"], range(1, 5), seed), sizes),
        capability("single-prev", options(["@prev"], [1], seed), sizes, "OTHER.md"),
    ]
    return write_world(folder, f"depth-product-{seed}", member, seed, parts)


def run_product(seed: int, root: Path, member: Path, whole: bool) -> dict[str, Any]:
    """What the report, or the profile, says of each capability."""
    folder = root / f"product-{seed}"
    loaded = load_config(product_world(folder, member, seed))
    path = run(loaded, folder / ("run" if whole else "probe"), probe_only=not whole, on_event=lambda kind, data: None)
    found = json.loads(path.read_text(encoding="utf-8"))
    return {c["name"]: c for c in found["capabilities"]}


def kept(path: Path, make: Any) -> dict[str, Any]:
    """What a file holds, or what `make` gives, kept there."""
    if not path.is_file():
        began = time.process_time()
        path.parent.mkdir(parents=True, exist_ok=True)
        found = json.dumps(make(), indent=1, sort_keys=True)
        path.write_text(found, encoding="utf-8")
        print(f"{path}: {time.process_time() - began:.0f} s of processor time", file=sys.stderr, flush=True)
    found_again: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found_again


@dataclasses.dataclass(frozen=True)
class Curve:
    """One arm over all seeds: depth -> (right, asked), and the slope."""

    cells: dict[int, tuple[int, int]]
    fit: DepthFit | None


def pooled(seeds: Sequence[dict[str, Any]], arm: str) -> Curve:
    """An arm over all seeds."""
    cells: dict[int, tuple[int, int]] = {}
    for seed in seeds:
        for depth, (right, asked) in seed.get(arm, {}).items():
            before = cells.get(int(depth), (0, 0))
            cells[int(depth)] = (before[0] + right, before[1] + asked)
    rows = [(d, i < right) for d, (right, asked) in cells.items() for i in range(asked)]
    return Curve(dict(sorted(cells.items())), fit_depth(rows))


def print_curves(seeds: Sequence[dict[str, Any]]) -> dict[str, Curve]:
    """The table of accuracy against depth."""
    curves = {arm: pooled(seeds, arm) for arm in ARMS}
    depths = range(1, numeric.DEEPEST + 1)
    print(f"\n{len(seeds)} seeds; accuracy by required steps, all seeds together; b in logits per step, 95 %\n")
    print("| arm | " + " | ".join(f"d = {d}" for d in depths) + " | b | n |")
    print("|---" * (len(depths) + 3) + "|")
    for arm, curve in curves.items():
        shown = [f"{r / n:.2f}" if n else "" for r, n in (curve.cells.get(d, (0, 0)) for d in depths)]
        fit = curve.fit
        slope = f"{fit.slope:+.2f} [{fit.low:+.2f}, {fit.high:+.2f}]" if fit else ""
        print(f"| {arm} | " + " | ".join(shown) + f" | {slope} | {sum(n for _, n in curve.cells.values())} |")
    print("\nd = 5 to 8, which no training of this script saw:")
    for arm, curve in curves.items():
        cells = [v for d, v in curve.cells.items() if d >= 5]
        if cells:
            interval = wilson(sum(r for r, _ in cells), sum(n for _, n in cells))
            print(f"- {arm}: {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}], n = {interval.n}")
    return curves


def profile_of(found: dict[str, Any]) -> dict[str, ProbeResult]:
    """The profile of a capability as the router reads it."""
    known = set(ProbeResult.model_fields)
    return {
        name: ProbeResult(
            **{k: v for k, v in probe.items() if k in known}, details={k: v for k, v in probe.items() if k not in known}
        )
        for name, probe in found["profile"].items()
    }


def shown(probe: ProbeResult | None) -> str:
    """`0.97 [0.93, 0.99]`, or a dash."""
    return "-" if probe is None or probe.value is None else f"{probe.value:.2f} [{probe.low:.2f}, {probe.high:.2f}]"


def print_product(reports: dict[int, dict[str, Any]]) -> None:
    """What the router attempts and recommends on the stored profiles, what was placed after a whole run, and the figures."""
    print(
        "\n| seed | capability | attempted | recommended | base | with text | b | b with text | fitted at the deepest |"
    )
    print("|---" * 10 + "|")
    for seed, report in reports.items():
        for name, found in report.items():
            profile = profile_of(found)
            routed = route(profile, RouterConfig())
            under = profile.get("depth_slope_text")
            ends = under.details if under is not None else {}
            cells = [
                seed,
                name,
                routed.placement,
                getattr(routed, "recommendation", None) or "-",
                found.get("placement", "-"),
                *(shown(profile.get(key)) for key in ("base", "text_score", "depth_slope", "depth_slope_text")),
                f"{ends['at_deepest']:.2f} at {ends['deepest']:.0f}" if "at_deepest" in ends else "-",
            ]
            print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    """Run what is asked for and print all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--member", type=Path, default=Path("runs/numeric-member"))
    parser.add_argument("--out", type=Path, default=Path("runs/depth"))
    parser.add_argument(
        "--product", action="store_true", help="probe and route with the product, instead of the curves"
    )
    parser.add_argument("--whole", action="store_true", help="with --product: `hybrid run` instead of `hybrid probe`")
    parser.add_argument("--summary", action="store_true", help="run nothing; print what --out holds")
    parser.add_argument("--figure", type=Path, help="draw the curves into this SVG file")
    args = parser.parse_args()
    curves: list[dict[str, Any]] = []
    reports: dict[int, dict[str, Any]] = {}
    for seed in seeds_of(args.seeds):
        product = args.out / f"{'whole' if args.whole else 'product'}-{seed}.json"
        curve = args.out / f"curve-{seed}.json"
        if not args.summary and args.product:
            kept(product, lambda seed=seed: run_product(seed, args.out, args.member, args.whole))
        elif not args.summary:
            kept(curve, lambda seed=seed: run_curves(seed, args.out, args.member))
        if curve.is_file():
            curves.append(kept(curve, dict))
        if product.is_file():
            reports[seed] = kept(product, dict)
    drawn = print_curves(curves) if curves else {}
    if reports:
        print_product(reports)
    if args.figure and drawn:
        from depth_figure import figure

        args.figure.write_text(figure({arm: c.cells for arm, c in drawn.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
