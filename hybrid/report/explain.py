"""Why one capability went where it went, as plain text for a terminal.

`what_would_change` is arithmetic on the ship gate's own numbers: the interval shrinks with the square root of n, so a
gain of `delta` with half-width h at n examples needs about n (h / delta)^2 of them to keep zero out. That is an
estimate, and says so. Control characters of model output are spelled out, so nothing here can steer a terminal.
"""

from __future__ import annotations

import math
import textwrap

from hybrid.config.suggest import did_you_mean
from hybrid.errors import UsageError
from hybrid.report import argument
from hybrid.report.kind_text import kind_evidence, kind_line
from hybrid.report.order_text import explained
from hybrid.report.probe_words import probe_lines
from hybrid.report.schema import CapabilityReport, GateVerdict, Report
from hybrid.report.text import ARM_NAMES, interval, line, num, sealed, signed

_WIDTH = 112


def find(report: Report, name: str) -> CapabilityReport:
    """The capability called `name`. Raises UsageError, with the nearest name, when the report has none."""
    for capability in report.capabilities:
        if capability.name == name:
            return capability
    names = [c.name for c in report.capabilities]
    shown = did_you_mean(name, names, "this run has")
    raise UsageError(f"no capability called {line(name, 80)!r} in run {line(report.run_id, 80)}; {line(shown)}")


def to_text(report: Report, capability: CapabilityReport) -> str:
    """The explanation of one capability, ending in one newline: an argument in numbered questions, each with its evidence."""
    c = capability
    out = [f"{line(c.name)}: {c.placement} (confidence {num(c.confidence)})", f"kind: {kind_line(c.kind)}"]
    trail = [f"({i}) {line(step, 1000)}" for i, step in enumerate(c.decision_trail, 1)]
    asked = (
        ("What is claimed", argument.claim(c)),
        ("What does the base do by itself?", argument.base(c, report)),
        ("What does a text give, against its control?", argument.text(c, report)),
        ("What do its samples say about gradients?", argument.samples(c, report)),
        ("What else was measured?", list(probe_lines(c, "other"))),
        ("What kind of thing is it?", kind_evidence(c.kind)),
        ("Which rules sent it there, in order?", trail),
        ("What was built, and what was refused?", list(argument.built(c))),
        ("Which test decided?", list(argument.decided(c, report))),
        ("What is it worth, on examples sealed until the end?", argument.worth(c)),
        ("How did it share its adapter?", [line(text, 1000) for text in explained(report.schedule, c.name)]),
        ("What about the other places?", list(argument.alternatives(c))),
        ("What does it cost?", argument.costs(c)),
        ("What does it do to the rest?", list(argument.side_effects(c))),
        ("Where was it before?", argument.past(c, report)),
        ("What would change the verdict?", what_would_change(c, report)),
        ("What speaks for doubt?", list(argument.doubts(c, report))),
    )
    for number, (question, answers) in enumerate(((q, a) for q, a in asked if a), 1):
        out += ["", f"{number}. {question}", *(_wrapped(answer) for answer in answers)]
    return "\n".join(out) + "\n"


def _wrapped(text: str) -> str:
    """One answer as an indented item of at most `_WIDTH` columns; long words stay whole, so that they can be searched for."""
    return textwrap.fill(
        text, _WIDTH, initial_indent="   - ", subsequent_indent="     ", break_long_words=False, break_on_hyphens=False
    )


def what_would_change(capability: CapabilityReport, report: Report) -> list[str]:
    """What evidence would move the placement, from the gate's numbers and the thresholds of the run. Pure."""
    said = [_gate_hint(g) for g in capability.gate]
    base, keep_above = sealed(capability, "base"), report.router.thresholds.get("keep_above")
    if base and isinstance(keep_above, int | float) and capability.placement != "keep":
        now = f"{num(base.mean)} {interval(base)} n={base.n}"
        said.append(f"keep: the base scores {now}; it is kept from {num(float(keep_above))} on")
    judged = {g.arm for g in capability.gate}
    missing = [arm for arm in ("skill", "weights") if arm not in judged and capability.arms.of(arm) is None]
    if missing:
        names = " and ".join(missing)
        said.append(
            f"{names} not built: router.counterfactual: true builds every arm, "
            f"router.force: {{{line(capability.name, 80)}: {missing[0]}}} tries that one whatever the probes say"
        )
    return said


def _gate_hint(g: GateVerdict) -> str:
    name, width, there = ARM_NAMES[g.arm], g.delta - g.low, f"{g.n} confirm examples"
    if g.slices:
        return f"{name}: without the regression of {line(', '.join(sorted(g.slices)), 200)} the whole would be judged"
    if g.decision == "accept":
        return f"{name}: accepted; a gain below about {signed(width)} would not have been shown with these {there}"
    if g.decision == "reject":
        return f"{name}: rejected; its {there} rule out a gain above {signed(g.high)}: another candidate is needed"
    if g.delta <= 0 or width <= 0:
        return f"{name}: undecided; the measured change is not above zero, so more examples would confirm no gain"
    needed = math.ceil(g.n * (width / g.delta) ** 2 - 1e-6)  # rounding must not add an example
    if needed <= g.n:
        return (
            f"{name}: undecided although its interval excludes zero; more than {there} would let the exact test speak"
        )
    stays = f"if the gain stays {signed(g.delta)}, about {needed:,} confirm examples would show it"
    return f"{name}: undecided; {stays} (there were {g.n}; an estimate)"
