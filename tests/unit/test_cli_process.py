"""The command as a process: start-up time, what it loads, signals, pipes, and what child processes print."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "numpy", "scipy", "accelerate"}
CONFIG = """\
name: small
model: {path: reference}
capabilities:
  - name: units
    source: {type: jsonl, path: data}
    grader: {type: exact}
"""


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "CI", "NO_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}


def hybrid(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hybrid", *argv], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )


def loaded_by(argv: list[str], cwd: Path) -> set[str]:
    """Top-level modules in memory after a command, asked of the process itself."""
    code = f"import sys\nfrom hybrid.__main__ import main\nmain({argv!r})\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for split in ("train", "search", "confirm", "test"):
        rows = [{"id": f"{split}-{i}", "prompt": f"{split} {i}?", "reference": str(i)} for i in range(8)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def test_help_is_instant() -> None:
    """CPU seconds of the child, which on an idle machine are its wall seconds, so that a busy one proves nothing."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert hybrid("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(times) < 0.6, times


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = loaded_by(["--help"], tmp_path)
    assert "typer" in modules
    assert modules & (HEAVY | {"pydantic", "rich", "jinja2", "yaml"}) == set()


def test_validate_loads_no_training_stack(folder: Path) -> None:
    modules = loaded_by(["validate", "run.yaml"], folder)
    assert "pydantic" in modules
    assert modules & {"torch", "transformers", "trl", "peft", "datasets", "scipy", "accelerate"} == set()


def test_schema_is_json_and_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    assert json.loads(hybrid("schema").stdout)["title"] == "hybrid configuration"
    for argv in (["schema"], ["schema", "--json"], ["--version"], ["--version", "--json"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "hybrid", *argv], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(timeout=120) == 1
        assert error == b""
        process.stderr.close()


SCRIPT = """\
import subprocess, sys, time, types
room = types.ModuleType("hybrid.pipeline.run")
def run(loaded, out, *, on_event, **how):
    on_event("run.started", {"name": "small", "device": "cpu", "model": "m", "out": str(out)})
    BODY
    return out / "report" / "placement.json"
room.run = run
sys.modules["hybrid.pipeline.run"] = room
from hybrid.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def started(body: str, *argv: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("BODY", body), *argv],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background deaf to SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    ("flags", "sent"), [([], signal.SIGINT), (["--json"], signal.SIGINT), ([], signal.SIGTERM)], ids=str
)
def test_interrupt_says_that_the_same_command_continues(folder: Path, flags: list[str], sent: signal.Signals) -> None:
    process = started(
        "sys.stderr.write('here\\n'); sys.stderr.flush(); time.sleep(60)", "run", "run.yaml", *flags, cwd=folder
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "here\n"
    process.send_signal(sent)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error
    if flags:
        assert json.loads(out)["error"]["type"] == "Interrupted"
    else:
        assert out.startswith("device: cpu")
        assert "the same command continues" in error


def test_json_stays_pure_when_child_processes_print(folder: Path) -> None:
    body = "subprocess.run(['echo', 'from a child']); print('from a library')"
    process = started(body, "run", "run.yaml", "--json", cwd=folder)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out)["device"] == "cpu"
    assert "from a child" in error
    assert "from a library" in error


def test_a_terminal_that_knows_only_ascii_does_not_stop_a_command(folder: Path) -> None:
    (folder / "run.yaml").write_text(CONFIG.replace("reference", "./größe"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "hybrid", "validate", "run.yaml"],
        cwd=folder,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "run.yaml:2: model.path:" in done.stderr
    assert "Traceback" not in done.stderr
