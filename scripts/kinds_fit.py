"""Fit the measured kinds: three logistic scores over eight profile values, with the strength of the penalty by
cross-validation.

    model, losses, taken = fit(rows, "what")     # rows: profiles of constructed capabilities with family and kinds

Each kind is a question of its own (does this capability have it?), so that two can hold and none can. Penalised
maximum likelihood by Newton's method. The penalty, and one factor on all weights, come from a grid by the log loss of
the true verdict over folds that leave whole seeds out: the largest penalty, then the smallest factor, within one
standard error of the least loss (Breiman et al. 1984), since bold scores cost little among shapes that were fitted
and much on others. Nothing is drawn at random. Does not: probe, or read a held-out seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid.router.kinds import (
    FEATURES,
    SINGLES,
    Model,
    Score,
    Value,
    nearest_family,
    probability,
    raw_values,
    standardised,
    verdict_probabilities,
)

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SHARPNESS = (0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
"""Factors on all weights: a penalty makes scores timid, separable data make them bold."""
FOLDS = 5
MARGIN = 1.5
"""How much farther than the farthest calibration capability a signature may be."""
Row = dict[str, Any]


def verdict_of(kinds: Sequence[str]) -> str:
    """The verdict that capabilities of these kinds should get."""
    return kinds[0] if len(kinds) == 1 else ("mixed" if kinds else "unclear")


def _newton(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Weights, the bias last, of penalised logistic regression; the bias is not penalised."""
    design = np.hstack([x, np.ones((len(x), 1))])
    ridge = np.diag([penalty] * x.shape[1] + [1e-6])
    weights = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - y) + ridge @ weights
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 5.0 / max(1e-9, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-10:
            break
    return weights


def _table(rows: Sequence[Row], centre: dict[str, float], scale: dict[str, float]) -> list[dict[str, Value]]:
    return [
        {n: standardised(raw, centre[n], scale[n]) for n, raw in raw_values(row["profile"]).items()} for row in rows
    ]


def _units(rows: Sequence[Row]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and deviation of every feature over the rows that have it."""
    centre, scale = {}, {}
    for name in FEATURES:
        seen = [v for row in rows if (v := raw_values(row["profile"])[name][0]) is not None]
        centre[name] = float(np.mean(seen)) if seen else 0.0
        scale[name] = max(0.05, float(np.std(seen))) if seen else 1.0
    return centre, scale


def fit_with(rows: Sequence[Row], penalty: float, what: str, sharpness: float = 1.0) -> Model:
    """The model at one penalty and sharpness."""
    centre, scale = _units(rows)
    table = _table(rows, centre, scale)
    x = np.array([[values[n].value for n in FEATURES] for values in table])
    scores = {}
    for kind in SINGLES:
        w = sharpness * _newton(x, np.array([float(kind in row["kinds"]) for row in rows]), penalty)
        weights = {n: round(float(v), 4) for n, v in zip(FEATURES, w[:-1], strict=True)}
        scores[kind] = Score(bias=round(float(w[-1]), 4), weights=weights)
    families, spread = _families(rows, x)
    model = Model(
        fitted_on=what,
        centre={n: round(v, 4) for n, v in centre.items()},
        scale={n: round(v, 4) for n, v in scale.items()},
        scores=scores,
        families=families,
        spread=spread,
        farthest=math.inf,
    )
    farthest = max(nearest_family(model, values)[1] for values in table)
    return model.model_copy(update={"farthest": round(MARGIN * farthest, 2)})


def _families(rows: Sequence[Row], x: np.ndarray) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Mean signature of every family, and the spread around them, at least a quarter of the spread over all."""
    names = sorted({row["family"] for row in rows})
    member = np.array([names.index(row["family"]) for row in rows])
    means = np.array([x[member == i].mean(axis=0) for i in range(len(names))])
    spread = np.maximum(0.25, np.sqrt(((x - means[member]) ** 2).sum(axis=0) / max(1, len(rows) - len(names))))
    families = {
        name: {n: round(float(v), 3) for n, v in zip(FEATURES, means[i], strict=True)} for i, name in enumerate(names)
    }
    return families, {n: round(float(v), 3) for n, v in zip(FEATURES, spread, strict=True)}


def losses_of(model: Model, rows: Sequence[Row]) -> list[float]:
    """-log probability of the true verdict of every row."""
    found = []
    for row, values in zip(rows, _table(rows, model.centre, model.scale), strict=True):
        verdicts = verdict_probabilities({k: probability(model.scores[k], values) for k in SINGLES})
        found.append(-math.log(max(1e-9, verdicts[verdict_of(row["kinds"])])))  # type: ignore[index]
    return found


def fit(rows: Sequence[Row], what: str) -> tuple[Model, dict[tuple[float, float], float], tuple[float, float]]:
    """The model at the cautious penalty and sharpness, the cross-validated log loss by both, and which were taken."""
    order = sorted(rows, key=lambda row: (row["family"], row["seed"]))
    folds = [[row for i, row in enumerate(order) if i % FOLDS == k] for k in range(FOLDS)]
    losses = {}
    for penalty in PENALTIES:
        for sharpness in SHARPNESS:
            losses[penalty, sharpness] = [
                loss
                for k, fold in enumerate(folds)
                for loss in losses_of(
                    fit_with([r for j, f in enumerate(folds) if j != k for r in f], penalty, what, sharpness), fold
                )
            ]
    means = {key: float(np.mean(found)) for key, found in losses.items()}
    best = min(means, key=lambda key: means[key])
    bar = means[best] + float(np.std(losses[best])) / math.sqrt(len(rows))
    penalty, sharpness = max((key for key in means if means[key] <= bar), key=lambda key: (key[0], -key[1]))
    return fit_with(rows, penalty, what, sharpness), means, (penalty, sharpness)


def loss_on_unseen_families(rows: Sequence[Row], penalty: float, sharpness: float) -> float:
    """Mean log loss where every row is judged by a model that was fitted without its family."""
    losses: list[float] = []
    for family in sorted({row["family"] for row in rows}):
        model = fit_with([row for row in rows if row["family"] != family], penalty, "", sharpness)
        losses += losses_of(model, [row for row in rows if row["family"] == family])
    return sum(losses) / len(losses)
