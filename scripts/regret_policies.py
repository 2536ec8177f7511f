"""The policies that the regret benchmark compares, replayed on the rows of a table. Pure.

Fixed policies ship what their optimiser ends with, as people do: the document or adapter that was best on `search`, with no
honest gate. `gated` ones put this project's ship gate and transfer floor behind the same work, which is more than anybody
does today. `keep` builds nothing. `build everything` is the oracle: every arm, and the gates choose.

- skill: the document, optimised. weights: an adapter without a document.
- prompt -> weights -> prompt: the document, an adapter that reads it, the document once more under the adapter; of what there
  was on the way the best on `search` ships (BetterTogether, Soylu et al. 2024, 2407.10930).
- random: skill, weights, both or keep, each with probability one quarter, in expectation.

Does not: read files or draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid.config.router import RouterConfig
from hybrid.config.schema import ShipGateConfig
from hybrid.evidence.gate import ship_gate
from hybrid.router.replay import everything, replay
from hybrid.router.table import ArmScores, Row


@dataclass(frozen=True)
class Done:
    """One policy on one row, in expectation where it draws: score on the sealed test, worth, chance of being right, costs."""

    test: float
    worth: float
    right: float
    tokens: float
    cpu: float


Policy = Callable[[Row], Done]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ends(row: Row, scores: ArmScores, placement: str, parts: Sequence[str]) -> Done:
    """A policy that ends with a candidate, called a placement, having paid for parts."""
    spent = row.cost(*parts)
    return Done(_mean(scores.test), scores.worth, float(placement in row.right), spent.tokens, spent.cpu)


def keep(row: Row) -> Done:
    """Build nothing."""
    return _ends(row, row.arms["base"], "keep", ())


def only(arm: str, *parts: str, gated: bool = False) -> Policy:
    """Always the same arm, where its optimiser found anything."""

    def policy(row: Row) -> Done:
        found = row.arms.get(arm)
        paid = (*parts, *(("ship_base", f"ship_{arm}") if gated else ()))
        if found is None or (gated and not _ships(row, found, adapter=arm != "skill")):
            return _ends(row, row.arms["base"], "neither", paid if found is not None else parts)
        return _ends(row, found, arm, paid)

    return policy


def _ships(row: Row, found: ArmScores, *, adapter: bool) -> bool:
    base = row.arms["base"]
    verdict = ship_gate(base.confirm, found.confirm, ShipGateConfig(minimum_effect=row.minimum_effect))
    if verdict.decision != "accept":
        return False
    return not adapter or _mean(found.variant) - _mean(base.variant) >= 0.5 * verdict.delta


def fixed_order(row: Row) -> Done:
    """Prompt -> weights -> prompt, the best of what there was on `search`; the earlier of equals."""
    trained = "both" if "both" in row.costs else "weights"
    offered = [("keep", "base"), ("skill", "skill"), (trained, trained)]
    last = trained if trained in row.arms else "skill"
    stages = [(name, row.arms[key]) for name, key in offered if key in row.arms]
    if "again" in row.arms:
        stages.append((last if row.arms["again"] != row.arms.get("skill") else "skill", row.arms["again"]))
    name, best = max(stages, key=lambda stage: _mean(stage[1].search))
    return _ends(row, best, name if name != "keep" else "neither", ("skill", trained, "again"))


def mixture(*policies: Policy) -> Policy:
    """One of several policies by an even chance, in expectation."""

    def policy(row: Row) -> Done:
        found = [p(row) for p in policies]
        return Done(*(_mean([getattr(d, f) for d in found]) for f in ("test", "worth", "right", "tokens", "cpu")))

    return policy


def _of(policy: Callable[[Row, RouterConfig], object], config: RouterConfig) -> Policy:
    def run(row: Row) -> Done:
        found = policy(row, config)
        arm = row.arms.get(found.placement, row.arms["base"])  # type: ignore[attr-defined]
        cost = found.cost  # type: ignore[attr-defined]
        return Done(_mean(arm.test), arm.worth, float(found.placement in row.right), cost.tokens, cost.cpu)  # type: ignore[attr-defined]

    return run


def policies(config: RouterConfig) -> dict[str, Policy]:
    """Every policy by its name, the router last."""
    skill, weights = only("skill", "skill"), only("weights", "weights")
    both = only("both", "skill", "both")
    return {
        "keep": keep,
        "always skill": skill,
        "always weights": weights,
        "prompt -> weights -> prompt": fixed_order,
        "random": mixture(skill, weights, both, keep),
        "always skill, gated": only("skill", "skill", gated=True),
        "always weights, gated": only("weights", "weights", gated=True),
        "build everything": _of(everything, config),
        "router, default thresholds": _of(replay, RouterConfig()),
        "router": _of(replay, config),
    }
