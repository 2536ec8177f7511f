"""Shared adapters in a whole run over a fake trainer whose adapters know what they were trained on, in which order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend, candidate, capability, meter

from hybrid.backends.base import Adapter
from hybrid.config.loader import load_config
from hybrid.errors import BudgetExhausted, ConfigError, TrainingError
from hybrid.pipeline import follow, shared_job
from hybrid.pipeline import training as training_module
from hybrid.pipeline.plan import plan
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.run import run
from hybrid.pipeline.shared import Checkpoint, Training, compare
from hybrid.pipeline.training import search_score, search_values
from hybrid.report.html import to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.render import explain
from hybrid.report.schema import Report, Schedule, load_report
from hybrid.weights.base import TrainJob, TrainResult
from hybrid.weights.jobs import job_identity

NAMES = ("marks", "signs", "tones")
SIZES = {"train": 8, "search": 20, "confirm": 30, "test": 20}
STEPS = 4
SHARED = ("weights.schedule.tasks=shared",)
TRANSFER = (*SHARED, "weights.schedule.order=transfer", "weights.schedule.pair_steps=2")
Knows = Callable[[str, tuple[str, ...]], float]
"""(task, stages trained so far; `mixed` for all at once) -> share of questions that are answered right."""


def forgetful(task: str, trained: tuple[str, ...]) -> float:
    """Sharing costs nothing, but `signs` after `marks` wipes them out; mixed training is mediocre everywhere."""
    if not trained:
        return 0.2
    if trained[-1] == "mixed":
        return 0.7
    if task not in trained:
        return 0.2
    gone = task == "marks" and "signs" in trained[trained.index("marks") :]
    return 0.2 if gone else 0.9


def even(task: str, trained: tuple[str, ...]) -> float:
    """Mixed training is best, and no order matters."""
    return 0.2 if not trained else 0.9 if trained[-1] == "mixed" else 0.8 if task in trained else 0.2


class World:
    """Three capabilities; every training is one that was asked for, in `trained`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, knows: Knows) -> None:
        self.folder, self.knows = folder, knows
        self.trained: list[TrainJob] = []
        self.histories: dict[str, tuple[str, ...]] = {}
        self.results: dict[str, TrainResult] = {}
        self.fail: Callable[[TrainJob], Exception | None] = lambda job: None
        self.silent: set[str] = set()
        self.warnings: tuple[str, ...] = ()
        self.backend = FakeBackend(self._answer)
        for name in NAMES:
            (folder / name).mkdir()
            for split, size in SIZES.items():
                rows = [
                    {"id": f"{split}{i}", "prompt": f"{name} q{i}?", "reference": f"{name}{i}"} for i in range(size)
                ]
                for row in rows:
                    row["prompt"] = f"{split} {row['prompt']}"
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
        (folder / "vocabulary.yaml").write_text("rules: ['noise.']\n", encoding="utf-8")
        listed = "".join(
            f"  - {{name: {n}, source: {{type: jsonl, path: {n}}}, grader: {{type: exact}}}}\n" for n in NAMES
        )
        forced = ", ".join(f"{n}: weights" for n in NAMES)
        (folder / "config.yaml").write_text(
            "name: fake\nmodel: {path: reference, device: cpu}\n"
            f"capabilities:\n{listed}"
            "probe: {examples: 16, samples: 4}\n"
            "skill: {epochs: 1, batch: 12, proposer: {type: offline, vocabulary: vocabulary.yaml}}\n"
            f"router: {{force: {{{forced}}}}}\n"
            f"weights: {{method: sft, sft: {{steps: {STEPS}}}, checkpoint_every: 2, schedule: {{}}}}\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(follow, "build_backend", lambda *args: self.backend)
        monkeypatch.setattr(training_module, "run_job", self._train)
        monkeypatch.setattr(training_module, "read_result", lambda job: self.results.get(str(job.out)))
        monkeypatch.setattr(shared_job, "inspect_adapter", self._adapter)

    def _adapter(self, folder: Path) -> Adapter:
        return Adapter(folder, (folder / "adapter_model.safetensors").read_text(encoding="utf-8"))

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        _, name, question = prompt.rpartition("\n")[2].split()
        trained = self.histories[adapter.sha256] if adapter else ()
        number = int(question[1:-1])
        # `marks` answers alike every time, `tones` differently every time: that is their entropy.
        noise = {"marks": 0, "signs": seed % 2, "tones": seed % 5}[name]
        return f"{name}{number}" if (number % 10) / 10 < self.knows(name, trained) else f"no{noise}"

    def _train(self, loaded: Any, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
        key = str(job.out)
        if key not in self.results:
            error = self.fail(job)
            if error is not None:
                raise error
            self.trained.append(job)
            self.results[key] = self._result(job)
        return self.results[key]

    def _result(self, job: TrainJob) -> TrainResult:
        began = self.histories[job.start.sha256] if job.start else ()
        owners = {row: t.capability for t in job.tasks for row in range(t.first, t.first + t.rows)}
        stages = job.stages if job.tasks else ((),)
        checkpoints = []
        for step in range(job.weights.checkpoint_every, job.steps + 1, job.weights.checkpoint_every):
            done, past = [], 0
            for stage, length in zip(stages, job.stage_steps or (job.steps,), strict=True):
                if past < step:
                    several = len(stages) == 1 and len(job.tasks) > 1
                    done.append("mixed" if several else owners[stage[0]] if job.tasks else job.capability)
                past += length
            history = (*began, *done)
            sha256 = hashlib.sha256(repr((history, step)).encode()).hexdigest()
            self.histories[sha256] = history
            folder = job.out / "adapters" / f"step-{step}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_model.safetensors").write_text(sha256, encoding="utf-8")
            checkpoints.append((step, Adapter(folder, sha256)))
        found = () if job.out.name in self.silent else tuple(checkpoints)
        history = ({"step": 1.0, "loss": 0.5},)
        return TrainResult(found, job.steps, 1.0, 10, 100, 20, history, "", warnings=self.warnings)

    def report(self, *overrides: str, out: str = "run") -> Report:
        loaded = load_config(self.folder / "config.yaml", overrides)
        return load_report(run(loaded, self.folder / out, on_event=lambda kind, data: None))

    def schedule(self, *overrides: str) -> Schedule:
        found = self.report(*overrides).schedule
        assert found is not None
        return found

    @property
    def names(self) -> list[str]:
        return [job.out.name for job in self.trained]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Knows], World]:
    return lambda knows: World(tmp_path, monkeypatch, knows)


