"""The verbs against fakes of the rooms they call: arguments, exit codes, and that `--json` is one document."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from hybrid.__main__ import main
from hybrid.errors import BackendError, BudgetExhausted, DataError, Problem, RunFolderError, TrainingError, UsageError

CONFIG = """\
name: small
model: {path: reference}
capabilities:
  - name: units
    source: {type: jsonl, path: data}
    grader: {type: exact}
"""


class Report(BaseModel):
    """Stands for the reports of the pipeline."""

    model_config = {"arbitrary_types_allowed": True}
    problems: tuple[Problem, ...] = ()
    capabilities: tuple[dict[str, str | int], ...] = ({"name": "units", "train": 12},)


class Finding(BaseModel):
    name: str
    status: str
    detail: str
    fix: str = ""


class Room:
    """Fakes of the rooms, and what they were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.report = Report()
        self.findings = [
            Finding(name="torch", status="ok", detail="2.0"),
            Finding(name="disk", status="warn", detail="low", fix="free some"),
        ]
        self.noise = False
        fakes: dict[str, dict[str, Callable[..., Any]]] = {
            "hybrid.pipeline.prepare": {"validate": self._answer("validate", lambda: self.report)},
            "hybrid.pipeline.plan": {
                "plan": self._answer("plan", lambda: Finding(name="p", status="s", detail="d")),
                "render": self._answer("render", lambda: "the plan"),
            },
            "hybrid.pipeline.status": {
                "status": self._answer("status", lambda: {"state": "done", "stages": [{"a": 0.5}]})
            },
            "hybrid.report.render": {
                "write_report": self._answer("write_report", lambda: {"md": Path("r/placement.md")}),
                "explain": self._answer("explain", lambda: "because\n"),
            },
            "hybrid.backends.doctor": {"examine": self._answer("examine", lambda: self.findings)},
            "hybrid.pipeline.run": {"run": self._run},
        }
        for name, functions in fakes.items():
            module = ModuleType(name)
            for function, body in functions.items():
                setattr(module, function, body)
            monkeypatch.setitem(sys.modules, name, module)

    def _answer(self, name: str, value: Callable[[], Any]) -> Callable[..., Any]:
        def fake(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            if self.error is not None:
                raise self.error
            if self.noise:
                print("a library talks")
            return value()

        return fake

    def _run(
        self, loaded: Any, out: Path, *, probe_only: bool, on_event: Callable[..., None], **how: bool | Path | None
    ) -> Path:
        self.calls.append(("run", (loaded, out), {"probe_only": probe_only, **how}))
        on_event("run.started", {"name": "small", "device": "cpu", "model": "m", "out": str(out), "resumed": False})
        if self.noise:
            print("a library talks")
        on_event("stage.started", {"capability": "units", "stage": "probe"})
        on_event("warning", {"message": "mind the gap"})
        if self.error is not None:
            raise self.error
        on_event("stage.done", {"capability": "units", "stage": "probe", "seconds": 1.25, "summary": "base 0.5"})
        on_event("an event of tomorrow", {})
        if probe_only:
            return out / "report" / "profile.json"
        report = str(out / "report" / "placement.json")
        on_event("run.done", {"report": report, "placements": {"units": "skill"}, "seconds": 61.0})
        return Path(report)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Room:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    return Room(monkeypatch)


VERBS = [
    ["validate", "run.yaml"],
    ["validate", "run.yaml", "--data", "--set", "probe.samples=4"],
    ["doctor"],
    ["doctor", "run.yaml"],
    ["plan", "run.yaml", "--set", "seed=2"],
    ["probe", "run.yaml", "--out", "o"],
    ["run", "run.yaml", "--fresh", "--set", "seed=2", "--set", "probe.samples=4"],
    ["status", "done"],
    ["report", "done", "--format", "md"],
    ["explain", "done", "units"],
    ["schema"],
]


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_json_is_one_document_and_nothing_else(room: Room, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    room.noise = True
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    assert isinstance(json.loads(captured.out), dict)
    assert "error" not in json.loads(captured.out)
    assert ("a library talks" in captured.err) == bool(room.calls)


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_without_json_people_get_text(room: Room, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert captured.err == ""


ERRORS = [
    (BackendError("no model"), 1),
    (TrainingError("loss is not finite"), 1),
    (RunFolderError("locked by 12"), 1),
    (BudgetExhausted("calls: 5 of 5"), 3),
    (UsageError("no such capability"), 2),
    (DataError([Problem("train.jsonl", 3, "reference", "is missing", "add it")]), 2),
    (KeyboardInterrupt(), 130),
    (OSError(28, "No space left on device", "runs/x"), 1),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda v: type(v).__name__)
def test_errors_are_sentences_on_stderr_with_their_exit_code(
    room: Room, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    room.error = error
    assert main(["run", "run.yaml"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    expected = "the same command continues" if code == 130 else str(error).splitlines()[0] if code != 1 else ""
    assert expected in captured.err
    assert captured.err.strip()


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda v: type(v).__name__)
def test_errors_under_json_are_a_document_on_stdout(
    room: Room, error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    room.error = error
    assert main(["run", "run.yaml", "--json"]) == code
    body = json.loads(capsys.readouterr().out)["error"]
    assert body["exit_code"] == code
    assert body["message"]
    assert len(body["problems"]) == (1 if isinstance(error, DataError) else 0)


def test_a_bug_keeps_its_traceback_and_still_answers_json(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    room.error = ZeroDivisionError("oops")
    with pytest.raises(ZeroDivisionError):
        main(["run", "run.yaml", "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ZeroDivisionError"
    with pytest.raises(ZeroDivisionError):
        main(["run", "run.yaml"])


@pytest.mark.parametrize(
    "argv",
    [
        ["run"],
        ["rum", "x"],
        ["run", "run.yaml", "--frsh"],
        ["status", "nowhere"],
        ["status", "run.yaml"],
        ["report", "done", "--format", "pdf"],
        ["explain", "done"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_2_in_both_forms(room: Room, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--help" in captured.err
    assert main([*argv, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"
    assert room.calls == []


def test_run_hands_over_what_was_asked(room: Room) -> None:
    assert main(["run", "run.yaml", "--fresh", "--set", "seed=9", "--out", "there"]) == 0
    assert main(["run", "run.yaml", "--fork", "old", "--strict"]) == 0
    assert main(["probe", "run.yaml"]) == 0
    plain = {"fresh": False, "probe_only": False, "fork": None, "strict": False}
    (_, (loaded, out), first), (_, (_, second_out), second), (_, (_, third_out), third) = room.calls
    assert (loaded.config.seed, out, first) == (9, Path("there"), {**plain, "fresh": True})
    assert (second_out, second) == (Path("runs/small"), {**plain, "fork": Path("old"), "strict": True})
    assert (third_out, third) == (Path("runs/small"), {**plain, "probe_only": True})


def test_the_result_of_a_run_names_device_placements_report_and_warnings(
    room: Room, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "run.yaml", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["device"] == "cpu"
    assert result["placements"] == {"units": "skill"}
    assert result["report"] == "runs/small/report/placement.json"
    assert result["warnings"] == ["mind the gap"]


def test_validate_shows_config_paths_and_data_in_one_pass(
    room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CONFIG.replace("model:", "modle:") + "    oracle: nope.txt\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    room.report = Report(problems=(Problem("data/train.jsonl", 4, "prompt", "is empty", "write one"),))
    assert main(["validate", "run.yaml", "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["error"]["problems"]
    assert [(p["file"], p["line"], p["key"]) for p in problems] == [
        ("data/train.jsonl", 4, "prompt"),
        ("run.yaml", 2, "modle"),
        ("run.yaml", 7, "capabilities[0].oracle"),
    ]
    assert main(["validate", "run.yaml"]) == 2
    error = capsys.readouterr().err
    assert "run.yaml:2: modle: unknown key 'modle'; did you mean 'model'?\n" in error
    assert error.endswith("3 problems; nothing was run\n")


def test_validate_data_scores_gold_only_when_asked(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "run.yaml"])
    main(["validate", "run.yaml", "--data"])
    assert [kwargs for _, _, kwargs in room.calls] == [{"score_gold": False}, {"score_gold": True}]
    assert "units" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["plan", "probe", "run"])
def test_missing_files_stop_every_verb_before_anything_is_called(room: Room, verb: str, tmp_path: Path) -> None:
    (tmp_path / "data").rmdir()
    assert main([verb, "run.yaml"]) == 2
    assert room.calls == []


def test_doctor_fails_with_1_and_says_what_to_do(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "free some" in capsys.readouterr().out
    room.findings.append(Finding(name="cuda", status="fail", detail="gone", fix="install it"))
    assert main(["doctor"]) == 1
    assert "install it" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert room.calls[0][1] == (None,)


def test_report_formats_and_explain_arguments(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "done", "--format", "json", "--format", "html"]) == 0
    assert main(["report", "done"]) == 0
    assert [args[1] for _, args, _ in room.calls] == [("json", "html"), ("md", "html")]
    assert main(["explain", "done", "units"]) == 0
    assert capsys.readouterr().out.endswith("because\n")


def test_only_rank_0_prints(room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["run", "run.yaml"]) == 0
    assert main(["run", "run.yaml", "--json"]) == 0
    assert main(["run", "nothing.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["run", "run.yaml"]) == 0
    assert capsys.readouterr().out.startswith("device: cpu")


def test_version_and_help(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    from hybrid import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hybrid {__version__}\n"
    assert main([]) == 0
    listed = capsys.readouterr().out
    verbs = ["validate", "doctor", "plan", "probe", "run", "status", "report", "explain", "schema"]
    assert [line.split()[0] for line in listed.splitlines() if line.split()[:1] and line.split()[0] in verbs] == verbs
    for verb in verbs:
        assert main([verb, "--help"]) == 0
        assert "--json" in capsys.readouterr().out
