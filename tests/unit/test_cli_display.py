"""What a run looks like while it runs, in each of its three forms."""

from __future__ import annotations

import io

import pytest

from hybrid.cli import display
from hybrid.cli.display import Display, PlainDisplay, RichDisplay, duration, make_display
from hybrid.cli.text import safe, table, tree

EVENTS = [
    (
        "run.started",
        {"name": "q", "device": "cuda:0", "model": "ref", "out": "runs/q", "resumed": True, "reused_calls": 142},
    ),
    ("stage.started", {"capability": "units", "stage": "probe"}),
    ("progress", {"capability": "units", "stage": "probe", "done": 3, "total": 9, "unit": "answers"}),
    ("warning", {"message": "odd \x1b[31mred\nline"}),
    ("stage.done", {"capability": "units", "stage": "probe", "seconds": 12.0, "summary": "base 0.25 [0.1, 0.4]"}),
    (
        "run.done",
        {
            "report": "runs/q/report/placement.json",
            "placements": {"units": "skill", "long-name": "keep"},
            "seconds": 75.0,
        },
    ),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def feed(shown: Display) -> Display:
    for kind, data in EVENTS:
        shown.event(kind, data)
    shown.close()
    return shown


def test_plain_lines_start_with_the_device_and_end_with_the_report() -> None:
    stream = io.StringIO()
    feed(PlainDisplay(stream))
    assert stream.getvalue() == (
        "device: cuda:0; model: ref; run: q in runs/q\n"
        "continuing: 142 answers are already paid for\n"
        "[units] probe: ...\n"
        "warning: odd ?[31mred line\n"
        "[units] probe: base 0.25 [0.1, 0.4] (12 s)\n"
        "\n"
        "capability  placement\n"
        "units       skill\n"
        "long-name   keep\n"
        "\n"
        "report: runs/q/report/placement.json (1 min 15 s)\n"
    )


def test_plain_progress_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = PlainDisplay(stream)
    for second in range(61):
        now[0] = float(second)
        shown.event("progress", {"capability": "u", "stage": "s", "done": second, "total": 60, "unit": "answers"})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == "[u] s: 10 of 60 answers"


def test_the_rich_form_shows_the_same_lines_and_takes_its_bars_away(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "200")
    shown = make_display(json=False)
    assert isinstance(shown, RichDisplay)
    feed(shown)
    text = stream.getvalue()
    for line in ("device: cuda:0", "142 answers", "base 0.25 [0.1, 0.4] (12 s)", "long-name   keep", "report: runs/q"):
        assert line in text
    assert "3/9" in text or "answers" in text
    assert "\x1b[31m" not in text.replace("\x1b[0m", "")
    shown.close()


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("NO_COLOR", "1"), ("TERM", "dumb")])
def test_plain_is_chosen_where_bars_would_be_noise(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert type(make_display(json=False, stream=Terminal())) is PlainDisplay


def test_the_form_follows_json_terminal_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(make_display(json=True, stream=Terminal())) is Display
    assert type(make_display(json=False, stream=io.StringIO())) is PlainDisplay
    monkeypatch.setenv("RANK", "3")
    assert type(make_display(json=False, stream=io.StringIO())) is Display


def test_the_silent_form_keeps_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = feed(Display()).outcome()
    assert outcome["device"] == "cuda:0"
    assert outcome["placements"] == {"units": "skill", "long-name": "keep"}
    assert outcome["warnings"] == ["odd \x1b[31mred\nline"]
    assert capsys.readouterr().out == ""


def test_events_with_missing_facts_and_unknown_kinds_do_not_stop_a_run() -> None:
    stream = io.StringIO()
    shown = PlainDisplay(stream)
    for kind in ("run.started", "stage.started", "progress", "stage.done", "warning", "run.done", "later"):
        shown.event(kind, {})
    assert "device: ?" in stream.getvalue()


def test_durations_tables_and_trees() -> None:
    assert [duration(s) for s in (0, 9.94, 9.96, 59.4, 59.6, 3599, 7500)] == [
        "0.0 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "59 min 59 s", "2 h 5 min",
    ]  # fmt: skip
    assert table([{"name": "a", "n": 5}, {"name": "bb", "n": 10}]) == "name   n\na      5\nbb    10"
    assert table([]) == ""
    assert tree({"a": {"b": 1.0}, "c": [{"d": True}, "x"], "e": None}) == "a:\n  b: 1\nc:\n  - d: yes\n  - x\ne: none"
    assert safe("a\tb\u202ec\x07") == "a b?c?"
