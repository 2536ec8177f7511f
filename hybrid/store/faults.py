"""Fault points: named places around every durable write where a test can kill the process.

`HYBRID_FAULT=NAME` or `NAME:K` kills the process with SIGKILL at the K-th pass (from 1) of the point called NAME;
`HYBRID_FAULT=*:K` counts passes of all points. `HYBRID_FAULT_SIGNAL=SIGTERM` sends that signal instead.
`HYBRID_FAULT_LOG=FILE` appends each point's name to FILE, so that a counting run can list them. Without these variables a
fault point does nothing. Does not: raise, log or clean up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

_passes: Counter[str] = Counter()


def faultpoint(name: str) -> None:
    """Pass the point `name`; dies here, or gets a signal, when the environment says so."""
    log = os.environ.get("HYBRID_FAULT_LOG")
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    wanted = os.environ.get("HYBRID_FAULT")
    if not wanted:
        return
    target, _, nth = wanted.partition(":")
    if target not in (name, "*"):
        return
    _passes[target] += 1
    if _passes[target] == int(nth or 1):
        os.kill(os.getpid(), signal.Signals[os.environ.get("HYBRID_FAULT_SIGNAL", "SIGKILL")])
