"""What the choice is worth: policies replayed on worlds of six known truths (`regret_worlds.py`), against their cost.

    python scripts/bench_router.py --collect 0-29        # fitting worlds: every arm built; some 20 CPU seconds a world
    python scripts/bench_router.py --collect 1000-1107   # the first held-out worlds, which a rule was changed on
    python scripts/bench_router.py --collect 2000-2107   # held-out worlds that nothing was changed on
    python scripts/bench_router.py --write               # collected rows -> data/router/{fit,first,held-out}/worlds.jsonl
    hybrid router fit data/router/fit --out configs/router-fitted.yaml
    python scripts/bench_router.py --check 2000-2011     # `hybrid run` on worlds: does it place what the replay says
    python scripts/bench_router.py --on first            # the tables of docs/router.md, and docs/router.svg

A world that has its row is not run again, so the same command goes on after an interruption; several may run side by side
on different seeds. `--backwards` takes the seeds from the end. Intervals are 95 % percentile bootstraps over worlds, the same
resamples for every policy, so differences are paired.

Does not: decide what a policy does (see `regret_policies`) or fit thresholds (`hybrid router fit`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from bench_worlds import seeds_of
from regret_policies import Done, policies

from hybrid.config.router import RouterConfig
from hybrid.evidence.stats import wilson
from hybrid.router.advice import token_cost
from hybrid.router.fit import score, told
from hybrid.router.replay import everything, replay
from hybrid.router.table import Row, read_table

ORACLE, ROUTER, KEEP = "build everything", "router", "keep"
RESAMPLES = 4000
Floats = npt.NDArray[np.float64]


class Compared:
    """Every policy on every row, as arrays over rows, with the bootstrap's resamples."""

    def __init__(self, done: Mapping[str, Sequence[Done]], bases: Sequence[float]) -> None:
        self.names = tuple(done)
        self._of = {
            n: {f: np.array([getattr(d, f) for d in ds]) for f in Done.__annotations__} for n, ds in done.items()
        }
        self.base = np.array(bases)
        self.draws = np.random.default_rng(0).integers(0, len(self.base), (RESAMPLES, len(self.base)))

    def of(self, name: str, what: str) -> Floats:
        """A figure of a policy, by row."""
        return self._of[name][what]

    def interval(self, figure: Callable[[npt.NDArray[np.int64]], float]) -> tuple[float, float, float]:
        """A figure of a set of rows, with its bootstrap interval."""
        values = np.array([figure(draw) for draw in self.draws])
        low, high = np.nanquantile(values, (0.025, 0.975))
        return figure(np.arange(len(self.base))), float(low), float(high)

    def mean(self, name: str, what: str) -> tuple[float, float, float]:
        """Mean over rows."""
        values = self.of(name, what)
        return self.interval(lambda at: float(values[at].mean()))

    def regret(self, name: str) -> tuple[float, float, float]:
        """What the oracle is worth beyond the policy, as a share of what it is worth beyond the base."""
        best, mine = self.of(ORACLE, "worth"), self.of(name, "worth")
        return self.interval(lambda at: float((best - mine)[at].sum() / max((best - self.base)[at].sum(), 1e-9)))

    def hindsight(self, name: str) -> tuple[float, float, float]:
        """Regret against the best that any of the policies came to on each world, which no policy could have chosen: it takes the
        luckier of all, and the ungated ones too."""
        best, mine = np.max([self.of(n, "worth") for n in self.names], axis=0), self.of(name, "worth")
        return self.interval(lambda at: float((best - mine)[at].sum() / max((best - self.base)[at].sum(), 1e-9)))

    def share(self, name: str, what: str = "tokens") -> tuple[float, float, float]:
        """Cost as a share of the oracle's, over all rows together."""
        whole, mine = self.of(ORACLE, what), self.of(name, what)
        return self.interval(lambda at: float(mine[at].sum() / whole[at].sum()))

    def at_equal_cost(self, name: str) -> tuple[float, float, float]:
        """The router's worth minus the policy's at the router's cost.

        A dearer policy is mixed with `keep` until it costs as much (its gain shrinks in proportion); a cheaper one is mixed with
        building everything, as far as that money goes.
        """
        mine, theirs = self.of(ROUTER, "worth"), self.of(name, "worth")
        cost, other, whole = (self.of(n, "tokens") for n in (ROUTER, name, ORACLE))
        best = self.of(ORACLE, "worth")

        def figure(at: npt.NDArray[np.int64]) -> float:
            budget, price, most = cost[at].mean(), other[at].mean(), whole[at].mean()
            if price >= budget:
                mixed = self.base[at].mean() + budget / price * (theirs[at] - self.base[at]).mean()
            else:
                rest = min(1.0, (budget - price) / max(most - price, 1e-9))
                mixed = theirs[at].mean() + rest * (best[at] - theirs[at]).mean()
            return float(mine[at].mean() - mixed)

        return self.interval(figure)


