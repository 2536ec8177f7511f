"""Calibration of the base: where answers state a confidence, how far it is from how often they are right.

Formula: expected calibration error over 10 bins (Guo et al. 2017), with the Brier score and AUROC as details.
Control: the Brier score of always stating the mean accuracy, in the details. Interval: bootstrap
(`evidence.calibration`). Cost: none beyond the base's greedy answers. Not measurable without
`weights.rewards.confidence_pattern`, or where fewer than 10 answers state one.
"""

from __future__ import annotations

from hybrid.evidence.calibration import auroc, brier, ece
from hybrid.evidence.stated import Reader, told
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeResult, absent, from_interval


def calibration_probe(base: Measurement, reader: Reader | None, seed: int) -> ProbeResult:
    """`calibration_error` of the base's greedy answers without text."""
    if reader is None:
        return absent("answers state no confidence")
    pairs = [pair for pair in told(base, reader) if pair is not None]
    error, loss = ece(pairs, seed=seed), brier(pairs, seed=seed)
    if error is None or loss is None:
        return absent(f"{len(pairs)} of {len(base.rollouts)} answers state a confidence: too few")
    right = sum(correct for _, correct in pairs) / len(pairs)
    details: dict[str, float | str] = {
        "stated": len(pairs) / len(base.rollouts),
        "brier": loss.mean,
        "brier_of_the_mean": right * (1 - right),
    }
    ranked = auroc(pairs)
    if ranked is not None:
        details["auroc"] = ranked.mean
    return from_interval(error, "calibration error of stated confidences, greedy, no text", **details)
