"""Fitting the router's thresholds to a table of runs: coordinate search on one loss, cross-validated over worlds. Pure.

    found = fit(read_table(Path("table")))
    found.policy, found.score, found.validated          # what to paste under `router:`; on all rows; on rows left out

The loss of a row: its regret (what building everything is worth beyond what was placed, at most 1), plus `WRONG` where the
placement is not a right one, plus `SPENDING` times the cost as a share of building everything (at most 2). Search: from the
defaults, one threshold after another over a fixed grid, the best value kept (of equals the one nearest the start), until a round
changes nothing. The loss is flat almost everywhere, so a grid loses little; its points are those of `GRID`.

The stated confidence is calibrated after that: a logistic function of the logit of the weakest link (Platt 1999, in
Advances in Large Margin Classifiers), with Platt's prior-corrected targets, so that it also exists where every placement
was right.

Does not: read files, train, or look at rows that it was not given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.config.router import ConfidenceConfig, RouterConfig
from hybrid.evidence.calibration import ece
from hybrid.evidence.stats import wilson
from hybrid.evidence.types import Interval
from hybrid.router.replay import Replayed, everything, replay
from hybrid.router.table import Row, folds

WRONG, SPENDING = 0.5, 0.1
"""A wrong placement costs as much as half a point of score; building everything as much as a tenth."""
GRID: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("keep_above", (0.8, 0.85, 0.9, 0.95)),
    ("context_gain", (0.05, 0.1, 0.15, 0.2, 0.3)),
    ("sampling_gain", (0.02, 0.05, 0.1, 0.15, 0.2)),
    ("signal_rate", (0.05, 0.1, 0.15, 0.2, 0.3)),
    ("open_above", (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
    ("buy_below", (0.0, 0.6, 0.7, 0.8, 0.9, 0.95)),
    ("buy.margin", (0.0, 0.05, 0.1, 0.15)),
)
ROUNDS, FOLDS, RIDGE = 4, 5, 1e-3


@dataclass(frozen=True)
class Score:
    """How a policy does on rows: shares of right placements, of the regret in the gain that was there, of the cost of building
    everything (the sum over rows, and the mean of each row's share), the mean loss, and the stated confidence's error."""

    right: Interval
    regret: float
    cost: float
    cost_each: float
    loss: float
    ece: Interval | None


@dataclass(frozen=True)
class Fitted:
    """The policy, its score on the rows that it was fitted to, and of policies fitted without the rows they are scored on."""

    policy: RouterConfig
    score: Score
    validated: Score
    start: Score
    rows: int


def fit(rows: Sequence[Row], start: RouterConfig | None = None) -> Fitted:
    """Thresholds and confidence for these rows; see the module. Deterministic, whatever the order of the rows."""
    ordered = sorted(rows, key=lambda r: r.name)
    first = RouterConfig() if start is None else start
    told: list[Replayed] = []
    for part in folds(ordered, FOLDS):
        rest = [r for r in ordered if r not in part]
        policy = _fit(rest, first) if rest else first
        told += [replay(row, policy) for row in part]
    policy = _fit(ordered, first)
    return Fitted(policy, score(ordered, policy), _score(told, first), score(ordered, first), len(ordered))


def score(rows: Sequence[Row], policy: RouterConfig) -> Score:
    """How a policy does on rows."""
    return _score([replay(row, policy) for row in rows], policy)


def _fit(rows: Sequence[Row], start: RouterConfig) -> RouterConfig:
    policy = search(lambda p: sum(loss(replay(r, p), everything(r, p)) for r in rows) / len(rows), start)
    done = [replay(r, policy) for r in rows]
    how = platt([(d.link, d.right) for d in done])
    return policy.model_copy(update={"confidence": how})


def loss(done: Replayed, best: Replayed) -> float:
    """What a replayed row costs; see the module."""
    share = done.cost.tokens / max(best.cost.tokens, 1.0)
    return min(max(best.worth - done.worth, 0.0), 1.0) + WRONG * (not done.right) + SPENDING * min(share, 2.0)


def search(objective: Callable[[RouterConfig], float], start: RouterConfig) -> RouterConfig:
    """The policy that coordinate search over `GRID` ends at."""
    policy, best = start, objective(start)
    for _ in range(ROUNDS):
        before = policy
        for name, values in GRID:
            held = get(policy, name)
            for value in sorted(values, key=lambda v: (abs(v - held), v)):
                tried = put(policy, name, value)
                found = objective(tried)
                if found < best - 1e-12:
                    policy, best = tried, found
        if policy == before:
            break
    return policy


def get(policy: RouterConfig, name: str) -> float:
    """A threshold by its dotted name."""
    owner: Any = policy
    for key in name.split("."):
        owner = getattr(owner, key)
    return float(owner)


def put(policy: RouterConfig, name: str, value: float) -> RouterConfig:
    """The policy with another threshold."""
    head, _, last = name.rpartition(".")
    if not head:
        return policy.model_copy(update={last: value})
    return policy.model_copy(update={head: getattr(policy, head).model_copy(update={last: value})})


def platt(pairs: Sequence[tuple[float, bool]]) -> ConfidenceConfig:
    """Intercept and slope of P(right) = 1 / (1 + exp(-(a + b logit(link)))) by Newton's method, b held at 0 or above."""
    right = sum(r for _, r in pairs)
    high, low = (right + 1) / (right + 2), 1 / (len(pairs) - right + 2)
    data = [(math.log(x / (1 - x)), high if r else low) for x, r in ((min(max(p, 0.01), 0.99), r) for p, r in pairs)]
    a, b = 0.0, 0.0
    for _ in range(50):
        ga, gb, haa, hab, hbb = RIDGE * a, RIDGE * b, RIDGE, 0.0, RIDGE
        for x, target in data:
            p = 1 / (1 + math.exp(-max(-30.0, min(30.0, a + b * x))))
            w = p * (1 - p)
            ga, gb, haa, hab, hbb = ga + p - target, gb + (p - target) * x, haa + w, hab + w * x, hbb + w * x * x
        det = haa * hbb - hab * hab
        if det <= 0:
            break
        da, db = (ga * hbb - gb * hab) / det, (gb * haa - ga * hab) / det
        a, b = a - max(-2.0, min(2.0, da)), b - max(-2.0, min(2.0, db))
        if abs(da) + abs(db) < 1e-10:
            break
    if b < 0:
        rate = (right + 1) / (len(pairs) + 2)
        a, b = math.log(rate / (1 - rate)), 0.0
    return ConfidenceConfig(intercept=round(a, 3), slope=round(b, 3))


def _score(done: Sequence[Replayed], policy: RouterConfig) -> Score:
    best = [everything(d.row, policy) for d in done]
    gain = sum(b.worth - b.row.arms["base"].worth for b in best)
    lost = sum(b.worth - d.worth for d, b in zip(done, best, strict=True))
    shares = [d.cost.tokens / max(b.cost.tokens, 1.0) for d, b in zip(done, best, strict=True)]
    return Score(
        right=wilson(sum(d.right for d in done), len(done)),
        regret=lost / gain if gain > 0 else 0.0,
        cost=sum(d.cost.tokens for d in done) / max(sum(b.cost.tokens for b in best), 1.0),
        cost_each=math.fsum(shares) / len(shares),
        loss=sum(loss(d, b) for d, b in zip(done, best, strict=True)) / len(done),
        ece=ece([(d.confidence, d.right) for d in done]),
    )


def yaml_block(found: Fitted, command: str) -> str:
    """The `router:` section to paste, with the command that made it."""
    policy = found.policy
    lines = [f"# {command}: {found.rows} rows; left out in turn: {told(found.validated)}", "router:"]
    lines += [f"  {name}: {get(policy, name):g}" for name, _ in GRID if "." not in name]
    steps = ", ".join(str(s) for s in policy.buy.steps)
    lines.append(f"  buy: {{steps: [{steps}], examples: {policy.buy.examples}, margin: {policy.buy.margin:g}}}")
    how = policy.confidence
    lines.append(f"  confidence: {{intercept: {how.intercept:g}, slope: {how.slope:g}}}")
    return "\n".join(lines) + "\n"


def told(found: Score) -> str:
    """A score in words."""
    r = found.right
    error = f", ECE {found.ece.mean:.3f} [{found.ece.low:.3f}, {found.ece.high:.3f}]" if found.ece is not None else ""
    return (
        f"right {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}] of {r.n}, regret {found.regret:.3f} of the gain, cost "
        f"{found.cost:.2f} of building everything ({found.cost_each:.2f} the mean of each row's share){error}"
    )
