"""Singular values or matrices? SVF against LoRA on the reference model: size, score at equal steps, merging, the kept basis.

    python scripts/bench_svf.py --seeds 0-4                    # what docs/svf.md holds; one core
    python scripts/bench_svf.py --only basis --model data/gemma-model      # the decomposition of another base alone

A seed fixes a mark's operation, which the base draws from a broad prior. A LoRA of rank 16 and an SVF expert on the same linear
layers are trained on it by GRPO, and both by supervised fine-tuning on gold answers, with equal steps and rows; every
adapter is its training's last one: nothing is selected. The greedy answers to 192 rows of `test` are judged. Learning rates: the
one that this project's worlds train their LoRA with, and one for SVF, the best of three on seed 100. Intervals are 95 %,
over seeds (Student), differences paired by seed. A run resumes: what is in --out is not trained again.

The same with a quarter of the directions: the greatest, the least, or evenly spread singular values.

Knowledge is the harder case for a vector: both are also fine-tuned on values of names that no document tells, and asked for each
fact in a prompt of its own that was not trained on.

Does not: search for a LoRA's best learning rate, or train the largest SVF that would help.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import reference_language as language
import torch
from bench_worlds import seeds_of
from expert_bench import LORA_RATE, backend, base, make_job, numbers, over_seeds, scores, tasks, train

from hybrid.backends.adapters import read_tensors
from hybrid.backends.loading import load_base
from hybrid.backends.svf.basis import Bases, decompose
from hybrid.backends.svf.directions import Keep
from hybrid.backends.svf.export import svf_to_lora
from hybrid.backends.transformers_adapters import AdapterShelf
from hybrid.capability.types import Example
from hybrid.config.schema import DirectionsConfig, ModelConfig
from hybrid.store.atomic import write_json

STEPS, EVERY = 30, 3
SVF_RATE = {"grpo": 1e-2, "sft": 3e-2}
ARMS: dict[str, tuple[str, str, DirectionsConfig | None]] = {
    "LoRA r=16, GRPO": ("lora", "grpo", None),
    "SVF, GRPO": ("svf", "grpo", None),
    "LoRA r=16, SFT": ("lora", "sft", None),
    "SVF, SFT": ("svf", "sft", None),
}
RANKS = (4, 16, 64)


def run_seed(seed: int, root: Path) -> dict[str, Any]:
    """Scores and sizes of one seed, as plain JSON; read back where it was done."""
    kept = root / str(seed) / "SVF.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    task = tasks(seed, 2)[0]
    by = backend(root)
    found: dict[str, Any] = {"base": fmean(scores(by, None, task.test)), "arms": {}}
    for name, (kind, trainer, directions) in ARMS.items():
        rate = (SVF_RATE if kind == "svf" else LORA_RATE)[trainer]
        out = root / str(seed) / f"{kind}-{trainer}-0"
        job = make_job(task, out, seed, kind, trainer, steps=STEPS, every=EVERY, rate=rate, directions=directions)
        result = train(job, root)
        row: dict[str, Any] = {"test": found["base"], "numbers": 0, "note": result.note, "steps": result.steps}
        if result.checkpoints:
            adapter = result.checkpoints[-1][1]
            row |= {"test": fmean(scores(by, adapter, task.test)), "numbers": numbers(adapter)}
            if kind == "svf":
                row |= merged(root, adapter.path) | exported(
                    root, adapter.path, by, task.test, root / str(seed) / trainer
                )
        found["arms"][name] = row
        print(f"seed {seed}: {name}: {found['base']:.2f} -> {row['test']:.2f}", flush=True)
    write_json(kept, found)
    return found


FACTS, FACT_STEPS, FACT_EVERY = 48, 200, 50
FACT_RATE = {"lora": LORA_RATE["sft"], "svf": 1e-1}
"""SVF: the better of 3e-2 and 1e-1 on other facts."""


def run_facts(seed: int, root: Path) -> dict[str, Any]:
    """New knowledge: values of names that no document tells, fine-tuned on; share known after every 50 steps, by kind."""
    kept = root / str(seed) / "FACTS.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    rng = random.Random(f"facts {seed}")
    values = {name: language.value(rng) for name in rng.sample(language.NAMES, FACTS)}
    rows = tuple(
        Example(id=f"{name}-{i}", prompt=f"ask {noise} {name}", reference=value)
        for name, value in values.items()
        for i, noise in enumerate(rng.sample([a + b for a in language.LETTERS for b in language.LETTERS if a != b], 7))
    )
    train_rows, asked = tuple(r for r in rows if not r.id.endswith("-6")), [r for r in rows if r.id.endswith("-6")]
    by, found = backend(root), {}
    for kind in ("lora", "svf"):
        task = dataclasses.replace(tasks(seed, 2)[0], train=train_rows)
        out = root / str(seed) / f"{kind}-facts"
        job = make_job(task, out, seed, kind, "sft", steps=FACT_STEPS, every=FACT_EVERY, rate=FACT_RATE[kind])
        found[kind] = {str(step): fmean(scores(by, a, asked)) for step, a in train(job, root).checkpoints}
        print(f"seed {seed}: facts, {kind}: {found[kind]}", flush=True)
    write_json(kept, found)
    return found


KEEPS: tuple[Keep, ...] = ("top", "bottom", "spread")
COUNT = 40


def run_directions(seed: int, root: Path) -> dict[str, Any]:
    """Test accuracy after GRPO with a quarter of the directions, by which are kept."""
    kept = root / str(seed) / "DIRECTIONS.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    by, task, found = backend(root), tasks(seed, 2)[0], {}
    for keep in KEEPS:
        out, directions = root / str(seed) / f"svf-{keep}", DirectionsConfig(keep=keep, count=COUNT)
        rate = SVF_RATE["grpo"]
        job = make_job(task, out, seed, "svf", "grpo", steps=STEPS, every=STEPS, rate=rate, directions=directions)
        checkpoints = train(job, root).checkpoints
        found[keep] = fmean(scores(by, checkpoints[-1][1] if checkpoints else None, task.test))
        print(f"seed {seed}: {keep} {COUNT}: {found[keep]:.2f}", flush=True)
    write_json(kept, found)
    return found


def report_directions(found: Mapping[int, Mapping[str, Any]], whole: Mapping[int, Mapping[str, Any]]) -> str:
    """Against all directions."""
    every = [whole[seed]["arms"]["SVF, GRPO"]["test"] for seed in found]
    out = ["| directions | test | minus all 160 |", "|---|---|---|"]
    for keep in KEEPS:
        mine = [f[keep] for f in found.values()]
        minus = over_seeds([m - e for m, e in zip(mine, every, strict=True)], True)
        out.append(f"| {keep} {COUNT} | {over_seeds(mine)} | {minus} |")
    return "\n".join(out)


def report_facts(found: Mapping[int, Mapping[str, Any]]) -> str:
    """Share of the facts known, by steps."""
    out = [f"| steps of SFT on {FACTS} new facts | LoRA r=16 | SVF | SVF minus LoRA |", "|---|---|---|---|"]
    for step in map(str, range(FACT_EVERY, FACT_STEPS + 1, FACT_EVERY)):
        lora, svf = ([f[kind][step] for f in found.values()] for kind in ("lora", "svf"))
        minus = over_seeds([s - o for s, o in zip(svf, lora, strict=True)], True)
        out.append(f"| {step} | {over_seeds(lora)} | {over_seeds(svf)} | {minus} |")
    return "\n".join(out)


def merged(root: Path, adapter: Path) -> dict[str, float]:
    """Greatest difference of scores between the expert beside the base and merged into it, and after taking it out again."""
    from hybrid.backends.adapters import inspect_adapter

    loaded = base(root)
    ids = torch.arange(3, 3 + 64).reshape(4, 16)
    shelf = AdapterShelf(loaded)
    with torch.inference_mode(), shelf.active(inspect_adapter(adapter)):
        apart = loaded.model(ids).logits
        shelf.peft.merge_adapter()
        whole = loaded.model(ids).logits
        shelf.peft.unmerge_adapter()
        again = loaded.model(ids).logits
    size = float(apart.abs().max())
    return {"merged": float((whole - apart).abs().max()) / size, "restored": float((again - apart).abs().max()) / size}


def exported(root: Path, adapter: Path, by: Any, rows: Any, out: Path) -> dict[str, Any]:
    """Error and score of the expert as a LoRA of smaller ranks; how far its factors went from 1."""
    from hybrid.backends.adapters import inspect_adapter

    told = {}
    for rank in RANKS:
        error = svf_to_lora(adapter, base(root), rank, out / f"as-lora-{rank}").error
        told[str(rank)] = [error, fmean(scores(by, inspect_adapter(out / f"as-lora-{rank}"), rows))]
    d = torch.cat(list(read_tensors(adapter).values()))
    return {"lora": told, "factors": [float(d.abs().mean()), float(d.abs().max())]}


def time_basis(path: str, root: Path) -> list[str]:
    """The directions of every linear layer: computed, kept, and found again; the error of the method."""
    loaded = load_base(ModelConfig(path=path, device="cpu", threads=1), Path, root / ".cache")
    names = [n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n]
    seconds = []
    folder = root / "basis-timing"
    for _ in range(2):
        bases = Bases(folder, loaded.info.fingerprint)
        began = time.process_time()
        for name in names:
            bases.get(name, loaded.model.get_submodule(name))
        seconds.append(time.process_time() - began)
    size = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    lines = [
        f"- {path}: {len(names)} matrices: {seconds[0]:.2f} s of processor time to compute, {seconds[1]:.3f} s to find again "
        f"({seconds[0] / seconds[1]:.0f} times faster), {size / 2**20:.0f} MiB on disk"
    ]
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    layer = loaded.model.get_submodule(names[len(names) // 2])
    return [*lines, f"- {basis_error(layer.weight.detach(), names[len(names) // 2])}"]


def basis_error(weight: torch.Tensor, name: str) -> str:
    """How far the kept basis is from orthogonal, and from diagonalising the Gram matrix, as float32 keeps it."""
    basis, wide = decompose(weight).double(), weight.double()
    gram = wide.T @ wide if wide.shape[1] <= wide.shape[0] else wide @ wide.T
    inner = basis.T @ gram @ basis
    off = float((inner - inner.diag().diag()).norm() / inner.norm())
    straight = float((basis.T @ basis - torch.eye(len(basis)).double()).abs().max())
    return f"{name}: departure from orthogonal {straight:.1e}, off-diagonal part of the Gram matrix {off:.1e}"


def report(found: Mapping[int, Mapping[str, Any]]) -> str:
    """The tables."""
    rows = list(found.values())
    lora = [r["arms"]["LoRA r=16, GRPO"] for r in rows]
    out = [
        "| what | trained numbers | share of LoRA | test, mean over seeds | minus LoRA, same trainer |",
        "|---|---|---|---|---|",
    ]
    out.append(f"| base | - | - | {over_seeds([r['base'] for r in rows])} | - |")
    for name in ARMS:
        mine = [r["arms"][name] for r in rows]
        other = [r["arms"][name.replace("SVF", "LoRA r=16")]["test"] for r in rows]
        minus = (
            "-"
            if name.startswith("LoRA")
            else over_seeds([m["test"] - o for m, o in zip(mine, other, strict=True)], True)
        )
        count, most = max(m["numbers"] for m in mine), max(m["numbers"] for m in lora)
        share = f"1/{most / count:.0f}" if count else "-"
        out.append(f"| {name} | {count:,} | {share} | {over_seeds([m['test'] for m in mine])} | {minus} |")
    out += ["", "| SVF as a LoRA of rank | relative error of the change | test | minus SVF |", "|---|---|---|---|"]
    svf = [r["arms"]["SVF, GRPO"] for r in rows if "lora" in r["arms"]["SVF, GRPO"]]
    for rank in map(str, RANKS):
        pairs = [m["lora"][rank] for m in svf]
        minus = over_seeds([p[1] - m["test"] for p, m in zip(pairs, svf, strict=True)], True)
        out.append(f"| {rank} | {over_seeds([p[0] for p in pairs])} | {over_seeds([p[1] for p in pairs])} | {minus} |")
    every = [m for r in rows for m in r["arms"].values() if "merged" in m]
    out += [
        "",
        "- merged into the base against beside it: scores differ by at most "
        f"{max(m['merged'] for m in every):.1e} of the greatest; after taking it out again by "
        f"{max(m['restored'] for m in every):.1e}",
    ]
    for name in ("SVF, GRPO", "SVF, SFT"):
        mean, most = zip(*[r["arms"][name]["factors"] for r in rows if "factors" in r["arms"][name]], strict=True)
        out.append(f"- {name}: factors moved from 1 by {fmean(mean):.3f} on average, by {max(most):.2f} at most")
    return "\n".join(out)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("runs/experts"))
    parser.add_argument("--model", default="reference")
    parser.add_argument("--only", choices=("all", "basis", "scores", "directions", "facts"), default="all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only in ("all", "scores"):
        print(report({seed: run_seed(seed, args.out) for seed in seeds_of(args.seeds)}))
    if args.only in ("all", "directions"):
        fewer = {seed: run_directions(seed, args.out) for seed in seeds_of(args.seeds)}
        print("\n" + report_directions(fewer, {seed: run_seed(seed, args.out) for seed in seeds_of(args.seeds)}))
    if args.only in ("all", "facts"):
        print("\n" + report_facts({seed: run_facts(seed, args.out) for seed in seeds_of(args.seeds)}))
    if args.only in ("all", "basis"):
        print("\n" + "\n".join(time_basis(args.model, args.out)))


if __name__ == "__main__":
    main()
