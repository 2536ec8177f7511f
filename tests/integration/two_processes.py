"""A script run by two processes of one machine, as torchrun starts them. What it writes lies beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def launch(
    script: str, model: Path, out: Path, *, timeout_s: float = 600, extra: Mapping[str, str] | None = None
) -> list[dict]:
    """Run `script` (arguments: the tests' folder, the model, `out`) in two processes; what `rank-0.json` and `rank-1.json` hold.

    `accelerate launch --cpu` starts one process alone unless MPI is there; torchrun is what it uses elsewhere.
    """
    (out / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(out / "script.py"), str(Path(__file__).parent), str(model), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(extra or {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-9000:]
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
