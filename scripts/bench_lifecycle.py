"""The life of placements in worlds of the reference language: promoted, demoted, moved by a new base; each by the gates.

    python scripts/bench_lifecycle.py --seeds 0-4        # what docs/lifecycle.md holds

For each seed one small world of three capabilities: `facts` (a table of facts), `rules` (named procedures) and `mark` (a
procedure that no text can name). Then, with the product's own commands:

1. `hybrid run`: texts for the first two, an adapter for the mark (fine-tuning);
2. `hybrid review --apply`: both texts are declared to be asked 50,000 times a day and nothing changed, so both are proposed for
   promotion; the gates of the forked run decide (the rules' variants apply a rule twice, which an adapter does not learn);
3. the facts change, and `hybrid review --apply` again: their adapter is stale, the text is written anew;
4. a second base, into which the mark's adapter was merged: `hybrid replace`.

One JSON per seed in --out; a seed that is there is read, and one that was interrupted goes on. Does not: look at a truth before
the last step of a seed is over.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import reference_language as language
from bench_worlds import seeds_of
from make_world import Sizes, fact_rows, fill, operation_rows, vocabulary

from hybrid.config.loader import load_config
from hybrid.evidence.stats import mean_interval, wilson
from hybrid.pipeline.replace import replace_base
from hybrid.pipeline.review import apply
from hybrid.pipeline.run import run
from hybrid.report.schema import Report, load_report

SIZES = Sizes(train=48, search=48, confirm=64, test=64, variant=24)
CALLS_PER_DAY = 50_000
NAMES = ("facts", "rules", "mark")
OPERATIONS = ("@rev", "@rotl", "@next", "@prev")
"""What the rules and the mark are drawn from, and what the proposer may try: a small vocabulary keeps a seed cheap."""
STEPS = ("run", "promote", "demote", "replace")
EXPECTED = (
    ("promote", "facts", "weights", "a stable hot document is promoted (facts)"),
    ("promote", "rules", "skill", "an adapter whose variants are lost is refused, the text stays (rules)"),
    ("promote", "mark", "weights", "what nobody asked to change stays (mark)"),
    ("demote", "facts", "skill", "facts that changed go back to text (facts)"),
    ("replace", "mark", "keep", "a base that knows the mark does without its adapter (mark)"),
    ("replace", "facts", "skill", "the document carries over to the new base (facts)"),
    ("replace", "rules", "skill", "the document carries over to the new base (rules)"),
)


def write_rows(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The splits of one capability."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def facts(seed: int, version: int) -> dict[str, list[dict[str, Any]]]:
    """A table of three facts, asked in many ways. Another version has the same questions and other answers."""
    rng = random.Random(f"life {seed} facts")
    names = rng.sample(language.NAMES, 3)
    drawn = random.Random(f"life {seed} facts {version}")
    table = {n: language.value(drawn) for n in names}
    make, vary = fact_rows(lambda split: table, "", "plain")
    return fill(rng, SIZES, make, vary)


def rules(rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Two names with one operation each; variants apply the name twice."""
    slots = dict(zip(rng.sample(language.NAMES, 2), rng.sample(OPERATIONS[1:], 2), strict=True))
    make, _ = operation_rows(slots)

    def twice(_: random.Random, parent: dict[str, Any]) -> dict[str, Any]:
        slot, text = parent["metadata"]["slot"], parent["metadata"]["text"]
        answer = language.apply([slots[slot]] * 2, text)
        return {"prompt": f"q {text} {slot} {slot}", "reference": answer, "metadata": {"slot": slot, "text": text}}

    return fill(rng, SIZES, make, twice)


def make_life(seed: int, folder: Path) -> Path:
    """The world of a seed, before anything changed; its configuration."""
    rng = random.Random(f"life {seed}")
    write_rows(folder / "facts", facts(seed, 0))
    write_rows(folder / "rules", rules(rng))
    make, vary = operation_rows({rng.choice(language.MARKS): rng.choice(OPERATIONS)})
    write_rows(folder / "mark", fill(rng, SIZES, make, vary))
    lines = [*(f"rule {{name}} {op}." for op in OPERATIONS), *(f"form {f}." for f in language.FORMS)]
    entries = [f"{key}: {json.dumps(value)}" for key, value in {**vocabulary(), "rules": lines}.items()]
    (folder / "vocabulary.yaml").write_text("\n".join(entries) + "\n", encoding="utf-8")
    capabilities = [
        f"  - {{name: {name}, source: {{type: jsonl, path: {name}}}, grader: {{type: exact}}, decoding: {{max_new_tokens: 14}}"
        + (f", calls_per_day: {CALLS_PER_DAY}}}" if name != "mark" else "}")
        for name in NAMES
    ]
    lines = [
        f"name: life-{seed}",
        "model: {path: reference, dtype: float32, device: cpu}",
        "capabilities:",
        *capabilities,
        "skill: {proposer: {type: offline, vocabulary: vocabulary.yaml, trials: 8}}",
        "weights:",
        "  method: sft",
        "  lora: {rank: 8, alpha: 16}",
        "  sft: {steps: 100, learning_rate: 0.001}",
        "  distill: {steps: 100}",
        "  checkpoint_every: 50",
        "gate: {ship: {minimum_effect: 0.15}}",
        f"seed: {seed}",
    ]
    path = folder / "config.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def merge(adapter: Path, out: Path) -> Path:
    """The reference model with an adapter merged into its weights: a base that knows what the adapter had learnt."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import hybrid

    base = Path(hybrid.__file__).parent / "assets" / "reference-model"
    shutil.copytree(base, out, dirs_exist_ok=True)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    model.save_pretrained(out)
    return out


def live(seed: int, folder: Path) -> dict[str, Any]:
    """Every step of one seed, in the product's own commands; each goes on where it was interrupted."""
    quiet = lambda kind, data: None  # noqa: E731  # nobody watches
    config = make_life(seed, folder)
    reports = {"run": load_report(run(load_config(config), folder / "run", on_event=quiet))}
    reviews = {}
    for step, source in (("promote", "run"), ("demote", "promote")):
        write_rows(folder / "facts", facts(seed, 1 if step == "demote" else 0))
        reviews[step], path = apply(folder / source, folder / step, on_event=quiet)
        if path is None:
            raise SystemExit(f"seed {seed}: the review of {source} proposes nothing")
        reports[step] = load_report(path)
    base = merge(folder / "run" / "adapters" / "mark", folder / "second-base")
    path = replace_base(folder / "demote", str(base), {}, folder / "replace", overrides=(), on_event=quiet)
    reports["replace"] = load_report(path)
    return {
        "seed": seed,
        "steps": {step: told(report) for step, report in reports.items()},
        "reviews": {
            step: {e.name: e.model_dump(mode="json") for e in made.capabilities} for step, made in reviews.items()
        },
        "moves": reports["replace"].moves.model_dump(mode="json") if reports["replace"].moves else None,
    }


