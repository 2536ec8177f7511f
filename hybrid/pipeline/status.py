"""Where a run is, from its folder alone: nothing is locked, loaded or changed.

Does not: follow a run live (it reads the events that are there).
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hybrid.errors import RunFolderError, UsageError
from hybrid.store.records import RecordLog


def status(run_dir: Path) -> dict[str, Any]:
    """State, attempts, finished stages by capability and the placements when there are any.

    `state` is `done`, `running` (a process holds the folder) or `stopped` (the same command goes on).
    """
    identity = run_dir / "run.json"
    if not identity.is_file():
        raise UsageError(f"{run_dir} is not a run folder: it has no run.json; name the folder given to --out")
    events = list(RecordLog(run_dir / "events.jsonl").read())
    attempts = [e for e in events if e["kind"] == "attempt.started"]
    last_attempt = attempts[-1]["seq"] if attempts else 0
    stages: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["kind"] == "stage.done" and event["seq"] > last_attempt:
            data = event["data"]
            row = {"stage": data["stage"], "seconds": data["seconds"], "summary": data["summary"]}
            stages.setdefault(data["capability"], []).append({**row, "peak_memory_mb": data["peak_memory_mb"]})
    done = [e for e in events if e["kind"] == "run.done" and e["seq"] > last_attempt]
    held = (run_dir / "OWNER").is_file() and _alive(run_dir / "OWNER")
    report = run_dir / "report" / "placement.json"
    return {
        "run": str(run_dir),
        "name": _name(identity),
        "state": "done" if done else ("running" if held else "stopped"),
        "attempts": len(attempts),
        "last_event": datetime.fromtimestamp(events[-1]["t"], UTC).isoformat(timespec="seconds") if events else None,
        "stages": stages,
        "placements": done[-1]["data"]["placements"] if done else {},
        "report": str(report) if report.is_file() else None,
    }


def _name(identity: Path) -> str:
    try:
        return str(json.loads(identity.read_text(encoding="utf-8"))["fields"]["config"]["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{identity} cannot be read ({error}); start over with --fresh or another --out") from None


def _alive(owner: Path) -> bool:
    try:
        os.kill(int(owner.read_text(encoding="utf-8")), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