def test_by_default_every_capability_trains_its_own(make: Callable[[Knows], World]) -> None:
    world = make(even)
    assert world.report().schedule is None
    assert world.names == ["marks-weights", "signs-weights", "tones-weights"]


def test_structured_first_beside_the_mixed_training(make: Callable[[Knows], World]) -> None:
    world = make(even)
    found = world.report(*SHARED)
    schedule = found.schedule
    assert schedule is not None
    assert schedule.order == NAMES, "by ascending answer entropy"
    assert (schedule.by, schedule.steps, schedule.chosen) == ("structured", 3 * STEPS, "joint")
    assert world.names == ["0-ordered", "0-joint"]
    ordered, joint = world.trained
    assert ordered.stage_steps == (STEPS,) * 3
    assert joint.stage_steps == (3 * STEPS,)
    assert len(ordered.stages) == 3
    assert len(joint.stages) == 1
    assert [c.placement for c in found.capabilities] == ["weights"] * 3
    placed = {(world.folder / "run" / "adapters" / n / "adapter_model.safetensors").read_text() for n in NAMES}
    assert len(placed) == 1, "one adapter for all"
    assert world.histories[placed.pop()] == ("mixed",)
    assert schedule.helped is not None
    assert schedule.helped.mean == pytest.approx(-0.1)
    assert schedule.helped.n == 3 * SIZES["search"]
    assert schedule.predicted is None
    assert schedule.actual is not None
    assert schedule.actual.mean == pytest.approx(0.8)
    assert [p.after for p in schedule.points] == [None, *NAMES]
    entropy = [schedule.points[0].entropy[n].mean for n in NAMES]
    assert entropy == sorted(entropy)
    assert entropy[0] == 0.0
    assert schedule.points[-1].entropy["tones"].mean < entropy[2], "training closed it"


