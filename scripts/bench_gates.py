"""What the two gates cost and protect, measured by simulation through the project's own gate code.

    python scripts/bench_gates.py            # numpy only, one core, under three minutes

Three questions: (1) how often does a search over worthless candidates end in something that ships; (2) is a true gain
shipped as often as `hybrid plan` promises; (3) what does racing save. World: every candidate flips 12 % of the
examples, an example passes when its latent margin plus the flips of all accepted candidates is above 0, so candidates
interact; search and confirm examples are disjoint draws.

Does not: measure language models, or how good a proposer is.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid.config.schema import SearchGateConfig, ShipGateConfig
from hybrid.evidence.gate import ship_gate, strictly_better
from hybrid.evidence.power import NOISE, examples_needed, power
from hybrid.evidence.race import Race
from hybrid.evidence.stats import wilson

SEARCH, CONFIRM, FLIP = 200, 200, 0.12
PARTS = (16, 50)
Shifts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Shifts of every candidate (rows) on every example (columns), and the margins before any candidate."""

    search: Shifts
    confirm: Shifts
    margin: npt.NDArray[np.float64]
    confirm_margin: npt.NDArray[np.float64]
    effects: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Climb:
    """One pass over the candidates: which were kept, rollouts of the start and the challengers, accepts."""

    kept: npt.NDArray[np.bool_]
    rollouts: int
    accepts: int


def draw_world(rng: np.random.Generator, effects: npt.NDArray[np.float64], search: int, confirm: int) -> World:
    """Candidates with the given true tilts, in random order."""
    effects = rng.permutation(effects)
    up, down = ((FLIP + effects) / 2)[:, None], ((FLIP - effects) / 2)[:, None]

    def shifts(n: int) -> Shifts:
        u = rng.random((len(effects), n))
        return np.where(u < up, 1.0, np.where(u < up + down, -1.0, 0.0))

    return World(
        shifts(search),
        shifts(confirm),
        rng.choice([-0.5, 0.5], search),
        rng.choice([-0.5, 0.5], confirm),
        effects,
    )


def run_race(incumbent: Shifts, challenger: Shifts, policy: SearchGateConfig, seed: int) -> tuple[bool, int]:
    """(accepted, challenger rollouts) of one race over 0/1 scores that are already known."""
    race = Race(len(incumbent), policy, seed)
    while (part := race.next_part()) is not None:
        rows = list(part)
        race.observe(incumbent[rows].tolist(), challenger[rows].tolist())
    verdict = race.verdict
    return verdict is not None and verdict.decision == "accept", race.seen


def climb(world: World, policy: SearchGateConfig | None, seed: int, *, until_first: bool = False) -> Climb:
    """Keep each candidate that wins its race against the current best, or with no policy, that is strictly better."""
    latent, kept = world.margin.copy(), np.zeros(len(world.search), bool)
    rollouts, accepts = len(latent), 0
    for i, shift in enumerate(world.search):
        incumbent, challenger = (latent > 0).astype(float), (latent + shift > 0).astype(float)
        if policy is None:
            accepted, spent = strictly_better(incumbent.tolist(), challenger.tolist()), len(latent)
        else:
            accepted, spent = run_race(incumbent, challenger, policy, seed + i)
        rollouts += spent
        if accepted:
            latent, accepts = latent + shift, accepts + 1
            kept[i] = True
            if until_first:
                break
    return Climb(kept, rollouts, accepts)


