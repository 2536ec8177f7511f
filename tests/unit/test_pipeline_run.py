"""A whole run over the scripted backend: placements of known truth, resume that pays nothing, seals opened once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripted_world import TRUTH, World, line_for

from hybrid.backends.scripted import ScriptedBackend
from hybrid.errors import BudgetExhausted, RunFolderError, UsageError
from hybrid.evidence.rollouts import RolloutStore
from hybrid.pipeline.run import run
from hybrid.pipeline.status import status
from hybrid.report.schema import load_report
from hybrid.store.records import RecordLog

ROOT = Path(__file__).resolve().parents[2]


class Watch:
    """An `on_event` that remembers, and can look at the folder while the run goes on."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        self.events.append((kind, data))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for k, data in self.events if k == kind]


def go(world: World, *overrides: str, out: str = "run", **how: bool) -> Path:
    return run(world.load(*overrides), world.folder / out, on_event=Watch(), **how)


def files(folder: Path) -> dict[str, bytes]:
    """What a run leaves, without what tells the time or the process."""
    kept = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("LOCK", "OWNER", "events.jsonl")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(kept)}


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [e["data"] for e in RecordLog(folder / "events.jsonl").read() if e["kind"] == kind]


def test_placements_are_the_truth_and_the_report_is_whole(world: World) -> None:
    watch = Watch()
    path = run(world.load(), world.folder / "run", on_event=watch)
    assert path == world.folder / "run" / "report" / "placement.json"
    report = load_report(path)
    assert {c.name: c.placement for c in report.capabilities} == TRUTH
    codes = next(c for c in report.capabilities if c.name == "codes")
    assert codes.arms.base is not None
    assert codes.arms.skill is not None
    assert codes.arms.base.test is not None
    assert codes.arms.skill.test is not None
    assert (codes.arms.base.test.mean, codes.arms.skill.test.mean) == (0.0, 1.0)
    assert codes.delta is not None
    assert (codes.delta.mean, codes.delta.n, codes.delta.improved, codes.delta.regressed) == (1.0, 16, 16, 0)
    assert codes.arms.weights is None
    assert codes.arms.both is None
    assert codes.artifacts.skill == "skills/codes/SKILL.md"
    text = (world.folder / "run" / codes.artifacts.skill).read_text(encoding="utf-8")
    assert all(line_for(word) in text for word in ("alpha", "beta"))
    assert set(codes.collateral) == {"greetings", "secrets"}
    assert codes.collateral["greetings"].delta == 0.0
    for other in report.capabilities:
        if other.name != "codes":
            assert other.delta is None
            assert other.artifacts.skill is None
            assert other.decision_trail
    assert {"placement.md", "placement.html"} <= {p.name for p in path.parent.iterdir()}
    assert watch.of("run.done")[0]["placements"] == TRUTH
    assert [d["stage"] for d in watch.of("stage.done") if d["capability"] == "codes"] == [
        "draft", "probe", "skill", "ship", "verify",
    ]  # fmt: skip
    assert len(watch.of("stage.started")) == len(watch.of("stage.done"))


def test_the_ledger_is_what_was_paid(world: World) -> None:
    report = load_report(go(world))
    rollouts = list(RolloutStore(world.folder / "run" / "rollouts").all())
    assert report.ledger.calls == world.paid() == len(rollouts) == len({r.key for r in rollouts})
    assert report.ledger.tokens_in == sum(r.tokens_in for r in rollouts)
    assert report.ledger.tokens_out == sum(r.tokens_out for r in rollouts)
    assert report.ledger.train_seconds == 0
    for c in report.capabilities:
        mine = [r for r in rollouts if r.capability == c.name]
        assert c.ledger.calls == len(mine)
        assert {s: cost.calls for s, cost in c.ledger.stages.items()} == Counter(r.stage for r in mine)


def test_the_same_command_again_pays_nothing_and_keeps_every_byte(world: World) -> None:
    go(world)
    before, paid = files(world.folder / "run"), world.paid()
    for attempt in (2, 3):
        watch = Watch()
        run(world.load(), world.folder / "run", on_event=watch)
        assert world.paid() == paid
        assert files(world.folder / "run") == before
        assert watch.of("run.started")[0]["resumed"] is True
        assert status(world.folder / "run")["attempts"] == attempt


