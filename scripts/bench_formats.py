"""Does GRPO collapse onto one layout of answers, does the alarm see it, and what do a KL term and an early stop do about it?

    python scripts/bench_formats.py --seeds 0-5          # what docs/format-collapse.md holds; one core

The reference model answers facts asked with a mark in three layouts (plain, `<angle>`, `[square]`), drawn from a prior
that no document changes. The reward asks for the right fact in any layout, so that no layout earns anything by itself;
what the shares should move to is known in closed form from each layout's accuracy (`hybrid.evidence.formats`).

Arms, with the same rows and seed: `none` (monitors warn), `kl` (`grpo.beta`), `rollback`
(`weights.monitors.on_alarm.format_share`, at the default share of 0.95) and `early` (the same at 0.7), and `merit`, a
control whose reward asks for one layout: it has to move there, and that is no collapse. Each finished adapter answers
the sealed test `--samples` times at temperature 1.

Harm is counted as what is lost: the share of test rows that are answered right at least once in a *given* layout (pass@k
per layout, the least of the three), which is what a later task that wants that layout would start from.
A seed that is in --out is not run again. Does not: select checkpoints or ship; `hybrid run` does.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import reference_language as language
from bench_worlds import seeds_of

from hybrid.backends.base import Adapter, Request, Sampling
from hybrid.backends.loading import LoadedModel, load_base
from hybrid.backends.transformers_backend import TransformersBackend
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example
from hybrid.config.monitors import AlarmActions, FormatPattern, MonitorsConfig
from hybrid.config.schema import (
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    RegexGrader,
    TransformersBackendConfig,
    WeightsConfig,
)
from hybrid.evidence.formats import Labelled, format_use
from hybrid.evidence.stats import mean_interval
from hybrid.store.atomic import write_json
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.build import build_trainer
from hybrid.weights.schedule import plain

ARMS = ("none", "kl", "rollback", "early", "merit")
EARLY_SHARE = 0.7
LAYOUTS = {"angle": "<{}>", "square": "[{}]", "plain": "{}"}
PATTERNS = (FormatPattern(name="angle", pattern="^<"), FormatPattern(name="square", pattern=r"^\["))
ANY = r"(<{reference}>|\[{reference}\]|{reference})"
MODEL = ModelConfig(path="reference", device="auto", threads=1)


@dataclass(frozen=True)
class Settings:
    """What every seed is run with."""

    steps: int
    beta: float
    samples: int
    lines: int
    learning_rate: float


@dataclass(frozen=True)
class Outcome:
    """One arm of one seed. Accuracy and the per-layout pass@k are means over test rows, with every row's value kept."""

    arm: str
    steps: int
    alarm: int | None
    """Step of the format alarm."""
    accuracy: list[float]
    reach: dict[str, list[float]]
    """Layout -> per test row: answered right in it at least once."""
    effective: float
    excess: float | None
    shares: dict[str, float]


def rows(rng: random.Random, table: dict[str, str], mark: str, count: int, prefix: str) -> list[Example]:
    """`count` different questions about the facts."""
    found: dict[str, Example] = {}
    while len(found) < count:
        name = rng.choice(sorted(table))
        prompt = f"ask {language.argument(rng, 2, 3)} {mark} {name}"
        found.setdefault(prompt, Example(id=f"{prefix}-{len(found)}", prompt=prompt, reference=table[name]))
    return list(found.values())


def layout_of(text: str) -> str:
    """The layout of an answer, by its first character."""
    return {"<": "angle", "[": "square"}.get(text[:1], "plain")


def monitors(arm: str) -> MonitorsConfig:
    """The default thresholds of the format monitor, a lower one for `early`; two arms take checkpoints back."""
    action: Any = "rollback" if arm in ("rollback", "early") else "warn"
    share = {"format_share": EARLY_SHARE} if arm == "early" else {}
    return MonitorsConfig(formats=PATTERNS, on_alarm=AlarmActions(format_share=action), **share)


def train(
    arm: str, seed: int, settings: Settings, examples: Sequence[Example], document: str, out: Path
) -> TrainResult:
    """One arm's training, resumable."""
    pattern = r"\[{reference}\]" if arm == "merit" else ANY
    grpo = GrpoConfig(
        steps=settings.steps,
        prompts_per_step=4,
        learning_rate=settings.learning_rate,
        beta=settings.beta if arm == "kl" else 0.0,
    )
    job = TrainJob(
        capability="any-layout",
        examples=tuple(examples),
        skill=document,
        stages=plain(len(examples)),
        grader=build_grader(RegexGrader(type="regex", pattern=pattern)),
        model=MODEL,
        weights=WeightsConfig(grpo=grpo, lora=LoraConfig(rank=8, alpha=16), checkpoint_every=5, monitors=monitors(arm)),
        max_new_tokens=8,
        seed=seed,
        out=out,
        method="grpo",
    )
    return build_trainer("grpo").train(job, lambda: loaded(), lambda *_: None)


def loaded() -> LoadedModel:
    """The reference model."""
    return load_base(MODEL, Path, Path("runs/.cache"))


