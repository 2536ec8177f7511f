"""Calibration in a whole run over a fake trainer: on the report, selected on `search`, shipped only jointly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_pipeline_training as training

from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.errors import ConfigError
from hybrid.report.markdown import to_markdown

KNOB = "gate.ship.calibration={minimum_effect: 0.05, margin: 0.1}"
ON = ("weights.rewards.brier_weight=1.0", "router.force={marks: weights}")


class Stating(training.World):
    """Right on even questions whatever the adapter; the base always says 9, the good adapter what is true."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stating: int = 1_000) -> None:
        for split in ("search", "confirm", "test"):
            monkeypatch.setitem(training.SIZES, split, 48)
        super().__init__(folder, monkeypatch, lambda *_: True)
        self.stating, self.fewer = stating, 0
        config = folder / "config.yaml"
        text = config.read_text(encoding="utf-8").replace(
            "{type: exact}", "{type: regex, pattern: '{reference}~?\\d?'}"
        )
        config.write_text(text, encoding="utf-8")

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        number = int(prompt.rpartition("q")[2].rstrip("?"))
        good = adapter is not None and adapter.sha256 == training.GOOD
        right = number % 2 == 0 and not (good and number < self.fewer)
        said = (8 if right else 1) if good else 9
        answer = f"a{number}" if right else "no"
        return f"{answer}~{said}" if number < self.stating else answer


def test_a_calibration_is_on_the_report_with_the_bases_beside_it(tmp_path: Path, monkeypatch: Any) -> None:
    world = Stating(tmp_path, monkeypatch)
    found = world.go(*ON, KNOB)
    assert found.placement == "weights"
    assert "better calibrated" in found.reason
    calibration = found.calibration
    assert calibration is not None
    assert calibration.n == 48
    assert calibration.brier == pytest.approx((0.04 + 0.01) / 2)
    assert calibration.ece == pytest.approx(0.15)
    assert calibration.auroc == 1.0
    assert calibration.base["brier"].mean == pytest.approx((0.01 + 0.81) / 2)
    assert calibration.base["auroc"].mean == 0.5
    assert calibration.intervals["brier"].low <= calibration.brier <= calibration.intervals["brier"].high
    text = to_markdown(world.report(*ON, KNOB))
    assert "Calibration (n=48): Brier 0.025" in text
    assert "| Brier (lower is better) |" in text


def test_a_second_attempt_gives_the_same_report(tmp_path: Path, monkeypatch: Any) -> None:
    world = Stating(tmp_path, monkeypatch)
    world.go(*ON, KNOB)
    path = tmp_path / "run" / "report" / "placement.json"
    first = path.read_bytes()
    world.go(*ON, KNOB)
    assert path.read_bytes() == first


def test_without_the_knob_an_adapter_of_equal_accuracy_is_not_even_built(tmp_path: Path, monkeypatch: Any) -> None:
    found = Stating(tmp_path, monkeypatch).go(*ON)
    assert found.placement == "neither"
    assert found.calibration is not None  # the base's
    assert found.calibration.brier == pytest.approx(0.41)


def test_a_calibration_bought_with_accuracy_does_not_ship(tmp_path: Path, monkeypatch: Any) -> None:
    world = Stating(tmp_path, monkeypatch)
    world.fewer = 24  # half of what was right is wrong now, and the adapter says so
    found = world.go(*ON, KNOB)
    assert found.placement in ("neither", "undecided")
    assert any("accuracy may be worse" in verdict.reason for verdict in found.gate)


def test_few_stated_confidences_are_not_measurable_and_the_trail_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    found = Stating(tmp_path, monkeypatch, stating=20).go(*ON, KNOB)
    assert found.calibration is None
    assert any("20 of 48 test answers state a confidence" in line for line in found.decision_trail)


def test_without_a_way_of_stating_one_there_is_no_calibration_and_the_gate_cannot_ask(
    tmp_path: Path, monkeypatch: Any
) -> None:
    world = Stating(tmp_path, monkeypatch)
    found = world.go("router.force={marks: weights}")
    assert found.calibration is None
    assert not any("calibration" in line for line in found.decision_trail)
    with pytest.raises(ConfigError, match=r"gate\.ship\.calibration"):
        load_config(tmp_path / "config.yaml", [KNOB])


def test_a_brier_reward_that_never_found_a_confidence_is_a_warning(tmp_path: Path, monkeypatch: Any) -> None:
    world = Stating(tmp_path, monkeypatch)
    world.history = tuple({"step": float(i), "loss": 0.5, "reward": 0.2, "brier": 0.0} for i in range(1, 4))
    assert any("the Brier reward paid nothing" in text for text in world.report(*ON).warnings)
    world.history = (*world.history, {"step": 4.0, "loss": 0.5, "reward": 0.2, "brier": 0.1})
    world.finished.clear()
    assert not any("the Brier reward paid nothing" in text for text in world.report(*ON, out="other").warnings)
