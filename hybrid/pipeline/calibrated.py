"""The report's calibration: how well the confidences that test answers state match what was right.

Nothing is generated for it: the answers are those of the sealed test. Does not: judge (see `hybrid.evidence.joint_gate`).
"""

from __future__ import annotations

from hybrid.config.schema import Config
from hybrid.evidence.calibration import auroc, brier, ece
from hybrid.evidence.stated import Reader, stated
from hybrid.evidence.types import Interval, Measurement
from hybrid.report import schema as r

LEAST = 30
"""With fewer answers that state a confidence a calibration is not measurable."""


def calibration_of(config: Config, base: Measurement, placed: Measurement | None) -> tuple[r.Calibration | None, str]:
    """The calibration of the placed arm's test answers (the base's where nothing was placed), and the base's beside it.

    None where no way of stating a confidence is configured, and where fewer than `LEAST` answers state one; the sentence
    then says so (empty in the first case).
    """
    reader = Reader.of(config.weights.rewards)
    if reader is None:
        return None, ""
    shown = base if placed is None else placed
    found, told, asked = _figures(shown, reader, config.seed)
    if not found:
        return (
            None,
            f"calibration: not measurable: {told} of {asked} test answers state a confidence, {LEAST} are needed",
        )
    area = found.get("auroc")
    calibration = r.Calibration(
        brier=found["brier"].mean,
        ece=found["ece"].mean,
        auroc=area.mean if area is not None else None,
        n=told,
        unstated=asked - told,
        intervals=found,
        base=_figures(base, reader, config.seed)[0],
    )
    return calibration, ""


def _figures(measured: Measurement, reader: Reader, seed: int) -> tuple[dict[str, r.Estimate], int, int]:
    """Figures by name, answers that state a confidence, answers; no figures where too few state one."""
    answers = [(x.text, x.passed) for row in measured.rollouts for x in row]
    pairs = [pair for pair in stated(answers, reader) if pair is not None]
    if len(pairs) < LEAST:
        return {}, len(pairs), len(answers)
    found = {"brier": brier(pairs, seed=seed), "ece": ece(pairs, seed=seed), "auroc": auroc(pairs)}
    shown = {name: _estimate(interval) for name, interval in found.items() if interval is not None}
    return shown, len(pairs), len(answers)


def _estimate(i: Interval) -> r.Estimate:
    return r.Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)
