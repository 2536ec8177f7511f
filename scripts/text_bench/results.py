"""The tables: means over seeds with 95 % intervals, drawn from records.

Intervals of means and of ratios of medians are percentile bootstraps over seeds; shares have Wilson's. A run that never
reached a score counts as never, not as left out. Does not: run anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybrid.evidence.intervals import wilson
from text_bench.methods import PEERS_AT_DEFAULTS, PEERS_SUITED

Records = dict[str, list[dict[str, Any]]]
BUDGETS = (250, 500, 750, 1000, 1500, 2000, 3000, 4500, 6000)
GOALS = (0.5, 0.75, 0.9)
"""Shares of the right document's score."""
RESAMPLES = 10_000


def tables(main: Records, null: Records, most: int) -> str:
    """All tables as Markdown."""
    parts = [curve(main), reach(main), *(ratios(main, goal, most) for goal in GOALS), outcome(main)]
    if null:
        parts.append(nulls(null))
    return "\n\n".join(parts)


def interval(values: Sequence[float], statistic: Callable[..., Any] = np.mean) -> tuple[float, float]:
    """Percentile bootstrap over seeds; the ends of one value are that value."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(statistic(data[draws], axis=1), [0.025, 0.975], method="nearest")
    return float(low), float(high)


def told(values: Sequence[float], digits: int = 2) -> str:
    """A mean with its interval."""
    low, high = interval(values)
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def share(flags: Sequence[bool]) -> str:
    """A count with the interval of its share."""
    found = wilson(sum(flags), len(flags))
    return f"{sum(flags)} of {len(flags)} [{found.low:.2f}, {found.high:.2f}]"


def at(record: dict[str, Any], budget: int) -> float:
    """The test score of what would be handed over after so many rollouts."""
    return float(next(score for spent, score in reversed(record["handed"]) if spent <= budget))


def reached(record: dict[str, Any], goal: float) -> float:
    """Rollouts after which the goal is first met on the sealed test; infinity for never."""
    wanted = goal * record["right"]
    return float(next((spent for spent, score in record["handed"] if score >= wanted), math.inf))


def curve(records: Records) -> str:
    """Score against rollouts."""
    head = ["method", *(str(b) for b in BUDGETS)]
    rows = [[name, *(told([at(r, b) for r in found]) for b in BUDGETS)] for name, found in records.items()]
    first = next(iter(records.values()))
    about = f"start {told([r['start'] for r in first])}, right document {told([r['right'] for r in first])}"
    return f"### Sealed-test score after so many rollouts ({about})\n\n" + table(head, rows)


def reach(records: Records) -> str:
    """Rollouts to fixed scores."""
    head = ["method", *(f"{g:.0%}: median (reached)" for g in GOALS), "proposals", "rollouts in all"]
    rows = []
    for name, found in records.items():
        cells = []
        for goal in GOALS:
            values = [reached(r, goal) for r in found]
            cells.append(f"{number(float(np.median(values)))} ({sum(map(math.isfinite, values))} of {len(values)})")
        rows.append([name, *cells, told([r["proposals"] for r in found], 0), told([r["rollouts"] for r in found], 0)])
    return "### Rollouts until the document reaches a share of the right document's score\n\n" + table(head, rows)


def ratios(records: Records, goal: float, most: int) -> str:
    """hybrid's rollouts to a goal against each peer's, seeds paired. Peers that never reach it count as `most`."""
    head = ["peer", "hybrid / peer, search", "hybrid / peer, ship gate included"]
    rows = []
    mine = {r["seed"]: r for r in records.get("hybrid", [])}
    for peer in (*PEERS_AT_DEFAULTS, *PEERS_SUITED):
        pairs = [(mine[r["seed"]], r) for r in records.get(peer, []) if r["seed"] in mine]
        if pairs:
            rows.append([peer, _ratio(pairs, goal, most, False), _ratio(pairs, goal, most, True)])
    return f"### Ratio of medians at {goal:.0%}\n\n" + table(head, rows)


def _ratio(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], goal: float, most: int, gate: bool) -> str:
    ours = np.array([reached(a, goal) + (a["ship_rollouts"] if gate else 0) for a, _ in pairs])
    theirs = np.array([min(reached(b, goal), most) for _, b in pairs])
    draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    spread = np.median(ours[draws], axis=1) / np.median(theirs[draws], axis=1)
    low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
    sign = "<= " if sum(reached(b, goal) == math.inf for _, b in pairs) * 2 >= len(pairs) else ""
    return f"{sign}{np.median(ours) / np.median(theirs):.2f} [{low:.2f}, {high:.2f}]"


def outcome(records: Records) -> str:
    """What the user ends up with, and what got in on the way."""
    head = ["method", "score handed over", "accepted edits harmful", "kept edits harmful", "kept edits neutral"]
    head += ["changed", "ships", "ends below its start", "beyond the interval", "tokens"]
    rows = []
    for name, found in records.items():
        rows.append(
            [
                name,
                told([r["given"]["test"] for r in found]),
                part(found, "accepted", "harmful"),
                part(found, "kept", "harmful"),
                part(found, "kept", "neutral"),
                share([r["changed"] for r in found]),
                share([r["ships"] for r in found]),
                share([r["given"]["delta"][0] < 0 for r in found]),
                share([r["given"]["delta"][2] < 0 for r in found]),
                told([r["given"]["tokens"] for r in found], 0),
            ]
        )
    return "### What is handed over at the end\n\n" + table(head, rows)


def part(found: Sequence[dict[str, Any]], which: str, truth: str) -> str:
    """The share of one kind among all edits of all seeds, with the bootstrap over seeds."""
    counts = np.array([[r[which].get(truth, 0), sum(r[which].values())] for r in found], dtype=float)
    hits, total = counts.sum(axis=0)
    if not total:
        return "none kept" if which == "kept" else "none"
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))
    sums = counts[draws].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
    return f"{hits / total:.2f} [{low:.2f}, {high:.2f}] of {total:.0f}"


def nulls(records: Records) -> str:
    """Worlds in which no edit is worth anything."""
    head = ["method", "search changed the document", "ships", "ends below its start", "beyond the interval", "rollouts"]
    rows = [
        [
            name,
            share([r["changed"] for r in found]),
            share([r["ships"] for r in found]),
            share([r["given"]["delta"][0] < 0 for r in found]),
            share([r["given"]["delta"][2] < 0 for r in found]),
            told([r["rollouts"] + r["ship_rollouts"] for r in found], 0),
        ]
        for name, found in records.items()
    ]
    return "### Null worlds: no edit is worth anything\n\n" + table(head, rows)


def number(value: float) -> str:
    """A count of rollouts, or that it was never reached."""
    return f"{value:.0f}" if math.isfinite(value) else "never"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
