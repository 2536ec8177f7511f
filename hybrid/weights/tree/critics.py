"""Critics of a tree's states: logistic heads on hidden states of the frozen base, fitted to what leaves returned.

    critics = Critics(settings)
    critics.add("value", features, targets, prompts)     # rows of the newest step
    critics.fit()
    critics.usable                                       # ("value",): calibrated on prompts that no fit has seen
    critics.score("value", features)                     # in [0, 1]

There are no labels but the final checker's: `value` learns the mean return of samples from a state, `process` whether any leaf
below a step is right (the hard estimate of Math-Shepherd and ReST-MCTS*), `outcome` the score of a completion. Prompts are
dealt into three parts: on half of them the head is fitted (ridge logistic regression), on a quarter its logits are scaled and
shifted (Platt 1999), on a quarter it is judged. It is usable when its expected calibration error there is small and its Brier
score beats a constant's by more than the difference between prompts explains. AlphaLLM's own process critic had an error of
.375 and would not have been used.

Everything is numpy in float64 and a function of the rows that were added. Does not: compute hidden states, or decide what an
estimate is used for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.config.tree import CriticName, CriticsConfig

Array = NDArray[np.float64]
NAMES: tuple[CriticName, ...] = ("value", "process", "outcome")
_BINS = 10
_LEAST = 20
"""Rows that each part needs before anything is fitted or judged."""
_ROUNDS = 300
_ERRORS = 2.5
"""Standard errors: a two-sided 95 % of Student's t with 5 degrees of freedom is 2.6, with 20 it is 2.1."""


@dataclass(frozen=True)
class Head:
    """Standardise by `centre` and `scale` (d,), then sigmoid(slope * (x . weights + bias) + offset)."""

    centre: Array
    scale: Array
    weights: Array
    bias: float
    slope: float = 1.0
    offset: float = 0.0

    def logits(self, features: Array) -> Array:
        """Before calibration, (n,) of (n, d)."""
        found: Array = (features - self.centre) / self.scale @ self.weights + self.bias
        return found

    def score(self, features: Array) -> Array:
        """Calibrated estimates (n,) in (0, 1)."""
        return sigmoid(self.slope * self.logits(features) + self.offset)


@dataclass(frozen=True)
class Quality:
    """On held-out prompts: `ece`, `brier`, and `constant`, the Brier score of the other prompts' mean; `gain_low` is the lower
    end of an interval of constant minus brier, with prompts as the units."""

    ece: float
    brier: float
    constant: float
    gain_low: float

    def calibrated(self, most_ece: float) -> bool:
        """Whether the critic may be used."""
        return self.ece <= most_ece and self.gain_low > 0


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    found: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return found


def calibration_error(scores: Array, targets: Array) -> float:
    """Sum over ten equal bins of (n_b / n) |mean score - mean target|; targets may be fractions (Guo et al. 2017)."""
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=scores - targets, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def logistic(x: Array, y: Array, ridge: float) -> tuple[Array, float]:
    """Weights (d,) and bias that minimise the mean cross entropy to `y` in [0, 1] plus ridge / 2 of the squared weights.

    Accelerated gradient descent (Nesterov 1983) with a fixed number of rounds and the step that the curvature allows, from
    zero; the same numbers give the same bytes.
    """
    n, d = x.shape
    ones = np.hstack([x, np.ones((n, 1))])
    curvature = float(np.linalg.eigvalsh(ones @ ones.T if n < d else ones.T @ ones)[-1]) / (4 * n) + ridge
    penalty = np.append(np.full(d, ridge), 0.0)
    theta = ahead = np.zeros(d + 1)
    for round_ in range(_ROUNDS):
        gradient = ones.T @ (sigmoid(ones @ ahead) - y) / n + penalty * ahead
        new = ahead - gradient / curvature
        ahead = new + round_ / (round_ + 3) * (new - theta)
        theta = new
    return theta[:-1], float(theta[-1])


def lower_gain(gains: Array, prompts: NDArray[np.int64]) -> float:
    """Mean of `gains` minus `_ERRORS` standard errors, where rows of one prompt go together (sums by prompt about the mean)."""
    _, cluster = np.unique(prompts, return_inverse=True)
    mean = float(gains.mean())
    sums = np.bincount(cluster, weights=gains - mean)
    count = len(sums)
    error = float(np.sqrt((sums**2).sum() * count / max(count - 1, 1))) / len(gains)
    return mean - _ERRORS * error


def fit_head(x: Array, y: Array, prompts: NDArray[np.int64], ridge: float) -> tuple[Head, Quality]:
    """A head fitted, calibrated and judged on three parts of the rows."""
    parts = split_prompts(prompts)
    fitted, tuned, judged = parts
    centre = x[fitted].mean(axis=0)
    spread = x[fitted].std(axis=0)
    scale = np.where(spread > 1e-8, spread, 1.0)
    weights, bias = logistic((x[fitted] - centre) / scale, y[fitted], ridge)
    raw = Head(centre, scale, weights, bias)
    logits = raw.logits(x[tuned])
    size = max(float(np.abs(logits).max()), 1e-8)
    slope, offset = logistic(logits[:, None] / size, y[tuned], 1e-3)
    head = Head(centre, scale, weights, bias, float(slope[0]) / size, offset)
    scores, truth = head.score(x[judged]), y[judged]
    mine, constant = (scores - truth) ** 2, (y[~judged].mean() - truth) ** 2
    quality = Quality(
        calibration_error(scores, truth),
        float(mine.mean()),
        float(constant.mean()),
        lower_gain(constant - mine, prompts[judged]),
    )
    return head, quality


