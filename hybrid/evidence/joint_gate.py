"""The ship gate where a better calibration may ship too, but only together with an accuracy that is not worse.

    joint_gate(before, after, told_before, told_after, ShipGateConfig(calibration=CalibrationGateConfig()))

Calibration alone is no evidence: it looks best where a model has learnt to answer wrong on purpose and to say so (a reward
of accuracy plus four times Brier gave Brier .027 at accuracy .23; `docs/calibration.md`). Two questions are asked of
one split, so each has half of alpha (Bonferroni), and the p of the verdict is twice the smaller one's.
Pure functions: the same answers always give the same verdict. Does not: read completions (see `stated`) or measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.config.schema import CalibrationGateConfig, ShipGateConfig
from hybrid.evidence.gate import LEVEL, paired_differences, ship_gate
from hybrid.evidence.stated import brier_loss
from hybrid.evidence.stats import paired_interval, paired_test
from hybrid.evidence.types import Verdict

Told = Sequence[tuple[float, bool] | None]
"""Per example, in order: (stated confidence, correct), or None where none is stated."""


def joint_gate(
    incumbent: Sequence[float],
    challenger: Sequence[float],
    told_before: Told,
    told_after: Told,
    policy: ShipGateConfig,
    *,
    slices: Mapping[str, Sequence[int]] | None = None,
) -> Verdict:
    """`ship_gate` on the scores; where that does not accept and `policy.calibration` is set, the calibration is asked.

    The verdict's delta stays that of the scores; its `basis` says what was accepted. Without `policy.calibration` it is
    `ship_gate`'s, at the full alpha. Raises ValueError for unpaired or impossible data.
    """
    if policy.calibration is None:
        return ship_gate(incumbent, challenger, policy, slices=slices)
    if not len(told_before) == len(told_after) == len(incumbent):
        raise ValueError("stated confidences have to be paired with the scores by example")
    scored = ship_gate(incumbent, challenger, policy, slices=slices, alpha=policy.alpha / 2.0)
    scored = scored.model_copy(update={"p": min(1.0, 2.0 * scored.p)})
    if scored.decision == "accept":
        return scored
    return _calibrated(scored, paired_differences(incumbent, challenger), told_before, told_after, policy)


def _calibrated(
    scored: Verdict, differences: Sequence[float], before: Told, after: Told, policy: ShipGateConfig
) -> Verdict:
    """The verdict on the scores, or an accept on the calibration.

    Compared are the answers for which the *incumbent* states a confidence: the challenger cannot choose them by keeping
    silent, and where it does it has the worst loss.
    """
    settings = policy.calibration
    assert settings is not None
    rows = [i for i, pair in enumerate(before) if pair is not None]
    told = sum(after[i] is not None for i in rows)
    if told < settings.least:
        why = (
            f"calibration is not measurable: {len(rows)} answers of the incumbent and {told} of the challenger to the same "
            f"questions state a confidence, {settings.least} are needed"
        )
        return scored.model_copy(update={"reason": f"{scored.reason}; {why}"})
    falls = [brier_loss(before[i]) - brier_loss(after[i]) for i in rows]
    fall, p = paired_interval(falls, LEVEL), paired_test(falls)
    accuracy = paired_interval(differences, LEVEL)
    what = f"the Brier loss falls by {fall.mean:+.3f} [{fall.low:+.3f}, {fall.high:+.3f}] over {len(rows)} answers"
    what = f"{what}, one-sided p = {p:.2g} at {policy.alpha / 2.0:g}"
    refusal = _refusal(scored, settings, p <= policy.alpha / 2.0, fall.mean, accuracy.low)
    if refusal:
        return scored.model_copy(update={"reason": f"{scored.reason}; calibration: {refusal}: {what}"})
    level = f"accuracy {accuracy.mean:+.3f} [{accuracy.low:+.3f}, {accuracy.high:+.3f}]"
    reason = f"better calibrated, and not worse by {settings.margin:g}: {what}; {level}"
    return scored.model_copy(
        update={"decision": "accept", "basis": "calibration", "p": min(1.0, 2.0 * p), "reason": reason}
    )


def _refusal(scored: Verdict, settings: CalibrationGateConfig, shown: bool, fall: float, accuracy_low: float) -> str:
    """Why a calibration does not ship; empty when it does."""
    if scored.slices:
        return "a slice regresses, so it is not asked"
    if accuracy_low < -settings.margin:
        return f"accuracy may be worse by {-accuracy_low:.3f}, more than the margin {settings.margin:g}"
    if fall < settings.minimum_effect:
        return f"the gain is below its minimum effect {settings.minimum_effect:g}"
    return "" if shown else "the gain is not shown"
