"""A whole run whose rows come from suites, over the scripted backend; and the configurations that use suites."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hybrid.capability.sources import load_capability
from hybrid.config.loader import load_config
from hybrid.config.schema import CapabilityConfig
from hybrid.pipeline.plan import plan
from hybrid.pipeline.prepare import validate
from hybrid.pipeline.run import run
from hybrid.report.schema import load_report

ROOT = Path(__file__).resolve().parents[2]
SIZES = "{train: 8, search: 16, confirm: 16, test: 16, variant: 8}"
TEXT = f"""
name: suites
model: {{path: reference, device: cpu}}
backend: {{type: scripted, script: script.json}}
capabilities:
  - name: wardens
    source: {{type: suite, name: facts, sizes: {SIZES}}}
  - name: roads
    source: {{type: suite, name: routes, sizes: {SIZES}, options: {{size: 4}}, seed: 3}}
    grader: {{type: exact}}
probe: {{examples: 16, samples: 2, variants: 8, worked_examples: 2}}
skill: {{epochs: 1, batch: 8, minibatch: 8}}
report: {{collateral_examples: 8}}
"""


def _write(folder: Path) -> Path:
    """A model that knows every warden and half of the active twins of roads, and nothing else about roads."""
    file = folder / "run.yaml"
    file.write_text(TEXT, encoding="utf-8")
    (folder / "script.json").write_text('{"rules": [], "default": "no"}', encoding="utf-8")
    config = load_config(file)
    rules = []
    for settings in config.config.capabilities:
        capability, problems = load_capability(settings, config.resolve, config.config.seed)
        assert capability is not None, problems
        for split, rows in capability.splits.items():
            known = [
                e
                for e in rows
                if capability.name == "wardens" or (split == "variant" and e.metadata["active"] is False)
            ]
            rules += [{"contains": e.prompt_text, "answers": [e.gold_completion]} for e in known]
    script = {"rules": rules, "default": "no", "calls": "calls.jsonl"}
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    return file


def test_a_run_over_suites_places_reports_and_resumes(tmp_path: Path) -> None:
    loaded = load_config(_write(tmp_path))
    assert [c.name for c in plan(loaded).capabilities] == ["wardens", "roads"]
    path = run(loaded, tmp_path / "out", on_event=lambda *_: None)
    report = load_report(path)
    placed = {c.name: c for c in report.capabilities}
    assert placed["wardens"].placement == "keep"
    assert placed["wardens"].kind.declared == "factual"
    probed = placed["roads"].profile
    assert [(probed[k].value, probed[k].n) for k in ("variant_active", "variant_inactive")] == [(0.0, 4), (1.0, 4)]
    assert "variant_active" not in placed["wardens"].profile
    first, calls = path.read_bytes(), (tmp_path / "calls.jsonl").read_bytes()
    assert run(load_config(tmp_path / "run.yaml"), tmp_path / "out", on_event=lambda *_: None).read_bytes() == first
    assert (tmp_path / "calls.jsonl").read_bytes() == calls


def test_the_oracle_of_a_suite_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    source = {"type": "suite", "name": "style"}
    config = CapabilityConfig.model_validate({"name": "cards", "source": source})
    capability, _ = load_capability(config, lambda p: tmp_path / p, 0)
    assert capability is not None
    assert "LAST NAME, FIRST NAME" in str(capability.oracle)
    changed = dataclasses.replace(capability, oracle="another text")
    assert changed.fingerprint() != capability.fingerprint()


def test_the_example_configuration_is_sound_and_its_gold_answers_too() -> None:
    report = validate(load_config(ROOT / "configs" / "suites.yaml"), score_gold=True)
    assert report.problems == ()
    assert [row["test"] for row in report.capabilities] == [160, 160, 160]


def test_the_configuration_for_a_real_model_is_sound() -> None:
    pytest.importorskip("reasoning_gym")
    pytest.importorskip("countryinfo")
    assert validate(load_config(ROOT / "configs" / "suites-gemma.yaml"), score_gold=True).problems == ()
