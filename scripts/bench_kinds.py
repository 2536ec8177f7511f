"""Is the measured kind right, and does its confidence say how often? Capabilities of constructed kind, probed and judged.

    python scripts/bench_kinds.py --probe fit                      # seeds 0-89: what the weights are fitted on
    python scripts/bench_kinds.py --fit                            # writes hybrid/router/kinds.json from them
    python scripts/bench_kinds.py --probe held-out --report        # seeds 1000-1125, probed and compared; unseen families last

Each capability is probed as `hybrid probe` does it, with the reference model and the default settings, and without training
anything. Answers and profiles are kept by seed, so that the same command goes on after an interruption. The truth
(`kind_worlds.py`) is compared after the fact; fitting never reads a held-out seed.

Does not: train, or route.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kind_worlds as worlds
from kinds_fit import fit, loss_on_unseen_families

from hybrid.config.schema import BudgetConfig, ModelConfig, ProbeConfig, TransformersBackendConfig
from hybrid.evidence.calibration import ece
from hybrid.evidence.stats import wilson
from hybrid.probe.base import ProbeContext, ProbeResult
from hybrid.router import kinds

SETS: dict[str, tuple[range, tuple[str, ...]]] = {
    "fit": (range(0, 90), tuple(worlds.FAMILIES)),
    "held-out": (range(1000, 1126), tuple(worlds.FAMILIES)),
    "unseen": (range(2001, 2019), tuple(worlds.UNSEEN)),
}
"""Name -> (seeds, the families that they have in turn)."""
KINDS = ("procedural", "factual", "stylistic", "mixed", "unclear")
WAYS = ("text", "few", "examples")
"""With the texts that a capability has, on all examples and on few; in every third round of families, with examples alone."""
FEW = 16


def truth_of(kinds: Sequence[str]) -> str:
    """The kind that a capability of these constructed kinds should be measured as."""
    if len(kinds) == 1:
        return kinds[0]
    return "mixed" if kinds else "unclear"


class Prober:
    """The reference model, loaded once."""

    def __init__(self) -> None:
        from hybrid.backends.build import build_backend

        model = ModelConfig(path="reference", device="cpu", threads=1)
        cache = Path(tempfile.mkdtemp(prefix="bench-kinds-"))
        self.backend = build_backend(model, TransformersBackendConfig(), Path, cache)
        self.control = worlds.make_capability(10**6, ["named rules"]).texts

    def profiles(self, made: worlds.Made, folder: Path) -> dict[str, Any]:
        """The profile of one capability in each way, as JSON."""
        from hybrid.backends.base import Sampling
        from hybrid.backends.ranks import Ranks
        from hybrid.evidence.ledger import Ledger
        from hybrid.evidence.measure import Meter
        from hybrid.evidence.rollouts import RolloutStore
        from hybrid.probe.profile import irrelevant_text, profile_capability, worked_examples
        from hybrid.store.folder import EventLog

        shown = worked_examples(made.capability.splits["train"], ProbeConfig().worked_examples)
        found: dict[str, Any] = {}
        store, events = RolloutStore(folder / "rollouts"), EventLog(folder / "events.jsonl")
        ledger = Ledger(BudgetConfig(), store.all(), 0.0)
        meter = Meter(self.backend, store, ledger, events, seed=made.seed, separator="\n", chunk=1024)
        context = ProbeContext(
            meter,
            made.capability,
            ProbeConfig(),
            self.backend.info().fingerprint,
            Sampling(max_new_tokens=14, temperature=made.temperature),
            made.seed,
            ranker=self.backend if isinstance(self.backend, Ranks) else None,
        )
        for way in WAYS if made.seed // len(worlds.FAMILIES) % 3 == 0 else WAYS[:2]:
            context = replace(context, config=ProbeConfig(examples=FEW) if way == "few" else ProbeConfig())
            texts = {**({} if way == "examples" else made.texts), "worked examples": shown}
            own = next(t for t in texts.values() if t.strip())
            # As in a run: another capability's text where there is one, which half of these have.
            others = list(self.control.values()) if made.seed % 2 else []
            probed = profile_capability(context, texts, irrelevant_text(own, others, made.seed))
            found[way] = {name: result.model_dump(mode="json") for name, result in probed.profile.items()}
        return found


def probe_set(name: str, out: Path) -> None:
    """Probe every seed of a set that has no file yet."""
    prober: Prober | None = None
    seeds, families = SETS[name]
    for seed in seeds:
        path = out / name / f"{seed}.json"
        if path.exists():
            continue
        prober = prober or Prober()
        made = worlds.make_capability(seed, families)
        started = time.monotonic()
        row = {
            "seed": seed,
            "family": made.family,
            "kinds": sorted(made.kinds),
            "profiles": prober.profiles(made, out / name / str(seed)),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(row, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(path)
        print(f"{name} {seed} {made.family}: {time.monotonic() - started:.1f} s", flush=True)


def read_set(name: str, out: Path) -> list[dict[str, Any]]:
    """Every row of a set that was probed, by seed, with its profiles as probe results."""
    rows = []
    for path in sorted((out / name).glob("*.json"), key=lambda p: int(p.stem)):
        row = json.loads(path.read_text(encoding="utf-8"))
        row["profiles"] = {
            way: {probe: ProbeResult(**value) for probe, value in profile.items()}
            for way, profile in row["profiles"].items()
        }
        rows.append(row)
    return rows


def fit_model(out: Path) -> None:
    """Fit on the set `fit` and write the model that ships."""
    rows = [{**row, "profile": row["profiles"]["text"]} for row in read_set("fit", out)]
    seeds, families = SETS["fit"][0], {row["family"] for row in rows}
    if len(rows) < len(seeds):
        print(f"only {len(rows)} of {len(seeds)} seeds are probed")
    model, losses, taken = fit(
        rows, f"{len(rows)} capabilities of {len(families)} families, seeds {seeds[0]} to {seeds[-1]}"
    )
    text = json.dumps(model.model_dump(mode="json"), indent=1, sort_keys=True)
    (Path(kinds.__file__).parent / "kinds.json").write_text(text + "\n", encoding="utf-8")
    best = min(losses, key=lambda key: losses[key])
    for what, key in (("least", best), ("taken", taken)):
        unseen = loss_on_unseen_families(rows, *key)
        print(f"{what}: penalty {key[0]}, sharpness {key[1]}, log loss cross-validated {losses[key]:.3f}, "
              f"on families left out {unseen:.2f}")  # fmt: skip


def judged(rows: Sequence[dict[str, Any]], way: str, model: kinds.Model) -> list[tuple[str, str, str, float]]:
    """(family, truth, measured, confidence) of every row that was probed in this way."""
    found = []
    for row in rows:
        if way in row["profiles"]:
            verdict = kinds.judge_kind(row["profiles"][way], model)
            found.append((row["family"], truth_of(row["kinds"]), str(verdict.kind), verdict.confidence))
    return found


def share(hits: int, n: int) -> str:
    """`9 of 10 = 0.900 [0.596, 0.982]`, or a dash without rows."""
    i = wilson(hits, n)
    return f"{hits} of {n} = {i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" if n else "-"


def summary(name: str, rows: Sequence[tuple[str, str, str, float]]) -> None:
    """Accuracy and calibration of one list of verdicts. A verdict of `unclear` with confidence 0 claims nothing."""
    error = ece([(confidence, truth == found) for _, truth, found, confidence in rows])
    shown = f"{error.mean:.3f} [{error.low:.3f}, {error.high:.3f}]" if error else "-"
    right = share(sum(truth == found for _, truth, found, _ in rows), len(rows))
    stated = sum(confidence for *_, confidence in rows) / max(1, len(rows))
    print(f"| {name} | {right} | {stated:.3f} | {shown} |")


def report(out: Path) -> None:
    """Compare with the truth and print what docs/probes.md holds."""
    model = kinds.load_model()
    rows = read_set("held-out", out)
    verdicts = judged(rows, "text", model)
    pure = [v for v in verdicts if v[1] in kinds.SINGLES]
    print(f"Fitted on {model.fitted_on}.\n\n| held out | kind is right | mean confidence | ECE |\n|---|---|---|---|")
    summary("constructed of one kind", pure)
    summary("all, mixed and unclear too", verdicts)
    for kind in KINDS:
        summary(f"truth {kind}", [v for v in verdicts if v[1] == kind])
    summary("worked examples alone, one kind", [v for v in judged(rows, "examples", model) if v[1] in kinds.SINGLES])
    summary(f"{FEW} examples instead of 64, one kind", [v for v in judged(rows, "few", model) if v[1] in kinds.SINGLES])
    unseen = judged(read_set("unseen", out), "text", model)
    summary("shapes never fitted on", unseen)
    for family in worlds.UNSEEN:
        summary(f"never fitted on: {family}", [v for v in unseen if v[0] == family])
    alone = judged(rows, "examples", model)
    for kind in kinds.SINGLES:
        counts = Counter(v[2] for v in alone if v[1] == kind)
        print(f"\nworked examples alone, truth {kind}: " + ", ".join(f"{k} {n}" for k, n in counts.most_common()))
    print("\n| truth | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for kind in KINDS:
        counts = Counter(v[2] for v in verdicts if v[1] == kind)
        print(f"| {kind} | " + " | ".join(str(counts[k] or "") for k in KINDS) + " |")
    print("\n| family | truth | measured as |\n|---|---|---|")
    for family in worlds.FAMILIES:
        mine = [v for v in verdicts if v[0] == family]
        counts = Counter(v[2] for v in mine)
        told = ", ".join(f"{k} {n}" for k, n in counts.most_common())
        print(f"| {family} | {mine[0][1] if mine else '-'} | {told} |")
    signatures(rows)
    left_out_families(out)
    savings(rows)


def signatures(rows: Sequence[dict[str, Any]]) -> None:
    """Mean of every value that the scores read, by true kind; a value that was not measured is left out of its mean."""
    print("\n| truth | " + " | ".join(kinds.FEATURES) + " |\n|---|" + "---|" * len(kinds.FEATURES))
    for kind in KINDS:
        mine = [kinds.raw_values(r["profiles"]["text"]) for r in rows if truth_of(r["kinds"]) == kind]
        seen = [[v for m in mine if (v := m[name][0]) is not None] for name in kinds.FEATURES]
        print(f"| {kind} | " + " | ".join(f"{sum(v) / len(v):.2f}" if v else "-" for v in seen) + " |")


def left_out_families(out: Path) -> None:
    """Fit without a family, judge that family: what a shape costs that the calibration never saw."""
    rows = [{**row, "profile": row["profiles"]["text"]} for row in read_set("fit", out)]
    held = read_set("held-out", out)
    if not rows:
        print(f"\nfamilies left out of the fit: the fitted capabilities are not in {out}; --probe fit makes them")
        return
    print("\n| family left out of the fit | kind is right | mean confidence | ECE |\n|---|---|---|---|")
    everything = []
    for family in worlds.PURE:
        rest = [row for row in rows if row["family"] != family]
        model, _, _ = fit(rest, "")
        found = judged([row for row in held if row["family"] == family], "text", model)
        everything += found
        summary(family, found)
    summary("all of one kind", everything)


def savings(rows: Sequence[dict[str, Any]]) -> None:
    """Completions that the probes asked for, with stopping, without it, and before the newer probes were there."""
    asked = whole = before = 0.0
    for row in rows:
        told = row["profiles"]["text"]["probe_saved"]
        asked += told.n
        whole += told.n + (told.value or 0.0)
        # The newer probes that ask for completions of their own.
        before += told.n + (told.value or 0.0) - float(told.details.get("asked_contexts", 0.0))
    n = max(1, len(rows))
    print(f"\ncompletions per capability: {asked / n:.0f} asked for, {whole / n:.0f} without stopping, "
          f"{before / n:.0f} without stopping and without known-ness contexts")  # fmt: skip


def main() -> None:
    """Probe, fit, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", choices=list(SETS), nargs="*", default=[])
    parser.add_argument("--fit", action="store_true", help="fit on the set `fit` and write hybrid/router/kinds.json")
    parser.add_argument("--report", action="store_true", help="compare the held-out sets with the truth")
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    args = parser.parse_args()
    for name in args.probe:
        probe_set(name, args.out)
    if args.fit:
        fit_model(args.out)
    if args.report:
        report(args.out)


if __name__ == "__main__":
    main()
