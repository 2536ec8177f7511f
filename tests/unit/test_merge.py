"""One merged adapter in the place of several: the decision, and a run in which it meets the gates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_pipeline_training import EQUAL, GOOD, SIZES
from test_pipeline_training import World as Trained

from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.config.merge import MergeConfig
from hybrid.evidence.types import Verdict
from hybrid.pipeline import merge as merge_module
from hybrid.pipeline.merge import Merge
from hybrid.pipeline.plan import plan
from hybrid.pipeline.run import run
from hybrid.report.html import to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.schema import Report, load_report
from hybrid.router.merge import MergeCase, decide


def against(low: float, decision: str = "accept") -> Verdict:
    return Verdict(
        decision=decision,
        delta=low + 0.1,
        low=low,
        high=low + 0.2,
        p=0.01,
        n=50,
        improved=3,
        regressed=1,
        reason="as measured",
    )  # type: ignore[arg-type]


def case(low: float = -0.01, *, placed: bool = True, refused: str = "") -> MergeCase:
    return MergeCase(placed, refused, against(0.3), against(low))


def test_a_merge_has_to_hold_for_every_capability() -> None:
    assert decide({"a": case(), "b": case()}, 0.05).merged
    worse = decide({"a": case(), "b": case(-0.06)}, 0.05)
    assert (worse.merged, len(worse.why)) == (False, 1)
    assert worse.why[0].startswith("b: not shown to keep what its own adapter does: +0.040 [-0.060, +0.140], n=50")
    assert decide({"a": case(placed=False), "b": case()}, 0.05).why == (
        "a: its own adapter does not ship, and the merge holds it",
    )
    assert decide({"a": case(refused="no variants"), "b": case()}, 0.05).why == ("a: no variants",)
    assert not decide({"a": case()}, 0.05).merged, "one adapter is no merge"


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=5), st.floats(0.01, 0.5))
def test_only_what_is_shown_everywhere_is_merged(lows: list[float], effect: float) -> None:
    found = decide({str(i): case(low) for i, low in enumerate(lows)}, effect)
    assert found.merged == all(low > -effect for low in lows)
    assert found.why


def test_scales_are_checked() -> None:
    assert MergeConfig().scales == (1.0, 0.7, 0.5)
    for wrong in ([], [1.0, 1.0], [0.0], [float("nan")], [11.0]):
        with pytest.raises(ValidationError):
            MergeConfig(scales=wrong)  # type: ignore[arg-type]


class Two(Trained):
    """Two capabilities with an adapter each. `whole` says which of them the merge of each scale does; the own ones do theirs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[float, str]) -> None:
        super().__init__(folder, monkeypatch, lambda *args: False)
        self.whole = {f"m{scale:g}": does for scale, does in whole.items()}
        (folder / "signs").mkdir()
        for split, size in SIZES.items():
            rows = [{"id": f"s{split}{i}", "prompt": f"{split} s{i}?", "reference": f"b{i}"} for i in range(size)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "signs" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        signs = "  - {name: signs, source: {type: jsonl, path: signs}, grader: {type: exact}}\nprobe:"
        scales = ", ".join(f"{scale:g}" for scale in whole)
        config = config.replace("minimum_effect: 0.1", "minimum_effect: 0.2")  # what 24 examples can show
        config = config.replace("probe:", signs) + f"weights: {{merge: {{scales: [{scales}]}}}}\n"
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        monkeypatch.setattr(merge_module, "_merged", self._merge)

    def _merge(self, session: Any, config: Any, adapters: Sequence[Adapter]) -> tuple[Merge, ...]:
        assert len(adapters) == 2
        made = []
        for number, name in enumerate(self.whole):
            folder = self.folder / "merges" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_model.safetensors").write_text(name, encoding="utf-8")
            made.append(Merge(config.weights.merge.scales[number], Adapter(folder, name), 32, {}))
        return tuple(made)

    def _train(self, loaded: Any, job: Any, cache: Path, on_progress: Any) -> Any:
        found = super()._train(loaded, job, cache, on_progress)
        if job.capability == "signs":  # two trainings never give the same bytes
            found.checkpoints[1][1].path.joinpath("adapter_model.safetensors").write_text(EQUAL, encoding="utf-8")
            steps = [(step, Adapter(a.path, EQUAL if a.sha256 == GOOD else a.sha256)) for step, a in found.checkpoints]
            return type(found)(tuple(steps), *[getattr(found, f) for f in list(found.__dataclass_fields__)[1:]])
        return found

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        question = prompt.rpartition("\n")[2]
        kind = "q" if " q" in question else "s"
        number = question.rpartition(kind)[2].rstrip("?")
        own = {GOOD: "q", EQUAL: "s"} | self.whole
        right = seed % 3 == 0 if adapter is None else kind in own.get(adapter.sha256, "")
        return ("a" if kind == "q" else "b") + number if right else "no"

    def go_on(self, out: str = "run") -> Report:
        loaded = load_config(self.folder / "config.yaml", ())
        return load_report(run(loaded, self.folder / out, on_event=lambda kind, data: None))


def test_a_merge_that_does_everything_ships_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Two(tmp_path, monkeypatch, {1.0: "q", 0.5: "qs"})
    report = world.go_on()
    found = report.merger
    assert found is not None and found.merged
    assert (found.chosen, list(found.members)) == (0.5, ["marks", "signs"])
    assert [round(t.search["signs"].mean, 2) for t in found.tried] == [0.0, 1.0]
    for c in report.capabilities:
        assert (c.placement, c.artifacts.method) == ("weights", "grpo, merged")
        assert "one merged adapter for marks, signs: ships" in c.reason
        assert c.arms.weights is not None and c.arms.weights.test is not None and c.arms.weights.test.mean == 1.0
        shipped = world.folder / "run" / "adapters" / c.name / "adapter_model.safetensors"
        assert shipped.read_text(encoding="utf-8") == "m0.5"
        assert [g.arm for g in c.gate] == ["weights"]
    assert report.gate is not None and report.gate.family == 4, "two own adapters and the merge, asked for each"
    asked = len(world.backend.asked)
    assert world.go_on() == report and len(world.backend.asked) == asked, "a finished run is read"
    for drawn in (to_markdown(report), to_html(report)):
        assert "One adapter or several" in drawn and "ships in the place of their own" in drawn


def test_a_merge_that_forgets_one_leaves_the_separate_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Two(tmp_path, monkeypatch, {1.0: "s"}).go_on()
    found = report.merger
    assert found is not None and not found.merged
    assert found.why[0].startswith("marks: ")
    assert found.members["signs"].against_own.low > -0.2 and found.members["marks"].against_own.high < -0.5
    for c, own in zip(report.capabilities, (GOOD, EQUAL), strict=True):
        shipped = tmp_path / "run" / "adapters" / c.name / "adapter_model.safetensors"
        assert (c.placement, c.artifacts.method) == ("weights", "grpo")
        assert shipped.read_text(encoding="utf-8") == own
        assert any("one merged adapter for marks, signs: does not ship" in line for line in c.decision_trail)


def test_the_plan_counts_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Two(tmp_path, monkeypatch, {1.0: "qs"})
    with_it = plan(load_config(world.folder / "config.yaml", ()))
    without = plan(load_config(world.folder / "config.yaml", ["weights.merge=null"]))
    stages = {s.stage: s.calls.upper for s in with_it.capabilities[0].stages}
    assert stages["merged"] == 2 * SIZES["search"] + SIZES["confirm"] + SIZES.get("variant", 0)
    assert "merged" not in {s.stage for s in without.capabilities[0].stages}
