"""Proxy-tuning against direct tuning: how much of the gain, what becomes of facts that nobody touched, and what it costs.

    python scripts/train_pair.py --out runs/pair
    python scripts/bench_proxy.py --pair runs/pair --seeds 0-4        # what docs/proxy.md holds; one core

The large member of the pair knows 48 facts by heart, the small one every second of them. Two tasks per seed: `operation`, a
mark that means one operation, and `layout`, facts asked with a mark and answered in angles; training rows of the latter ask
for 12 facts that both members know, its test for the 36 others. Each task is learnt by a LoRA on the large member (direct),
and by a LoRA on the small one that steers the large one (proxy); `operation` by GRPO with a KL to the base, too. Beside them
stands the direct LoRA at other strengths, in logits and in weights. `search` chooses strengths and checkpoints; `test`, all 48
facts asked plainly, and operations named directly are then read once.

Intervals are 95 %, Student's t over seeds; the pair is the same for all seeds. A run resumes: what is in --out is not paid for
again. Does not: place or ship; `hybrid run` with `weights: {method: proxy}` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import reference_language as language
from bench_order import STUDENT, student
from bench_worlds import seeds_of
from make_world import GUESSED

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.build import build_backend
from hybrid.capability.types import Capability, Split
from hybrid.config.loader import LoadedConfig, load_config, resolved_json
from hybrid.config.proxy import ProxyConfig
from hybrid.evidence.types import Measurement
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.pipeline.training import cache_folder, train_adapter
from hybrid.store.atomic import write_json
from hybrid.store.folder import RunFolder
from hybrid.weights.proxy import candidate

ALPHAS = (0.25, 0.5, 1.0, 1.5)
TASKS = ("operation", "layout")
UNTOUCHED = ("facts", "operations")
METHODS = {"sft": TASKS, "grpo": ("operation",)}
"""The tasks that each way of training is tried on."""
SIZES = {"train": 96, "search": 96, "confirm": 8, "test": 144}


def rows_of(seed: int, facts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Capability -> split -> rows, without a prompt in two splits of a capability."""
    rng = random.Random(f"proxy {seed}")
    marks, operation = rng.sample(language.MARKS, 2), rng.choice(GUESSED)
    shared = sorted(facts["small"])
    taught = rng.sample(shared, 12)
    others = [name for name in sorted(facts["large"]) if name not in taught]

    def applied(_split: str) -> dict[str, Any]:
        text = language.argument(rng, 4, 5)
        return {"prompt": f"q {text} {marks[0]}", "reference": language.apply([operation], text)}

    def laid_out(split: str) -> dict[str, Any]:
        name = rng.choice(others if split == "test" else taught)
        value = language.FORMS["angle"].format(facts["large"][name])
        both = name in facts["small"]
        return {
            "prompt": f"ask {language.argument(rng, 2, 3)} {marks[1]} {name}",
            "reference": value,
            "metadata": {"both": both},
        }

    def asked(_split: str) -> dict[str, Any]:
        name = rng.choice(sorted(facts["large"]))
        both = name in facts["small"]
        return {
            "prompt": f"ask {language.argument(rng, 2, 3)} {name}",
            "reference": facts["large"][name],
            "metadata": {"both": both},
        }

    def direct(_split: str) -> dict[str, Any]:
        name, text = rng.choice(sorted(language.OPERATIONS)), language.argument(rng, 4, 5)
        return {"prompt": f"q {text} {name}", "reference": language.apply([name], text)}

    makers = {"operation": applied, "layout": laid_out, "facts": asked, "operations": direct}
    found = {}
    for name, make in makers.items():
        sizes = SIZES if name in TASKS else SIZES | {"train": 8, "search": 8}
        found[name] = filled(make, sizes)
    return found


