"""Lapse share: of the failures under a document, how many the document already has a rule for.

lapse share = lapses / (defects + lapses), with a Wilson interval, over failures on training rows that could be labelled. A
defect is mended by text; a lapse that recurs is a rule that the model reads and does not follow, which speaks for weights
(EmbodiSkill, arXiv 2605.10332).
Control: a failure that an irrelevant line mends is luck and is not labelled, and a failure counts as a lapse only where
rival lines were tried on the same rows and did not gain. Under an empty document there is nothing to lapse from: not
measurable, and not 0. Cost: no calls beyond those of the reflection that gave the labels.
Does not: label (`hybrid.skill.labels`), or read any split: it gets counts.
"""

from __future__ import annotations

from hybrid.evidence.stats import wilson
from hybrid.probe.base import ProbeResult, absent, from_interval


def lapse_probe(defects: int, lapses: int, *, failures: int | None = None, document: str, source: str) -> ProbeResult:
    """`lapse_share` under `document`, a body; `source` says which one it is (seed, draft).

    `failures` counts all failures looked at, labelled or not; by default the labelled ones. Raises ValueError for counts
    that cannot be.
    """
    labelled = defects + lapses
    failures = labelled if failures is None else failures
    if min(defects, lapses) < 0 or failures < labelled:
        raise ValueError(f"{defects} defects and {lapses} lapses cannot be labels of {failures} failures")
    if not document.strip():
        return absent(f"the {source} document is empty: there is no rule to lapse from")
    if not labelled:
        return absent(f"none of {failures} failures under the {source} document could be labelled")
    return from_interval(
        wilson(lapses, labelled, 0.95),
        f"failures under the {source} document that it has a rule for",
        defects=float(defects),
        lapses=float(lapses),
        unlabelled=float(failures - labelled),
    )
