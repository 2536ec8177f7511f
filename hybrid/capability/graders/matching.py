"""Matching with a hard limit: patterns of the user's config against a text of the model, in a process of their own.

The engine of `re` backtracks: one pattern and one hostile text can take years, and inside this process nothing could
stop them. So one worker process per process does the matching. The limit is processor time of the worker, counted by
the kernel, so that a busy machine does not turn a right answer into a wrong one. Needs POSIX.
Does not: compile, escape or judge.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from hybrid.capability.graders.base import GraderError

STALLED_S = 60.0
"""Wall seconds, beyond the limit itself, after which a worker that neither answers nor computes is given up."""
_WORKER = Path(__file__).with_name("matching_worker.py")


class MatchTooCostly(Exception):  # noqa: N818 - an outcome that every caller handles, not an error of hybrid
    """The match used up its processor time or memory. The worker is replaced; later matches are not affected."""


class Matcher:
    """One worker process, started at the first match and replaced when it dies. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def first(self, patterns: Sequence[str], text: str, full: bool, limit_s: float) -> int:
        """Index of the first pattern that matches the text (wholly when `full`), or -1.

        All patterns together may use `limit_s` seconds of processor time. Raises `MatchTooCostly` beyond that, and
        `GraderError` when the worker cannot be used, which says nothing about the text.
        """
        request = {"patterns": list(patterns), "text": text, "full": full, "seconds": limit_s}
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            reply = self._exchange(line, limit_s)
            if reply is None:  # died for a reason of its own, such as a system out of memory: once more, afresh
                reply = self._exchange(line, limit_s)
            if reply is None:
                raise GraderError("regex grader: the matching process died twice on the same answer")
        content = json.loads(reply)
        if "too_costly" in content:
            raise MatchTooCostly
        return int(content["first"])

    def close(self) -> None:
        """End the worker. The next match starts another one."""
        worker, self._worker = self._worker, None
        if worker is None or self._owner != os.getpid():
            return
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None:
                pipe.close()

    def _exchange(self, line: bytes, limit_s: float) -> bytes | None:
        worker = self._running()
        assert worker.stdin is not None  # both are pipes, see _running
        assert worker.stdout is not None
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            poll = select.poll()
            poll.register(worker.stdout, select.POLLIN)
            if not poll.poll(1000 * (limit_s + STALLED_S)):
                self.close()
                raise GraderError("regex grader: the matching process does not answer; is the machine overloaded?")
            reply = worker.stdout.readline()
        except BrokenPipeError:
            reply = b""
        if reply.endswith(b"\n"):
            return reply
        ended_by = worker.wait()
        self._worker = None
        if ended_by == -signal.SIGPROF:
            raise MatchTooCostly
        return None

    def _running(self) -> subprocess.Popen[bytes]:
        forked = self._owner != os.getpid()
        if self._worker is None or forked or self._worker.poll() is not None:
            self._worker, self._owner = self._start(), os.getpid()
        return self._worker

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - a fixed program of this package; the text goes through a pipe
                [sys.executable, "-I", "-S", "-X", "utf8", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # an interrupt from the keyboard is for us alone
            )
        except OSError as error:
            raise GraderError(f"regex grader: the matching process cannot be started: {error}") from error


MATCHER = Matcher()
"""The worker of this process. Every regex grader shares it."""
atexit.register(MATCHER.close)
