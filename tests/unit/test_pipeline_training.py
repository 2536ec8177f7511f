"""The weight arms of a run over a fake trainer: selection, shipping, refusal, cost and replay. No torch is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend

from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.errors import BudgetExhausted, DataError, RunFolderError
from hybrid.pipeline import follow as follow_module
from hybrid.pipeline import training as training_module
from hybrid.pipeline.run import run
from hybrid.report.schema import CapabilityReport, Report, load_report
from hybrid.store.records import RecordLog
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.monitors import Alarm

SIZES = {"train": 12, "search": 16, "confirm": 24, "test": 24, "variant": 12}
BAD, GOOD, EQUAL = "b" * 64, "c" * 64, "d" * 64
RULE = "halve."
Truth = Callable[[str, str, int, str], bool]
"""(text before the question, question, seed, adapter sha256 or "") -> whether the model is right."""


class World:
    """One capability `marks` over a fake backend and a fake trainer that leaves three checkpoints."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, truth: Truth) -> None:
        self.folder, self.truth = folder, truth
        self.trained: list[TrainJob] = []
        self.finished: dict[str, TrainResult] = {}
        self.history: tuple[dict[str, float], ...] = ({"step": 10.0, "loss": 0.5, "reward": 0.25},)
        self.alarms: tuple[Alarm, ...] = ()
        self.backend = FakeBackend(self._answer)
        (folder / "marks").mkdir()
        for split, size in SIZES.items():
            rows = [{"id": f"{split}{i}", "prompt": f"{split} q{i}?", "reference": f"a{i}"} for i in range(size)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "marks" / f"{split}.jsonl").write_text(text, encoding="utf-8")
        (folder / "vocabulary.yaml").write_text(f"rules: ['{RULE}', 'noise.']\n", encoding="utf-8")
        (folder / "config.yaml").write_text(
            "name: fake\nmodel: {path: reference, device: cpu}\n"
            "capabilities:\n  - {name: marks, source: {type: jsonl, path: marks}, grader: {type: exact}}\n"
            "probe: {examples: 16, samples: 8}\n"
            "skill: {epochs: 1, batch: 12, proposer: {type: offline, vocabulary: vocabulary.yaml}}\n"
            "gate: {search: {part: 8}, ship: {minimum_effect: 0.1}}\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(follow_module, "build_backend", lambda *args: self.backend)
        monkeypatch.setattr(training_module, "run_job", self._train)
        monkeypatch.setattr(training_module, "read_result", lambda job: self.finished.get(str(job.out)))

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        text, _, question = prompt.rpartition("\n")
        right = self.truth(text, question, seed, adapter.sha256 if adapter else "")
        return "a" + question.rpartition("q")[2].rstrip("?") if right else "no"

    def _train(self, loaded: Any, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
        if str(job.out) not in self.finished:
            self.trained.append(job)
            checkpoints = []
            for step, sha256 in ((10, BAD), (20, GOOD), (30, EQUAL)):
                folder = job.out / "adapters" / f"step-{step}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "adapter_model.safetensors").write_text(sha256, encoding="utf-8")
                checkpoints.append((step, Adapter(folder, sha256)))
            self.finished[str(job.out)] = TrainResult(
                tuple(checkpoints), 30, 12.5, 240, 4800, 960, self.history, "", self.alarms
            )
        return self.finished[str(job.out)]

    def go(self, *overrides: str, out: str = "run") -> CapabilityReport:
        return self.report(*overrides, out=out).capabilities[0]

    def report(self, *overrides: str, out: str = "run") -> Report:
        loaded = load_config(self.folder / "config.yaml", overrides)
        return load_report(run(loaded, self.folder / out, on_event=lambda kind, data: None))


def sharpen(text: str, question: str, seed: int, adapter: str) -> bool:
    """Right in a third of the samples; sure with the good adapters; never with the bad one. No text helps."""
    return seed % 3 == 0 if not adapter else adapter in (GOOD, EQUAL)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Truth], World]:
    return lambda truth: World(tmp_path, monkeypatch, truth)


