"""A run that goes on from another one: refused without the flag, a run of its own with it, and the parent on the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_world import World

from hybrid.errors import RunFolderError, UsageError
from hybrid.pipeline.run import run
from hybrid.report.markdown import to_markdown
from hybrid.report.schema import Report, load_report
from hybrid.store.folder import RunFolder

CHANGE = "gate.ship.alpha=0.01"


def go(world: World, *overrides: str, out: str, **how: Any) -> Report:
    return load_report(run(world.load(*overrides), world.folder / out, on_event=lambda kind, data: None, **how))


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_changed_run_is_refused_with_a_diff_and_a_fork_goes_on(world: World) -> None:
    old = go(world, out="old")
    paid, before = world.paid(), contents(world.folder / "old")
    with pytest.raises(RunFolderError, match=r"\(config\.gate\.ship\.alpha: 0\.05 -> 0\.01\).* --fork .*old"):
        go(world, CHANGE, out="old")
    assert world.paid() == paid

    new = go(world, CHANGE, out="new", fork=world.folder / "old")
    assert world.paid() == paid, "every answer was there"
    assert contents(world.folder / "old") == before
    assert {c.name: c.placement for c in new.capabilities} == {c.name: c.placement for c in old.capabilities}
    assert new.run_id != old.run_id
    parent = new.provenance.parent
    assert parent is not None
    assert (parent.run_id, parent.identity) == (old.run_id, old.provenance.hashes["identity"])
    assert parent.changed == ("config.gate.ship.alpha: 0.05 -> 0.01",)
    assert old.provenance.parent is None
    assert new.ledger.calls == old.ledger.calls
    assert "| forked from |" in to_markdown(new)
    assert str(world.folder) not in new.to_json(), "where the parent lies is nobody's business"


def test_the_report_says_what_the_parent_had_opened(world: World) -> None:
    go(world, out="old")
    new = go(world, CHANGE, out="new", fork=world.folder / "old")
    second = [w for w in new.warnings if "second look" in w]
    assert len([w for w in second if "confirm" in w]) == 1, "only codes had an arm to judge"
    assert len([w for w in second if "test" in w]) == 3
    third = go(world, CHANGE, "gate.ship.power=0.9", out="third", fork=world.folder / "new")
    assert [w for w in third.warnings if "second look" in w] == second


def test_a_fork_resumes_with_and_without_the_flag_to_the_same_bytes(world: World) -> None:
    go(world, out="old")
    new = go(world, CHANGE, out="new", fork=world.folder / "old").to_json()
    assert go(world, CHANGE, out="new", fork=world.folder / "old").to_json() == new
    assert go(world, CHANGE, out="new").to_json() == new
    plain = go(world, CHANGE, out="plain")
    assert plain.run_id != json.loads(new)["run_id"], "the same run without a parent is another one"
    with pytest.raises(RunFolderError, match=r"was forked from another run, scripted-"):
        go(world, CHANGE, out="new", fork=world.folder / "plain")
    with pytest.raises(RunFolderError, match="already holds a run that was not forked"):
        go(world, CHANGE, out="plain", fork=world.folder / "old")


def test_an_interrupted_parent_is_gone_on_from(world: World) -> None:
    """What it paid for is not paid again, and a torn last line of its logs stays as it is."""
    go(world, out="whole")
    total = world.paid()
    world.calls.unlink()

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "stage.done" and data["stage"] == "probe":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(world.load(), world.folder / "old", on_event=stop)
    log = world.folder / "old" / "events.jsonl"
    log.write_bytes(log.read_bytes() + b'{"torn')
    before = contents(world.folder / "old")
    go(world, CHANGE, out="new", fork=world.folder / "old")
    assert world.paid() == total
    assert contents(world.folder / "old") == before


def test_a_fork_cannot_change_the_base(world: World) -> None:
    go(world, out="old")
    script = world.folder / "script.json"
    script.write_text(script.read_text(encoding="utf-8").replace("no idea", "none"), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"a fork cannot change the base \(model\.fingerprint: "):
        go(world, out="new", fork=world.folder / "old")
    assert not (world.folder / "new" / "run.json").exists()


def test_what_is_no_run_to_fork_is_named(world: World) -> None:
    (world.folder / "nothing").mkdir()
    with pytest.raises(UsageError, match=r"nothing: is not a run folder"):
        go(world, out="new", fork=world.folder / "nothing")
    go(world, out="old")
    with pytest.raises(UsageError, match="two folders"):
        go(world, out="other", fork=world.folder / "other")
    with RunFolder(world.folder / "old"), pytest.raises(RunFolderError, match="is writing into that run"):
        go(world, out="new", fork=world.folder / "old")
    (world.folder / "old" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        go(world, out="new", fork=world.folder / "old")
