"""A run that composes the adapter of one capability from those of two others, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backend_tiny import save_tiny

from hybrid.config.loader import LoadedConfig, load_config
from hybrid.errors import AdapterError
from hybrid.pipeline.run import run
from hybrid.report.schema import CapabilityReport, load_report
from hybrid.store.faults import faultpoint

SIZES = {"train": 12, "search": 24, "confirm": 24, "test": 24}
ANSWERS = {"first": ("x", "ab"), "second": ("y", "ba"), "third": ("z", "ab")}
SWARM = "{search: cma, evaluations: 14, population: 4, examples: 16, block: 8}"


def make(
    folder: Path, swarm: str = SWARM, last: str = "", order: tuple[str, ...] = ("third", "first", "second")
) -> Path:
    """`first` and `second` learn one answer each; `third`, written before them, wants that of `first`."""
    save_tiny(folder / "tiny")
    for name, (letter, answer) in ANSWERS.items():
        (folder / name).mkdir()
        for split, size in SIZES.items():
            rows = [
                {
                    "id": f"{split}-{i}",
                    "prompt": f"{letter}{'tscf'[list(SIZES).index(split)]}{i} =",
                    "reference": answer,
                }
                for i in range(size)
            ]
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    capabilities = "".join(
        f"  - name: {name}\n    source: {{type: jsonl, path: {name}}}\n    grader: {{type: exact}}\n"
        f"    decoding: {{max_new_tokens: 4}}\n    method: {'swarm' if name == 'third' else 'sft'}\n"
        for name in order
    )
    (folder / "config.yaml").write_text(
        "name: composed\nmodel: {path: tiny, device: cpu, threads: 1}\n"
        f"capabilities:\n{capabilities}"
        "probe: {examples: 8, samples: 2, worked_examples: 0, contexts: 0, paraphrases: 0}\n"
        "router: {force: {first: weights, second: weights, third: weights}}\n"
        "weights:\n  method: sft\n  lora: {rank: 4, alpha: 8}\n"
        "  sft: {steps: 24, batch: 6, learning_rate: 0.02}\n  checkpoint_every: 24\n"
        f"  swarm: {swarm}\n"
        f"report: {{collateral_examples: 8, formats: [json, md]}}\n{last}"
    )
    return folder / "config.yaml"


def go(loaded: LoadedConfig, out: Path) -> tuple[dict[str, CapabilityReport], list[tuple[str, dict[str, Any]]]]:
    """Run; the report by capability, and the events."""
    seen: list[tuple[str, dict[str, Any]]] = []
    path = run(loaded, out, on_event=lambda kind, data: seen.append((kind, data)))
    return {c.name: c for c in load_report(path).capabilities}, seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, CapabilityReport]]:
    folder = tmp_path_factory.mktemp("swarm")
    config = make(folder)
    found, _ = go(load_config(config), folder / "run")
    return config, folder / "run", found


def test_the_composed_adapter_ships_by_the_gate_like_any_other(
    finished: tuple[Path, Path, dict[str, CapabilityReport]],
) -> None:
    _, out, found = finished
    third = found["third"]
    assert (third.placement, third.artifacts.method) == ("weights", "swarm")
    assert third.delta is not None and third.delta.low > 0.5
    composed = third.artifacts.composition
    assert composed is not None
    assert [i.name for i in composed.ingredients] == ["first", "second"]
    assert composed.evaluations == 11, "the starts, and two whole generations of four"
    assert 0 < composed.asked <= 11 * 16 and composed.asked + composed.saved <= 11 * 16
    assert composed.best_expert == "first"
    assert composed.fresh["base"].mean < 0.5 < composed.fresh["best expert"].mean
    assert composed.fresh["base"].n == SIZES["train"], "eight rows of search are too few, train was not searched on"
    manifest = json.loads((out / "adapters" / "third" / "hybrid_manifest.json").read_text())
    assert manifest["adapter_sha256"]
    assert found["first"].artifacts.method == "sft" and found["first"].artifacts.composition is None
    assert not (out / "checkpoints" / "third-weights" / "mixtures").exists()
    assert any("over 2 experts" in line for line in third.decision_trail)


def test_the_same_command_again_pays_for_nothing(finished: tuple[Path, Path, dict[str, CapabilityReport]]) -> None:
    config, out, _ = finished
    before = (out / "report" / "placement.json").read_bytes()
    _, seen = go(load_config(config), out)
    assert (out / "report" / "placement.json").read_bytes() == before
    started = next(data for kind, data in seen if kind == "run.started")
    done = next(data for kind, data in seen if kind == "run.done")
    assert done["reused_calls"] >= started["reused_calls"] > 0


def test_a_search_that_was_killed_goes_on(
    finished: tuple[Path, Path, dict[str, CapabilityReport]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _, found = finished
    out = config.parent / "killed"
    count = 0

    def die(name: str) -> None:
        nonlocal count
        faultpoint(name)
        count += name == "stage.swarm-generation"
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("hybrid.pipeline.swarm.faultpoint", die)
    with pytest.raises(KeyboardInterrupt):
        go(load_config(config), out)
    monkeypatch.undo()
    again, _ = go(load_config(config), out)
    assert again["third"].artifacts == found["third"].artifacts
    assert again["third"].ledger.calls == found["third"].ledger.calls


def test_a_folder_that_is_no_expert_ends_the_run_before_it_pays(tmp_path: Path) -> None:
    config = make(tmp_path, "{experts: [elsewhere]}")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(AdapterError, match="elsewhere"):
        go(load_config(config), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_folders_of_another_run_are_experts_too(finished: tuple[Path, Path, dict[str, CapabilityReport]]) -> None:
    config, _, _ = finished
    text = (
        config.read_text()
        .replace("name: composed", "name: folders")
        .replace("method: sft\n  lora", "method: swarm\n  lora")
    )
    start, end = text.index("  - name: first"), text.index("probe:")
    text = text[:start] + text[end:]
    text = text.replace("{first: weights, second: weights, third: weights}", "{third: weights}")
    text = text.replace(
        SWARM, SWARM.replace("{search: cma", "{experts: [run/adapters/first, run/adapters/second], search: swarms")
    )
    (config.parent / "folders.yaml").write_text(text)
    found, _ = go(load_config(config.parent / "folders.yaml"), config.parent / "folders")
    composed = found["third"].artifacts.composition
    assert composed is not None and composed.search == "swarms"
    assert [i.name for i in composed.ingredients] == ["run/adapters/first", "run/adapters/second"]
    assert sum(i.coefficient for i in composed.ingredients) == pytest.approx(1.0, abs=0.01)
    assert found["third"].placement == "weights"
    identity = json.loads((config.parent / "folders" / "run.json").read_text())
    assert "run/adapters/first" in json.dumps(identity), "another adapter in that folder is another run"
