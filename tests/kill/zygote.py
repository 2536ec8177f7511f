"""Forks a fresh child for every run it is told of, so that a hundred killed processes cost no hundred interpreter starts.

Reads lines of JSON `{"config", "out", "env"}` and answers each with the child's exit code (negative: the signal).
The parent never runs anything itself, so every child starts from the same clean state.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from hybrid.config.loader import load_config
from hybrid.pipeline.run import run


def child(order: dict[str, str], env: dict[str, str]) -> NoReturn:
    """One run, then the end of the process without any tidying."""
    code = 1
    try:
        os.environ.update(env)
        run(load_config(Path(order["config"])), Path(order["out"]), on_event=lambda kind, data: None)
        code = 0
    except BaseException:  # noqa: BLE001  # the edge of a process: whatever went wrong is shown
        traceback.print_exc()
    os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            child(order, order["env"])
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