def test_the_best_checkpoint_on_search_ships_the_earliest_of_equals(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    found = world.go()
    assert found.placement == "weights"
    assert found.training is not None
    assert (found.training.selected_step, found.training.steps) == (20, 30)
    assert found.artifacts.adapter == "adapters/marks"
    placed = world.folder / "run" / "adapters" / "marks" / "adapter_model.safetensors"
    assert placed.read_text() == GOOD
    (job,) = world.trained
    assert (job.skill, job.method, len(job.examples)) == ("", "grpo", 12)
    assert {e.id for e in job.examples} == {f"train{i}" for i in range(12)}, "training reads `train` alone"
    assert found.arms.weights is not None
    assert found.arms.weights.test is not None
    assert found.arms.weights.test.mean == 1.0


def test_training_is_in_the_ledger_once(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    for _ in range(2):
        found = world.go()
        assert found.ledger.train_seconds == 12.5
        assert found.ledger.stages["train-weights"].calls == 240
        assert found.ledger.calls == len(world.backend.asked) + 240
    assert len(world.trained) == 1


def test_replay_asks_nothing_and_keeps_the_bytes(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    world.go()
    report = world.folder / "run" / "report" / "placement.json"
    before, asked = report.read_bytes(), len(world.backend.asked)
    world.go()
    assert report.read_bytes() == before
    assert len(world.backend.asked) == asked


def test_a_budget_spent_to_the_last_call_does_not_bar_a_replay(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    spent = world.go(out="whole").ledger.calls
    world.finished.clear()
    assert world.go(f"budget.calls={spent}").placement == "weights"
    assert world.go(f"budget.calls={spent}").placement == "weights"
    for limit in ("train_seconds=12.5", "wall_seconds=0.001", "tokens=1", "calls=1"):
        assert world.go(f"budget.{limit}").placement == "weights", "what is paid is paid"


@pytest.mark.parametrize("limit", ["budget.calls=300", "budget.train_seconds=1"])
def test_training_does_not_start_on_a_spent_budget(make: Callable[[Truth], World], limit: str) -> None:
    world = make(sharpen)
    calls = limit.startswith("budget.calls")
    if calls:
        with pytest.raises(BudgetExhausted):
            world.go("budget.calls=100")
        assert world.trained == []
        world.go()
    else:
        world.go(limit)
        assert len(world.trained) == 1, "a training that began is finished; the limit bars the next one"


def test_no_checkpoint_that_beats_its_start_means_no_arm(make: Callable[[Truth], World]) -> None:
    world = make(lambda text, question, seed, adapter: seed % 3 == 0)
    found = world.go()
    assert found.placement == "neither"
    assert found.arms.weights is None
    assert any("no checkpoint passed the search gate" in line for line in found.decision_trail)
    assert not (world.folder / "run" / "adapters").exists()


def test_a_gain_that_variants_do_not_share_is_refused(make: Callable[[Truth], World]) -> None:
    def template(text: str, question: str, seed: int, adapter: str) -> bool:
        return seed % 3 == 0 if not adapter or question.startswith("variant") else adapter in (GOOD, EQUAL)

    found = make(template).go()
    assert found.placement == "neither"
    (refused,) = [r for r in found.rejected if r.substrate == "weights"]
    assert "does not carry over to variants" in refused.why
    assert found.arms.weights is not None, "what was built is still verified and shown"


def test_a_search_gain_that_confirm_does_not_share_is_refused(make: Callable[[Truth], World]) -> None:
    """The lenient gate lets it through; the honest one does not."""

    def lucky(text: str, question: str, seed: int, adapter: str) -> bool:
        return adapter in (GOOD, EQUAL) if adapter and question.startswith("search") else seed % 3 == 0

    found = make(lucky).go()
    assert found.placement in ("neither", "undecided")
    (verdict,) = found.gate
    assert verdict.decision != "accept"


def both_help(text: str, question: str, seed: int, adapter: str) -> bool:
    """A text mends most rows while searching and 14 of 24 that are sealed; the adapter alone is always right."""
    if adapter:
        return adapter in (GOOD, EQUAL)
    number = int(question.rpartition("q")[2].rstrip("?"))
    missed = 4 if question.startswith(("train", "search")) else 10
    return number >= missed if RULE in text else seed % 16 == 0


def test_a_counterfactual_changes_what_is_told_and_not_what_is_placed(make: Callable[[Truth], World]) -> None:
    world = make(both_help)
    plain = world.go(out="plain")
    assert plain.placement == "skill"
    assert world.trained == [], "the fallback is for a text arm that finds nothing"
    told = world.go("router.counterfactual=true", out="counterfactual")
    assert len(world.trained) == 2
    assert told.placement == plain.placement
    assert told.counterfactual is not None
    assert told.counterfactual.placement == "weights", "which the gate shows to be better, and no route asked for"
    assert told.counterfactual.regret is not None
    assert told.counterfactual.regret.mean == pytest.approx(10 / 24, abs=1e-5)


def test_the_fallback_is_trained_when_the_text_arm_finds_nothing(make: Callable[[Truth], World]) -> None:
    """The text helps while probing, but not on the rows that the search gate reads later."""

    def fades(text: str, question: str, seed: int, adapter: str) -> bool:
        if adapter:
            return adapter in (GOOD, EQUAL)
        return RULE in text and question.startswith("train") if seed % 3 else True

    world = make(fades)
    found = world.go("router.force={marks: weights}")
    assert found.placement == "weights"
    assert found.arms.skill is None


def test_both_trains_an_adapter_that_reads_the_document(make: Callable[[Truth], World]) -> None:
    def joint(text: str, question: str, seed: int, adapter: str) -> bool:
        return RULE in text and (adapter in (GOOD, EQUAL) or seed % 2 == 0)

    world = make(joint)
    found = world.go()
    (job,) = world.trained
    assert RULE in job.skill
    assert found.placement == "both"
    assert (found.artifacts.skill, found.artifacts.adapter) == ("skills/marks/SKILL.md", "adapters/marks")
    assert any("both is better by" in r.why for r in found.rejected if r.substrate == "skill")


def test_candidates_that_change_after_the_seal_are_refused(make: Callable[[Truth], World]) -> None:
    """Another adapter under the same identity may not be tried on `confirm` a second time."""
    world = make(sharpen)
    world.go()
    (key, result) = next(iter(world.finished.items()))
    swapped = tuple(
        (step, Adapter(a.path, a.sha256 if step != 20 else EQUAL[:-1] + "e")) for step, a in result.checkpoints
    )
    world.finished[key] = TrainResult(swapped[:1] + result.checkpoints[2:], *list(result.__dict__.values())[1:])
    with pytest.raises(RunFolderError, match="opened for other candidates"):
        world.go()


ALARM = Alarm(
    "clipped", 12, 8, 0.75, 0.6, "warn", "steps 8 to 12: 0.75 of the completions are cut off, 0.20 at the start"
)


def test_an_alarm_is_a_warning_a_reason_and_an_event_and_keeps_its_bytes(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    world.alarms = (ALARM,)
    found = world.report()
    said = f"alarm clipped (warn): {ALARM.message}"
    assert f"marks: weights: {said}" in found.warnings
    assert f"weights: {said}" in found.capabilities[0].decision_trail
    path = world.folder / "run" / "report" / "placement.json"
    before = path.read_bytes()
    world.report()
    assert path.read_bytes() == before
    events = [
        e["data"] for e in RecordLog(world.folder / "run" / "events.jsonl").read() if e["kind"] == "training.alarm"
    ]
    assert events == [{"capability": "marks", "arm": "weights", **ALARM.as_json()}], "once, however often it is resumed"


RISING = tuple({"step": float(s), "loss": 0.5, "reward": 0.1 if s <= 5 else 0.6} for s in range(1, 31))


def barely(text: str, question: str, seed: int, adapter: str) -> bool:
    """The checkpoint of step 10 is worth nothing on `search` although its reward has risen; the later ones are."""
    return seed % 3 == 0 if not adapter else adapter in (GOOD, EQUAL)


@pytest.mark.parametrize(("action", "placement"), [("warn", "weights"), ("rollback", "neither")])
def test_a_reward_that_search_does_not_share_warns_or_rolls_back(
    make: Callable[[Truth], World], action: str, placement: str
) -> None:
    world = make(barely)
    world.history = RISING
    found = world.report(f"weights.monitors.on_alarm.reward_without_search={action}")
    (warning,) = [w for w in found.warnings if "reward_without_search" in w]
    assert f"({action}): step 10: the training reward rose from 0.1 to 0.6" in warning
    assert found.capabilities[0].placement == placement


def test_a_reward_that_search_shares_is_no_alarm(make: Callable[[Truth], World]) -> None:
    world = make(lambda text, question, seed, adapter: seed % 3 == 0 or bool(adapter))
    world.history = RISING
    assert not [w for w in world.report().warnings if "alarm" in w]


def test_a_training_too_short_to_be_monitored_says_so(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    (warning,) = [w for w in world.report("weights.grpo.steps=9").warnings if "monitored" in w]
    assert "9 steps are fewer than two windows of 5" in warning
    assert not [w for w in world.report("weights.grpo.steps=10", out="longer").warnings if "monitored" in w]


FORMATS = "weights.monitors.formats=[{name: answer, pattern: '^a'}]"


def test_singular_values_under_supervision_are_warned_of_and_named(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    report = world.report("weights.method=svf", "weights.svf.train=sft")
    assert any("experts this small are reported to fail" in warning for warning in report.warnings)
    assert world.trained[0].trainer == "sft" and not world.trained[0].reinforces
    assert report.capabilities[0].training is not None
    assert report.capabilities[0].training.method == "svf by sft (weights)"
    reinforced = world.report("weights.method=svf", out="reinforced")
    assert not any("experts this small" in warning for warning in reinforced.warnings)


def test_formats_of_the_placed_arm_come_from_the_stored_test_answers(make: Callable[[Truth], World]) -> None:
    """The base answers `no` to two thirds of the rows; the adapter always in the format that is right."""
    plain_world = make(sharpen)
    assert plain_world.go().formats is None
    asked = len(plain_world.backend.asked)
    found = plain_world.go(FORMATS, out="told")
    assert found.placement == "weights"
    assert len(plain_world.backend.asked) == 2 * asked, "telling formats apart asks nothing"
    assert found.formats is not None
    assert (found.formats.shares, found.formats.effective, found.formats.n) == ({"answer": 1.0}, 1.0, 24)
    # `no` is never right, so the optimum is nearly `answer` alone: half a count of each is all that is left.
    assert found.formats.excess_collapse is not None and found.formats.excess_collapse < 0.1


def test_formats_of_the_base_stand_where_nothing_was_placed(make: Callable[[Truth], World]) -> None:
    found = make(lambda text, question, seed, adapter: seed % 3 == 0).go(FORMATS)
    assert found.placement == "neither"
    assert found.formats is not None
    assert set(found.formats.shares) == {"answer", "other"}
    assert found.formats.excess_collapse is None


def test_a_classifier_that_cannot_be_imported_is_said_before_anything_is_spent(make: Callable[[Truth], World]) -> None:
    world = make(sharpen)
    with pytest.raises(DataError, match="no_such_module") as caught:
        world.go("weights.monitors.classifier=no_such_module:tell")
    assert [p.key for p in caught.value.problems] == ["weights.monitors.classifier"]
    assert world.backend.asked == []


def test_a_classifier_whose_code_changed_is_another_run(
    make: Callable[[Truth], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(sharpen)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "told_apart.py"
    module.write_text("def tell(completion):\n    return 'one'\n", encoding="utf-8")
    override = "weights.monitors.classifier=told_apart:tell"
    found = world.go(override)
    assert found.formats is not None and found.formats.shares == {"one": 1.0}
    module.write_text("def tell(completion):\n    return 'two'\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="told_apart"):
        world.go(override)
