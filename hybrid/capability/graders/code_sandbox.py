"""Runs one program of the model in a process that can do little, and asks it for values.

    run_program(code, "add", [[1, 2], [3, 4]], Limits(2, 256, 1_000_000, isolated=True)).answers   # values or failures

The process is fresh for every program, has limits that it cannot raise, and sees one call at a time. With `isolated`
(Linux namespaces) it has no network, no other process and no file but Python's libraries; without, it has the rights of
the user. It never learns what is expected: this module is not told either.
Does not: judge. A program is hostile until it has ended; what it sends is read as JSON of bounded length, nothing else.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.capability.graders.base import GraderError

SETUP_S = 60.0
"""Wall seconds for the process to stand ready. Beyond it the machine is at fault, not the program."""
IDLE_S = 3.0
"""Seconds beyond its processor time that a program may spend doing nothing."""
LEAST_IDLE_S = 0.25
"""Seconds of doing nothing that every single call may spend: the last calls are not judged by what earlier ones waited."""
BUSY_FACTOR = 5
"""Where the kernel does not tell doing nothing from waiting for a processor: how much longer than alone a program may take."""
STALLED_S = 600.0
"""Wall seconds for one program, however busy the machine is; beyond it the machine is at fault."""
NOBODY = 65_534
"""The user that a program runs as when hybrid runs as root."""
_WORKER = Path(__file__).with_name("code_worker.py")
_CHUNK = 65_536
_PROBE = """
import heapq, os, socket

def shut_in(canary):
    found = ["the network " + name for _, name in socket.if_nameindex() if name != "lo"]
    found += ["files"] * os.path.exists(canary) + ["its parent"] * (os.getppid() != 0) + ["/proc"] * os.path.exists("/proc")
    try:
        os.fork()
    except OSError:
        return found
    return [*found, "a second process"]

def started(canary):
    return []
"""


@dataclass(frozen=True)
class Limits:
    """What one program may use: processor seconds, address space in MiB, bytes of replies; and how it is shut in."""

    seconds: int
    memory_mb: int
    most_output: int
    isolated: bool


@dataclass(frozen=True)
class Answer:
    """What one call gave: `value` (plain JSON values) when `failed` is empty, else why there is none."""

    value: Any = None
    failed: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a program. `unreadable` says why it is no Python; `broken` why it could not be called at all."""

    unreadable: str = ""
    broken: str = ""
    answers: tuple[Answer, ...] = ()


class ProgramEndedError(Exception):
    """There will be no more replies; the text completes "the program ..."."""


def run_program(code: str, entry: str, calls: Sequence[Sequence[Any]], limits: Limits) -> Report:
    """Define what `code` defines, then call `entry` with each list of arguments. Never raises for a bad program.

    The program's end is the end of its answers. Raises `GraderError` when this machine cannot run it.
    """
    with _folder(limits) as folder, _Process(folder, limits) as process:
        try:
            compiled = process.ask(do="compile", code=code)
        except ProgramEndedError as error:
            return Report(unreadable=f"it cannot be compiled: the program {error}")
        if compiled.failed:
            return Report(unreadable=f"it cannot be compiled ({compiled.failed})")
        try:
            found = process.ask(do="run", entry=entry)
        except ProgramEndedError as error:
            return Report(broken=f"while it was loaded, the program {error}")
        if found.failed:
            return Report(broken=f"loading it failed ({found.failed})")
        if found.value is not True:
            return Report(broken=f"it defines no function {entry!r}")
        return Report(answers=tuple(_answers(process, entry, calls)))


def _answers(process: _Process, entry: str, calls: Sequence[Sequence[Any]]) -> Iterator[Answer]:
    for number, arguments in enumerate(calls):
        try:
            yield process.ask(do="call", entry=entry, args=list(arguments))
        except ProgramEndedError as error:
            for _ in calls[number:]:
                yield Answer(failed=f"the program {error}")
            return


@functools.cache
def why_not(isolated: bool) -> str:
    """Why programs cannot be run here in this way; empty when they can. Tried once, with a program that tries to get out."""
    limits = Limits(seconds=5, memory_mb=256, most_output=10_000, isolated=isolated)
    try:
        with tempfile.NamedTemporaryFile(prefix="hybrid-canary-") as canary:
            report = run_program(_PROBE, "shut_in" if isolated else "started", [[canary.name]], limits)
    except (GraderError, OSError) as error:
        return str(error).removeprefix("code grader: ") + _about_root(isolated)
    failed = report.unreadable or report.broken or report.answers[0].failed
    if failed:
        return failed + _about_root(isolated)
    reached = report.answers[0].value
    return f"a program could reach {', '.join(map(str, reached))}" if reached else ""


class _Patience:
    """How long a program may do nothing. While it runs, or waits for a processor, no time is counted against it.

    So a busy machine does not turn a right answer into a wrong one; how long it may run is the kernel's to limit.
    """

    def __init__(self, process: int | None, seconds: float) -> None:
        self._schedule = Path(f"/proc/{process}/schedstat")
        self._told = process is not None and self._schedule.exists()
        self._idle = seconds if self._told or process is None else BUSY_FACTOR * seconds
        self._born, self._busy = time.monotonic(), 0.0
        self.start()

    def start(self) -> None:
        """A call begins."""
        self._since, self._busy = time.monotonic(), self._busy_s()

    def left(self) -> float:
        """Seconds of doing nothing that the call may still spend. Raises `GraderError` when the machine stands still."""
        if time.monotonic() - self._born > STALLED_S:
            raise GraderError(
                f"code grader: a program got no answer out in {STALLED_S:g} s; is the machine overloaded?"
            )
        return max(self._idle, LEAST_IDLE_S) - self._spent()

    def stop(self) -> None:
        """The call is over."""
        self._idle -= self._spent()

    def _spent(self) -> float:
        return max(0.0, time.monotonic() - self._since - (self._busy_s() - self._busy))

    def _busy_s(self) -> float:
        if not self._told:
            return 0.0
        try:
            running, waiting, *_ = self._schedule.read_text().split()
        except (OSError, ValueError):  # it is gone, which the pipe will say
            return self._busy
        return (int(running) + int(waiting)) / 1e9


