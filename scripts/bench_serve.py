"""Is what is served what was measured? The request router, the scores through the server, and many clients at once.

    hybrid run configs/quickstart.yaml --out runs/quickstart             # the run that is served, about two minutes
    python scripts/bench_serve.py routing                                # confusion of the request router, no model needed
    python scripts/bench_serve.py scores runs/quickstart                 # through `hybrid serve` against the report
    python scripts/bench_serve.py load runs/quickstart --seeds 0-4       # 1,000 requests of 16 clients against generate()
    python scripts/bench_serve.py batching runs/quickstart --seeds 0-4   # adapters in one pass against one batch each

`routing` asks which capability the test and variant prompts of some configurations belong to, and prompts of the other
configurations, which belong to none. `scores` and `load` start the server as a process and talk to it with the `openai`
package. A measurement per seed is kept as a JSON file in --out, and is not made again. Intervals are 95 %.

Does not: train, or change the run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_worlds import seeds_of
from make_world import make_world
from scipy.stats import t as student

import hybrid
from hybrid.capability.types import Capability, Example
from hybrid.config.loader import load_config
from hybrid.evidence.rollouts import sample_seed
from hybrid.evidence.stats import wilson
from hybrid.evidence.types import Candidate
from hybrid.pipeline.prepare import load_capabilities
from hybrid.report.schema import load_report
from hybrid.serve.engine import Done, Engine, EngineLimits, Event
from hybrid.serve.facts import some_prompts
from hybrid.serve.placed import PlacedModel
from hybrid.serve.placement import read_placement
from hybrid.serve.routing import Described, RequestRouter
from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("configs/quickstart.yaml", "configs/gemma-270m.yaml", "configs/suites-gemma.yaml")
CLIENTS, REQUESTS = 16, 1000


@dataclass(frozen=True)
class Job:
    """One request of a load: a test row of a capability, with its own seed."""

    capability: str
    prompt: str
    seed: int


def interval(found: Any) -> str:
    """`mean [low, high]`."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def over_seeds(values: Sequence[float]) -> str:
    """Their mean with the interval of Student's t."""
    mean = statistics.fmean(values)
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def routing() -> None:
    """Every configuration and five worlds: where test and variant prompts go, and where strange ones do."""
    families: dict[str, tuple[Capability, ...]] = {}
    for name in CONFIGS:
        families[name] = load_capabilities(load_config(ROOT / name))
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, 6):
            make_world(seed, Path(folder) / str(seed), False)
            families[f"world {seed}"] = load_capabilities(load_config(Path(folder) / str(seed) / "config.yaml"))
    print("| capabilities of | split | n | right | another capability | none (base) |")
    print("|---|---|---|---|---|---|")
    for name, capabilities in families.items():
        router = RequestRouter([Described(c.name, "", some_prompts(c.splits["train"])) for c in capabilities])
        for split in ("test", "variant"):
            asked = [(c.name, text_of(e)) for c in capabilities for e in c.splits.get(split, ())]
            if asked:
                print_routes(name, split, asked, router)
        strange = [
            ("", text_of(e))
            for other, found in families.items()
            if not (name.startswith(("world", CONFIGS[0])) and other.startswith(("world", CONFIGS[0])))
            and other != name
            for c in found
            for e in c.splits["test"][:40]
        ]
        print_routes(name, "of the others", strange, router)


def text_of(example: Example) -> str:
    """What the router reads of a row."""
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1].content


def print_routes(name: str, split: str, asked: Sequence[tuple[str, str]], router: RequestRouter) -> None:
    """One row, and a line per pair of capabilities that was confused."""
    found = Counter((wanted, router.choose(text).name or "") for wanted, text in asked)
    n = sum(found.values())
    right = sum(count for (wanted, got), count in found.items() if wanted == got)
    none = sum(count for (wanted, got), count in found.items() if wanted and not got)
    wrong = n - right - none
    print(f"| {name} | {split} | {n} | {interval(wilson(right, n))} | {interval(wilson(wrong, n))} | {none / n:.3f} |")
    for (wanted, got), count in sorted(found.items()):
        if wanted != got and got:
            print(f"|  | {wanted or 'a strange one'} -> {got} | {count} |  |  |  |")


@dataclass
class Running:
    """A server process: its address, and the CPU seconds that it has used so far."""

    url: str
    pid: int

    def cpu(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(run: Path, *options: str) -> Iterator[Running]:
    """`hybrid serve` as a process."""
    command = [sys.executable, "-m", "hybrid", "serve", str(run), "--port", "0", "--json", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ))
        try:
            text = ""
            assert process.stdout is not None
            for line in process.stdout:
                text += line
                if line.rstrip() == "}":
                    break
            yield Running(json.loads(text)["url"], process.pid)
        finally:
            process.terminate()
            code = process.wait()
        if code != 0:
            raise RuntimeError(f"the server ended with {code}")


def capabilities_of(run: Path) -> tuple[tuple[Capability, ...], int]:
    """The capabilities of a run with their data, and its seed."""
    loaded = load_config(run / "config.resolved.json")
    return load_capabilities(loaded), loaded.config.seed


