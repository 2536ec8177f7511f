"""The quickstart, whole, on the reference model: what a newcomer runs first, and what the smallest version of the idea says.

One run serves every test here. The truth is read by these tests alone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.config.loader import load_config

ROOT = Path(__file__).resolve().parents[2]
TRUTH = json.loads((ROOT / "data" / "reference" / "truth.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.slow


def hybrid(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hybrid", *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    done = hybrid("run", "configs/quickstart.yaml", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["placements"] == TRUTH
    return out


def test_every_placement_is_the_truth_with_its_evidence(run_dir: Path) -> None:
    report = json.loads((run_dir / "report" / "placement.json").read_text(encoding="utf-8"))
    for capability in report["capabilities"]:
        placed = capability["placement"]
        assert placed == TRUTH[capability["name"]]
        if placed in ("skill", "weights", "both"):
            assert capability["delta"]["low"] > 0.15, "a shipped change is better on the sealed test, interval included"
            assert capability["arms"][placed]["test"]["low"] > 0.85
        assert (run_dir / "skills" / capability["name"] / "SKILL.md").is_file() == (placed in ("skill", "both"))
        assert (run_dir / "adapters" / capability["name"]).is_dir() == (placed in ("weights", "both"))
    assert any("device" in warning for warning in report["warnings"]) or report["model"]["device"] != "cpu"


def test_sealed_splits_were_opened_once(run_dir: Path) -> None:
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    opened = [(e["data"]["capability"], e["data"]["split"]) for e in events if e["kind"] == "split.opened"]
    assert len(opened) == len(set(opened))
    assert {c for c, split in opened if split == "test"} == set(TRUTH)
    assert {c for c, split in opened if split == "confirm"} == {
        c for c, p in TRUTH.items() if p not in ("keep", "neither")
    }


def test_the_same_command_again_pays_nothing(run_dir: Path) -> None:
    before = (run_dir / "report" / "placement.json").read_bytes()
    paid = sum(len(p.read_bytes().splitlines()) for p in (run_dir / "rollouts").glob("*.jsonl"))
    again = hybrid("run", "configs/quickstart.yaml", "--out", str(run_dir), "--json")
    assert again.returncode == 0, again.stderr[-4000:]
    assert (run_dir / "report" / "placement.json").read_bytes() == before
    assert sum(len(p.read_bytes().splitlines()) for p in (run_dir / "rollouts").glob("*.jsonl")) == paid


def test_status_report_and_explain_read_it(run_dir: Path) -> None:
    status = json.loads(hybrid("status", str(run_dir), "--json").stdout)
    assert (status["state"], status["placements"]) == ("done", TRUTH)
    files = json.loads(hybrid("report", str(run_dir), "--json").stdout)["files"]
    assert all(Path(ROOT / path).is_file() for path in files.values())
    told = json.loads(hybrid("explain", str(run_dir), "fact-layout", "--json").stdout)["explanation"]
    assert "both beats skill" in told


def test_the_placed_model_answers_what_was_measured(run_dir: Path, tmp_path: Path) -> None:
    """Through the router and the server's engine, from the run and from its export; the test's own rows, their own seeds."""
    from hybrid import load
    from hybrid.evidence.rollouts import sample_seed
    from hybrid.evidence.types import Candidate
    from hybrid.pipeline.prepare import load_capabilities
    from hybrid.serve.engine import Delta, Engine, EngineLimits, Event
    from hybrid.serve.export import export
    from hybrid.store.records import RecordLog

    model = load(run_dir)
    export(run_dir, tmp_path / "out", fmt="vllm")
    exported = load(tmp_path / "out", backend=model.backend)
    texts: dict[int, str] = {}
    expected: dict[int, tuple[str, str]] = {}
    engine = Engine(model.backend, EngineLimits(rows=12))

    def hear(number: int) -> Callable[[Event], None]:
        def take(event: Event) -> None:
            texts[number] = texts.get(number, "") + (event.text if isinstance(event, Delta) else "")

        return take

    for capability in load_capabilities(load_config(run_dir / "config.resolved.json")):
        part = model.placement.parts[capability.name]
        candidate = Candidate(model.placement.fingerprint, part.skill, part.adapter, part.sampling)
        stored = RecordLog(run_dir / "rollouts" / f"{candidate.key[:32]}.jsonl").read()
        said = {(r["capability"], r["example_id"]): r["text"] for r in stored if r["split"] == "test"}
        for example in capability.splits["test"][:10]:
            prepared = model.prepare(example.prompt, seed=sample_seed(0, example, 0))
            assert exported.prepare(example.prompt, seed=sample_seed(0, example, 0)) == dataclasses.replace(
                prepared, adapter=exported.placement.parts[capability.name].adapter
            )
            number = len(expected)
            expected[number] = (capability.name, said[capability.name, example.id])
            assert prepared.applied.capability == capability.name
            engine.submit(prepared, hear(number))
    assert engine.close(120)
    assert {n: texts[n] for n in expected} == {n: text for n, (_, text) in expected.items()}
