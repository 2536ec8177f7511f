"""What a program of the model can and cannot do: one test per property of the sandbox, each an attempt to break it."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.graders import GraderError, code_sandbox
from hybrid.capability.graders.code_sandbox import Answer, Limits, Report, run_program, why_not

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = Path("/usr/bin/python3")
SHUT_IN = pytest.mark.skipif(bool(why_not(True)), reason=f"programs cannot be shut in here: {why_not(True)}")


def _plain_python() -> str:
    """A Python that can run programs without namespaces: as root, one that the user nobody can read."""
    if not why_not(False):
        return sys.executable
    version = (
        subprocess.run([SYSTEM_PYTHON, "-V"], capture_output=True, check=False).stdout
        if SYSTEM_PYTHON.exists()
        else b""
    )
    return str(SYSTEM_PYTHON) if re.match(rb"Python 3\.1[1-9]", version) else ""


PLAIN_PYTHON = _plain_python()


@pytest.fixture(params=["isolated", "plain"])
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "isolated":
        if why_not(True):
            pytest.skip(why_not(True))
        return True
    if not PLAIN_PYTHON:
        pytest.skip(why_not(False))
    monkeypatch.setattr(sys, "executable", PLAIN_PYTHON)
    return False


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folders = Path(tempfile.mkdtemp(prefix="hybrid-test-"))  # pytest's own folders are closed to the user nobody
    folders.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    yield
    assert list(folders.glob("hybrid-code-*")) == []
    assert processes(str(folders)) == []
    folders.rmdir()


def processes(word: str) -> list[int]:
    """Processes whose command line holds the word; zombies have none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def run(program: str, *calls: list[Any], isolated: bool = True, seconds: int = 2, most: int = 100_000) -> Report:
    return run_program(program, "f", calls or ([],), Limits(seconds, 256, most, isolated))


def value(program: str, *arguments: Any, isolated: bool = True) -> Any:
    (answer,) = run(program, list(arguments), isolated=isolated).answers
    assert not answer.failed, answer.failed
    return answer.value


def test_a_program_answers_call_by_call(isolated: bool) -> None:
    report = run("def f(a, b):\n    return a + b", [1, 2], [1, "x"], [[1], [2]], isolated=isolated)
    assert report.answers == (Answer(3), Answer(failed="TypeError"), Answer([1, 2]))


def test_an_endless_loop_is_stopped_by_processor_time(isolated: bool) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    report = run("def f(a):\n    while a: pass\n    return 1", [0], [1], [0], isolated=isolated, seconds=1)
    assert report.answers[0] == Answer(1)
    assert all("used up its 1 s of processor time" in answer.failed for answer in report.answers[1:])
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5


def test_an_endless_loop_while_loading_and_a_handler_for_the_limit_do_not_help(isolated: bool) -> None:
    program = "import signal\nfor s in (signal.SIGXCPU, signal.SIGTERM):\n    signal.signal(s, lambda *_: None)\nwhile True: pass"
    assert "used up its 1 s" in run(program, isolated=isolated, seconds=1).broken


def test_a_program_that_only_waits_is_ended(isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_sandbox, "IDLE_S", -0.5)
    start = time.monotonic()
    report = run(
        "import os, time\ndef f():\n    try: os.setsid()\n    except OSError: pass\n    time.sleep(1000)",
        isolated=isolated,
    )
    assert report.answers[0].failed == "the program did not answer in time"
    assert time.monotonic() - start < 60


def test_a_program_that_does_not_read_its_arguments_cannot_block_the_grader(
    isolated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_sandbox, "IDLE_S", -0.5)
    report = run("import time\ndef f(x): pass\ntime.sleep(1000)", ["x" * 10_000_000], isolated=isolated)
    assert report.broken == "while it was loaded, the program did not answer in time"
    deaf = """
import json, os, sys, time
def f(x):
    frame = sys._getframe(1).f_locals
    os.write(frame["replies"], json.dumps({"nonce": frame["request"]["nonce"], "value": 1}).encode() + b"\\n")
    time.sleep(1000)
"""
    report = run(deaf, ["x"], ["x" * 10_000_000], isolated=isolated)
    assert report.answers == (Answer(1), Answer(failed="the program did not answer in time"))


def test_memory_is_limited(isolated: bool) -> None:
    report = run("def f(n):\n    return len(bytearray(n << 20))", [10], [1000], [10], isolated=isolated)
    assert report.answers == (Answer(10 << 20), Answer(failed="MemoryError"), Answer(10 << 20))
    hog = run(
        "def f():\n    kept = []\n    while True: kept.append('x' * 1_000_000 + str(len(kept)))", isolated=isolated
    )
    assert hog.answers[0].failed == "MemoryError"


def test_a_fork_bomb_and_an_orphan_cannot_start(isolated: bool) -> None:
    bomb = "import os\ndef f():\n    while True: os.fork()"
    assert run(bomb, isolated=isolated).answers[0].failed == "BlockingIOError"
    orphan = "import os, subprocess\ndef f():\n    subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True)"
    assert run(orphan, isolated=isolated).answers[0].failed in ("BlockingIOError", "FileNotFoundError")
    thread = "import threading\ndef f():\n    threading.Thread(target=print).start()"
    assert run(thread, isolated=isolated).answers[0].failed == "RuntimeError"


