"""Which alarms would these thresholds have given in trainings that are done? Nothing is trained.

    python scripts/replay_alarms.py runs/formats runs/hacks                  # the thresholds of today
    python scripts/replay_alarms.py runs/my-run --set entropy_floor=0.2 --set length_growth=null

Looks for RESULT.json of GRPO trainings below the folders. Monitors are functions of the log, so this is what a training would
have said; what a `stop` would have cut off is still there. One row per name of a training's folder: a folder per seed with the
same names in it gives counts over seeds. Entropy and pass@1 are means of the first and the last window.

Does not: change a record, or know the alarm that looks at `search` (`reward_without_search`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.config.monitors import MonitorsConfig
from hybrid.weights.monitors import replay


def settings_of(pairs: Sequence[str]) -> MonitorsConfig:
    """The default monitors with `key=value` (JSON) put in."""
    changes = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return MonitorsConfig.model_validate_json(json.dumps(changes))


def watched(path: Path, settings: MonitorsConfig) -> dict[str, Any] | None:
    """What a training's record gives; None where it is not one of GRPO that is long enough."""
    record = json.loads(path.read_text(encoding="utf-8"))
    identity, history = record.get("identity", {}), record.get("history", [])
    groups = identity.get("weights.grpo.prompts_per_step")
    if not groups or len(history) < 2 * settings.window or "entropy" not in history[0]:
        return None
    completions = groups * identity["weights.grpo.generations"]
    alarms = replay(settings, groups, completions, history)
    return {
        "alarms": {alarm.monitor: alarm.step for alarm in alarms},
        **{key: ends(history, key, settings.window) for key in ("entropy", "pass_at_1")},
    }


def ends(history: Sequence[Mapping[str, float]], key: str, window: int) -> tuple[float, float]:
    """Means of the first and the last window; NaN where it was not logged."""
    parts = ([line[key] for line in part if key in line] for part in (history[:window], history[-window:]))
    first, last = (statistics.fmean(part) if part else float("nan") for part in parts)
    return first, last


def row(name: str, found: Sequence[dict[str, Any]]) -> str:
    """One line of the table."""
    fired = Counter(alarm for one in found for alarm in one["alarms"])
    said = ", ".join(f"{alarm} {count} of {len(found)}" for alarm, count in sorted(fired.items())) or "none"
    cells = [name, str(len(found))]
    for key in ("entropy", "pass_at_1"):
        first, last = (statistics.fmean(one[key][i] for one in found) for i in (0, 1))
        cells.append(f"{first:.2f} to {last:.2f}")
    return "| " + " | ".join([*cells, said]) + " |"


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    settings = settings_of(args.set)
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in args.folders:
        for path in sorted(folder.rglob("RESULT.json")):
            name = path.parent.name.lstrip("0123456789").lstrip("-") or path.parent.name
            one = watched(path, settings)
            if one is not None:
                found.setdefault(name, []).append(one)
    print("| training | count | entropy | pass@1 | alarms |\n|---|---|---|---|---|")
    for name, rows in found.items():
        print(row(name, rows))


if __name__ == "__main__":
    main()
