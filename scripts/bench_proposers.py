"""Do the proposers find what a perfect document holds? The reference world's factual and procedural skills, from nothing.

    python scripts/bench_proposers.py --out runs/bench-proposers        # what docs/proposers.md holds; about two minutes

Each proposer optimises both documents from an empty seed through `hybrid run` (its gates and budgets as configured), and
the shipped document is compared on the sealed test with the oracle: the document that the script writes because it knows
the language. `endpoint` is a server on the loopback interface that speaks the chat protocol and reasons as a competent
reader would: from the training rows in the question alone it tells which value a name has, or which operation explains
every row of a name. It sees what any endpoint would see, and nothing else.

Does not: show how good a language model is at this; it shows that what a proposer knows reaches the document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import reference_language as language
import yaml
from loopback_endpoint import LoopbackEndpoint

from hybrid.evidence.stats import mean_interval, paired_interval

ROOT = Path(__file__).resolve().parents[1]
CAPABILITIES = ("fact-table", "named-rules")


def lines_for(rows: list[tuple[str, str]]) -> list[str]:
    """The document lines that explain (prompt, answer) rows: a value per asked name, an operation per applied name."""
    facts: dict[str, set[str]] = defaultdict(set)
    rules: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for prompt, answer in rows:
        words = prompt.split()
        if words[0] == "ask":
            facts[words[-1]].add(answer)
        elif words[0] == "q" and len(words) == 3:
            rules[words[2]].append((words[1], answer))
    out = [f"fact {name} {next(iter(values))}." for name, values in sorted(facts.items()) if len(values) == 1]
    for name, pairs in sorted(rules.items()):
        fitting = [op for op in language.OPERATIONS if all(language.apply([op], text) == a for text, a in pairs)]
        if len(fitting) == 1:
            out.append(f"rule {name} {fitting[0]}.")
    return out


def reader(payload: dict[str, Any]) -> str:
    """What a competent reader answers to a reflection on failures; anything else gets an empty object."""
    text = payload["messages"][-1]["content"]
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "reference" in row and "task" in row:
            rows.append((str(row["task"]), str(row["reference"])))
    document = set(text.splitlines())
    edits = [{"op": "append", "content": x, "support": 1, "why": "explains the rows"} for x in lines_for(rows)]
    return json.dumps({"failures": [], "edits": [e for e in edits if e["content"] not in document]})


def configuration(proposer: dict[str, Any], out: Path) -> Path:
    """The quickstart's two text capabilities with a proposer, as a file of its own."""
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    config["capabilities"] = [c for c in config["capabilities"] if c["name"] in CAPABILITIES]
    for capability in config["capabilities"]:
        capability["source"]["path"] = str(ROOT / "data" / "reference" / capability["name"])
    config |= {"name": "proposers", "skill": {"proposer": proposer}}
    config["router"] = {"force": dict.fromkeys(CAPABILITIES, "skill")}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(config: Path, out: Path) -> dict[str, Any]:
    """The report of `hybrid run`."""
    subprocess.run([sys.executable, "-m", "hybrid", "run", str(config), "--out", str(out)], check=True, cwd=ROOT)
    report: dict[str, Any] = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
    return report


def test_scores(config: Path, bodies: dict[str, dict[str, str]], out: Path) -> dict[str, dict[str, list[float]]]:
    """Scores on the sealed test of each named body, in a folder of their own: capability -> name -> scores."""
    from hybrid.backends.base import Request, Sampling
    from hybrid.backends.build import build_backend
    from hybrid.config.loader import load_config
    from hybrid.evidence.compose import compose
    from hybrid.pipeline.prepare import load_capabilities

    loaded = load_config(config)
    backend = build_backend(loaded.config.model, loaded.config.backend, loaded.resolve, out / ".cache")
    found: dict[str, dict[str, list[float]]] = {}
    for capability in load_capabilities(loaded):
        settings = next(c for c in loaded.config.capabilities if c.name == capability.name)
        sampling = Sampling(**settings.decoding.model_dump())
        rows = capability.splits["test"]
        found[capability.name] = {}
        for name, body in bodies[capability.name].items():
            requests = [Request(compose(e.prompt, body, loaded.config.model.skill_separator), 0) for e in rows]
            answers = backend.generate(requests, sampling, None)
            graded = [capability.grader.grade(a.text, e).value for a, e in zip(answers, rows, strict=True)]
            found[capability.name][name] = graded
    return found


def oracle(name: str) -> str:
    """The right document of a capability, from its training rows and the language."""
    path = ROOT / "data" / "reference" / name / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "".join(f"{line}\n" for line in lines_for([(r["prompt"], r["reference"]) for r in rows]))


def main() -> None:
    """Run both proposers, compare with the oracle, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-proposers"))
    args = parser.parse_args()
    vocabulary = str(ROOT / "data" / "reference" / "vocabulary.yaml")
    print("| proposer | capability | document | oracle | share | paired difference | rollouts | requests |")
    print("|---|---|---|---|---|---|---|---|")
    with LoopbackEndpoint(reader) as server:
        proposers = {
            "offline": {"type": "offline", "vocabulary": vocabulary, "trials": 12},
            "endpoint": {"type": "endpoint", "url": server.url, "model": "reader"},
        }
        for kind, proposer in proposers.items():
            out = args.out / kind
            config = configuration(proposer, out)
            report = run(config, out / "run")
            documents = {c["name"]: c["skill_text"] or "" for c in report["capabilities"]}
            bodies = {name: {"found": documents[name], "oracle": oracle(name)} for name in CAPABILITIES}
            for capability in report["capabilities"]:
                name = capability["name"]
                scores = test_scores(config, bodies, out)[name]
                mine, best = mean_interval(scores["found"], 0.95, 0), mean_interval(scores["oracle"], 0.95, 0)
                gap = paired_interval([a - b for a, b in zip(scores["found"], scores["oracle"], strict=True)])
                calls = report["ledger"].get("proposer") or {"calls": 0}
                print(
                    f"| {kind} | {name} | {mine.mean:.3f} [{mine.low:.3f}, {mine.high:.3f}] "
                    f"| {best.mean:.3f} [{best.low:.3f}, {best.high:.3f}] | {mine.mean / best.mean:.3f} "
                    f"| {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] n={mine.n} "
                    f"| {capability['ledger']['stages']['skill']['calls']} | {calls['calls']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