def test_limits_cannot_be_raised(isolated: bool) -> None:
    program = """
import resource
def f():
    raised = []
    for name in ("CPU", "AS", "NPROC", "FSIZE", "NOFILE", "CORE"):
        kind = getattr(resource, "RLIMIT_" + name)
        try:
            resource.setrlimit(kind, (resource.getrlimit(kind)[1] + 1,) * 2)
            raised.append(name)
        except (ValueError, OSError):
            pass
    return raised
"""
    assert value(program, isolated=isolated) == []


def test_a_flood_of_output_is_thrown_away_and_a_flood_of_values_is_cut(isolated: bool) -> None:
    printed = """
import os
def f():
    for _ in range(300):
        os.write(1, b"x" * 100_000)
        os.write(2, b"y" * 100_000)
    return 7
"""
    assert value(printed, isolated=isolated) == 7
    flood = run("def f(n):\n    return 'x' * n", [50_000], [200_000], [1], isolated=isolated)
    assert flood.answers[0] == Answer("x" * 50_000)
    assert {answer.failed for answer in flood.answers[1:]} == {"the program replied with more than 100000 bytes"}


def test_files_are_limited_in_size_and_number(isolated: bool) -> None:
    program = """
def f():
    found = []
    for size in (1000, 50 << 20):
        try:
            with open("file", "wb") as stream:
                stream.write(bytes(size))
            found.append("written")
        except OSError as error:
            found.append("refused")
    try:
        found.append(len([open("file") for _ in range(100)]))
    except OSError:
        found.append("refused")
    return found
"""
    assert value(program, isolated=isolated) == ["written", "refused", "refused"]


def test_the_environment_is_empty(isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", "canary-918273645")
    program = """
import os
def f():
    try:
        with open("/proc/self/environ") as stream:
            text = stream.read()
    except OSError:
        text = ""
    return [dict(os.environ), "918273645" in text]
"""
    assert value(program, isolated=isolated) == [{}, False]


def test_the_working_folder_is_empty_and_input_has_ended(isolated: bool) -> None:
    assert value(
        "import os, sys\ndef f():\n    return [os.listdir(), sys.stdin.read(), sys.argv[1:]]", isolated=isolated
    ) == [
        [],
        "",
        [],
    ]


def test_a_folder_that_is_deep_and_locked_is_removed_all_the_same(isolated: bool) -> None:
    program = """
import os
def f():
    try:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        os.chmod(".", 0)
    except OSError:
        pass
"""
    assert value(program, isolated=isolated) is None


@SHUT_IN
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = "import socket\ndef f(port):\n    socket.create_connection(('127.0.0.1', port), 5)"
        (answer,) = run(program, [port]).answers
        assert answer.failed == "OSError"
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert value("import socket\ndef f():\n    return [n for _, n in socket.if_nameindex()]") == ["lo"]


@SHUT_IN
def test_a_socket_in_the_file_system_is_out_of_reach() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        program = "import socket\ndef f(path):\n    socket.socket(socket.AF_UNIX).connect(path)"
        assert run(program, [str(path)]).answers[0].failed == "FileNotFoundError"
    path.unlink()
    folder.rmdir()


@SHUT_IN
def test_an_abstract_socket_is_out_of_reach() -> None:
    name = f"\0hybrid-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as here:
            here.connect(name)
        program = "import socket\ndef f(name):\n    socket.socket(socket.AF_UNIX).connect(name)"
        assert run(program, [name]).answers[0].failed == "ConnectionRefusedError"


@SHUT_IN
def test_all_files_together_are_limited_to_four_mebibytes() -> None:
    program = """
def f():
    written = 0
    try:
        for number in range(20):
            with open(f"/tmp/{number}", "wb") as stream:
                stream.write(bytes(1_000_000))
            written += 1
    except OSError:
        pass
    return written
"""
    assert 2 <= value(program) <= 4


@SHUT_IN
def test_files_cannot_be_read_or_written_outside() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    data = folder / "test.jsonl"
    data.write_text('{"expect": 5}')
    data.chmod(0o666)
    program = """
import os
def f(data, folder, library):
    found = []
    attempts = (lambda: open(data).read(), lambda: os.listdir(folder), lambda: open(library, "w"))
    for attempt in (*attempts, lambda: os.chmod(library, 0)):
        try:
            attempt()
            found.append("done")
        except OSError as error:
            found.append(type(error).__name__)
    os.makedirs(folder)
    open(data, "w").write("forged")
    return found
"""
    refused = value(program, str(data), str(folder), os.__file__)
    assert refused[:2] == ["FileNotFoundError"] * 2
    assert set(refused[2:]) <= {"OSError", "PermissionError"}
    assert data.read_text() == '{"expect": 5}'
    data.unlink()
    folder.rmdir()


@SHUT_IN
def test_the_libraries_stay_read_only_also_from_a_user_namespace_of_its_own() -> None:
    program = """
import ctypes, os
def f(library):
    libc = ctypes.CDLL(None)
    found = [libc.unshare(0x10000000 | 0x00020000) == 0]
    folder = os.path.dirname(library).encode()
    for flags in (32 | 4096, 32):
        found.append(libc.mount(b"none", folder, b"", ctypes.c_ulong(flags), b"") == 0)
    try:
        open(library, "r+").close()
        found.append(True)
    except OSError:
        found.append(False)
    return found
"""
    assert value(program, os.__file__)[1:] == [False, False, False]


@SHUT_IN
def test_privileges_are_gone() -> None:
    program = """
import ctypes, os
def f():
    libc = ctypes.CDLL(None)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), sets)
    return [list(sets), libc.mount(b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), b""), libc.sethostname(b"x", 1), os.getuid()]
"""
    capabilities, mounted, named, user = value(program)
    assert (capabilities, mounted, named) == ([0] * 6, -1, -1)
    assert user != 0


@SHUT_IN
def test_other_processes_cannot_be_seen_signalled_or_read() -> None:
    program = """
import os, signal
def f(grader):
    found = [os.getppid(), os.path.exists("/proc/1"), os.path.exists(f"/proc/{grader}/mem")]
    for process in (grader, -grader):
        try:
            os.kill(process, signal.SIGKILL)
            found.append("sent")
        except OSError as error:
            found.append(type(error).__name__)
    for process in (0, -1):
        try:
            os.kill(process, signal.SIGTERM)
        except OSError:
            pass
    return found
"""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        assert value(program, os.getpid()) == [0, False, False, "ProcessLookupError", "ProcessLookupError"]
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert received == []


@SHUT_IN
def test_memory_of_the_grader_cannot_be_read_through_the_kernel_either() -> None:
    program = """
import ctypes
def f(grader):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.process_vm_readv.restype = libc.ptrace.restype = ctypes.c_long
    pair = (ctypes.c_size_t * 2)(0x400000, 8)
    return [libc.process_vm_readv(grader, pair, 1, pair, 1, 0), libc.ptrace(16, grader, 0, 0)]
"""
    assert value(program, os.getpid()) == [-1, -1]


STARTED = """
import sys
from hybrid.capability.graders.code_sandbox import Limits, run_program
run_program("import time\\ndef f():\\n    time.sleep(1000)", "f", [[]], Limits(60, 256, 1000, True))
"""


@SHUT_IN
def test_a_program_does_not_outlive_a_grader_that_is_killed() -> None:
    folders = tempfile.mkdtemp()
    environment = {**os.environ, "TMPDIR": folders, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *sys.path)))}
    grader = subprocess.Popen([sys.executable, "-c", STARTED], env=environment)
    try:
        assert _until(lambda: len(processes(folders)) >= 2)  # the guard and the program
    finally:
        grader.kill()
        grader.wait()
    assert _until(lambda: processes(folders) == [])
    for left in Path(folders).iterdir():
        left.rmdir()  # empty: the program's root was never visible here
    Path(folders).rmdir()


