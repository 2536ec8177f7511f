"""Where results and errors go: stdout for the result, stderr for everything that went wrong.

Under `--json` stdout carries one JSON document and nothing else: while a command runs, whatever libraries and child
processes print to stdout goes to stderr instead. Only the process of rank 0 prints. Does not: decide what to print.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import IO, Any


def is_leader() -> bool:
    """Whether this process prints: the only one, or rank 0 of `accelerate launch`."""
    return os.environ.get("RANK", "0") in ("", "0")


@dataclass(frozen=True)
class Output:
    """What a command prints its result with. `as_json` is what the user asked for with `--json`."""

    as_json: bool
    stream: IO[str]

    def result(self, data: Any, text: str) -> None:
        """Print the result: `data` as one JSON document, or `text` for people."""
        if not is_leader():
            return
        if self.as_json:
            print(json.dumps(data, indent=2, allow_nan=False, default=str), file=self.stream, flush=True)
        elif text:
            print(text, file=self.stream, flush=True)

    def error(self, kind: str, message: str, code: int, problems: Sequence[Mapping[str, Any]] = ()) -> None:
        """Print an error: sentences on stderr, or `{"error": {...}}` on stdout under `--json`."""
        if not is_leader():
            return
        if self.as_json:
            body = {"type": kind, "message": message, "exit_code": code, "problems": list(problems)}
            print(json.dumps({"error": body}, indent=2, default=str), file=self.stream, flush=True)
        else:
            print(message, file=sys.stderr, flush=True)

    def abandon(self) -> None:
        """Nobody reads the output any more: let whatever is still buffered go nowhere, also while Python shuts down."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


@contextmanager
def open_output(as_json: bool) -> Iterator[Output]:
    """The output of one command. Under `--json` it alone can reach stdout until the command is over."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal that cannot show a character must not stop a run
            reconfigure(errors="backslashreplace")
    if not as_json:
        yield Output(False, sys.stdout)
        return
    with _reserved_stdout() as stream, redirect_stdout(sys.stderr):
        yield Output(True, stream)


@contextmanager
def _reserved_stdout() -> Iterator[IO[str]]:
    """The real stdout, while file descriptor 1, which child processes inherit, leads to stderr."""
    sys.stdout.flush()
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # no file behind it: nothing but Python can print to it
        yield sys.stdout
        return
    if descriptor != 1:
        yield sys.stdout
        return
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        os.dup2(saved, 1)
        os.close(saved)
