"""Paraphrase consistency: does the same question, asked in other words, get the same answer?

Groups are rows with one metadata `paraphrase_of` (the row of that id is in its group too), or rows with one parent
and one reference. PC of a group of m is the sum over distinct answers of (n_y / m)^2. Because a right answer is
always the same one, PC grows with accuracy alone; so the value is kappa = sum(PC - E) / sum(1 - E) with E = p^2 + (1
- p^2) / m, what PC would be if each paraphrase were answered anew, right with probability p and wrong each time in
another way (p is the accuracy over all groups). 0: the wording decides, 1: the question does. The details hold mean
PC by accuracy of the group: a low PC where most answers are right is surface memory.
Control: E. Interval: bootstrap over groups. Cost: one completion per paraphrase that is not among the probed rows, at
most `probe.paraphrases`. Not measurable without paraphrases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybrid.capability.types import Example
from hybrid.evidence.intervals import FloatArray
from hybrid.probe.base import ProbeContext, ProbeResult, absent

Group = Sequence[tuple[str, bool]]
"""(answer, whether it is right) of every paraphrase of one question."""
_RESAMPLES = 1000
_LONGEST = 2_000


def probe_paraphrases(context: ProbeContext) -> tuple[ProbeResult, int]:
    """`paraphrase_consistency`, and the completions that it asked for beyond the probed rows."""
    rows = context.capability.splits["search"]
    probed = {e.id for e in context.examples}
    groups, extra = [], 0
    for group in groups_of(rows):
        new = sum(e.id not in probed for e in group)
        if extra + new <= context.config.paraphrases:
            groups.append(group)
            extra += new
    if not groups:
        return absent("no paraphrases: rows with one metadata `paraphrase_of`, or with one parent and one reference"), 0
    asked = [e for group in groups for e in group]
    answers = {}
    for example, row in zip(asked, context.measure(examples=asked).rollouts, strict=True):
        if not row[0].unjudged:
            answers[example.id] = (" ".join(row[0].text[:_LONGEST].casefold().split()), row[0].passed)
    judged = [[answers[e.id] for e in group if e.id in answers] for group in groups]
    return consistency([group for group in judged if len(group) > 1], context.seed), extra


def groups_of(rows: Sequence[Example]) -> list[list[Example]]:
    """Groups of at least two paraphrases, in the order of their first rows. Pure."""
    ids = {e.id for e in rows}
    named = {str(e.metadata["paraphrase_of"]) for e in rows if "paraphrase_of" in e.metadata} & ids
    found: dict[tuple[str, ...], list[Example]] = {}
    for row in rows:
        if "paraphrase_of" in row.metadata:
            key: tuple[str, ...] = (str(row.metadata["paraphrase_of"]),)
        elif row.id in named:
            key = (row.id,)
        elif row.parent_id is not None:
            key = (row.parent_id, row.reference)
        else:
            continue
        found.setdefault(key, []).append(row)
    return [group for group in found.values() if len(group) > 1]


def consistency(groups: Sequence[Group], seed: int) -> ProbeResult:
    """kappa over groups of at least two judged answers. Pure."""
    if not groups:
        return absent("no group of paraphrases with two judged answers")
    sizes = np.array([len(g) for g in groups], dtype=np.float64)
    right = np.array([sum(ok for _, ok in g) for g in groups], dtype=np.float64)
    pc = np.array([sum(c**2 for c in Counter(a for a, _ in g).values()) / len(g) ** 2 for g in groups])
    value = _kappa(sizes, right, pc, np.arange(len(groups), dtype=np.int64)[None])[0]
    if np.isnan(value):
        return absent(f"all answers of all {len(groups)} groups are right: there is no inconsistency to look for")
    draws = np.random.default_rng(seed).integers(0, len(groups), (_RESAMPLES, len(groups)))
    drawn = _kappa(sizes, right, pc, draws)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    details: dict[str, float | str] = {
        "accuracy": float(right.sum() / sizes.sum()),
        "mean_consistency": float(pc.mean()),
    }
    share = right / sizes
    strata = {
        "none": share == 0,
        "few": (share > 0) & (share <= 0.5),
        "most": (share > 0.5) & (share < 1),
        "all": share == 1,
    }
    for name, chosen in strata.items():
        if chosen.any():
            details[f"consistency_{name}_right"] = float(pc[chosen].mean())
            details[f"groups_{name}_right"] = float(chosen.sum())
    return ProbeResult(
        value=float(value),
        low=float(min(low, value)),
        high=float(max(high, value)),
        n=len(groups),
        note="consistency over paraphrases beyond what the accuracy alone gives (kappa)",
        details=details,
    )


def _kappa(sizes: FloatArray, right: FloatArray, pc: FloatArray, draws: npt.NDArray[np.int64]) -> FloatArray:
    """kappa of every row of group numbers; NaN where every answer is right."""
    m, c = sizes[draws], right[draws]
    p = (c.sum(axis=1) / m.sum(axis=1))[:, None]
    expected = p**2 + (1 - p**2) / m
    room = (1 - expected).sum(axis=1)
    gained = (pc[draws] - expected).sum(axis=1)
    safe = np.where(room > 1e-9, room, 1.0)
    result: FloatArray = np.where(room > 1e-9, np.clip(gained / safe, -1, 1), np.nan)
    return result
