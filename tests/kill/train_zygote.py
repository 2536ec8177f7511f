"""Forks a fresh child for every training it is told of, from a process in which torch and TRL are warm.

Reads lines of JSON `{"folder", "out", "env", "strict"}` and answers each with the child's exit code (negative: the signal) and
the last line of what it raised. `130` is an interrupted training, as the command's own exit code.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from weights_tiny import make_job, save_tiny, train

from hybrid.weights.base import TrainJob


def job_of(folder: Path, out: Path, **changes: Any) -> TrainJob:
    """Two optimiser steps of GRPO, each with a checkpoint: an ordinary one and the last one."""
    grpo = {"steps": 2, "prompts_per_step": 2, "generations": 4}
    weights = {"checkpoint_every": 1}
    return make_job(folder, out, grpo=grpo, weights=weights, max_new_tokens=6, **changes)


def child(order: dict[str, Any], answer: int) -> NoReturn:
    """One training, then the end of the process without any tidying."""
    code, said = 0, ""
    os.environ.update(order["env"])
    try:
        train(job_of(Path(order["folder"]), Path(order["out"]), strict=order["strict"]))
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001  # the edge of a process: whatever went wrong is told
        code, said = 1, f"{type(error).__name__}: {error}"
    os.write(answer, said.encode())
    os._exit(code)


def main() -> None:
    """Train once to warm everything up, then serve until the input ends."""
    with tempfile.TemporaryDirectory() as name:
        train(job_of(save_tiny(Path(name) / "tiny"), Path(name) / "job"))
    os.fsync = lambda descriptor: None  # nothing here can cut the power
    gc.collect()
    gc.freeze()  # the trainer collects garbage at its end: not all of torch, in every child
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            child(order, write)
        os.close(write)
        with os.fdopen(read) as stream:
            said = stream.read()
        _, status = os.waitpid(process, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "said": said}), flush=True)


if __name__ == "__main__":
    main()