def shown(found: tuple[float, float, float], signed: bool = False) -> str:
    """`0.95 [0.90, 0.98]`."""
    form = "+.3f" if signed else ".3f"
    return f"{found[0]:{form}} [{found[1]:{form}}, {found[2]:{form}}]"


def table(found: Compared) -> str:
    """Every policy: what it places right, what it is worth, what it costs."""
    head = "| policy | right | sealed test | worth | regret | regret, hindsight | cost (tokens) | cost (CPU) |\n"
    head += "|---|---|---|---|---|---|---|---|\n"
    rows = []
    for name in found.names:
        cells = (
            name, shown(found.mean(name, "right")), shown(found.mean(name, "test")), shown(found.mean(name, "worth")),
            shown(found.regret(name)), shown(found.hindsight(name)), shown(found.share(name)), shown(found.share(name, "cpu")),
        )  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return head + "\n".join(rows)


def equal_cost(found: Compared) -> str:
    """The router against each policy at the router's cost."""
    rows = [
        f"| {name} | {shown(found.at_equal_cost(name), signed=True)} |"
        for name in found.names
        if name not in (ROUTER, ORACLE)
    ]
    return "| policy | router minus policy, worth, at the router's cost |\n|---|---|\n" + "\n".join(rows)


def by_group(rows: Sequence[Row], found: Compared) -> str:
    """The router by truth."""
    out = ["| truth | worlds | right | regret, points | cost |", "|---|---|---|---|---|"]
    for group in sorted({r.group for r in rows}):
        at = np.array([i for i, r in enumerate(rows) if r.group == group])
        right = wilson(float(found.of(ROUTER, "right")[at].sum()), len(at))
        lost = (found.of(ORACLE, "worth") - found.of(ROUTER, "worth"))[at].mean()
        cost = found.of(ROUTER, "tokens")[at].sum() / found.of(ORACLE, "tokens")[at].sum()
        out.append(
            f"| {group} | {len(at)} | {right.mean:.2f} [{right.low:.2f}, {right.high:.2f}] | {lost:+.3f} | {cost:.2f} |"
        )
    return "\n".join(out)


def wrong(rows: Sequence[Row], config: RouterConfig) -> str:
    """Every world that the router places wrongly."""
    out = [
        "| world | truth | right | placed | weakest link | bought | worth, base / placed / best |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        done = replay(row, config)
        if not done.right:
            best = max(arm.worth for name, arm in row.arms.items() if name != "again")
            worth = f"{row.arms['base'].worth:.2f} / {done.worth:.2f} / {best:.2f}"
            cells = (
                row.name,
                row.group,
                ", ".join(row.right),
                done.placement,
                f"{done.link:.2f}",
                "yes" if done.bought else "no",
            )
            out.append("| " + " | ".join((*cells, worth)) + " |")
    return "\n".join(out)


def front(found: Compared) -> str:
    """Worth against cost as an SVG: a dot per policy with both intervals."""
    width, height, left, bottom = 760, 430, 60, 50
    points = {n: (found.share(n), found.mean(n, "worth")) for n in found.names}
    most = max(p[0][2] for p in points.values()) * 1.05
    low, high = min(p[1][1] for p in points.values()) - 0.02, max(p[1][2] for p in points.values()) + 0.02

    def x(value: float) -> float:
        return left + (width - left - 190) * value / most

    def y(value: float) -> float:
        return height - bottom - (height - bottom - 20) * (value - low) / (high - low)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in np.arange(0, most, 0.2):
        out.append(f'<text x="{x(tick):.0f}" y="{height - bottom + 16}" text-anchor="middle">{tick:.1f}</text>')
    for tick in np.arange(np.ceil(low * 20) / 20, high, 0.05):
        out.append(f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:.2f}</text>')
        out.append(f'<line x1="{left}" x2="{width - 190}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#eee"/>')
    for name, (cost, worth) in points.items():
        colour = "#c0392b" if name == ROUTER else "#2c3e50"
        at, up = x(cost[0]), y(worth[0])
        cross = f"M{x(cost[1]):.1f} {up:.1f}H{x(cost[2]):.1f}M{at:.1f} {y(worth[1]):.1f}V{y(worth[2]):.1f}"
        out += [
            f'<path d="{cross}" stroke="{colour}"/>',
            f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4" fill="{colour}"/>',
            f'<text x="{at + 7:.1f}" y="{up - 5:.1f}" fill="{colour}">{name.replace(">", "&gt;")}</text>',
        ]
    middle, under = (left + width - 190) / 2, height - 12
    out.append(f'<text x="{middle:.0f}" y="{under}" text-anchor="middle">cost, share of building everything</text>')
    turned = f"translate(14,{height / 2:.0f}) rotate(-90)"
    out.append(f'<text transform="{turned}" text-anchor="middle">worth (half test, half variants)</text>')
    return "\n".join([*out, "</svg>", ""])


def write(raw: Path, out: Path) -> None:
    """Collected rows as tables of one line a world: seeds below 1000, below 2000, and the others. One without rows is left."""
    from regret_table import finished

    for name, low, high in (("fit", 0, 1000), ("first", 1000, 2000), ("held-out", 2000, 10_000)):
        paths = sorted((p for p in raw.glob("*.json") if low <= int(p.stem) < high), key=lambda p: int(p.stem))
        if not paths:
            continue
        lines = [json.dumps(finished(json.loads(p.read_text(encoding="utf-8"))), sort_keys=True) for p in paths]
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "worlds.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        print(f"{out / name}: {len(lines)} worlds")


def check(seeds: Sequence[int], work: Path, data: Path, policy: Path) -> None:
    """Run the product itself on worlds of the tables: its placement against the replay's, and what it really paid.

    The tables were collected with every probe asked in full; the product leaves out what its decision no longer needs.
    """
    from regret_table import run_routed

    section = yaml.safe_load(policy.read_text(encoding="utf-8"))["router"]
    config = RouterConfig.model_validate(section)
    rows = {row.name: row for folder in sorted(data.iterdir()) for row in read_table(folder)}
    lines = {name: line for folder in sorted(data.iterdir()) for name, line in _lines(folder / "worlds.jsonl")}
    same, paid = 0, []
    for seed in seeds:
        row, replayed = rows[f"world-{seed}"], replay(rows[f"world-{seed}"], config)
        found = run_routed(seed, lines[f"world-{seed}"], work / "check", json.dumps(section))
        same += found["placement"] == replayed.placement
        bought = any("bought evidence" in line for line in found["decision_trail"])
        paid.append((_paid(found["ledger"]["stages"]), replayed.cost.tokens, everything(row, config).cost.tokens))
        print(
            f"{seed} {row.group}: run {found['placement']} (bought {bought}), replay {replayed.placement} (bought "
            f"{replayed.bought}); cost of building everything: {paid[-1][0] / paid[-1][2]:.2f} paid, "
            f"{paid[-1][1] / paid[-1][2]:.2f} replayed",
            flush=True,
        )
    print(f"the same placement: {shown_share(same, len(seeds))}")
    run, replayed_cost, whole = np.array(paid).sum(axis=0)
    print(
        f"cost over these worlds, of building everything: {run / whole:.3f} paid, {replayed_cost / whole:.3f} replayed"
    )


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["name"], line) for line in found]


