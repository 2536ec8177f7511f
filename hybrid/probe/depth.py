"""Iteration depth: how fast accuracy falls with the number of sequential steps that an answer needs.

    logit P(right) = a - b d        d = metadata `depth` of the example

b is `depth_slope` without a text and `depth_slope_text` under the best one. A procedure that runs costs a little per
step; one that is recalled, or run in latent space, falls off (Bernier et al. 2026, arXiv 2603.23004). Where the fall
stays under a text that spells the steps out, the answer is a tool, not more text and not an adapter.

Fit: Firth's penalised likelihood (1993, Biometrika 80:27), which is finite also where every shallow answer is right and
every deep one wrong; interval: profile of the penalised likelihood (Heinze and Schemper 2002, Stat. Med. 21:2409), since a
Wald interval is far too short or endless there. The slope alone does not say that deep answers fail: 0.99 falling to
0.93 is a slope too. So the details carry the fitted accuracy at the shallowest and deepest step as well as the accuracy
at each depth.
Control: the same examples with and without the text. Cost: no calls beyond those of the base score and the context probe.
Does not: correct for guessing (accuracy has a floor, under which the slope is 0), or say which steps are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid.capability.types import Example
from hybrid.evidence.types import Measurement
from hybrid.probe.base import ProbeContext, ProbeResult, absent

LEAST_DEPTHS = 3
"""With two depths any two accuracies are on the line: nothing is fitted."""
LEAST_EXAMPLES = 16
LARGEST_DEPTH = 10_000
_HALF_CHI2 = 1.9207294
"""Half the 95 % quantile of chi-square with one degree of freedom."""
_WIDEST = 60.0
"""Logits beyond which neither the fit nor an end of the interval is looked for."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_SEARCH_STEPS = 44
"""Golden sections of a range of 120 logits: down to 8e-8, where the top is flat in floating point."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DepthFit:
    """logit accuracy = intercept - slope * depth, with the 95 % interval of the slope and what was counted."""

    intercept: float
    slope: float
    low: float
    high: float
    n: int
    accuracy: dict[int, float]

    def at(self, depth: float) -> float:
        """Fitted accuracy at a depth."""
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, self.intercept - self.slope * depth))))


def depth_of(example: Example) -> int | None:
    """Required sequential steps of an example, or None where its metadata do not say (or say nonsense)."""
    depth = example.metadata.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= LARGEST_DEPTH:
        return None
    return depth


def fit_depth(rows: Sequence[tuple[int, bool]]) -> DepthFit | None:
    """Fit (depth, right) pairs; None with fewer than 3 depths or 16 pairs: not measurable.

    The result does not depend on the order of the pairs.
    """
    depths = sorted({depth for depth, _ in rows})
    if len(depths) < LEAST_DEPTHS or len(rows) < LEAST_EXAMPLES:
        return None
    total = np.array([sum(d == depth for d, _ in rows) for depth in depths], dtype=np.float64)
    right = np.array([sum(d == depth and ok for d, ok in rows) for depth in depths], dtype=np.float64)
    centre = float(np.average(depths, weights=total))
    x = np.array(depths, dtype=np.float64) - centre
    scale = max(1.0, float(np.abs(x).max()))
    x = x / scale  # steps of the solver are then of the size of 1 whatever the depths
    likelihood = _Penalised(x, total, right)
    slope, best = _highest(lambda b: likelihood.profile(b)[1])
    level = likelihood.profile(slope)[0]
    low, high = (_end(likelihood, slope, best - _HALF_CHI2, far) for far in (-_WIDEST, _WIDEST))
    return DepthFit(
        intercept=round(level + slope * centre / scale, 6),
        slope=round(slope / scale, 6) + 0.0,
        low=round(low / scale, 6),
        high=round(high / scale, 6),
        n=len(rows),
        accuracy={d: float(r / t) for d, r, t in zip(depths, right, total, strict=True)},
    )


class _Penalised:
    """log likelihood + half the log determinant of the information (Jeffreys' prior), over depths x with right of total."""

    def __init__(self, x: Floats, total: Floats, right: Floats) -> None:
        self._x, self._total, self._right = x, total, right
        self._squares = (x[:, None] - x[None, :]) ** 2 / 2

    def __call__(self, level: float, slope: float) -> float:
        """At logit accuracy = level - slope * x."""
        eta = level - slope * self._x
        log_p, log_q = -np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta)
        weight = self._total * np.exp(log_p + log_q)
        # the determinant as a sum of squares: the usual difference of products cancels where all answers are alike
        determinant = float(weight @ self._squares @ weight)
        if determinant <= 0:
            return -math.inf
        return float(self._right @ log_p + (self._total - self._right) @ log_q) + 0.5 * math.log(determinant)

    def profile(self, slope: float) -> tuple[float, float]:
        """The best level for a slope, and the value there."""
        return _highest(lambda level: self(level, slope))


def _highest(function: Callable[[float], float]) -> tuple[float, float]:
    """Where a function with one peak is highest within the widest range, and its value, by golden sections."""
    low, high = -_WIDEST, _WIDEST
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(_SEARCH_STEPS):
        if at_a >= at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = function(b)
    return (a, at_a) if at_a >= at_b else (b, at_b)


def _end(likelihood: _Penalised, slope: float, bar: float, far: float) -> float:
    """The slope between the fitted one and `far` where the profile falls to `bar`; `far` where it does not."""
    if likelihood.profile(far)[1] >= bar:
        return far
    near = slope
    for _ in range(30):
        middle = (near + far) / 2
        if likelihood.profile(middle)[1] >= bar:
            near = middle
        else:
            far = middle
    return (near + far) / 2


def probe_depth(context: ProbeContext, base: Measurement, text: str) -> dict[str, ProbeResult]:
    """`depth_slope` of `base`, and `depth_slope_text` of the best `text` ("" when there is none to try).

    Both are logits of accuracy lost per step, over the examples that every probe shares and whose metadata carry `depth`;
    none at all where no example does.
    """
    if all(depth_of(example) is None for example in context.examples):
        return {}
    results = {"depth_slope": _result(context.examples, base)}
    if not text.strip():
        results["depth_slope_text"] = absent("no text to try")
    elif results["depth_slope"].value is None:
        results["depth_slope_text"] = absent(results["depth_slope"].note)
    else:
        results["depth_slope_text"] = _result(context.examples, context.measure(text))
    return results


def _result(examples: Sequence[Example], measured: Measurement) -> ProbeResult:
    pairs = [
        (depth, row[0].passed)
        for example, row in zip(examples, measured.rollouts, strict=True)
        if (depth := depth_of(example)) is not None and not row[0].unjudged
    ]
    fit = fit_depth(pairs)
    if fit is None:
        found = f"{len(pairs)} examples of {len({d for d, _ in pairs})} depths"
        return absent(f"needs {LEAST_EXAMPLES} examples of {LEAST_DEPTHS} depths with metadata `depth`; {found}")
    shallow, deep = min(fit.accuracy), max(fit.accuracy)
    return ProbeResult(
        value=fit.slope,
        low=fit.low,
        high=fit.high,
        n=fit.n,
        note=f"logits of accuracy lost per step; fitted {fit.at(shallow):.2f} at {shallow}, {fit.at(deep):.2f} at {deep}",
        details={
            "intercept": fit.intercept,
            "shallowest": float(shallow),
            "deepest": float(deep),
            "at_shallowest": fit.at(shallow),
            "at_deepest": fit.at(deep),
            **{f"accuracy_{depth}": value for depth, value in fit.accuracy.items()},
        },
    )