def test_a_deleted_report_is_drawn_again_with_the_same_bytes(world: World) -> None:
    go(world)
    before = files(world.folder / "run")
    for name in ("report/placement.json", "report/placement.html", "skills/codes/SKILL.md"):
        (world.folder / "run" / name).unlink()
    go(world)
    assert files(world.folder / "run") == before


def test_sealed_splits_are_opened_once(world: World) -> None:
    go(world)
    go(world)
    opened = Counter((e["capability"], e["split"]) for e in events(world.folder / "run", "split.opened"))
    assert opened == {("codes", "confirm"): 1, ("codes", "test"): 1, ("greetings", "test"): 1, ("secrets", "test"): 1}
    rollouts = RolloutStore(world.folder / "run" / "rollouts").all()
    read = Counter((r.capability, r.split) for r in rollouts if r.split in ("confirm", "test"))
    left_out = sum(r.stage == "attribution" for r in RolloutStore(world.folder / "run" / "rollouts").all())
    assert left_out > 0 and left_out % 16 == 0
    assert read == {
        ("codes", "confirm"): 32 + left_out,
        ("codes", "test"): 32,
        ("greetings", "test"): 16,
        ("secrets", "test"): 16,
    }


def test_no_stage_before_shipping_reads_a_sealed_split(world: World) -> None:
    go(world)
    stages: dict[str, set[str]] = {}
    for r in RolloutStore(world.folder / "run" / "rollouts").all():
        stages.setdefault(r.split, set()).add(r.stage)
    assert stages["confirm"] == {"ship", "attribution"}
    assert stages["test"] == {"verify"}
    assert stages["train"] == {"skill"}


def test_what_a_backend_did_other_than_configured_is_on_the_report_of_every_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedBackend, "warnings", ("the batch size was halved",), raising=False)
    first = go(world).read_bytes()
    monkeypatch.delattr(ScriptedBackend, "warnings")
    assert "the batch size was halved" in json.loads(first)["warnings"]
    assert go(world).read_bytes() == first, "an attempt that generates nothing tells it too"
    assert len(events(world.folder / "run", "backend.warning")) == 1


def test_two_folders_get_the_same_bytes_but_for_time(world: World) -> None:
    one, two = (json.loads(go(world, out=name).read_text()) for name in ("one", "two"))
    for report in (one, two):
        del report["created"], report["ledger"]["wall_seconds"]
    assert one == two


