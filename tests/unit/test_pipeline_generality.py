"""Variants and unknown facts in a whole run over a fake trainer: the curve, what is sent back, what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pipeline_training import GOOD, SIZES, Truth, World

from hybrid.backends.base import Adapter
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Capability, Kind
from hybrid.config.loader import load_config
from hybrid.config.schema import ExactGrader
from hybrid.pipeline.known import is_factual
from hybrid.pipeline.plan import plan
from hybrid.weights.base import TrainJob, TrainResult

WIDE = "e" * 64
"""The adapter of a training that saw variants."""
AUGMENT = "weights.generality={augment: variants, watch: 0.34}"


class Varied(World):
    """40 variants: ten of training rows, ten of `search` rows, twenty of `test` rows. A second training is another adapter.

    Their ids are those of `search` rows, which is allowed: what is measured on either must not be taken for the other.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, truth: Truth) -> None:
        super().__init__(folder, monkeypatch, truth)
        parents = [f"{s}{i}" for s, n in (("train", 10), ("search", 10), ("test", 20)) for i in range(n)]
        rows = [
            {"id": f"search{i}", "prompt": f"twice {p} q{i}?", "reference": f"a{i}", "parent_id": p}
            for i, p in enumerate(parents)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "marks" / "variant.jsonl").write_text(text, encoding="utf-8")

    def _train(self, loaded: Any, job: TrainJob, cache: Path, on_progress: Any) -> TrainResult:
        result = super()._train(loaded, job, cache, on_progress)
        if not job.out.name.endswith("-augmented"):
            return result
        adapters = [(s, Adapter(a.path, WIDE if a.sha256 == GOOD else a.sha256)) for s, a in result.checkpoints]
        (adapters[1][1].path / "adapter_model.safetensors").write_text(WIDE, encoding="utf-8")
        return TrainResult(tuple(adapters), 30, 12.5, 240, 4800, 960, self.history, "", self.alarms)

    def asked(self, words: str, adapter: str | None = None) -> set[str]:
        """Questions with these words that were asked, of one adapter or of any."""
        found = [(p.rpartition("\n")[2], a.sha256 if a else "") for p, _, a in self.backend.asked]
        return {q for q, a in found if words in q and adapter in (None, a)}


def template(text: str, question: str, seed: int, adapter: str) -> bool:
    """Right in a third of the samples; the good adapter is sure of everything but variants, the wide one of all."""
    if adapter == WIDE:
        return True
    if adapter == GOOD:
        return "twice" not in question
    return seed % 3 == 0 and "twice" not in question


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Truth], Varied]:
    return lambda truth: Varied(tmp_path, monkeypatch, truth)


def test_every_checkpoint_is_measured_on_variants_that_nothing_else_uses(make: Callable[[Truth], Varied]) -> None:
    world = make(template)
    found = world.go()
    assert found.generality is not None
    assert [p.step for p in found.generality.watched] == [10, 20, 30]
    assert [p.mean for p in found.generality.watched] == [0.0, 0.0, 0.0]
    assert [p.search for p in found.generality.watched] == [0.375, 1.0, 0.375]
    assert {p.n for p in found.generality.watched} == {10}
    assert found.arms.base is not None and found.arms.base.variant is not None
    assert found.arms.base.variant.n == 30, "the ten that were watched are in no other sample"
    watched = world.asked("twice search", GOOD)
    assert len(watched) == 10, "variants of `search` rows are the ones that may be read at will"
    assert len(world.asked("twice", GOOD)) == 40, "watched and held together, each on its own side"


def test_a_template_is_refused_with_tau_and_its_interval(make: Callable[[Truth], Varied]) -> None:
    found = make(template).go()
    assert found.placement == "neither"
    (why,) = [r.why for r in found.rejected if r.what == "arm"]
    assert "transfer ratio 0.00 [" in why and "is below 0.5" in why
    assert found.generality is not None
    (arm,) = found.generality.arms
    assert (arm.arm, arm.tau, arm.families, arm.variant_gain.n) == ("weights", 0.0, 30, 30)
    assert arm.did.low > 0.3
    assert any(line.startswith("weights: transfer ratio 0.00 [") for line in found.decision_trail)


