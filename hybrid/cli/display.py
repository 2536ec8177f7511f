"""Shows a run while it runs: live bars on a terminal, plain lines elsewhere, nothing under `--json`.

Consumes the pipeline's events `(kind, data)`; a kind that it does not know is skipped. The first line names the device.
Does not: decide anything, or write to the run folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from hybrid.cli.output import is_leader
from hybrid.cli.text import safe, table

if TYPE_CHECKING:
    from rich.progress import TaskID

_QUIET_SECONDS = 10.0
"""Plain lines about progress come at most this often."""


class Display:
    """Keeps what the final result needs and shows nothing. The visible forms extend `show`."""

    def __init__(self) -> None:
        self._started: dict[str, Any] = {}
        self._done: dict[str, Any] = {}
        self._warnings: list[str] = []

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take one event of the pipeline."""
        if kind == "run.started":
            self._started = dict(data)
        elif kind == "run.done":
            self._done = dict(data)
        elif kind == "warning":
            self._warnings.append(str(data.get("message", "")))
        self.show(kind, data)

    def show(self, kind: str, data: Mapping[str, Any]) -> None:
        """Draw one event."""

    def close(self) -> None:
        """Leave the terminal as it was. Nothing is drawn afterwards."""

    def outcome(self) -> dict[str, Any]:
        """The run in a few facts, for `--json`: those of its start and end, and its warnings."""
        return {**self._started, **self._done, "warnings": list(self._warnings)}


class PlainDisplay(Display):
    """One line per event, for files, pipes and continuous integration."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream
        self._last = time.monotonic()

    def show(self, kind: str, data: Mapping[str, Any]) -> None:
        """Print the event's line; progress only every ten seconds."""
        if kind == "progress":
            if time.monotonic() - self._last < _QUIET_SECONDS or not data.get("total"):
                return
            self._print(f"{_place(data)} {data.get('done')} of {data.get('total')} {data.get('unit', '')}".rstrip())
            return
        for line in describe(kind, data):
            self._print(line)

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        print(line, file=self._stream, flush=True)


class RichDisplay(Display):
    """A bar for the stage that runs, above it the lines of what is done."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            console=Console(highlight=False, markup=False, emoji=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, kind: str, data: Mapping[str, Any]) -> None:
        """Move a bar, or print lines above the bars."""
        place = _place(data)
        if kind == "stage.started":
            self._tasks[place] = self._progress.add_task(place, total=None, unit="")
            return
        if kind == "progress":
            if place not in self._tasks:
                self._tasks[place] = self._progress.add_task(place, total=None, unit="")
            done, total, unit = data.get("done"), data.get("total"), safe(data.get("unit", ""))
            self._progress.update(self._tasks[place], completed=done, total=total, unit=unit)
            return
        if kind == "stage.done" and place in self._tasks:
            self._progress.remove_task(self._tasks.pop(place))
        if kind == "run.done":
            self.close()
        for line in describe(kind, data):
            self._progress.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Take the bars off the terminal."""
        self._progress.stop()


def make_display(json: bool, stream: IO[str] | None = None) -> Display:
    """The form that fits: silent under `--json` and on other ranks, bars on a terminal, else plain lines.

    `CI`, `NO_COLOR` and `TERM=dumb` ask for plain lines. `stream` is stdout unless given.
    """
    if json or not is_leader():
        return Display()
    stream = sys.stdout if stream is None else stream
    plain = os.environ.get("TERM") == "dumb" or any(os.environ.get(name) for name in ("CI", "NO_COLOR"))
    return PlainDisplay(stream) if plain or not stream.isatty() else RichDisplay()


def describe(kind: str, data: Mapping[str, Any]) -> list[str]:
    """The lines that say what an event means; none for kinds without one."""
    if kind == "run.started":
        device, model = safe(data.get("device", "?")), safe(data.get("model", "?"))
        lines = [
            f"device: {device}; model: {model}; run: {safe(data.get('name', '?'))} in {safe(data.get('out', '?'))}"
        ]
        if data.get("resumed"):
            lines.append(f"continuing: {data.get('reused_calls', 0)} answers are already paid for")
        return lines
    if kind == "stage.started":
        return [f"{_place(data)} ..."]
    if kind == "stage.done":
        summary = safe(data.get("summary", "") or "done")
        return [f"{_place(data)} {summary} ({duration(float(data.get('seconds', 0.0)))})"]
    if kind == "warning":
        return [f"warning: {safe(data.get('message', ''))}"]
    if kind == "run.done":
        rows = [{"capability": name, "placement": placed} for name, placed in data.get("placements", {}).items()]
        report = f"report: {safe(data.get('report', '?'))} ({duration(float(data.get('seconds', 0.0)))})"
        return ["", *table(rows).splitlines(), "", report]
    return []


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _place(data: Mapping[str, Any]) -> str:
    return f"[{safe(data.get('capability') or 'run')}] {safe(data.get('stage', ''))}:"
