"""Tables of what `bench_swarm.py` measured: composites, worlds, marks and experts. Does not: measure.

A record is one composite in one world with one kind of experts, as `bench_swarm.run_seed` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_order import student

from hybrid.evidence.stats import mean_interval, paired_interval, wilson

LAYOUTS = {"angle": "<{}>", "square": "[{}]", "sure": "{}~9"}
KINDS = {
    "sft": {"method": "sft", "warm_start": None},
    "grpo": {"method": "grpo"},
}
"""Experts by how they are trained: changes of `weights`."""
SEARCHES = ("cma", "swarms", "random")


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def names_of(record: dict[str, Any]) -> list[str]:
    """Experts of a record that were tested."""
    return [n for n in [*(m.lstrip("$") for m in record["world"]["marks"]), *LAYOUTS] if n in record["test"]]


def needed_by(composite: str, marks: Sequence[str], layout: str) -> set[str]:
    """The experts that a composite needs."""
    return {mark.lstrip("$") for mark in marks} | ({layout} if composite == "layout" else set())


def best_expert(record: dict[str, Any]) -> list[float]:
    """The expert that is best on the test itself: more than anyone who has to choose could have."""
    return max((record["test"][n] for n in names_of(record)), key=mean)


def routed(record: dict[str, Any]) -> list[float]:
    """Whether any expert answers an item right: no router between them can do better."""
    return [max(column) for column in zip(*(record["test"][n] for n in names_of(record)), strict=True)]


def shown(values: Sequence[float]) -> str:
    """`0.97 [0.93, 0.99]`."""
    i = mean_interval(values, 0.95)
    return f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]"


def difference(after: Sequence[float], before: Sequence[float]) -> str:
    """Mean paired difference with its interval."""
    d = paired_interval([a - b for a, b in zip(after, before, strict=True)], 0.95)
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def share(hits: int, n: int) -> str:
    """`12 of 90 = .133 [.08, .21]`."""
    if not n:
        return "none"
    i = wilson(hits, n)
    return f"{hits} of {n} = {hits / n:.3f} [{i.low:.3f}, {i.high:.3f}]"


def missed(record: dict[str, Any]) -> list[bool]:
    """The test items that neither the base nor any expert answers right."""
    return [not any(pair) for pair in zip(record["test"]["base"], routed(record), strict=True)]


def pooled(records: Sequence[dict[str, Any]], composite: str, kind: str) -> list[str]:
    """The tables of one composite and kind of experts, over all seeds."""
    mine = [r for r in records if (r["composite"], r["kind"]) == (composite, kind)]
    best = [v for r in mine for v in best_expert(r)]
    route = [v for r in mine for v in routed(r)]
    base = [v for r in mine for v in r["test"]["base"]]
    hopeless = [m for r in mine for m in missed(r)]
    lines = [
        f"\n### {composite}, {kind} experts: {len(mine)} worlds, {len(base)} test items\n",
        "| what answers | sealed test | minus best expert | minus perfect routing | of what base and all experts failed |",
        "|---|---|---|---|---|",
        f"| base | {shown(base)} | | | |",
        f"| best expert (chosen on the test) | {shown(best)} | | | |",
        f"| any expert (perfect routing) | {shown(route)} | | | |",
    ]
    for label in ("cma", "swarms", "random", "sum x 1", "sum x 0.5"):
        if all(label in r["test"] for r in mine):
            values = [v for r in mine for v in r["test"][label]]
            solved = sum(1 for v, m in zip(values, hopeless, strict=True) if m and v)
            gains = f"{difference(values, best)} | {difference(values, route)}"
            lines.append(f"| {label} | {shown(values)} | {gains} | {share(solved, sum(hopeless))} |")
    for label in ("base samples", "expert samples"):
        pairs = [(row, m) for r in mine for row, m in zip(r[label], missed(r), strict=False)]
        if pairs:
            hit, n = sum(1 for row, m in pairs if m and any(row)), sum(m for _, m in pairs)
            draws, once = mean([len(row) for row, _ in pairs]), mean([mean(row) for row, _ in pairs])
            lines.append(f"| {label}: any of {draws:.0f} | {once:.3f} a sample | | | {share(hit, n)} |")
    return [*lines, *by_world(mine), *cost(mine)]


def by_world(records: Sequence[dict[str, Any]]) -> list[str]:
    """The gains again, with worlds instead of items as what was drawn at random: Student's t over their means."""
    lines = []
    for label in SEARCHES:
        mine = [r for r in records if label in r["test"]]
        others = {"best expert": best_expert, "perfect routing": routed}
        if label != "cma":
            others["cma"] = lambda r: r["test"]["cma"]
        gains = {what: [mean(r["test"][label]) - mean(of(r)) for r in mine] for what, of in others.items()}
        told = ", ".join(f"{student(values, True)} against {what}" for what, values in gains.items() if len(values) > 1)
        if told:
            lines.append(f"\n{label}, by world: {told}.")
    return lines