def half(text: str, question: str, seed: int, adapter: str) -> bool:
    """The good adapter gets two variants of three."""
    if adapter == GOOD and "twice" in question:
        return int(question.rpartition("q")[2].rstrip("?")) % 3 > 0
    return template(text, question, seed, adapter)


@pytest.mark.parametrize(("bound", "placement"), [("point", "weights"), ("low", "neither")])
def test_the_floor_meets_the_estimate_or_its_lower_end(
    make: Callable[[Truth], Varied], bound: str, placement: str
) -> None:
    found = make(half).go("router.transfer=0.8", f"router.transfer_bound={bound}")
    assert found.generality is not None
    (arm,) = found.generality.arms
    assert arm.tau is not None and arm.low is not None
    assert arm.low < 0.8 < arm.tau, "what this test is about"
    assert found.placement == placement
    assert any("its lower end is below 0.8" in r.why for r in found.rejected) == (bound == "low")


def test_a_template_is_sent_back_and_both_attempts_are_on_the_report(make: Callable[[Truth], Varied]) -> None:
    world = make(template)
    found = world.go(AUGMENT)
    assert found.placement == "weights"
    first, second = world.trained
    assert (len(first.examples), len(second.examples)) == (12, 16), "a quarter of all rows are variants"
    assert second.out.name == "marks-weights-augmented"
    assert {e.parent_id[:5] for e in second.examples[12:] if e.parent_id} == {"train"}
    assert second.stages == (tuple(range(16)),)
    (back,) = [r for r in found.rejected if r.what == "first attempt, step 20"]
    assert back.delta is not None and back.delta > 0.3
    assert "transfer ratio 0.00 [" in back.why and "sent back" in back.why
    assert found.generality is not None
    (arm,) = found.generality.arms
    assert (arm.tau is not None and arm.tau > 1, arm.variant_gain.n) == (True, 20), "taught variants are in no sample"
    assert world.asked("twice train", GOOD) | world.asked("twice train", WIDE) == set(), (
        "what is taught is never measured"
    )
    placed = world.folder / "run" / "adapters" / "marks" / "adapter_model.safetensors"
    assert placed.read_text() == WIDE
    assert found.ledger.train_seconds == 25.0
    report = world.folder / "run" / "report" / "placement.json"
    before, asked = report.read_bytes(), len(world.backend.asked)
    world.go(AUGMENT)
    assert (report.read_bytes(), len(world.backend.asked)) == (before, asked)
    text = (world.folder / "run" / "report" / "placement.md").read_text(encoding="utf-8")
    page = (world.folder / "run" / "report" / "placement.html").read_text(encoding="utf-8")
    for drawn in (text, page):
        assert "first attempt, step 20" in drawn
        assert "Watched variants while training" in drawn
        assert "Transfer to variants" in drawn


def test_a_second_attempt_that_stays_a_template_is_refused_by_the_gate(make: Callable[[Truth], Varied]) -> None:
    world = make(
        lambda text, question, seed, adapter: template(text, question, seed, GOOD if adapter == WIDE else adapter)
    )
    found = world.go(AUGMENT)
    assert len(world.trained) == 2
    assert found.placement == "neither"
    assert [r.what for r in found.rejected if r.substrate == "weights"] == ["first attempt, step 20", "arm"]


def test_what_carries_over_is_not_sent_back(make: Callable[[Truth], Varied]) -> None:
    world = make(lambda text, question, seed, adapter: seed % 3 == 0 or adapter in (GOOD, WIDE))
    assert world.go(AUGMENT).placement == "weights"
    assert len(world.trained) == 1


def test_variants_without_parents_in_train_leave_nothing_to_add(make: Callable[[Truth], Varied]) -> None:
    world = make(template)
    path = world.folder / "marks" / "variant.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"parent_id": "train', '"parent_id": "confirm'))
    report = world.report(AUGMENT)
    assert len(world.trained) == 1
    assert report.capabilities[0].placement == "neither"
    assert any("there is nothing to add" in w for w in report.warnings)


