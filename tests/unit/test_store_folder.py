"""The run folder: one identity, one process, nothing outside it, and `--fresh` from any state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.errors import RunFolderError
from hybrid.store import folder as folder_module
from hybrid.store.folder import FILES, FOLDERS, EventLog, RunFolder, identity_hash

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {"config": {"name": "a", "probe": {"samples": 4}, "list": [1, 2]}, "data": {"units": "00"}}
HOLD = """
import sys, time
from pathlib import Path
from hybrid.store.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def claimed(path: Path) -> None:
    with RunFolder(path) as folder:
        assert folder.claim(FIELDS, "{}") is False
        folder.events.append("attempt.started")


def test_the_same_identity_goes_on(tmp_path: Path) -> None:
    claimed(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        assert folder.claim(dict(reversed(FIELDS.items())), "other text") is True
        assert [e["kind"] for e in folder.events] == ["attempt.started"]
    assert (tmp_path / "run" / "config.resolved.json").read_text() == "{}"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"] == identity_hash(FIELDS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {**FIELDS["config"], "probe": {"samples": 5}}}, "config.probe.samples: 4 -> 5"),
        ({"config": {**FIELDS["config"], "list": [1, 3]}}, r"config.list\[1\]: 2 -> 3"),
        ({"config": {**FIELDS["config"], "list": [1]}}, r"config.list: \[1, 2\] -> \[1\]"),
        ({"data": {"units": "01"}}, 'data.units: "00" -> "01"'),
        ({"data": {"units": "00", "more": "1"}}, 'data.more: absent -> "1"'),
        ({"code": "2"}, 'code: absent -> "2"'),
    ],
)
def test_another_identity_is_refused_with_what_differs(tmp_path: Path, change: dict[str, object], named: str) -> None:
    claimed(tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    with RunFolder(tmp_path / "run") as folder, pytest.raises(RunFolderError, match=rf"\({named}\).*--fork .*--fresh"):
        folder.claim({**FIELDS, **change}, "{}")
    assert {p: p.read_bytes() for p in before} == before, "a refusal changes nothing"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": 1}', '"text"', "\ud800"])
def test_an_unreadable_identity_is_named(tmp_path: Path, content: str) -> None:
    claimed(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with RunFolder(tmp_path / "run") as folder, pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        folder.claim(FIELDS, "{}")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    claimed(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 0}))
    with RunFolder(tmp_path / "run") as folder, pytest.raises(RunFolderError, match="schema 0, this is 1"):
        folder.claim(FIELDS, "{}")


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=rf"in use by process {other.pid};"), RunFolder(path):
            pass
        assert (path / "OWNER").read_text() == f"{other.pid}\n", "the refused one leaves the owner's mark"
    finally:
        other.kill()
        other.wait()
    assert (path / "OWNER").exists(), "a killed process cannot tidy up"
    with RunFolder(path):
        assert (path / "OWNER").read_text() == f"{os.getpid()}\n"
    assert not (path / "OWNER").exists()


def test_entering_that_fails_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"
    claimed(path)
    good = (path / "events.jsonl").read_bytes()
    (path / "events.jsonl").write_bytes(b"damage\n" + good)
    folder = RunFolder(path)
    with pytest.raises(RunFolderError, match=r"events\.jsonl:1"), folder:
        pass
    assert not (path / "OWNER").exists()
    (path / "events.jsonl").write_bytes(good)
    with RunFolder(path) as again:
        assert again.claim(FIELDS, "{}") is True


@pytest.mark.parametrize("damage", [b"damage\nmore\n", b"\xff\n\xff\n"])
def test_fresh_starts_over_from_damage(tmp_path: Path, damage: bytes) -> None:
    """The message about damage says `--fresh`, so `--fresh` must get past it."""
    path = tmp_path / "run"
    claimed(path)
    (path / "events.jsonl").write_bytes(damage)
    (path / "run.json").write_bytes(damage)
    with RunFolder(path, fresh=True) as folder:
        assert list(folder.events) == []
        assert folder.claim({"other": 1}, "{}") is False


