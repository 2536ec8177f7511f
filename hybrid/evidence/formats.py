"""Which output formats a model uses, and whether training collapsed onto one further than merit explains.

Reinforcement learning amplifies one pretraining format (Zhao et al. 2025, "Echo Chamber", arXiv 2504.07912). With
little KL weight the optimum itself moves share towards formats that are right more often: s*_i is proportional to
share_i * accuracy_i of the base. What exceeds that is excess collapse, KL(measured shares || s*), in nats.

    excess_collapse({"code": 0.9, "text": 0.1}, {"code": 0.3, "text": 0.7}, {"code": 0.3, "text": 0.15})

Does not: tell formats apart (a grader or a pattern labels completions).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

Labelled = Sequence[tuple[str, bool]]


class FormatUse(BaseModel):
    """Formats of `n` completions: shares, effective number, excess collapse in nats (None: nothing to compare with)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    shares: dict[str, float]
    effective: float
    excess_collapse: float | None
    n: int


def shares(labels: Sequence[str]) -> dict[str, float]:
    """Share of every format, by name; empty without completions."""
    counts = Counter(labels)
    return {name: counts[name] / len(labels) for name in sorted(counts)}


def effective_number(share: Mapping[str, float]) -> float:
    """exp(entropy) (Hill 1973): 1 when one format has everything, the number of formats when they are used alike."""
    return math.exp(-math.fsum(s * math.log(s) for s in share.values() if s > 0))


def merited_shares(share: Mapping[str, float], accuracy: Mapping[str, float]) -> dict[str, float] | None:
    """s*: the base's shares reweighted by their accuracies; None when nothing in the base is ever right."""
    weight = {name: share[name] * accuracy.get(name, 0.0) for name in sorted(share)}
    total = math.fsum(weight.values())
    return {name: w / total for name, w in weight.items()} if total > 0 else None


def excess_collapse(
    share: Mapping[str, float], base_share: Mapping[str, float], base_accuracy: Mapping[str, float]
) -> float | None:
    """KL(share || s*) in nats; 0 at the optimum. None when infinite (s* rules a format out) or without an s*."""
    optimum = merited_shares(base_share, base_accuracy)
    if optimum is None or any(s > 0 and optimum.get(name, 0.0) == 0 for name, s in share.items()):
        return None
    return max(0.0, math.fsum(s * math.log(s / optimum[name]) for name, s in share.items() if s > 0))


def format_use(after: Labelled, base: Labelled = ()) -> FormatUse | None:
    """Formats of `after`, compared with the base's (format, right) pairs where there are any; None without completions.

    The base's shares and accuracies are smoothed by half a count (Jeffreys), so that a format that the base showed
    rarely or never got right has a small merit and not an infinite distance.
    """
    if not after:
        return None
    share = shares([label for label, _ in after])
    excess = None
    if base:
        names = sorted({label for label, _ in (*after, *base)})
        excess = excess_collapse(share, *_smoothed(base, names))
    return FormatUse(shares=share, effective=effective_number(share), excess_collapse=excess, n=len(after))


def merited_share(name: str, base: Labelled) -> float:
    """The share s* that `name` merits by the base's (format, right) pairs, smoothed as in `format_use`; 1 without pairs."""
    names = sorted({name, *(label for label, _ in base)})
    optimum = merited_shares(*_smoothed(base, names)) if base else None
    return 1.0 if optimum is None else optimum[name]


def _smoothed(base: Labelled, names: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Shares and accuracies of the base by format, with half a count added (Jeffreys)."""
    seen, right = Counter(label for label, _ in base), Counter(label for label, ok in base if ok)
    share = {f: (seen[f] + 0.5) / (len(base) + len(names) / 2.0) for f in names}
    return share, {f: (right[f] + 0.5) / (seen[f] + 1.0) for f in names}