def answers(
    backend: TransformersBackend, examples: Sequence[Example], document: str, samples: int, adapter: Adapter | None
) -> list[list[tuple[str, bool]]]:
    """(layout, right) of `samples` answers per row, at temperature 1."""
    text = document.rstrip("\n")
    requests = [
        Request(f"{text}\n{example.prompt} ", seed=1000 * row + sample)
        for row, example in enumerate(examples)
        for sample in range(samples)
    ]
    found = backend.generate(requests, Sampling(max_new_tokens=8, temperature=1.0), adapter)
    labelled = []
    for i, completion in enumerate(found):
        layout = layout_of(completion.text)
        right = completion.text == LAYOUTS[layout].format(examples[i // samples].reference)
        labelled.append((layout, right))
    return [labelled[i : i + samples] for i in range(0, len(labelled), samples)]


def judged(
    arm: str, steps: int, alarm: int | None, found: list[list[tuple[str, bool]]], base: list[list[tuple[str, bool]]]
) -> Outcome:
    """Accuracy, reach per layout, and how the layouts stand to the base's optimum."""
    flat: Labelled = [pair for row in found for pair in row]
    use = format_use(flat, [pair for row in base for pair in row] if found is not base else ())
    assert use is not None
    accuracy = [sum(right for _, right in row) / len(row) for row in found]
    reach = {name: [float((name, True) in row) for row in found] for name in LAYOUTS}
    return Outcome(arm, steps, alarm, accuracy, reach, use.effective, use.excess_collapse, use.shares)


def run_seed(seed: int, settings: Settings, root: Path, arms: Sequence[str] = ARMS) -> list[Outcome]:
    """Every arm of one seed; what is on disk is read."""
    rng = random.Random(f"formats {seed}")
    table = {name: language.value(rng) for name in rng.sample(language.NAMES, settings.lines)}
    mark = rng.choice(language.MARKS)
    document = "".join(f"fact {name} {value}.\n" for name, value in table.items())
    train_rows, test = rows(rng, table, mark, 96, "train"), rows(rng, table, mark, 96, "test")
    backend = TransformersBackend(loaded(), TransformersBackendConfig())
    base = answers(backend, test, document, settings.samples, None)
    found = [judged("base", 0, None, base, base)]
    for arm in arms:
        if arm == "rollback" and found[1].alarm is None:
            found.append(replace(found[1], arm=arm))  # without an alarm the action changes nothing, byte for byte
            continue
        result = train(arm, seed, settings, train_rows, document, root / str(seed) / arm)
        alarm = next((a.step for a in result.alarms if a.monitor == "format_share"), None)
        adapter = result.checkpoints[-1][1] if result.checkpoints else None
        step = result.checkpoints[-1][0] if result.checkpoints else 0
        mine = answers(backend, test, document, settings.samples, adapter)
        wanted = [[(f, ok and (arm != "merit" or f == "square")) for f, ok in row] for row in base]
        found.append(judged(arm, step, alarm, mine, wanted))
    return found


def kept(seed: int, settings: Settings, root: Path) -> list[Outcome]:
    """The outcomes of a seed, run unless they are on disk for the same settings."""
    path = root / str(seed) / "outcomes.json"
    if path.is_file():
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["settings"] == asdict(settings):
            return [Outcome(**outcome) for outcome in value["outcomes"]]
    outcomes = run_seed(seed, settings, root)
    write_json(path, {"settings": asdict(settings), "outcomes": [asdict(o) for o in outcomes]})
    return outcomes


def least_reach(outcome: Outcome) -> list[float]:
    """Per test row, the values of the layout that is reached least often."""
    return min(outcome.reach.values(), key=lambda values: sum(values))


def shown(values: Sequence[float]) -> str:
    """`0.97 [0.93, 0.99]`."""
    interval = mean_interval(values, 0.95)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def spread(values: Sequence[float]) -> str:
    """Median over seeds and the range; these are not shares."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(seeds: Sequence[list[Outcome]], samples: int) -> str:
    """All arms over all seeds."""
    lines = [
        f"| arm | accuracy on test | least layout, pass@{samples} | effective layouts | excess, nats | alarm fired | at step |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ("base", *ARMS):
        mine = [next(o for o in found if o.arm == arm) for found in seeds]
        accuracy = shown([v for o in mine for v in o.accuracy])
        reach = shown([v for o in mine for v in least_reach(o)])
        excess = [o.excess for o in mine if o.excess is not None]
        fired = [o.alarm for o in mine if o.alarm is not None]
        cells = [
            arm,
            accuracy,
            reach,
            spread([o.effective for o in mine]),
            spread(excess) if excess else "-",
            f"{len(fired)} of {len(mine)}" if arm != "base" else "-",
            f"{sorted(fired)[len(fired) // 2]}" if fired else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-5")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--lines", type=int, default=14)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=Path("runs/formats"))
    args = parser.parse_args()
    settings = Settings(args.steps, args.beta, args.samples, args.lines, args.learning_rate)
    started, every = time.monotonic(), []
    for seed in seeds_of(args.seeds):
        outcomes = kept(seed, settings, args.out)
        every.append(outcomes)
        for o in outcomes:
            print(
                f"seed {seed} {o.arm}: step {o.steps}, accuracy {sum(o.accuracy) / len(o.accuracy):.3f}, least layout "
                f"{sum(least_reach(o)) / len(o.accuracy):.3f}, effective {o.effective:.2f}, excess {o.excess}, alarm {o.alarm}, "
                f"{o.shares}",
                flush=True,
            )
    print(f"\n{table(every, args.samples)}\n\n{time.monotonic() - started:.0f} s on the clock")


if __name__ == "__main__":
    main()