def confirm_scores(world: World, kept: npt.NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Scores of the start and of the final candidate on examples that the search never saw."""
    final = world.confirm_margin + world.confirm[kept].sum(axis=0)
    return (world.confirm_margin > 0).astype(float).tolist(), (final > 0).astype(float).tolist()


def null_searches(runs: int, candidates: int, seed: int, ship: ShipGateConfig) -> tuple[int, int, int]:
    """Of `runs` searches over worthless candidates: (some won its race, shipped, strict rule accepted some)."""
    won = shipped = strict = 0
    for run in range(runs):
        world = draw_world(np.random.default_rng([seed, run]), np.zeros(candidates), SEARCH, CONFIRM)
        found = climb(world, SearchGateConfig(), seed=run * candidates)
        won += found.accepts > 0
        if found.accepts:
            shipped += ship_gate(*confirm_scores(world, found.kept), ship).decision == "accept"
        strict += climb(world, None, seed=0, until_first=True).accepts > 0
    return won, shipped, strict


def true_gain(runs: int, n: int, effect: float, seed: int, ship: ShipGateConfig) -> tuple[int, int]:
    """Of `runs` candidates with a true gain: (shipped, won a race on `n` other examples and then shipped)."""
    shipped = after_race = 0
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        scores = []
        for _ in ("confirm", "search"):
            u, base = rng.random(n), rng.random(n) < 0.5
            incumbent = np.where(u < effect + NOISE, 0.0, np.where(u < effect + 2 * NOISE, 1.0, base))
            challenger = np.where(u < effect + NOISE, 1.0, np.where(u < effect + 2 * NOISE, 0.0, base))
            scores.append((incumbent, challenger))
        accepted = ship_gate(scores[0][0].tolist(), scores[0][1].tolist(), ship).decision == "accept"
        shipped += accepted
        after_race += accepted and run_race(*scores[1], SearchGateConfig(), seed=run)[0]
    return shipped, after_race


def race_cost(runs: int, effects: npt.NDArray[np.float64], seed: int) -> dict[str, tuple[float, float, float]]:
    """Rule -> (mean rollouts, mean true tilt kept, share of kept candidates that are harmful)."""
    rules = {f"race by {part}": SearchGateConfig(part=part) for part in PARTS} | {"strict": None}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rules}
    for run in range(runs):
        world = draw_world(np.random.default_rng([seed, run]), effects, SEARCH, 1)
        for name, policy in rules.items():
            found = climb(world, policy, seed=run * len(effects))
            kept = world.effects[found.kept]
            rows[name].append((found.rollouts, float(kept.sum()), float((kept < 0).mean()) if len(kept) else 0.0))
    return {name: (float(a), float(b), float(c)) for name, r in rows.items() for a, b, c in [np.mean(r, axis=0)]}


def share(count: int, n: int) -> str:
    """A share with its 95 % Wilson interval."""
    x = wilson(count, n)
    return f"{x.mean:.3f} [{x.low:.3f}, {x.high:.3f}] of {n}"


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated searches (default 1000)")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    ship, started = ShipGateConfig(), time.monotonic()
    won, shipped, strict = null_searches(args.runs, 20, args.seed, ship)
    print(
        f"1. {args.runs} searches of 20 worthless candidates, search {SEARCH}, confirm {CONFIRM}, alpha {ship.alpha:g}"
    )
    print(f"   some candidate wins its race           {share(won, args.runs)}")
    print(f"   the final candidate ships              {share(shipped, args.runs)}")
    print(f"   strict rule alone would have shipped   {share(strict, args.runs)}")
    print("2. A true gain at the planned n (power 0.8), ship gate alone, and after winning a race on as many examples")
    for effect in (0.05, 0.10, 0.20):
        n, runs = examples_needed(effect, ship.alpha, ship.power), 2 * args.runs
        hits, both = true_gain(runs, n, effect, args.seed, ship)
        promised, seen = power(n, effect, ship.alpha), share(hits, runs)
        print(f"   +{effect:.2f}, n = {n:4d}: promised {promised:.3f}, ships {seen}, both gates {both / runs:.3f}")
    print(
        f"3. Rollouts of one pass over 40 candidates, {max(1, args.runs // 5)} searches of each kind, search {SEARCH}"
    )
    worlds = {
        "8 of +0.04, 12 of -0.04, 20 null": np.repeat([0.04, -0.04, 0.0], [8, 12, 20]),
        "40 null": np.zeros(40),
        "4 of +0.12, 36 of -0.04": np.repeat([0.12, -0.04], [4, 36]),
    }
    for name, effects in worlds.items():
        cost = race_cost(max(1, args.runs // 5), effects, args.seed)
        for rule, (rollouts, tilt, harm) in cost.items():
            ratio = rollouts / cost["strict"][0]
            print(f"   {name:34s} {rule:11s}{rollouts:7.0f} ({ratio:.2f})   tilt kept {tilt:+.3f}   harmful {harm:.2f}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
