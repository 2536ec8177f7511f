"""The honest gate: one paired test on examples that no search has seen, and Holm over the capabilities of a run.

Its false-accept rate is `alpha` whatever search produced the challenger, because `confirm` is opened once. The
lenient gate for use inside a search is `race`. Pure functions: the same scores always give the same verdict.

    ship_gate([0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], ShipGateConfig()).decision     # "accept": 5 of 5, p = 0.031

Does not: measure anything, or know what the challenger is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.config.schema import ShipGateConfig
from hybrid.evidence.intervals import judged
from hybrid.evidence.stats import Delta, holm, paired_interval, paired_test
from hybrid.evidence.types import Decision, Verdict

LEVEL = 0.95


def ship_gate(
    incumbent: Sequence[float],
    challenger: Sequence[float],
    policy: ShipGateConfig,
    *,
    slices: Mapping[str, Sequence[int]] | None = None,
    alpha: float | None = None,
) -> Verdict:
    """Whether the challenger ships. Scores in [0, 1] are paired by position; `slices` name positions.

    In this order: **undecided** when even a win on every pair could not reach alpha; **reject** when a named slice
    regresses (Holm over the slices at alpha), when the change is significantly worse, or when the 95 % interval ends
    below the least gain worth shipping; **accept** when the one-sided p is at most alpha (the exact sign test for
    yes-or-no scores, a sign-flip test for graded ones); otherwise **undecided**. A pair with a NaN was not judged: it is left
    out, and `n` does not count it. `alpha` overrides the policy's.
    Raises ValueError for unpaired or impossible scores.
    """
    level = policy.alpha if alpha is None else alpha
    every = paired_differences(incumbent, challenger)
    differences, _ = judged(every)
    delta = paired_interval(differences, LEVEL)
    p = paired_test(differences)
    hurt = regressions(every, slices or {}, level)
    decision, reason = _decide(differences, delta, p, hurt, policy.minimum_effect, level)
    return verdict(decision, reason, differences, delta, p, hurt)


def finalize(verdicts: Mapping[str, Verdict], policy: ShipGateConfig) -> dict[str, Verdict]:
    """Correct for having asked once per key of `verdicts` (Holm over all of them, whatever each one decided).

    An accept whose adjusted p exceeds the policy's alpha becomes undecided; its raw p stays, the adjusted one is told
    in the reason. Nothing else changes; with `multiplicity: none` nothing changes at all.
    """
    if policy.multiplicity == "none":
        return dict(verdicts)
    adjusted = holm({name: v.p for name, v in verdicts.items()})
    return {name: _corrected(v, adjusted[name], len(verdicts), policy.alpha) for name, v in verdicts.items()}


def strictly_better(incumbent: Sequence[float], challenger: Sequence[float]) -> bool:
    """The published rule: any higher mean is accepted (SkillOpt, arXiv 2605.23904). For comparison only."""
    return math.fsum(judged(paired_differences(incumbent, challenger))[0]) > 0


def paired_differences(incumbent: Sequence[float], challenger: Sequence[float]) -> list[float]:
    """Challenger minus incumbent, by position; NaN where one of them was not judged.

    Raises ValueError for unequal lengths or scores outside [0, 1].
    """
    if len(incumbent) != len(challenger):
        raise ValueError(
            f"{len(incumbent)} incumbent scores against {len(challenger)} of the challenger: pair them by example"
        )
    for scores in (incumbent, challenger):
        known, _ = judged(scores)
        if known and not (math.isfinite(math.fsum(known)) and min(known) >= 0.0 and max(known) <= 1.0):
            raise ValueError("scores must lie in [0, 1]")
    return [float(b) - float(a) for a, b in zip(incumbent, challenger, strict=True)]


def regressions(
    differences: Sequence[float], slices: Mapping[str, Sequence[int]], alpha: float
) -> dict[str, dict[str, Any]]:
    """Slices that got worse, family-wise at alpha: name -> delta, low, high, n, p (one-sided, Holm-adjusted)."""
    inside = {name: judged([differences[i] for i in slices[name]])[0] for name in sorted(slices)}
    adjusted = holm({name: paired_test([-d for d in part]) for name, part in inside.items()})
    hurt: dict[str, dict[str, Any]] = {}
    for name, part in inside.items():
        if adjusted[name] <= alpha:
            mean, low, high = paired_interval(part, LEVEL)
            hurt[name] = {"delta": mean, "low": low, "high": high, "p": adjusted[name], "n": len(part)}
    return hurt


def verdict(
    decision: Decision,
    reason: str,
    differences: Sequence[float],
    delta: Delta,
    p: float,
    hurt: dict[str, dict[str, Any]],
) -> Verdict:
    """A verdict with its counts taken from the differences."""
    return Verdict(
        decision=decision,
        delta=delta.mean,
        low=delta.low,
        high=delta.high,
        p=p,
        n=len(differences),
        improved=sum(d > 0 for d in differences),
        regressed=sum(d < 0 for d in differences),
        reason=reason,
        slices=hurt,
    )


def _decide(
    differences: Sequence[float], delta: Delta, p: float, hurt: Mapping[str, Any], effect: float, alpha: float
) -> tuple[Decision, str]:
    n = len(differences)
    if 2.0**-n > alpha:
        return "undecided", f"not measurable at this size: {n} pairs cannot reach p = {alpha:g} even if all improve"
    told = f"{_told(delta)} over {n} pairs, one-sided p = {p:.2g}"
    if hurt:
        worst = min(hurt, key=lambda name: (hurt[name]["delta"], name))
        loss, size = -hurt[worst]["delta"], hurt[worst]["n"]
        return "reject", f"slice {worst!r} regresses by {loss:.3f} (n = {size}); all together {told}"
    if delta.mean < 0 and (worse := paired_test([-d for d in differences])) <= alpha:
        return "reject", f"worse than the incumbent (one-sided p = {worse:.2g}): {told}"
    if delta.high < effect:
        return "reject", f"the gain is below the minimum effect {effect:g}: {told}"
    if p <= alpha:
        return "accept", f"better at alpha {alpha:g}: {told}"
    if not any(differences):
        return "undecided", f"not measurable at this size: no pair differs, a gain of {effect:g} is possible: {told}"
    if delta.low > 0:
        return "undecided", f"better by its interval but not at alpha {alpha:g} by the exact test: {told}"
    return "undecided", f"the interval holds both zero and the minimum effect {effect:g}: {told}"


def _told(delta: Delta) -> str:
    return f"{delta.mean:+.3f} [{delta.low:+.3f}, {delta.high:+.3f}]"


def _corrected(verdict: Verdict, adjusted: float, family: int, alpha: float) -> Verdict:
    if verdict.decision != "accept" or family < 2:
        return verdict
    told = f"Holm-adjusted p = {adjusted:.2g} over {family} tests"
    if adjusted <= alpha:
        return verdict.model_copy(update={"reason": f"{verdict.reason}; {told}"})
    reason = f"better on its own but not after correction, {told}: {verdict.reason}"
    return verdict.model_copy(update={"decision": "undecided", "reason": reason})