def test_fresh_removes_what_a_run_writes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run"
    claimed(path)
    for name in FOLDERS:
        (path / name / "deep").mkdir(parents=True)
        (path / name / "deep" / "file").write_text("x")
    (path / "notes.txt").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (path / "rollouts" / "deep" / "file").unlink()
    (path / "rollouts" / "deep").rmdir()
    (path / "rollouts").rmdir()
    (path / "rollouts").symlink_to(outside)
    with RunFolder(path, fresh=True):
        assert sorted(p.name for p in path.iterdir()) == ["LOCK", "OWNER", "notes.txt"]
    assert (outside / "file").read_text() == "precious", "a link is removed, what it points to is not"


@pytest.mark.parametrize("survivors", range(1, len(FOLDERS) + 1))
def test_fresh_that_is_cut_short_keeps_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """Scores of another configuration must never be met by a folder without an identity."""
    path = tmp_path / "run"
    claimed(path)
    for name in FOLDERS:
        (path / name).mkdir()
    real, left = folder_module.shutil.rmtree, len(FOLDERS) - survivors

    def dying(target: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(target)

    monkeypatch.setattr(folder_module.shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt), RunFolder(path, fresh=True):
        pass
    monkeypatch.undo()
    with RunFolder(path) as folder, pytest.raises(RunFolderError, match="belongs to another run"):
        folder.claim({"config": "changed"}, "{}")


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    claimed(path)
    if name in FILES:
        (path / name).touch()  # a run of its own has no lineage
        (path / name).rename(outside)
    else:
        outside.mkdir()
    (path / name).symlink_to(outside)
    with pytest.raises(RunFolderError, match=f"{name} is a symbolic link"), RunFolder(path):
        pass


def test_a_link_as_run_folder_is_refused(tmp_path: Path) -> None:
    claimed(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(RunFolderError, match="is a symbolic link"), RunFolder(tmp_path / "link"):
        pass


@pytest.mark.parametrize("kind", ["folder", "truncated", "swapped"])
def test_a_broken_event_log_is_an_error_or_a_prefix(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    claimed(path)
    events = path / "events.jsonl"
    data = events.read_bytes()
    if kind == "folder":
        events.unlink()
        events.mkdir()
        with pytest.raises(IsADirectoryError), RunFolder(path):
            pass
    elif kind == "truncated":
        events.write_bytes(data[:-3])
        with RunFolder(path) as folder:
            assert list(folder.events) == []
    else:
        events.write_text(json.dumps({"kind": "attempt.started"}) + "\n" + data.decode())
        with pytest.raises(RunFolderError, match=r"events\.jsonl:1"), RunFolder(path):
            pass


def test_events_are_numbered_over_attempts_and_found_by_their_data(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).append("split.opened", capability="a", split="test", candidates=["x"])
    log = EventLog(path)
    log.append("split.opened", capability="b", split="test", candidates=["y"])
    log.append("other")
    again = EventLog(path)
    assert [e["seq"] for e in again] == [1, 2, 3]
    found = again.last("split.opened", capability="a")
    assert found is not None
    assert found["data"]["candidates"] == ["x"]
    assert again.last("split.opened", capability="c") is None
    assert [e["data"]["capability"] for e in again.all("split.opened")] == ["a", "b"]


def test_wall_seconds_leave_pauses_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 107.0, 5000.0, 5001.5, 9000.0])
    monkeypatch.setattr(folder_module.time, "time", lambda: next(times))
    log = EventLog(tmp_path / "events.jsonl")
    assert log.wall_seconds() == 0.0
    for kind in ("attempt.started", "stage.done", "attempt.started", "stage.done", "attempt.started"):
        log.append(kind)
    assert log.wall_seconds() == 8.5
    assert EventLog(tmp_path / "events.jsonl").wall_seconds() == 8.5
