"""What a run cost: completions, tokens, training seconds, wall seconds, per capability and stage.

Rebuilt from what is stored, so it is the same after any number of kills and resumes. Does not: estimate (see `plan`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hybrid.config.schema import BudgetConfig
from hybrid.errors import BudgetExhausted
from hybrid.evidence.types import Rollout


@dataclass
class Cost:
    """Sums. `calls` counts completions, training rollouts included; `seconds` is time spent generating."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0

    def add(self, other: Cost) -> None:
        """Add another cost to this one."""
        self.calls += other.calls
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.seconds += other.seconds
        self.train_seconds += other.train_seconds

    def rounded(self) -> Cost:
        """Seconds to the microsecond: sums in another order then give the same bytes."""
        return replace(self, seconds=round(self.seconds, 6), train_seconds=round(self.train_seconds, 6))


class Ledger:
    """Costs by (capability, stage), with the hard limits of the budget."""

    def __init__(self, budget: BudgetConfig, paid: Iterable[Rollout] = (), wall_seconds: float = 0.0) -> None:
        self.budget = budget
        self.wall_seconds_before = wall_seconds
        self._costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
        self.pay(paid)

    def pay(self, rollouts: Iterable[Rollout]) -> None:
        """Enter rollouts that were generated (not those read from the store)."""
        for r in rollouts:
            cost = Cost(calls=1, tokens_in=r.tokens_in, tokens_out=r.tokens_out, seconds=r.seconds)
            self._costs[(r.capability, r.stage)].add(cost)

    def pay_training(self, capability: str, stage: str, cost: Cost) -> None:
        """Enter a finished training."""
        self._costs[(capability, stage)].add(cost)

    def total(self, capability: str | None = None) -> Cost:
        """Sum over everything, or over one capability."""
        out = Cost()
        for (name, _), cost in sorted(self._costs.items()):
            if capability in (None, name):
                out.add(cost)
        return out.rounded()

    def stages(self, capability: str) -> dict[str, Cost]:
        """Costs of one capability by stage."""
        return {stage: cost.rounded() for (name, stage), cost in sorted(self._costs.items()) if name == capability}

    def affordable(self, calls: int) -> int:
        """How many of `calls` completions the limits still allow. Token and time limits allow all or none."""
        total = self.total()
        if self.budget.tokens is not None and total.tokens_in + total.tokens_out >= self.budget.tokens:
            return 0
        if self.budget.calls is not None:
            return max(0, min(calls, self.budget.calls - total.calls))
        return calls

    def check(self, wall_seconds: float, *, training: bool = False) -> None:
        """Raise BudgetExhausted when a limit is reached. `wall_seconds` is the time of this attempt."""
        total = self.total()
        wall = self.wall_seconds_before + wall_seconds
        limits: list[tuple[str, float, float | None]] = [
            ("tokens", total.tokens_in + total.tokens_out, self.budget.tokens),
            ("wall_seconds", wall, self.budget.wall_seconds),
        ]
        if training:
            limits.append(("train_seconds", total.train_seconds, self.budget.train_seconds))
            limits.append(("calls", total.calls, self.budget.calls))
        for name, spent, limit in limits:
            if limit is not None and spent >= limit:
                raise BudgetExhausted(
                    f"budget.{name}: {spent:.0f} of {limit:.0f} are spent; what was paid is kept. "
                    f"raise budget.{name} and give the same command to go on"
                )