def scores(run: Path) -> None:
    """Every test row through the server, by name and by the router, as chat and as text; graded and compared."""
    import openai

    capabilities, seed = capabilities_of(run)
    report = {c.name: c for c in load_report(run / "report" / "placement.json").capabilities}
    stored = stored_texts(run)
    print(
        "| capability | placed | n | report | server, named | server, routed | same texts, named | same texts, routed chat |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with server(run) as running:
        client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
        for c in capabilities:
            rows = c.splits["test"]
            seeds = [sample_seed(seed, e, 0) for e in rows]

            def text(pair: tuple[Example, int], model: str = c.name) -> str:
                return client.completions.create(model=model, prompt=text_of(pair[0]), seed=pair[1]).choices[0].text

            def chat(pair: tuple[Example, int]) -> str:
                turns: Any = [{"role": "user", "content": text_of(pair[0])}]
                reply = client.chat.completions.create(model="hybrid", messages=turns, seed=pair[1])
                return reply.choices[0].message.content or ""

            pairs = list(zip(rows, seeds, strict=True))
            with ThreadPoolExecutor(CLIENTS) as pool:
                named, routed = list(pool.map(text, pairs)), list(pool.map(chat, pairs))
            reported = placed_mean(report[c.name])
            marks = [
                mean([c.grader.grade(t, e).value for t, e in zip(ts, rows, strict=True)]) for ts in (named, routed)
            ]
            texts = [stored[c.name, e.id] for e in rows]
            same = [sum(a == b for a, b in zip(texts, ts, strict=True)) for ts in (named, routed)]
            print(
                f"| {c.name} | {report[c.name].placement} | {len(rows)} | {reported:.4f} | {marks[0]:.4f} | {marks[1]:.4f} | "
                f"{same[0]} of {len(rows)} | {same[1]} of {len(rows)} |"
            )


def placed_arm(c: Any) -> str:
    """The arm that was placed."""
    return c.placement if c.placement in ("skill", "weights", "both") else "base"


def placed_mean(c: Any) -> float:
    """The placed arm's mean on the sealed test, as reported."""
    return float(getattr(c.arms, placed_arm(c)).test.mean)


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def stored_texts(run: Path) -> dict[tuple[str, str], str]:
    """(capability, example) -> the answer of the placed arm that the run's own test measured, from its rollouts."""
    placed = read_placement(run)
    found = {}
    for part in placed.parts.values():
        candidate = Candidate(placed.fingerprint, part.skill, part.adapter, part.sampling)
        for row in RecordLog(run / "rollouts" / f"{candidate.key[:32]}.jsonl").read():
            if row["capability"] == part.name and row["split"] == "test":
                found[part.name, row["example_id"]] = row["text"]
    return found


def jobs_of(run: Path, seed: int, count: int) -> list[Job]:
    """`count` test rows of all capabilities, mixed; every one with a seed of its own."""
    rows = [(c.name, text_of(e)) for c in capabilities_of(run)[0] for e in c.splits["test"]]
    rng = random.Random(f"load {seed}")
    return [Job(*rng.choice(rows), rng.getrandbits(62)) for _ in range(count)]


def one_by_one(model: PlacedModel, jobs: Sequence[Job]) -> tuple[list[str], float, float]:
    """The answers of as many calls of `generate`, and the seconds and CPU seconds they took."""
    began, cpu = time.monotonic(), time.process_time()
    texts = [model.generate(j.prompt, capability=j.capability, seed=j.seed)[0].text for j in jobs]
    return texts, time.monotonic() - began, time.process_time() - cpu


def kept(out: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement, from its file where it is there already."""
    path = out / f"{name}.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        found = measure()
        path.with_suffix(".tmp").write_text(json.dumps(found, indent=1), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def load_of(run: Path, seed: int, model: PlacedModel) -> dict[str, Any]:
    """One load: lost and wrong answers, requests per second, seconds per request."""
    import openai

    jobs = jobs_of(run, seed, REQUESTS)
    alone, slow, slow_cpu = one_by_one(model, jobs)
    with server(run) as running:
        client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, timeout=120)

        def ask(number: int) -> tuple[str, str | None, float]:
            job, began = jobs[number], time.monotonic()
            if number % 2:
                turns: Any = [{"role": "user", "content": job.prompt}]
                stream = client.chat.completions.create(model="hybrid", messages=turns, seed=job.seed, stream=True)
                text, applied = "", None
                for piece in stream:
                    applied = (piece.model_extra or {}).get("hybrid", applied)
                    text += piece.choices[0].delta.content or "" if piece.choices else ""
                return text, applied and applied["capability"], time.monotonic() - began
            reply = client.completions.create(model="hybrid", prompt=job.prompt, seed=job.seed)
            applied = (reply.model_extra or {})["hybrid"][0]
            return reply.choices[0].text, applied["capability"], time.monotonic() - began

        for number in range(CLIENTS):
            ask(number)
        began, cpu = time.monotonic(), running.cpu()
        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(ask, range(len(jobs))))
        fast, fast_cpu = time.monotonic() - began, running.cpu() - cpu
    took = sorted(seconds for *_, seconds in found)
    return {
        "answered": len(found),
        "wrong_capability": sum(name != j.capability for (_, name, _), j in zip(found, jobs, strict=True)),
        "other_text": sum(text != a for (text, *_), a in zip(found, alone, strict=True)),
        "server_per_second": len(jobs) / fast,
        "alone_per_second": len(jobs) / slow,
        "server_cpu_s": fast_cpu,
        "alone_cpu_s": slow_cpu,
        "median_s": took[len(took) // 2],
        "p95_s": took[len(took) * 95 // 100],
    }


def load(run: Path, out: Path, seeds: Sequence[int]) -> None:
    """The load of every seed, and the ratio of the two throughputs; by CPU seconds too, since other work changes the clock's."""
    model = hybrid.load(run)
    model.warm()
    print(
        "| seed | answered | wrong capability | other text | requests/s | calls/s, alone | ratio | CPU s | CPU s, alone | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[float]] = {"requests per second": [], "answers per CPU second": []}
    for seed in seeds:
        r = kept(out, f"load-{seed}", lambda seed=seed: load_of(run, seed, model))  # type: ignore[misc]
        clock, cpu = r["server_per_second"] / r["alone_per_second"], r["alone_cpu_s"] / r["server_cpu_s"]
        ratios["requests per second"].append(clock)
        ratios["answers per CPU second"].append(cpu)
        print(
            f"| {seed} | {r['answered']} | {r['wrong_capability']} | {r['other_text']} | {r['server_per_second']:.1f} | "
            f"{r['alone_per_second']:.1f} | {clock:.2f} | {r['server_cpu_s']:.1f} | {r['alone_cpu_s']:.1f} | {cpu:.2f} |",
            flush=True,
        )
    for what, found in ratios.items():
        if len(found) > 1:
            print(f"\n{what}, server against alone, over seeds: {over_seeds(found)}")


def through_engine(model: PlacedModel, jobs: Sequence[Job], mixed: bool, rows: int) -> tuple[float, int, list[str]]:
    """Answers per CPU second of an engine that `rows` callers keep busy, its passes, and the answers."""
    engine = Engine(model.backend, EngineLimits(rows=rows, waiting=len(jobs)), mixed=mixed)
    texts = [""] * len(jobs)
    ended: queue.Queue[int] = queue.Queue()

    def deliver(number: int) -> Callable[[Event], None]:
        def take(event: Event) -> None:
            if isinstance(event, Done):
                ended.put(number)
            else:
                texts[number] += event.text  # type: ignore[union-attr]  # a failure has none and ends the measurement

        return take

    prepared = [model.prepare(j.prompt, capability=j.capability, seed=j.seed) for j in jobs]
    slots = threading.Semaphore(rows)
    began = time.process_time()
    for number, p in enumerate(prepared):
        while not slots.acquire(blocking=False):
            ended.get(timeout=60)
            slots.release()
        engine.submit(p, deliver(number))
    engine.close()
    return len(jobs) / (time.process_time() - began), engine.passes, texts


def batching(run: Path, out: Path, seeds: Sequence[int]) -> None:
    """One pass over mixed adapters against a running batch per adapter, and whole batches of `generate`."""
    model = hybrid.load(run)
    model.warm()
    print(
        "| seed | rows | mixed: answers per CPU s | passes | per adapter: answers per CPU s | passes | ratio | other text |"
    )
    print("|---|---|---|---|---|---|---|---|")
    ratios: dict[int, list[float]] = {}
    for seed in seeds:
        for rows in (4, 16, 64):

            def measure(seed: int = seed, rows: int = rows) -> dict[str, Any]:
                jobs = jobs_of(run, seed, 240)
                first = through_engine(model, jobs, True, rows)
                second = through_engine(model, jobs, False, rows)
                other = sum(a != b for a, b in zip(first[2], second[2], strict=True))
                return {"mixed": first[:2], "apart": second[:2], "other": other}

            r = kept(out, f"batching-{seed}-{rows}", measure)
            ratio = r["mixed"][0] / r["apart"][0]
            ratios.setdefault(rows, []).append(ratio)
            print(
                f"| {seed} | {rows} | {r['mixed'][0]:.1f} | {r['mixed'][1]} | {r['apart'][0]:.1f} | {r['apart'][1]} | "
                f"{ratio:.2f} | {r['other']} |",
                flush=True,
            )
    for rows, found in ratios.items():
        if len(found) > 1:
            print(f"\n{rows} rows, ratio over seeds: {over_seeds(found)}")


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["routing", "scores", "load", "batching"])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/quickstart"))
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("0-4"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench-serve"))
    arguments = parser.parse_args()
    if arguments.what == "routing":
        routing()
    elif arguments.what == "scores":
        scores(arguments.run)
    elif arguments.what == "load":
        load(arguments.run, arguments.out, arguments.seeds)
    else:
        batching(arguments.run, arguments.out, arguments.seeds)


if __name__ == "__main__":
    main()