def _about_root(isolated: bool) -> str:
    root = os.geteuid() == 0 and not isolated
    return "; as root, programs run as the user nobody, who has to be able to read Python's folder" if root else ""


class _Process:
    """One worker with one program. A context manager: at its end nothing of it is left running."""

    def __init__(self, folder: str, limits: Limits) -> None:
        self._limits = limits
        self._received = 0
        self._buffer = b""
        settings = {
            "isolated": limits.isolated,
            "folder": folder,
            "uid": NOBODY,
            "seconds": limits.seconds,
            "memory_bytes": limits.memory_mb << 20,
        }
        try:
            self._worker = subprocess.Popen(  # noqa: S603 - a fixed program of this package; the code goes through a pipe
                # -s -P with these variables is -I, except that the order of sets is the same in every process.
                [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", str(_WORKER), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            raise GraderError(f"code grader: a process cannot be started: {error}") from error

    def __enter__(self) -> _Process:
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_ready(self) -> None:
        assert self._worker.stdin is not None  # a pipe
        os.set_blocking(self._worker.stdin.fileno(), False)
        told: dict[str, Any] = {} if self._limits.isolated else {"program": self._worker.pid}
        self._patience = _Patience(None, SETUP_S)
        self._patience.start()
        while not ("ready" in told and "program" in told):  # the guard and the program speak in any order
            try:
                told |= json.loads(self._line())
            except ProgramEndedError as error:
                what = f"code grader: the process that runs programs {error} before it stood ready"
                raise GraderError(what) from error
            if "setup" in told:
                raise GraderError(f"code grader: the process that runs programs cannot be shut in: {told['setup']}")
        self._patience = _Patience(told["program"], self._limits.seconds + IDLE_S)

    def ask(self, **request: Any) -> Answer:
        """One request, one reply. Raises `ProgramEndedError` when there is none that answers it."""
        nonce = secrets.token_hex(16)
        self._patience.start()
        self._send(json.dumps({**request, "nonce": nonce}).encode() + b"\n")
        try:
            reply = json.loads(self._line())
        except (ValueError, RecursionError):  # not UTF-8, not JSON, too deep, or an integer of thousands of digits
            raise ProgramEndedError("gave a reply that cannot be read") from None
        finally:
            self._patience.stop()
        if not isinstance(reply, dict) or reply.get("nonce") != nonce:
            raise ProgramEndedError("wrote into the channel of its replies")
        if "failed" in reply:
            return Answer(failed=_said(reply, compiling=request["do"] == "compile"))
        return Answer(value=reply.get("value"))

    def close(self) -> None:
        """Hang up, which ends the program where it is isolated; then end what is left of it."""
        for pipe in (self._worker.stdin, self._worker.stdout):
            assert pipe is not None
            pipe.close()
        if self._limits.isolated:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._worker.wait(SETUP_S)
        if self._worker.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.kill()
        self._worker.wait()

    def _send(self, data: bytes) -> None:
        assert self._worker.stdin is not None
        descriptor = self._worker.stdin.fileno()
        while data:
            self._wait(descriptor, select.POLLOUT)
            try:
                data = data[os.write(descriptor, data[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise ProgramEndedError(self._end()) from None

    def _line(self) -> bytes:
        assert self._worker.stdout is not None
        descriptor = self._worker.stdout.fileno()
        while b"\n" not in self._buffer:
            self._wait(descriptor, select.POLLIN)
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                raise ProgramEndedError(self._end())
            self._received += len(chunk)
            if self._received > self._limits.most_output:
                raise ProgramEndedError(f"replied with more than {self._limits.most_output} bytes")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(1000 * max(0.0, self._patience.left())):
            if self._patience.left() <= 0:
                raise ProgramEndedError("did not answer in time")

    def _end(self) -> str:
        """How the program ended; it has closed its end of the pipe, which may also mean that it lives on in silence."""
        try:
            code = self._worker.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closed the channel of its replies"
        if code == -signal.SIGKILL:
            return f"used up its {self._limits.seconds} s of processor time, or was killed"
        return "ended before it answered"


def _said(reply: dict[str, Any], compiling: bool) -> str:
    """The kind of a failure. A program chooses what its errors say, so only the names of built-in ones are repeated."""
    name, line = reply["failed"], reply.get("line")
    if name == "NotPlainError":
        return "it returned something else than plain values"
    known = vars(builtins).get(name) if isinstance(name, str) else None
    if not (isinstance(known, type) and issubclass(known, BaseException)):
        return "an error of its own"
    return f"{name} in line {line}" if compiling and type(line) is int else str(name)


@contextlib.contextmanager
def _folder(limits: Limits) -> Iterator[str]:
    """A folder that is gone afterwards. Isolated programs never see it: it is where their own root is mounted."""
    path = tempfile.mkdtemp(prefix="hybrid-code-")
    try:
        if os.geteuid() == 0 and not limits.isolated:
            os.chown(path, NOBODY, NOBODY)
        yield path
    finally:
        try:
            shutil.rmtree(path)
        except (OSError, RecursionError):  # made so deep, or so locked, that Python gives up
            subprocess.run(["/bin/rm", "-rf", "--", path], check=False, stderr=subprocess.DEVNULL)  # noqa: S603