def test_surroundings_do_not_change_a_byte(world: World) -> None:
    """Another hash seed, folder, time zone and locale: the same report, skill and events but for times."""
    seen = []
    for seed, zone, locale in (("1", "UTC", "C"), ("77", "Asia/Tokyo", "C.UTF-8")):
        out = world.folder / f"run-{seed}"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "hybrid", "run", str(world.config), "--out", str(out)],
            cwd=out.parent if seed == "1" else ROOT / "tests",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "report" / "placement.json").read_text(encoding="utf-8"))
        del report["created"], report["ledger"]["wall_seconds"]
        log = [
            (e["seq"], e["kind"], {k: v for k, v in e["data"].items() if "seconds" not in k and "memory" not in k})
            for e in RecordLog(out / "events.jsonl").read()
        ]
        rollouts = {p.name: p.read_bytes() for p in (out / "rollouts").iterdir()}
        seen.append((report, log, rollouts, (out / "skills" / "codes" / "SKILL.md").read_bytes()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("calls", [1, 7, 100, 300, 483])
def test_a_budget_stops_exactly_and_a_larger_one_goes_on(world: World, calls: int) -> None:
    whole = load_report(go(world, out="whole"))
    total = world.paid()
    assert calls < total
    world.calls.unlink()
    with pytest.raises(BudgetExhausted, match=r"budget\.calls"):
        go(world, f"budget.calls={calls}")
    assert world.paid() == calls
    assert status(world.folder / "run")["state"] == "stopped"
    with pytest.raises(BudgetExhausted):
        go(world, f"budget.calls={calls}")
    assert world.paid() == calls, "nothing is paid on top"
    resumed = load_report(go(world, f"budget.calls={total}"))
    assert world.paid() == total
    assert resumed.capabilities == whole.capabilities
    assert (
        files(world.folder / "run")["skills/codes/SKILL.md"] == files(world.folder / "whole")["skills/codes/SKILL.md"]
    )
    go(world, f"budget.calls={total}")
    assert world.paid() == total, "a budget that is spent to the last call does not bar a replay"


def test_what_only_shows_may_change_and_what_measures_may_not(world: World) -> None:
    go(world, "report.formats=[json]")
    paid = world.paid()
    assert not (world.folder / "run" / "report" / "placement.md").exists()
    go(world, "model.threads=1")
    assert (world.folder / "run" / "report" / "placement.md").exists()
    for override, named in (
        ("probe.samples=3", "config.probe.samples"),
        ("seed=1", "config.seed"),
        ("gate.ship.alpha=0.01", "config.gate.ship.alpha"),
    ):
        with pytest.raises(RunFolderError, match=f"{named}.* -> "):
            go(world, override)
    assert world.paid() == paid


def test_an_edited_vocabulary_is_another_run(world: World) -> None:
    go(world)
    vocabulary = world.folder / "vocabulary.yaml"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8").replace("Think.", "Think twice."), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"files\.vocabulary\.yaml: \w{12}\.\.\. -> \w{12}"):
        go(world)
    go(world, fresh=True)
    assert status(world.folder / "run")["attempts"] == 1


def test_fresh_pays_again_and_ends_the_same(world: World) -> None:
    first = load_report(go(world))
    paid = world.paid()
    (world.folder / "run" / "events.jsonl").write_text("damage\ndamage\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="--fresh"):
        go(world)
    again = load_report(go(world, fresh=True))
    assert world.paid() == 2 * paid
    assert again.capabilities == first.capabilities


def test_probing_first_costs_nothing_extra_and_opens_no_seal(world: World) -> None:
    go(world, out="whole")
    total = world.paid()
    world.calls.unlink()
    path = go(world, probe_only=True)
    assert path.name == "profile.json"
    profile = json.loads(path.read_text(encoding="utf-8"))
    assert {c["name"]: c["route"]["placement"] for c in profile["capabilities"]} == TRUTH
    assert events(world.folder / "run", "split.opened") == []
    probed = world.paid()
    assert 0 < probed < total
    go(world)
    assert world.paid() == total


def test_status_before_during_and_after(world: World) -> None:
    out = world.folder / "run"
    with pytest.raises(UsageError, match=r"it has no run\.json"):
        status(out)
    during: list[dict[str, Any]] = []

    def look(kind: str, data: dict[str, Any]) -> None:
        if kind == "stage.done" and data["stage"] == "skill":
            during.append(status(out))

    run(world.load(), out, on_event=look)
    (running,) = during
    assert (running["state"], running["placements"], running["report"]) == ("running", {}, None)
    assert [s["stage"] for s in running["stages"]["codes"]] == ["draft", "probe", "skill"]
    done = status(out)
    assert (done["state"], done["attempts"], done["name"]) == ("done", 1, "scripted")
    assert done["placements"] == TRUTH
    assert Path(done["report"]).is_file()
    assert {row["stage"] for row in done["stages"]["secrets"]} == {"draft", "probe", "verify"}
    json.dumps(done, allow_nan=False)


@pytest.mark.parametrize("content", ["", "[]", '{"fields": {}}'])
def test_status_of_a_broken_folder_is_a_sentence(world: World, content: str) -> None:
    (world.folder / "run").mkdir()
    (world.folder / "run" / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        status(world.folder / "run")


def test_forcing_is_attempted_but_the_gates_still_decide(world: World) -> None:
    report = load_report(go(world, "router.force={greetings: skill, codes: keep, secrets: skill}"))
    found = {c.name: c for c in report.capabilities}
    assert found["codes"].placement == "keep"
    assert found["greetings"].placement == "neither", "no edit can help, so no skill is placed"
    assert found["secrets"].placement == "neither"
    assert any("forced by router.force: keep" in line for line in found["codes"].decision_trail)
