"""Why one capability went where it went, as plain text for a terminal.

`what_would_change` is arithmetic on the ship gate's own numbers: the interval shrinks with the square root of n, so a
gain of `delta` with half-width h at n examples needs about n (h / delta)^2 of them to keep zero out. That is an
estimate, and says so. Control characters of model output are spelled out, so nothing here can steer a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hybrid.config.suggest import did_you_mean
from hybrid.errors import UsageError
from hybrid.report.kind_text import kind_evidence, kind_line
from hybrid.report.order_text import explained
from hybrid.report.schema import ARMS, CapabilityReport, Estimate, GateVerdict, Report
from hybrid.report.text import (
    ABSENT,
    ARM_NAMES,
    cost_line,
    delta_line,
    extras,
    free,
    interval,
    line,
    num,
    placed_arm,
    pvalue,
    sealed,
    signed,
    verdict_line,
)

_MOST_ROWS = 20


def find(report: Report, name: str) -> CapabilityReport:
    """The capability called `name`. Raises UsageError, with the nearest name, when the report has none."""
    for capability in report.capabilities:
        if capability.name == name:
            return capability
    names = [c.name for c in report.capabilities]
    shown = did_you_mean(name, names, "this run has")
    raise UsageError(f"no capability called {line(name, 80)!r} in run {line(report.run_id, 80)}; {line(shown)}")


def to_text(report: Report, capability: CapabilityReport) -> str:
    """The explanation of one capability, ending in one newline."""
    c = capability
    out = [f"{line(c.name)}: {c.placement} (confidence {num(c.confidence)})", f"  {line(c.reason, 2000)}"]
    out.append(f"  {line(verdict_line(c))}")
    out.append(f"  kind: {kind_line(c.kind)}")
    for title, lines in (
        ("Why, in order", [f"{i}. {line(step, 1000)}" for i, step in enumerate(c.decision_trail, 1)]),
        ("What was measured before routing", list(_probes(c))),
        ("What kind of thing it is", kind_evidence(c.kind)),
        ("What each arm gives (sealed test; variants)", list(_arms(c))),
        ("What the ship gate said", [_gate(g) for g in c.gate]),
        ("What was tried and not kept", list(_rejected(c))),
        ("How it shared its adapter", [line(text, 1000) for text in explained(report.schedule, c.name)]),
        ("What the other place would have given", _other(c)),
        ("What would change the verdict", what_would_change(c, report)),
    ):
        if lines:
            out += ["", title, *(f"  {text}" for text in lines)]
    out += ["", f"Cost: {cost_line(c.ledger)}"]
    return "\n".join(out) + "\n"


def _probes(c: CapabilityReport) -> Iterator[str]:
    width = max((len(line(name, 40)) for name in c.profile), default=0)
    for name, probe in sorted(c.profile.items()):
        more = "; ".join(
            [line(probe.note)] * bool(probe.note) + [line(f"{k} {free(v)}", 120) for k, v in extras(probe)]
        )
        yield f"{line(name, 40):<{width}}  {num(probe.value)} {interval(probe)} n={probe.n}  {more}".rstrip()


def _shown(estimate: Estimate | None) -> str:
    return f"{num(estimate.mean)} {interval(estimate)} n={estimate.n}" if estimate else ABSENT


def _arms(c: CapabilityReport) -> Iterator[str]:
    for arm in ARMS:
        found = c.arms.of(arm)
        sign = ">" if arm == placed_arm(c) else " "
        scores = f"{_shown(found.test)}; {_shown(found.variant)}" if found else "not measured"
        yield f"{sign} {ARM_NAMES[arm]:<15}  {scores}"


def _gate(g: GateVerdict) -> str:
    adjusted = f" (adjusted {pvalue(g.p_adjusted)})" if g.p_adjusted is not None else ""
    counts = f"n={g.n}, {g.improved} improved, {g.regressed} regressed"
    said = f"{g.decision}, {signed(g.delta)} {interval(g, sign=True)}, p {pvalue(g.p)}{adjusted}, {counts}"
    return f"{ARM_NAMES[g.arm]}: {said}. {line(g.reason, 1000)}"


def _rejected(c: CapabilityReport) -> Iterator[str]:
    for r in c.rejected[:_MOST_ROWS]:
        numbers = f"{signed(r.delta)} {interval(r, sign=True)} n={r.n}" if r.delta is not None else "not measured"
        yield f"{line(r.substrate)}: {line(r.what)}: {numbers}. {line(r.why, 1000)}"
    if len(c.rejected) > _MOST_ROWS:
        yield f"and {len(c.rejected) - _MOST_ROWS} more, in placement.json"


def _other(c: CapabilityReport) -> list[str]:
    if c.counterfactual is None:
        return []
    regret = c.counterfactual.regret
    numbers = f" Regret {delta_line(regret)}, n={regret.n}." if regret else ""
    return [f"{c.counterfactual.placement or 'none'}: {line(c.counterfactual.note, 1000)}{numbers}"]


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
