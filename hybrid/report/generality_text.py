"""Tables and sentences about generality, as plain cells; each form of the report escapes them for itself.

Does not: escape, decide or measure.
"""

from __future__ import annotations

from hybrid.report.parts_generality import ArmGenerality, VariantPoint
from hybrid.report.schema import CapabilityReport
from hybrid.report.text import ABSENT, ARM_NAMES, interval, num, signed

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]

MEANING = (
    "The transfer ratio is the gain on variants per gain on confirm examples: about 1 where a procedure was learnt, about 0 "
    "where a template was. The last column is the difference of the two gains (difference in differences)."
)
WATCHED = "The watched variants are in no other sample; checkpoints are selected on the search split alone."
_MOST_POINTS = 12


def transfer_table(c: CapabilityReport) -> Table | None:
    """How each arm's gain carries over; None where no arm was judged with variants."""
    if c.generality is None or not c.generality.arms:
        return None
    head = ("arm", "transfer ratio", "gain on confirm", "gain on variants", "families", "difference of gains", "note")
    return head, [_arm(g) for g in c.generality.arms]


def _arm(g: ArmGenerality) -> tuple[str, ...]:
    ratio = ABSENT if g.tau is None else f"{num(g.tau)} {interval(g)}".rstrip()
    gains = [f"{signed(e.delta)} {interval(e, sign=True)} n={e.n}" for e in (g.gain, g.variant_gain)]
    return (
        ARM_NAMES[g.arm],
        ratio,
        *gains,
        str(g.families),
        f"{signed(g.did.delta)} {interval(g.did, sign=True)}",
        g.note,
    )


def curve_table(c: CapabilityReport) -> Table | None:
    """The watched variants while training, thinned to a dozen rows; None where nothing was watched."""
    if c.generality is None or not c.generality.watched:
        return None
    points, chosen = c.generality.watched, c.training.selected_step if c.training else None
    stride = max(1, -(-len(points) // _MOST_POINTS))
    kept = [p for i, p in enumerate(points) if i % stride == 0 or p.step == chosen]
    return ("step", "search", "watched variants", "transfer ratio"), [_point(p) for p in kept]


def _point(p: VariantPoint) -> tuple[str, ...]:
    ratio = ABSENT if p.tau is None else num(p.tau)
    if p.tau_low is not None:
        ratio += f" [{num(p.tau_low)}, {num(p.tau_high)}]"
    return str(p.step), num(p.search), f"{num(p.mean)} {interval(p)} n={p.n}", ratio


def facts_line(c: CapabilityReport) -> str:
    """Known and unknown training rows in a sentence; empty where nothing was measured."""
    facts = c.generality.unknown_facts if c.generality else None
    if facts is None:
        return ""
    by = f"{facts.highly} highly, {facts.maybe} maybe, {facts.weakly} weakly known, {facts.unknown} unknown"
    text = "" if facts.supplied is None else f" (a text supplies {facts.supplied} of these)"
    done = {"drop": f"{facts.dropped} left out", "relabel": f"{facts.relabelled} relabelled", "keep": "all kept"}
    rows = f"Facts in {facts.n} training rows, by one greedy answer and {facts.samples} samples"
    return f"{rows}: {by}{text}; {done[facts.policy]}."