def _until(condition: Any) -> bool:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@SHUT_IN
def test_programs_of_several_threads_do_not_mix() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            if value("def f(n):\n    return n", number) != number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_machine_without_namespaces_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    source = Path(code_sandbox._WORKER).read_text()
    worker.write_text(source.replace("libc.unshare", "libc.no_such_call"))
    monkeypatch.setattr(code_sandbox, "_WORKER", worker)
    why_not.cache_clear()
    try:
        assert "cannot be shut in" in why_not(True)
        worker.write_text(source.replace("0x40000000", "0"))  # everything but the network
        why_not.cache_clear()
        several = [name for _, name in socket.if_nameindex() if name != "lo"]
        assert ("a program could reach the network" in why_not(True)) is bool(several)
        worker.write_text(source.replace("resource.RLIMIT_NPROC: 1,", ""))
        why_not.cache_clear()
        assert why_not(True) == "a program could reach a second process"
    finally:
        why_not.cache_clear()


def test_waiting_for_a_processor_is_not_doing_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = code_sandbox._Patience(os.getpid(), 2.0)
    schedule = tmp_path / "schedstat"
    monkeypatch.setattr(patience, "_schedule", schedule)
    schedule.write_text("1000000000 5000000000 7")
    patience.start()
    now[0] += 50.0
    schedule.write_text("2000000000 53500000000 9")  # 1 s of running, 48.5 s of waiting for a processor
    assert patience.left() == pytest.approx(1.5)
    patience.stop()
    patience.start()
    now[0] += 5.0
    assert patience.left() == pytest.approx(-3.5)
    patience.stop()
    patience.start()
    assert patience.left() == code_sandbox.LEAST_IDLE_S
    schedule.unlink()
    assert patience.left() == code_sandbox.LEAST_IDLE_S
    now[0] += 600.0
    with pytest.raises(GraderError, match="overloaded"):
        patience.left()


def test_where_the_kernel_does_not_tell_a_program_gets_more_time() -> None:
    assert code_sandbox._Patience(2**30, 2.0).left() == pytest.approx(10.0, abs=1.0)