def split_prompts(prompts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows (n,) of prompt numbers as three masks: half, a quarter and a quarter of the prompts, in an order of no meaning."""
    order = sorted(set(prompts.tolist()), key=lambda p: hashlib.sha256(str(p).encode()).digest())
    place = {prompt: number % 4 for number, prompt in enumerate(order)}
    part = np.array([place[p] for p in prompts.tolist()], dtype=np.int64)
    return part < 2, part == 2, part == 3


class Critics:
    """The rows that critics learn from, and their newest heads.

    `heads` and `qualities` hold those that could be fitted: enough rows in every part, and not all targets alike.
    """

    def __init__(self, settings: CriticsConfig) -> None:
        self._settings = settings
        self._rows: dict[CriticName, tuple[Array, Array, NDArray[np.int64]]] = {}
        self.heads: dict[CriticName, Head] = {}
        self.qualities: dict[CriticName, Quality] = {}

    @property
    def usable(self) -> tuple[CriticName, ...]:
        """The critics that are calibrated, in a fixed order."""
        most = self._settings.most_ece
        return tuple(n for n in NAMES if n in self.qualities and self.qualities[n].calibrated(most))

    def add(self, name: CriticName, features: Array, targets: Sequence[float], prompts: Sequence[int]) -> None:
        """Remember rows (n, d) with targets in [0, 1] and the prompts they come from; the oldest are forgotten."""
        if name not in self._settings.use or not len(targets):
            return
        # As they are stored in a checkpoint: a resumed training has to read the same numbers.
        fresh = (
            features.astype(np.float32).astype(np.float64),
            np.asarray(targets, dtype=np.float64),
            np.asarray(prompts, dtype=np.int64),
        )
        old = self._rows.get(name)
        joined = fresh if old is None else tuple(np.concatenate(pair) for pair in zip(old, fresh, strict=True))
        keep = self._settings.rows
        self._rows[name] = (joined[0][-keep:], joined[1][-keep:], joined[2][-keep:])

    def fit(self) -> None:
        """Fit every critic on its rows; one that cannot be fitted now has no head."""
        self.heads, self.qualities = {}, {}
        for name, (x, y, prompts) in sorted(self._rows.items()):
            parts = split_prompts(prompts)
            if min(int(part.sum()) for part in parts) < _LEAST or any(np.ptp(y[part]) < 1e-9 for part in parts[:2]):
                continue
            self.heads[name], self.qualities[name] = fit_head(x, y, prompts, self._settings.ridge)

    def score(self, name: CriticName, features: Array) -> list[float]:
        """Calibrated estimates of rows (n, d)."""
        found: list[float] = self.heads[name].score(features.astype(np.float32).astype(np.float64)).tolist()
        return found

    def figures(self, consulted: Sequence[CriticName]) -> dict[str, float]:
        """For the log: per critic whether the search consulted it, and where it could be judged its error and Brier score."""
        found: dict[str, float] = {}
        for name in self._settings.use:
            found[f"critic/{name}/used"] = float(name in consulted)
            if name in self.qualities:
                quality = self.qualities[name]
                found[f"critic/{name}/ece"] = quality.ece
                found[f"critic/{name}/brier"] = quality.brier
                found[f"critic/{name}/constant_brier"] = quality.constant
        return found

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Everything that a resumed training needs, as arrays."""
        found: dict[str, NDArray[np.generic]] = {}
        for name, (x, y, prompts) in self._rows.items():
            found |= {f"{name}.x": x.astype(np.float32), f"{name}.y": y, f"{name}.prompts": prompts}
        for name, head in self.heads.items():
            quality = self.qualities[name]
            numbers = [
                head.bias,
                head.slope,
                head.offset,
                quality.ece,
                quality.brier,
                quality.constant,
                quality.gain_low,
            ]
            found |= {f"{name}.centre": head.centre, f"{name}.scale": head.scale, f"{name}.weights": head.weights}
            found[f"{name}.numbers"] = np.array(numbers, dtype=np.float64)
        return found

    def restore(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `tensors` gave."""
        for name in NAMES:
            if f"{name}.x" in tensors:
                x, y, prompts = (tensors[f"{name}.{part}"] for part in ("x", "y", "prompts"))
                self._rows[name] = (x.astype(np.float64), y.astype(np.float64), prompts.astype(np.int64))
            if f"{name}.numbers" in tensors:
                numbers = tensors[f"{name}.numbers"].astype(np.float64).tolist()
                arrays = [tensors[f"{name}.{part}"].astype(np.float64) for part in ("centre", "scale", "weights")]
                self.heads[name] = Head(arrays[0], arrays[1], arrays[2], *numbers[:3])
                self.qualities[name] = Quality(*numbers[3:7])