def told(report: Report) -> dict[str, Any]:
    """What is kept of a report: the placements, their gates, their newest decision, and what the training took."""
    return {
        c.name: {
            "placement": c.placement,
            "reason": c.reason,
            "gate": [g.model_dump(mode="json") for g in c.gate],
            "refused": [r.why for r in c.rejected if r.what == "arm"],
            "history": [h.model_dump(mode="json") for h in c.history if h.when == report.run_id],
            "train_seconds": c.ledger.train_seconds,
        }
        for c in report.capabilities
    }


def shown(delta: float | None, low: float | None, high: float | None, n: int) -> str:
    """`+0.97 [+0.93, +0.99]`."""
    return "-" if delta is None else f"{delta:+.3f} [{low:+.3f}, {high:+.3f}]"


def rows_of(life: dict[str, Any]) -> list[str]:
    """One row of the table per decision of a seed."""
    out = []
    for step in STEPS[1:]:
        for name in NAMES:
            found = life["steps"][step][name]
            for h in found["history"]:
                proposal = life["reviews"].get(step, {}).get(name)
                days = proposal["costs"]["break_even_days"] if proposal else None
                gates = ", ".join(f"{g['arm']} {g['decision']} {g['delta']:+.2f}" for g in found["gate"])
                change = shown(h["delta"], h["low"], h["high"], h["n"])
                paid = f"{days:.3f}" if days is not None and h["action"] == "promote" else "-"
                cells = (life["seed"], h["action"], name, h["was"], h["now"], gates or "-", change, h["n"], paid)
                out.append("| " + " | ".join(str(c) for c in cells) + " |")
    return out


def summary(lives: Sequence[dict[str, Any]]) -> list[str]:
    """How often each expected decision was made, and what shipped changed by over the seeds."""
    out = []
    for step, name, wanted, what in EXPECTED:
        right = sum(life["steps"][step][name]["placement"] == wanted for life in lives)
        share = wilson(right, len(lives))
        changes = [h["delta"] for life in lives for h in life["steps"][step][name]["history"] if h["delta"] is not None]
        said = f"- {what}: {right} of {len(lives)} [{share.low:.2f}, {share.high:.2f}]"
        if changes:
            i = mean_interval([(d + 1) / 2 for d in changes], 0.95)
            said += f"; what ships changed by {2 * i.mean - 1:+.3f} over {len(changes)} seeds"
            said += f" [{min(changes):+.3f} to {max(changes):+.3f}]"
        out.append(said)
    estimated = [
        (life["reviews"]["promote"][name]["costs"]["training_seconds"], life["steps"]["promote"][name]["train_seconds"])
        for life in lives
        for name in ("facts", "rules")
    ]
    ratios = [e / m for e, m in estimated if e and m]
    if ratios:
        out.append(
            f"- training seconds, estimated before against measured after: {min(ratios):.2f} to {max(ratios):.2f} times, "
            f"{len(ratios)} promotions"
        )
    return out


HEAD = (
    "| seed | action | capability | was | is | ship gate, against the base | what ships changed by, sealed test | n "
    "| pays after days |"
)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("runs/lifecycle"))
    args = parser.parse_args()
    lives = []
    print(f"{HEAD}\n|---|---|---|---|---|---|---|---|---|")
    for seed in seeds_of(args.seeds):
        kept = args.out / f"{seed}.json"
        if not kept.exists():
            life = live(seed, args.out / str(seed))
            kept.write_text(json.dumps(life, indent=2) + "\n", encoding="utf-8")
        lives.append(json.loads(kept.read_text(encoding="utf-8")))
        print("\n".join(rows_of(lives[-1])), flush=True)
    print("\n" + "\n".join(summary(lives)))


if __name__ == "__main__":
    main()