def cost(records: Sequence[dict[str, Any]]) -> list[str]:
    """What each search asked for."""
    lines = []
    for label in SEARCHES:
        found = [r["searches"][label] for r in records if label in r["searches"]]
        if found:
            asked, saved, looked = (sum(f[key] for f in found) for key in ("asked", "saved", "evaluations"))
            lines.append(
                f"\n{label}: {looked / len(found):.0f} mixtures a world, {asked:,} answers, {saved:,} spared by racing "
                f"({saved / (asked + saved):.0%})."
            )
    return lines


def worlds(records: Sequence[dict[str, Any]]) -> list[str]:
    """World by world; the experts that a composite needs in bold."""
    lines = [
        "\n| seed | composite | experts | base | best expert | any expert | cma | swarms | random | found by cma |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for r in records:
        cells = [mean(r["test"]["base"]), mean(best_expert(r)), mean(routed(r))]
        cells += [mean(r["test"][c]) if c in r["test"] else None for c in SEARCHES]
        needed = needed_by(r["composite"], r["world"]["needed"], r["world"]["layout"])
        parts = [
            f"**{n} {c:+.2f}**" if n in needed else f"{n} {c:+.2f}"
            for n, c in r["searches"]["cma"]["coefficients"].items()
        ]
        told = " | ".join("-" if c is None else f"{c:.3f}" for c in cells)
        lines.append(f"| {r['seed']} | {r['composite']} | {r['kind']} | {told} | {', '.join(parts)} |")
    return lines


def by_mark(records: Sequence[dict[str, Any]], root: Path) -> list[str]:
    """How each answers the items of either mark of the layout composite."""
    lines = ["\n| seed | experts | mark | cma | swarms | random | sum x 1 |", "|---|---|---|---|---|---|---|"]
    for r in records:
        if r["composite"] == "layout":
            text = (root / str(r["seed"]) / "layout" / "test.jsonl").read_text(encoding="utf-8")
            asked = [json.loads(line)["prompt"].rsplit(" ", 1)[1] for line in text.splitlines()]
            for mark in r["world"]["needed"]:
                mine = [i for i, found in enumerate(asked) if found == mark]
                cells = [
                    f"{mean([r['test'][label][i] for i in mine]):.3f}" if label in r["test"] else "-"
                    for label in ("cma", "swarms", "random", "sum x 1")
                ]
                lines.append(f"| {r['seed']} | {r['kind']} | {mark.lstrip('$')} | {' | '.join(cells)} |")
    return lines


def experts_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """What training gave, and what it did to the other capabilities."""
    lines = ["\n| experts | own score before | after | others' score before | after |", "|---|---|---|---|---|"]
    for kind in KINDS:
        mine = [r["own"] for r in records if r["kind"] == kind and r["composite"] == "layout"]
        if mine:
            own = [e for found in mine for e in found.values()]
            before = [found[other]["base"] for found in mine for e in found.values() for other in e["others"]]
            after = [v for e in own for v in e["others"].values()]
            cells = [mean([e["base"] for e in own]), mean([e["own"] for e in own]), mean(before), mean(after)]
            lines.append(f"| {kind} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
    return lines