def filled(make: Callable[[str], dict[str, Any]], sizes: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every split; no prompt twice."""
    seen: set[str] = set()
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in sizes}
    for split, size in sizes.items():
        while len(found[split]) < size:
            row = make(split)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                found[split].append({"id": f"{split}-{len(found[split]):04d}", **row})
    return found


def make_world(seed: int, home: Path, pair: Path) -> None:
    """Data and configuration of a seed; the configuration trains directly, and is changed for the other arms."""
    facts = json.loads((pair / "facts.json").read_text(encoding="utf-8"))
    lines = [
        f"name: proxy-{seed}",
        f"model: {{path: {json.dumps(str((pair / 'large').absolute()))}, device: cpu, threads: 1}}",
        "capabilities:",
    ]
    for name, splits in rows_of(seed, facts).items():
        (home / name).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (home / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
        lines.append(
            f"  - {{name: {name}, source: {{type: jsonl, path: {name}}}, grader: {{type: exact}}, "
            "decoding: {max_new_tokens: 12}}"
        )
    lines += [
        "weights:",
        "  method: sft",
        "  lora: {rank: 8, alpha: 16}",
        "  sft: {steps: 60, batch: 16, learning_rate: 0.001}",
        "  grpo: {steps: 30, prompts_per_step: 8, generations: 8, learning_rate: 0.0005, beta: 0.05}",
        "  checkpoint_every: 15",
        f"  proxy: {{small: {json.dumps(str((pair / 'small').absolute()))}}}",
        f"seed: {seed}",
    ]
    (home / "config.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def variant(loaded: LoadedConfig, method: str, train: str) -> LoadedConfig:
    """The same configuration for a training on the large member by `method`, or on the small one by `train`."""
    weights = loaded.config.weights
    proxy = weights.proxy.model_copy(update={"train": train})
    config = loaded.config.model_copy(update={"weights": weights.model_copy(update={"method": method, "proxy": proxy})})
    return dataclasses.replace(loaded, config=config)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to apply a training: its family, strength and step."""

    family: str
    alpha: float
    step: int
    adapter: Adapter


def arms_of(session: Session, task: Capability, method: str) -> tuple[list[Arm], Adapter | None]:
    """Every arm of a task by one training method, and the small member's last adapter."""
    loaded, home = session.loaded, session.folder.path / "arms" / f"{task.name}-{method}"
    base = ("large", session.backend.info().fingerprint)
    found: list[Arm] = []
    session.loaded = variant(loaded, method, method)
    direct = train_adapter(session, task, "", f"direct-{method}").checkpoints
    session.loaded = variant(loaded, "proxy", method)
    small = train_adapter(session, task, "", f"proxy-{method}").checkpoints
    settings = session.loaded.config.weights.proxy
    session.loaded = loaded
    found += [Arm("direct", 1.0, step, adapter) for step, adapter in direct]
    for alpha in ALPHAS:
        if small:
            made = candidate(small[-1][1], alpha, settings, base, home / f"proxy-{alpha:g}", {})
            found.append(Arm("proxy", alpha, small[-1][0], made))
        if direct and alpha != 1.0 and method == "sft":
            for apply, family in (("logits", "dial"), ("weights", "scaled")):
                own = settings.model_copy(update={"apply": apply})
                made = candidate(direct[-1][1], alpha, own, base, home / f"{family}-{alpha:g}", {})
                found.append(Arm(family, alpha, direct[-1][0], made))
    return found, small[-1][1] if small else None


def read(session: Session, capability: Capability, split: Split, adapter: Adapter | None) -> Measurement:
    """One measurement."""
    rows = capability.splits[split]
    return session.meter.measure(session.candidate(capability, "", adapter), capability, split, rows, stage="verify")


def figures(measured: Measurement, capability: Capability) -> dict[str, float]:
    """Mean, and means over facts that both members know and that the large one alone knows."""
    values, rows = measured.values, capability.splits["test"]
    found = {"all": fmean(values)}
    for key, both in (("both", True), ("large", False)):
        part = [v for v, row in zip(values, rows, strict=True) if row.metadata.get("both") is both]
        if part:
            found[key] = fmean(part)
    return found


def study(session: Session, method: str) -> tuple[dict[str, Any], dict[str, Adapter]]:
    """Every arm of one training method on every split, as plain JSON; and the small member's adapters by task."""
    by_name = {c.name: c for c in session.capabilities}
    arms: dict[str, list[Arm]] = {}
    smalls: dict[str, Adapter] = {}
    for task in METHODS[method]:
        arms[task], small = arms_of(session, by_name[task], method)
        if small is not None:
            smalls[task] = small
    for name, capability in by_name.items():
        some = [arm for task, own in arms.items() if task == name or name in UNTOUCHED for arm in own]
        read_by = [session.candidate(capability), *(session.candidate(capability, "", a.adapter) for a in some)]
        session.meter.open_sealed(capability, "test", read_by)
    base = {name: figures(read(session, c, "test", None), c) for name, c in by_name.items()}
    rows = []
    for name, some in arms.items():
        for arm in some:
            row: dict[str, Any] = {
                "key": f"{name}/{method}",
                "family": arm.family,
                "alpha": arm.alpha,
                "step": arm.step,
            }
            row["search"] = read(session, by_name[name], "search", arm.adapter).mean
            for label, read_on in (("test", name), *((n, n) for n in UNTOUCHED)):
                row[label] = figures(read(session, by_name[read_on], "test", arm.adapter), by_name[read_on])
            rows.append(row)
    return {"base": base, "rows": rows}, smalls


def alone(session: Session, smalls: Mapping[str, Adapter], method: str) -> dict[str, Any]:
    """The small member by itself, plain and tuned."""
    by_name = {c.name: c for c in session.capabilities}
    for name, capability in by_name.items():
        fitting = [adapter for task, adapter in smalls.items() if task == name or name in UNTOUCHED]
        read_by = [session.candidate(capability), *(session.candidate(capability, "", a) for a in fitting)]
        session.meter.open_sealed(capability, "test", read_by)
    found: dict[str, Any] = {"base": {n: figures(read(session, c, "test", None), c) for n, c in by_name.items()}}
    for task, adapter in smalls.items():
        names = {"test": task, **{n: n for n in UNTOUCHED}}
        scores = {label: figures(read(session, by_name[n], "test", adapter), by_name[n]) for label, n in names.items()}
        found[f"{task}/{method}"] = scores
    return found


def opened(loaded: LoadedConfig, path: Path, work: Callable[[Session], Any]) -> Any:
    """`work` in a session of its own over the run folder `path`."""
    capabilities = load_capabilities(loaded)
    config = loaded.config
    small = variant(loaded, "proxy", "sft").config.small
    with RunFolder(path) as folder:
        backend = build_backend(config.model, config.backend, loaded.resolve, cache_folder(folder.path), small)
        folder.claim(identity_fields(loaded, capabilities, backend), resolved_json(config, loaded.root))
        return work(open_session(loaded, folder, capabilities, backend, lambda kind, data: None))


def run_seed(seed: int, root: Path, pair: Path, method: str) -> dict[str, Any]:
    """One seed by one training method: trained and measured, or read back."""
    home = root / str(seed)
    kept = home / f"{method.upper()}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    make_world(seed, home, pair)
    loaded = load_config(home / "config.yaml")
    found, smalls = opened(loaded, home / method / "large", lambda session: study(session, method))
    model = loaded.config.model.model_copy(update={"path": str((pair / "small").absolute())})
    other = dataclasses.replace(loaded, config=loaded.config.model_copy(update={"model": model}))
    found["small"] = opened(other, home / method / "small", lambda session: alone(session, smalls, method))
    write_json(kept, found)
    return found


def speed(root: Path, pair: Path, seed: int, repeats: int = 5) -> dict[str, Any]:
    """Tokens a second of one thread: the base, the proxy, and what models one after the other allow; medians, alternating."""
    from hybrid.backends.loading import load_base
    from hybrid.backends.transformers_backend import TransformersBackend
    from hybrid.config.schema import ModelConfig, TransformersBackendConfig

    kept = root / "SPEED.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    proxy_folder = root / str(seed) / "sft" / "large" / "arms" / "operation-sft" / "proxy-1"
    loaded = [
        dataclasses.replace(
            load_base(ModelConfig(path=str(pair / n), device="cpu", threads=1), Path, root / ".cache"), stop_ids=(1,)
        )
        for n in ("large", "small")
    ]  # rows end at `<unk>`, which is never said: every row is as long as asked
    large = TransformersBackend(
        loaded[0], TransformersBackendConfig(), share_prefixes=False, load_small=lambda: loaded[1]
    )
    small = TransformersBackend(loaded[1], TransformersBackendConfig(), share_prefixes=False)
    from hybrid.backends.adapters import inspect_adapter

    proxy, sampling = inspect_adapter(proxy_folder), Sampling(max_new_tokens=24)
    found: dict[str, Any] = {}
    rng = random.Random(0)
    for rows in (1, 16, 96):
        asked = [Request(f"q {language.argument(rng, 5, 5)} $oak", i) for i in range(rows)]
        ways = {
            "base": lambda asked=asked: large.generate(asked, sampling, None),
            "proxy": lambda asked=asked: large.generate(asked, sampling, proxy),
            "small, twice the rows": lambda asked=asked: small.generate([*asked, *asked], sampling, None),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repeats + 1):
            for name, way in ways.items():
                began = (
                    time.process_time()
                )  # of one thread: on an idle core the same as the wall's, on a busy one not disturbed
                way()
                taken[name] += [time.process_time() - began] if turn else []  # the first turn warms up
        seconds = {name: statistics.median(values) for name, values in taken.items()}
        found[str(rows)] = {
            "base": rows * 24 / seconds["base"],
            "proxy": rows * 24 / seconds["proxy"],
            "share": seconds["base"] / seconds["proxy"],
            "floor": seconds["base"] / (seconds["base"] + seconds["small, twice the rows"]),
        }
    write_json(kept, found)
    return found


TOLERANCE = ProxyConfig().tolerance
Row = Mapping[str, Any]
WAYS = {
    "the direct adapter at a checkpoint": "direct",
    "the direct adapter scaled in its weights": "scaled",
    "the direct adapter scaled in the logits": "dial",
}
"""What the proxy is compared with: families of arms. The last checkpoint of `direct` is the strength 1 of the other two."""


def pick(rows: Sequence[Row], key: str, family: str) -> Row | None:
    """As a run chooses: of the arms of a family within `TOLERANCE` of the best `search` score the weakest and earliest."""
    some = [r for r in rows if r["key"] == key and r["family"] == family]
    if some and family in ("scaled", "dial"):
        some += [r for r in rows if r["key"] == key and r["family"] == "direct" and r["step"] == some[0]["step"]]
    best = max((r["search"] for r in some), default=0.0)
    good = [r for r in some if r["search"] >= best - TOLERANCE - 1e-9]
    return min(good, key=lambda r: (r["alpha"], r["step"]), default=None)


def matched(rows: Sequence[Row], key: str, score: float) -> Row | None:
    """The checkpoint of the direct adapter whose `search` score is nearest to `score`; of equals the earliest."""
    some = [r for r in rows if r["key"] == key and r["family"] == "direct"]
    return min(some, key=lambda r: (round(abs(r["search"] - score), 6), r["step"]), default=None)


def cell(values: Sequence[float]) -> str:
    """`0.98 [0.95, 1.00]`: a mean of shares over seeds and Student's interval, cut to what a share can be."""
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    mean = fmean(values)
    return f"{mean:.3f} [{max(0.0, mean - half):.3f}, {min(1.0, mean + half):.3f}]"


def report(found: Mapping[int, Mapping[str, Any]], method: str) -> str:
    """The tables of one training method."""
    out = []
    for task in METHODS[method]:
        out += ["", f"### {task}, {method} ({len(found)} seeds)", "", *table(found, f"{task}/{method}")]
    return "\n".join(out)


def table(found: Mapping[int, Mapping[str, Any]], key: str) -> list[str]:
    """One task by one method: every arm, mean over seeds with its interval."""
    task = key.partition("/")[0]
    lines: dict[str, list[tuple[float, ...]]] = {}

    def put(name: str, test: Mapping[str, float], facts: Mapping[str, float], operations: Mapping[str, float]) -> None:
        cells = (test["all"], facts["all"], facts["both"], facts["large"], operations["all"])
        lines.setdefault(name, []).append(cells)

    for f in found.values():
        put("base", f["base"][task], f["base"]["facts"], f["base"]["operations"])
        small = f["small"]
        put("small member", small["base"][task], small["base"]["facts"], small["base"]["operations"])
        if key in small:
            put("small member, tuned", small[key]["test"], small[key]["facts"], small[key]["operations"])
        for r in f["rows"]:
            if r["key"] == key:
                label = f"step {r['step']}" if r["family"] == "direct" else f"alpha {r['alpha']:g}"
                put(f"{r['family']}, {label}", r["test"], r["facts"], r["operations"])
    head = [
        "| arm | new task | facts, all | facts both know | facts the large one knows | operations |",
        "|---|---|---|---|---|---|",
    ]
    body = [
        f"| {name} | " + " | ".join(cell(c) for c in zip(*cells, strict=True)) + " |" for name, cells in lines.items()
    ]
    return [*head, *body, "", *summary(found, key)]


def summary(found: Mapping[int, Row], key: str) -> list[str]:
    """The proxy against each way to apply the direct adapter, all chosen on `search`; and against it at an equal score."""
    task = key.partition("/")[0]
    lines: dict[str, list[tuple[float, ...]]] = {}
    shares, strengths, published = [], [], "the direct adapter at a checkpoint, the proxy at alpha 1 as published"
    for f in found.values():
        rows, proxy = f["rows"], pick(f["rows"], key, "proxy")
        if proxy is None:
            continue
        strengths.append(f"{proxy['alpha']:g}")
        others = {name: pick(rows, key, family) for name, family in WAYS.items()}
        others["the direct checkpoint of the nearest `search` score"] = matched(rows, key, proxy["search"])
        direct, base = others["the direct adapter at a checkpoint"], f["base"][task]["all"]
        if direct is not None and direct["test"]["all"] - base > 0.1:
            shares.append((proxy["test"]["all"] - base) / (direct["test"]["all"] - base))
        for name, other in others.items():
            if other is not None:
                minus = tuple(proxy[part]["all"] - other[part]["all"] for part in ("test", *UNTOUCHED))
                lines.setdefault(name, []).append(minus)
        plain = next((r for r in rows if r["key"] == key and r["family"] == "proxy" and r["alpha"] == 1.0), None)
        if plain is not None and direct is not None:
            minus = tuple(plain[part]["all"] - direct[part]["all"] for part in ("test", *UNTOUCHED))
            lines.setdefault(published, []).append(minus)
    out = [f"alpha chosen on `search`, by seed: {', '.join(strengths) or 'none'}. "]
    if len(shares) > 1:
        out[0] += f"Share of the direct gain on the new task: {student(shares)}."
    out += ["", "| the chosen proxy minus | new task | facts | operations |", "|---|---|---|---|"]
    for name, values in sorted(lines.items(), key=lambda line: line[0] == published):
        cells = [student(list(c), True) if len(values) > 1 else f"{c[0]:+.3f}" for c in zip(*values, strict=True)]
        out.append(f"| {name} | {' | '.join(cells)} |")
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--methods", default="sft,grpo", help="ways of training, in this order")
    parser.add_argument("--out", type=Path, default=Path("runs/proxy"))
    parser.add_argument("--pair", type=Path, default=Path("runs/pair"), help="made by scripts/train_pair.py")
    parser.add_argument("--no-speed", action="store_true", help="leave the timing out")
    args = parser.parse_args()
    wall, seeds = time.monotonic(), seeds_of(args.seeds)
    for method in args.methods.split(","):
        found = {}
        for seed in seeds:
            found[seed] = run_seed(seed, args.out, args.pair, method)
            print(f"{method}, seed {seed} ({time.monotonic() - wall:.0f} s)", flush=True)
        print(report(found, method), flush=True)
    if not args.no_speed:
        head = "| rows | base, tokens a second | proxy | share of the base | theoretical floor |"
        print(f"\n{head}\n|---|---|---|---|---|")
        for rows, s in speed(args.out, args.pair, min(seeds)).items():
            print(f"| {rows} | {s['base']:.0f} | {s['proxy']:.0f} | {s['share']:.2f} | {s['floor']:.2f} |")


if __name__ == "__main__":
    main()
