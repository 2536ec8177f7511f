"""A plan as plain text for a terminal. Does not: compute or leave out anything that a warning rests on."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.pipeline.plan_cost import Estimate
from hybrid.pipeline.plan_types import CapabilityPlan, Detectable, EvidencePlan, Plan


def render(plan: Plan) -> str:
    """The plan for people: costs per capability and stage, what the evidence can show, memory, warnings."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    yield f"Plan of {plan.name} on {plan.model}: nothing has been paid"
    for capability in plan.capabilities:
        yield ""
        yield from _capability(capability)
    yield ""
    work = f"{_span(plan.calls)} completions, {_span(plan.tokens)} tokens, {_span(plan.training_steps)} training steps"
    if plan.judge_calls.upper:
        work += f", {_span(plan.judge_calls)} requests to judges"
    yield f"all: {work}"
    yield f"  typical - upper bound; tokens from {plan.tokens_from}; time: not estimated before anything was measured"
    yield from _memory(plan)
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _capability(plan: CapabilityPlan) -> Iterator[str]:
    sizes = ", ".join(f"{split} {n}" for split, n in plan.splits.items())
    yield f"{plan.name}: {sizes}"
    yield f"  {'stage':10s}{'completions':>20s}{'tokens':>26s}{'training steps':>18s}"
    for s in plan.stages:
        yield f"  {s.stage:10s}{_span(s.calls):>20s}{_span(s.tokens):>26s}{_span(s.training_steps):>18s}"
    if plan.judge is not None:
        yield f"  its judge is asked {_span(plan.judge)} times"
    yield from _evidence(plan.evidence) if plan.evidence else ("  nothing is built, so nothing is tested to ship",)


def _evidence(plan: EvidencePlan) -> Iterator[str]:
    yield f"  on {plan.confirm} confirm examples, with power {plan.target_power:g}:"
    yield _detectable("alone", plan.alone, plan.minimum_effect)
    if plan.family > 1:
        yield _detectable(f"worst of {plan.family} tests", plan.worst_case, plan.minimum_effect)


def _detectable(name: str, shown: Detectable, effect: float) -> str:
    gain = "no gain is measurable at this size" if shown.effect is None else f"gains from +{shown.effect:.3f} are found"
    return (
        f"    {name} (alpha {shown.alpha:.4g}): {gain}; a true +{effect:g} is found with power {shown.power:.2f}, "
        f"{shown.needed:,} examples would do"
    )


def _memory(plan: Plan) -> Iterator[str]:
    m = plan.memory
    if m.weights_mib is None:
        yield f"memory: {m.note}"
        return
    sizes = f"weights {m.weights_mib:,} MiB, generating {m.generate_mib:,} MiB, training {m.train_mib:,} MiB"
    yield f"memory: {sizes} ({m.note})"
    parts = ", ".join(f"{name} {size:,}" for name, size in m.parts_mib.items())
    yield f"  training in MiB: {parts}; generating and learning take turns"


def _span(estimate: Estimate) -> str:
    if estimate.typical == estimate.upper:
        return f"{estimate.upper:,}"
    return f"{estimate.typical:,} - {estimate.upper:,}"
