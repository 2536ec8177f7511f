"""A clean stop: SIGINT and SIGTERM ask a training to end where it can go on from.

    with StopRequest() as request:
        ...                       # between steps: if request.asked: save, and end
    request.reraise()             # KeyboardInterrupt when a signal came

A second signal does not wait: it raises KeyboardInterrupt where the program is. Outside the main thread signals stay as they
are. Does not: save anything.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the process was asked to stop, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)

    def reraise(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.asked is not None:
            raise KeyboardInterrupt(self.asked.name)