def _paid(stages: Mapping[str, Mapping[str, float]]) -> float:
    """Token equivalents of a run's ledger, without the sealed looks that a table's costs do not hold either."""
    total = 0.0
    for stage, spent in stages.items():
        tokens = spent["tokens_in"] + spent["tokens_out"]
        if stage not in ("verify", "collateral"):
            total += token_cost(tokens, 0.0, tokens if stage.startswith("train-") else 0.0)
    return total


def shown_share(count: int, total: int) -> str:
    """`11 of 12 = 0.917 [0.646, 0.985]`."""
    found = wilson(count, total)
    return f"{count} of {total} = {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", default="", help="seeds to build rows of, as 0-29,1000")
    parser.add_argument(
        "--raw", "--table", type=Path, default=Path("runs/router/table"), help="where collected rows lie"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/router/work"), help="run folders, removed when done")
    parser.add_argument("--backwards", action="store_true")
    parser.add_argument("--check", default="", help="seeds with rows to run the product itself on")
    parser.add_argument("--write", action="store_true", help="collected rows -> data/router")
    parser.add_argument("--data", type=Path, default=Path("data/router"))
    parser.add_argument("--on", default="held-out", help="which table under --data to replay")
    parser.add_argument("--policy", type=Path, default=Path("configs/router-fitted.yaml"))
    parser.add_argument("--svg", type=Path, default=Path("docs/router.svg"))
    args = parser.parse_args()
    if args.collect:
        from regret_table import collect

        backend, seeds = None, seeds_of(args.collect)
        for seed in reversed(seeds) if args.backwards else seeds:
            backend = collect(seed, args.work, args.raw, backend)
        return
    if args.check:
        check(tuple(dict.fromkeys(seeds_of(args.check))), args.work, args.data, args.policy)
        return
    if args.write:
        write(args.raw, args.data)
        return
    config = RouterConfig.model_validate(yaml.safe_load(args.policy.read_text(encoding="utf-8"))["router"])
    rows = read_table(args.data / args.on)
    done = {name: [policy(row) for row in rows] for name, policy in policies(config).items()}
    found = Compared(done, [row.arms["base"].worth for row in rows])
    bought = sum(replay(row, config).bought for row in rows)
    print(f"{len(rows)} worlds of {args.on}; evidence bought on {bought}\n\n{table(found)}\n\n{equal_cost(found)}\n")
    print(f"{by_group(rows, found)}\n\n{wrong(rows, config)}\n\nrouter: {told(score(rows, config))}")
    args.svg.write_text(front(found), encoding="utf-8")


if __name__ == "__main__":
    main()