def test_the_matrix_finds_the_order_that_forgets_nothing(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    found = world.report(*TRANSFER, "weights.schedule.replay=0.4")
    schedule = found.schedule
    assert schedule is not None
    assert (schedule.by, schedule.chosen) == ("transfer", "ordered")
    assert schedule.order.index("signs") < schedule.order.index("marks")
    assert len(world.trained) == 9 + 2, "T + T(T-1) short trainings, the ordered and the mixed one"
    assert {job.steps for job in world.trained[:9]} == {2}
    assert schedule.backward_transfer["marks"]["signs"].delta == pytest.approx(-0.7)
    assert schedule.backward_transfer["signs"]["marks"].delta == 0.0
    ordered = world.trained[9]
    assert {row for stage in ordered.stages for row in stage} == set(range(24))
    assert [len(stage) for stage in ordered.stages] == [8, 8, 8], "the order by transfer replays nothing"
    assert schedule.predicted is not None
    assert schedule.actual is not None
    assert schedule.predicted.mean == pytest.approx(0.9)
    assert schedule.actual.mean == pytest.approx(0.9)
    assert schedule.helped is not None
    assert schedule.helped.low > 0
    assert all(f.predicted is not None for f in schedule.tasks.values())


def test_without_asymmetry_structured_first_with_replay(make: Callable[[Knows], World]) -> None:
    world = make(even)
    schedule = world.schedule(*TRANSFER, "weights.schedule.replay=0.5")
    assert (schedule.by, schedule.order) == ("structured", NAMES)
    assert "differs by direction" in schedule.why
    assert schedule.backward_transfer["marks"]["signs"].delta == 0.0, "measured, and shown"
    ordered = next(job for job in world.trained if job.out.name == "0-ordered")
    assert [len(stage) for stage in ordered.stages] == [8, 16, 16]


def test_a_given_order_is_kept(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    assert world.schedule(*SHARED, "weights.schedule.order=[tones, signs, marks]").order == ("tones", "signs", "marks")


def test_an_order_names_every_capability(make: Callable[[Knows], World]) -> None:
    with pytest.raises(ConfigError, match="name every capability of this file once"):
        load_config(make(even).folder / "config.yaml", [*SHARED, "weights.schedule.order=[tones, signs]"])


def test_what_does_not_want_an_adapter_is_left_out(make: Callable[[Knows], World]) -> None:
    world = make(even)
    found = world.report(*SHARED, "router.force={marks: weights, signs: keep, tones: weights}")
    assert found.schedule is not None
    assert found.schedule.order == ("marks", "tones")
    assert found.schedule.others == ()


def test_alone_a_capability_trains_its_own(make: Callable[[Knows], World]) -> None:
    world = make(even)
    assert world.report(*SHARED, "router.force={marks: weights, signs: keep, tones: keep}").schedule is None
    assert world.names == ["marks-weights"]


def test_a_capability_that_the_adapter_does_not_help_builds_no_arm(make: Callable[[Knows], World]) -> None:
    world = make(lambda task, trained: 0.2 if task == "signs" or not trained else 0.9)
    found = {c.name: c for c in world.report(*SHARED).capabilities}
    assert found["marks"].placement == "weights"
    assert found["signs"].placement == "neither"
    assert any("the shared adapter does not beat" in line for line in found["signs"].decision_trail)


def test_the_cost_is_in_the_ledger_once_and_planned(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    for _ in range(2):
        found = world.report(*TRANSFER)
        assert found.ledger.train_seconds == 11.0
        assert len([name for name in found.ledger.stages if name.startswith("train-")]) == 11
        asked = sum(c.ledger.calls for c in found.capabilities)
        assert asked == len(world.backend.asked)
        assert found.ledger.calls == asked + 11 * 10
    made = plan(load_config(world.folder / "config.yaml", TRANSFER))
    assert made.training_steps.upper == 9 * 2 + 2 * 3 * STEPS == sum(job.steps for job in world.trained)
    assert asked <= made.calls.upper
    entropies = [row for c in made.capabilities for s in c.stages for row in s.rows if row.what == "answer entropies"]
    assert sum(row.upper for row in entropies) == sum(c.ledger.stages["order"].calls for c in found.capabilities)
    separate = plan(load_config(world.folder / "config.yaml"))
    assert separate.training_steps.upper == 3 * STEPS


def test_a_run_that_was_killed_in_any_training_ends_with_the_same_report(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    world.report(*TRANSFER, out="whole")
    count = len(world.trained)
    world.results.clear()
    world.trained.clear()
    for k in range(count):
        world.fail = lambda job, k=k: KeyboardInterrupt() if len(world.trained) == k else None  # type: ignore[misc]
        with pytest.raises(KeyboardInterrupt):
            world.report(*TRANSFER)
    world.fail = lambda job: None
    world.report(*TRANSFER)
    assert len(world.trained) == count, "nothing is trained twice"
    whole, resumed = (
        json.loads((world.folder / o / "report" / "placement.json").read_text()) for o in ("whole", "run")
    )
    for report in (whole, resumed):
        report.pop("created")
        report["ledger"].pop("wall_seconds")
    assert resumed == whole


def test_a_spent_budget_stops_before_the_next_training(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    with pytest.raises(BudgetExhausted):
        world.report(*TRANSFER, "budget.train_seconds=3")
    assert len(world.trained) == 3
    world.report(*TRANSFER)
    assert len(world.trained) == 11


@pytest.mark.parametrize(("broken", "kept"), [("0-ordered", "joint"), ("0-joint", "ordered")])
def test_where_one_training_fails_the_other_goes_on(make: Callable[[Knows], World], broken: str, kept: str) -> None:
    world = make(even)
    world.fail = lambda job: TrainingError("the loss is not finite") if job.out.name == broken else None
    found = world.report(*SHARED)
    assert found.schedule is not None
    assert (found.schedule.chosen, found.schedule.helped) == (kept, None)
    assert any("the loss is not finite" in w for w in found.warnings)
    assert [c.placement for c in found.capabilities] == ["weights"] * 3


def test_where_both_fail_nothing_is_built(make: Callable[[Knows], World]) -> None:
    world = make(even)
    world.silent = {"0-ordered", "0-joint"}
    found = world.report(*SHARED)
    assert found.schedule is not None
    assert found.schedule.chosen is None
    assert [c.placement for c in found.capabilities] == ["neither"] * 3


def test_a_matrix_that_cannot_be_measured_is_done_without(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    world.fail = lambda job: TrainingError("no") if job.out.name == "0-tones+marks" else None
    found = world.report(*TRANSFER)
    assert found.schedule is not None
    assert (found.schedule.by, found.schedule.backward_transfer) == ("structured", {})
    assert any("backward transfer was not measured" in w for w in found.warnings)


def test_a_task_without_gradient_stands_for_its_start(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    world.silent = {"0-marks", "0-signs+tones"}
    schedule = world.schedule(*TRANSFER)
    assert "0-marks+signs" not in world.names, "it would be the training on signs from the base again"
    assert schedule.backward_transfer["marks"]["signs"].delta == 0.0
    assert schedule.backward_transfer["signs"]["tones"].delta == 0.0


def test_every_kind_of_adapter_is_shared_with_its_like(make: Callable[[Knows], World]) -> None:
    world = make(even)
    (world.folder / "SKILL.md").write_text("---\nname: marks\ndescription: d\n---\nnoise.\n", encoding="utf-8")
    config = world.folder / "config.yaml"
    config.write_text(config.read_text().replace("{name: marks,", "{name: marks, skill: SKILL.md,"), encoding="utf-8")
    found = world.report(*SHARED, "router.force={marks: both, signs: weights, tones: weights}")
    assert found.schedule is not None
    assert found.schedule.arm == "both and weights"
    ordered = world.trained[0]
    assert [task.skill.strip() for task in ordered.tasks] == [
        "noise." if t.capability == "marks" else "" for t in ordered.tasks
    ]
    first = next(t for t in ordered.tasks if t.capability == "marks").first
    assert ordered.skill_of(first).strip() == "noise."


def test_a_counterfactual_shares_both_kinds(make: Callable[[Knows], World]) -> None:
    world = make(even)
    for name in NAMES:
        text = f"---\nname: {name}\ndescription: d\n---\nnoise.\n"
        (world.folder / f"{name}.md").write_text(text, encoding="utf-8")
    config = world.folder / "config.yaml"
    text = config.read_text()
    for name in NAMES:
        text = text.replace(f"{{name: {name},", f"{{name: {name}, skill: {name}.md,")
    config.write_text(text, encoding="utf-8")
    schedule = world.schedule(*SHARED, "router.counterfactual=true")
    assert world.names == ["0-ordered", "0-joint", "1-ordered", "1-joint"]
    assert [s.arm for s in (schedule, *schedule.others)] == ["weights", "both"]


def test_the_report_tells_the_order_in_every_form(make: Callable[[Knows], World]) -> None:
    world = make(forgetful)
    found = world.report(*TRANSFER)
    markdown, page = to_markdown(found), to_html(found)
    assert found.schedule is not None
    for drawn in (markdown, page):
        assert " → ".join(found.schedule.order) in drawn
        assert "Backward transfer" in drawn
        assert "predicted" in drawn
        assert "Kept: the ordered training" in drawn
    said = explain(world.folder / "run", "marks")
    assert "How did it share its adapter?" in said
    assert "Ordered minus mixed" in said


def test_other_processes_train_the_same_jobs(make: Callable[[Knows], World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(forgetful)
    orders: list[dict[str, Any]] = []

    def lead(order: dict[str, Any]) -> dict[str, Any]:
        orders.append(json.loads(json.dumps(order)))
        return order

    monkeypatch.setattr(follow.workers, "broadcast", lead)
    world.report(*TRANSFER)
    led = world.trained
    joined: list[TrainJob] = []
    monkeypatch.setattr(follow, "run_job", lambda loaded, job, cache, on_progress: joined.append(job))
    loaded = load_config(world.folder / "config.yaml", TRANSFER)
    names = {c.name: c for c in load_capabilities(loaded)}
    for order in orders:
        if order["kind"] == "train":
            follow._train(loaded, names, world.folder / "run", order)
    assert [job_identity(job) for job in joined] == [job_identity(job) for job in led]
    assert [job.out for job in joined] == [job.out for job in led]


def test_warnings_of_a_shared_training_are_on_the_report(make: Callable[[Knows], World]) -> None:
    world = make(even)
    world.warnings = ("packed rows by TRL's own way: a reason",)
    assert any("0-joint: packed rows by TRL's own way" in w for w in world.report(*SHARED).warnings)


def trained(values: dict[str, list[float]], step: int = 4) -> Training:
    """A training whose selected checkpoint has these values per task."""
    checkpoint = Checkpoint(step, Adapter(Path("a"), "a"), dict.fromkeys(values), values)  # type: ignore[misc]
    return Training(TrainResult((), step, 1.0, 0, 0, 0, (), ""), (checkpoint,), checkpoint)


def test_tasks_count_the_same_and_what_was_not_judged_is_left_out() -> None:
    joint = trained({"large": [0.0] * 30, "small": [1.0] * 10})
    ordered = trained({"large": [1.0] * 12 + [0.0] * 18, "small": [0.0] * 5 + [1.0] * 4 + [math.nan]})
    found = compare(ordered, joint, margin=0.0)
    assert found is not None
    assert found.decision == "reject"
    assert found.delta == pytest.approx((12 / 30 - 5 / 9) / 2), "pooled it would be above zero"
    assert (found.n, found.improved, found.regressed) == (39, 12, 5)
    assert compare(ordered, None, 0.0) is None
    assert ordered.best.mean == pytest.approx((12 / 30 + 4 / 9) / 2)


def test_with_calibration_the_comparison_is_of_both(make: Callable[[Knows], World], tmp_path: Path) -> None:
    source = capability(search=4)
    answers = {0: "a0~9", 1: "a1~1", 2: "no~9", 3: "no"}
    backend = FakeBackend(lambda prompt, seed, _: answers[int(prompt.rpartition("q")[2].rstrip("?"))])
    measured = meter(tmp_path / "m", backend).measure(candidate(), source, "search", source.splits["search"], stage="x")
    overrides = [
        "gate.ship.calibration={minimum_effect: 0.05, margin: 0.1}",
        "weights.rewards.brier_weight=1.0",
        "weights.method=grpo",
    ]
    config = load_config(make(even).folder / "config.yaml", overrides).config
    values = search_values(config)(measured)
    assert sum(values) / len(values) == pytest.approx(search_score(config)(measured))
    assert values[3] == pytest.approx(0.0), "wrong, and no confidence stated"
    assert search_values(load_config(tmp_path / "config.yaml").config)(measured) == measured.values
