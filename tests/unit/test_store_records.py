"""Checksummed logs and whole-file writes: what a kill or a bad disk leaves is owed again or refused, never believed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.errors import RunFolderError
from hybrid.store import atomic
from hybrid.store.atomic import canonical_json, write_bytes, write_json
from hybrid.store.records import RecordLog, encode

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [{"n": i, "text": f"line {i} \u00e9\n", "score": i / 7} for i in range(5)]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
records = st.dictionaries(st.text("defgh", min_size=1), values, max_size=4)


def written(path: Path, rows: list[dict[str, object]] = RECORDS) -> bytes:
    path.unlink(missing_ok=True)
    RecordLog(path).append(rows)
    return path.read_bytes() if rows else b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(records, max_size=5))
def test_what_was_appended_is_read(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "log.jsonl"
    written(path, rows[:2])
    RecordLog(path).append(rows[2:])
    assert list(RecordLog(path).read()) == rows
    assert RecordLog(path).repair() is False


def test_every_truncation_leaves_a_prefix_and_the_rest_is_owed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    data = written(path)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut or end == cut + 1 for end in ends)  # only the newline may be missing
        assert list(RecordLog(path).read()) == RECORDS[:whole], cut
        log = RecordLog(path)
        torn = cut not in (0, *ends) and cut + 1 not in ends
        assert log.repair() is torn, cut
        log.append(RECORDS[whole:])
        assert path.read_bytes() == data, f"after truncation at {cut} the repaid log has the same bytes"


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "none" / "log.jsonl")
    assert list(log.read()) == []
    assert log.repair() is False
    log.append([])
    assert not log.path.exists(), "nothing to write makes no file"
    log.append([{"a": 1}])
    assert list(log.read()) == [{"a": 1}]


@pytest.mark.parametrize("number", [1, 2, 4])
def test_damage_in_the_middle_is_refused_with_its_line(tmp_path: Path, number: int) -> None:
    path = tmp_path / "log.jsonl"
    lines = written(path).split(b"\n")
    lines[number - 1] = lines[number - 1].replace(b"line", b"lime")
    path.write_bytes(b"\n".join(lines))
    log = RecordLog(path)
    assert log.repair() is False
    with pytest.raises(RunFolderError, match=rf"log\.jsonl:{number}: this line is damaged"):
        list(log.read())


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_only_one_torn_line_is_forgiven(tmp_path: Path, newline: bytes) -> None:
    """A kill tears one line. Two bad lines at the end are damage, and repairing must not eat them one by one."""
    path = tmp_path / "log.jsonl"
    data = written(path)
    path.write_bytes(data + b'{"n":99}\n{"n":1' + newline)
    for _ in range(3):
        RecordLog(path).repair()
        with pytest.raises(RunFolderError, match=r"log\.jsonl:6: this line is damaged"):
            list(RecordLog(path).read())


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\0" * 40 + b"\n", b"\xff\xfe", b"[1]\n", b"{}\n", b'"text"'])
def test_a_tail_that_is_no_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log.jsonl"
    data = written(path)
    path.write_bytes(data + tail)
    assert list(RecordLog(path).read()) == RECORDS
    assert RecordLog(path).repair() is True
    assert path.read_bytes() == data


def test_bit_flips_never_change_a_number_in_silence(tmp_path: Path) -> None:
    """Flips at seeded offsets: the log reads as it was, its end is owed again, or it is refused with a line number."""
    path = tmp_path / "log.jsonl"
    data = written(path)
    rng = random.Random(0)
    offsets = rng.sample(range(len(data)), 200)
    outcomes = set()
    for offset in offsets:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        log = RecordLog(path)
        log.repair()
        try:
            found = list(log.read())
        except RunFolderError as error:
            assert "log.jsonl:" in str(error)
            outcomes.add("refused")
            continue
        assert found == RECORDS[: len(found)], "whatever is left is what was written"
        assert len(found) >= len(RECORDS) - 2, "at most the last line, or two when the flip joined them"
        outcomes.add(len(found))
    assert outcomes >= {"refused", len(RECORDS) - 1}


def test_a_record_cannot_bring_nan(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        log.append([{"score": float("nan")}])
    assert not log.path.exists()


def test_equal_records_have_equal_lines() -> None:
    assert encode({"b": 1, "a": [1.5, "é"]}) == encode({"a": [1.5, "é"], "b": 1})
    assert json.loads(encode({"a": 1}))["a"] == 1


@settings(max_examples=40, deadline=None)
@given(values)
def test_canonical_json_is_one_text_per_value(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("point", "left"), [("atomic.before-replace", b"old"), ("atomic.after-replace", b"new")])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, point: str, left: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = "import sys; from pathlib import Path; from hybrid.store.atomic import write_bytes\n"
    program += "write_bytes(Path(sys.argv[1]), b'new')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env={**os.environ, "HYBRID_FAULT": point, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == left
    write_bytes(path, b"again")
    assert path.read_bytes() == b"again"


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    link = tmp_path / "run" / "file"
    link.parent.mkdir()
    link.symlink_to(outside)
    write_bytes(link, b"new")
    assert outside.read_bytes() == b"precious"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"