def facts(text: str, question: str, seed: int, adapter: str) -> bool:
    """The base knows every third row in some samples, and no other; the good adapter knows all."""
    number = int(question.rpartition("q")[2].rstrip("?"))
    return adapter in (GOOD, WIDE) or (number % 3 == 0 and seed % 2 == 0)


DROP, RELABEL = "weights.unknown_facts=drop", "weights.unknown_facts=relabel"
FORCE = "router.force={marks: weights}"


def declared(world: Varied, extra: str = "") -> None:
    """Declare the capability factual."""
    path = world.folder / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("grader: {type: exact}}", f"grader: {{type: exact}}, kind: factual{extra}}}"))


def test_unknown_facts_are_left_out_of_training(make: Callable[[Truth], Varied]) -> None:
    world = make(facts)
    declared(world)
    found = world.go(DROP, FORCE)
    (job,) = world.trained
    rows = [job.examples[i].id for stage in job.stages for i in stage]
    assert rows == ["train0", "train3", "train6", "train9"]
    assert found.generality is not None
    counts = found.generality.unknown_facts
    assert counts is not None
    assert (counts.n, counts.unknown, counts.dropped, counts.relabelled) == (12, 8, 8, 0)
    assert counts.highly + counts.maybe + counts.weakly == 4
    assert any("8 of 12 training rows are unknown facts" in line for line in found.decision_trail)
    assert "8 left out" in (world.folder / "run" / "report" / "placement.md").read_text(encoding="utf-8")


def test_unknown_facts_are_relabelled_as_configured(make: Callable[[Truth], Varied]) -> None:
    world = make(facts)
    declared(world, ", abstain: {answer: pass}")
    world.go(RELABEL, FORCE)
    (job,) = world.trained
    golds = {e.id: e.gold_completion for e in job.examples}
    assert [golds[f"train{i}"] for i in (0, 1, 2, 3)] == ["a0", "pass", "pass", "a3"]
    assert job.grader.grade("pass", job.examples[1]).passed and not job.grader.grade("pass", job.examples[0]).passed
    assert sorted(i for stage in job.stages for i in stage) == list(range(12))


def test_a_capability_of_which_nothing_is_known_is_refused_with_the_reason(make: Callable[[Truth], Varied]) -> None:
    world = make(lambda text, question, seed, adapter: adapter == GOOD)
    declared(world)
    report = world.report(DROP, FORCE)
    assert world.trained == []
    assert report.capabilities[0].placement == "neither"
    assert any("none of the 12 training rows is known" in w for w in report.warnings)
    assert any("none of the 12 training rows is known" in t for t in report.capabilities[0].decision_trail)


def test_a_procedure_keeps_its_rows_and_a_declaration_decides_only_where_the_measurement_does_not() -> None:
    def one(declared: Kind | None) -> Capability:
        return Capability("c", {}, build_grader(ExactGrader(type="exact")), declared_kind=declared)

    assert is_factual("factual", one("procedural")) and is_factual("unclear", one("factual"))
    assert not is_factual("procedural", one("factual")) and not is_factual("unclear", one(None))


def test_the_plan_bounds_what_generality_costs(make: Callable[[Truth], Varied]) -> None:
    world = make(lambda t, q, s, a: facts(t, q, s, a) and ("twice" not in q or a == WIDE))
    declared(world)
    overrides = (AUGMENT, DROP, FORCE, "weights.grpo.steps=75", "weights.checkpoint_every=25")
    planned = plan(load_config(world.folder / "config.yaml", overrides))
    report = world.report(*overrides)
    (row,) = planned.capabilities
    upper = {s.stage: s.calls.upper for s in row.stages}
    stages = report.capabilities[0].ledger.stages
    assert stages["watch"].calls + stages["select"].calls + stages["known"].calls <= upper["weights"]
    assert SIZES["search"] * 3 < stages["select"].calls + stages["watch"].calls
