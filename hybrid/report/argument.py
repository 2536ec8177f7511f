"""The placement of one capability as an argument: a question after the other, each answered with numbers and their intervals.

Every function returns sentences; an empty list leaves the question out. All text of models and users goes through `line`, which
spells hidden characters out. Does not: lay out (`explain`) or measure.
"""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.report import composition_text, proxy_text
from hybrid.report.lifecycle_text import history_sentences, move_sentences
from hybrid.report.probe_words import probe_lines, unmeasured
from hybrid.report.schema import ARMS, CapabilityReport, Estimate, GateVerdict, Report, Substrate
from hybrid.report.text import (
    ABSENT,
    ARM_NAMES,
    cost_line,
    delta_line,
    half_width,
    interval,
    line,
    num,
    placed_arm,
    pvalue,
    sealed,
    seconds,
    signed,
    verdict_line,
)

_MOST_ROWS = 20
_LONG = 1000


def shown(estimate: Estimate | None) -> str:
    """`0.700 [0.636, 0.764], n=200`."""
    return f"{num(estimate.mean)} {interval(estimate)}, n={estimate.n}" if estimate else ABSENT


def claim(c: CapabilityReport) -> list[str]:
    """What is claimed, with the paired difference behind it, and how sure the way there was."""
    joint = " " if c.placement in ARMS else ": "  # "X lives in ...", and "X: the base model is good enough ..."
    said = [f"{line(c.name, 80)}{joint}{verdict_line(c)}.", f"On record: {line(c.reason, 2000)}."]
    if c.confidence is not None:
        said.append(
            f"The routing has confidence {num(c.confidence)}: the probability that its weakest measurement lies on the side "
            "of its threshold on which it was found."
        )
    return said


def base(c: CapabilityReport, report: Report) -> list[str]:
    """What the base does by itself."""
    found = c.arms.base
    said = [
        f"{told}." for told in _against(c, report, "base", "keep_above", ("It does it alone", "Alone it falls short"))
    ]
    if found is not None:
        varied = f"; on variants {shown(found.variant)}" if found.variant else ""
        said.append(f"sealed test {shown(found.test)}{varied}")
    return said + list(probe_lines(c, "base"))


def text(c: CapabilityReport, report: Report) -> list[str]:
    """What a text gives, against its control."""
    gain = c.profile.get("context_gain")
    zero = gain is not None and gain.value is not None and (gain.low is None or gain.low <= 0)
    words = ("A text helps", "No text is shown to help")
    said = _against(c, report, "context_gain", "context_gain", (words[1] if zero else words[0], words[1]))
    doubt = "; its interval reaches down to zero" if zero else ""
    return [*(f"{told}{doubt}." for told in said), *probe_lines(c, "text")]


def samples(c: CapabilityReport, report: Report) -> list[str]:
    """What samples say about gradients."""
    said = [
        *_against(
            c, report, "sampling_gain", "sampling_gain", ("Samples find more than one answer does", "They find little")
        ),
        *_against(
            c, report, "signal_rate", "signal_rate", ("Gradients would have a signal", "Gradients would have little")
        ),
    ]
    return [*(f"{told}." for told in said), *probe_lines(c, "samples")]


def _against(c: CapabilityReport, report: Report, name: str, key: str, words: tuple[str, str]) -> list[str]:
    """A probe against the run's threshold: which side it is on, and whether its whole interval is. Nothing without either."""
    probe, asked = c.profile.get(name), report.router.thresholds.get(key)
    if probe is None or probe.value is None or not isinstance(asked, int | float) or isinstance(asked, bool):
        return []
    above = probe.value >= asked
    whole = probe.low is not None and probe.high is not None and (probe.low >= asked if above else probe.high < asked)
    sure = "with its whole interval" if whole else "though its interval holds the threshold"
    side = "at least" if above else "below"
    return [
        f"{words[not above]}: {line(name, 60)} {num(probe.value)} {interval(probe)} is {side} {num(float(asked))}, {sure}"
    ]


def built(c: CapabilityReport) -> Iterator[str]:
    """What was built, and what was refused on the way."""
    if c.skill_edits:
        kept = [e for e in c.skill_edits if e.decision == "accept"]
        yield f"the document: {len(kept)} of {len(c.skill_edits)} proposed edits were kept by the search gate"
        for e in kept[:_MOST_ROWS]:
            worth = (
                f"; the final document loses {signed(e.worth.delta)} {interval(e.worth, sign=True)}, n={e.worth.n}, without it"
                if e.worth
                else ""
            )
            numbers = f"{signed(e.delta)} {interval(e, sign=True)}, n={e.n}" if e.delta is not None else "not measured"
            yield f"kept: {line(e.op)} {line(e.content or e.target, 120)}: {numbers}{worth}"
        if len(kept) > _MOST_ROWS:
            yield f"and {len(kept) - _MOST_ROWS} kept edits more, in placement.json"
    if c.training is not None:
        t = c.training
        step = "none was chosen" if t.selected_step is None else f"step {t.selected_step} was chosen on `search`"
        yield f"the adapter: {line(t.method)}, {t.steps} steps, {step}; {seconds(c.ledger.train_seconds)} of training"
    if c.proxy is not None:
        yield line(proxy_text.sentence(c), _LONG)
    yield from (line(sentence, _LONG) for sentence in composition_text.composition(c))
    for r in c.rejected[:_MOST_ROWS]:
        numbers = f"{signed(r.delta)} {interval(r, sign=True)}, n={r.n}" if r.delta is not None else "not measured"
        yield f"refused: {line(r.substrate)}, {line(r.what)}: {numbers}. {line(r.why, _LONG)}"
    if len(c.rejected) > _MOST_ROWS:
        yield f"and {len(c.rejected) - _MOST_ROWS} more, in placement.json"
    if not c.skill_edits and c.training is None and not c.rejected:
        yield "nothing: the probes did not ask for a text or an adapter"


def decided(c: CapabilityReport, report: Report) -> Iterator[str]:
    """The honest test on `confirm`."""
    if not c.gate:
        yield "no arm reached the ship gate, so `confirm` was not opened for this capability"
        return
    yield "nothing that builds an arm reads `confirm`; each arm against the base, paired by example" + _policy(report)
    yield from (_gate(g) for g in c.gate)


def _policy(report: Report) -> str:
    gate = report.gate
    if gate is None:
        return ""
    corrected = f"Holm over the {gate.family} arms of this run that asked" if gate.multiplicity == "holm" else "no"
    return f"; alpha {gate.alpha:g} one-sided, least gain {gate.minimum_effect:g}, correction: {corrected}"


def _gate(g: GateVerdict) -> str:
    adjusted = f", after correction {pvalue(g.p_adjusted)}" if g.p_adjusted is not None else ""
    counts = f"{g.improved} improved, {g.regressed} regressed, n={g.n}"
    said = f"{g.decision}, {signed(g.delta)} {interval(g, sign=True)}, {counts}, p {pvalue(g.p)}{adjusted}"
    return f"{ARM_NAMES[g.arm]}: {said}. {line(g.reason, _LONG)}"


def worth(c: CapabilityReport) -> list[str]:
    """Every arm on the sealed test and on variants."""
    rows = []
    for arm in ARMS:
        found = c.arms.of(arm)
        if found is not None:
            served = " (served)" if arm == placed_arm(c) else ""
            varied = f"; variants {shown(found.variant)}" if found.variant else ""
            rows.append(f"{ARM_NAMES[arm]}{served}: {shown(found.test)}{varied}")
    if c.delta is not None:
        rows.append(f"served against base, paired: {delta_line(c.delta)}, n={c.delta.n}")
    return rows


def alternatives(c: CapabilityReport) -> Iterator[str]:
    """Every other place, with its numbers or why it has none."""
    placed, refused = placed_arm(c), {r.substrate: r for r in c.rejected if r.what == "arm"}
    verdicts = {g.arm: g for g in c.gate}
    for arm in ARMS:
        if arm == placed:
            continue
        score, name = sealed(c, arm), "keep the base as it is" if arm == "base" else ARM_NAMES[arm]
        if score is None:
            yield f"{name}: not built, so its worth is not known here{_hint(c, arm)}"
            continue
        why = f"; refused: {line(refused[arm].why, 400)}" if arm in refused else ""
        gate = verdicts.get(arm)
        on_confirm = f"; on confirm {gate.decision} {signed(gate.delta)} {interval(gate, sign=True)}" if gate else ""
        yield f"{name}: {shown(score)}{on_confirm}{why}"
    if c.counterfactual is not None:
        regret = c.counterfactual.regret
        numbers = f" Regret {delta_line(regret)}, n={regret.n}." if regret else ""
        place = c.counterfactual.placement or "none"
        yield f"with every arm built, the rules say {place}: {line(c.counterfactual.note, _LONG)}{numbers}"


def _hint(c: CapabilityReport, arm: Substrate) -> str:
    """What the probes say of an arm that was not built."""
    name, words = {
        "skill": ("text_score", "the best text while probing"),
        "weights": ("sampling_gain", "samples add"),
    }.get(arm, ("", ""))
    probe = c.profile.get(name)
    if probe is None or probe.value is None:
        return ""
    return f"; {words}: {num(probe.value)} {interval(probe)}, n={probe.n}, on `search`"


def costs(c: CapabilityReport) -> list[str]:
    """What the placement costs its user, and what finding it cost."""
    said = []
    before, after = c.arms.base, c.arms.of(placed_arm(c))
    if before is not None and after is not None and before.tokens_in is not None and after.tokens_in is not None:
        said.append(
            f"an answer reads {after.tokens_in:.1f} prompt tokens, {after.tokens_in - before.tokens_in:+.1f} against the base"
        )
    return [*said, *probe_lines(c, "cost"), f"finding it: {cost_line(c.ledger)}"]


def side_effects(c: CapabilityReport) -> Iterator[str]:
    """What it does to other capabilities, to calibration and to formats."""
    for name, e in sorted(c.collateral.items()):
        harm = "harms" if e.high < 0 else "helps" if e.low > 0 else "is not shown to touch"
        yield f"it {harm} {line(name, 80)}: {signed(e.delta)} {interval(e, sign=True)}, n={e.n}"
    if c.calibration is not None:
        k = c.calibration
        yield f"calibration of stated confidences: Brier {num(k.brier)}, ECE {num(k.ece)}, AUROC {num(k.auroc)}, n={k.n}"
    if c.formats is not None:
        f = c.formats
        yield f"answer formats: {num(f.effective)} effective, excess collapse {num(f.excess_collapse)}, n={f.n}"


def past(c: CapabilityReport, report: Report) -> list[str]:
    """Where it was before this run."""
    said = history_sentences(c.history)
    if report.moves is not None:
        said += [s for m in report.moves.capabilities if m.name == c.name for s in move_sentences(m)]
    return said


def doubts(c: CapabilityReport, report: Report) -> Iterator[str]:
    """What a sceptic would hold against it, from the report's own numbers."""
    sizes = [e.n for arm in ARMS if (e := sealed(c, arm))]
    if sizes:
        yield (
            f"the sealed test held {min(sizes)} examples: a score of one half is known to about ±{half_width(min(sizes)):.2f}; "
            "intervals cover the choice of examples, not of base model, seed or training run"
        )
    arm: Substrate = placed_arm(c)
    served = c.arms.of(arm)
    if arm != "base" and served is not None and served.test is not None and served.variant is not None:
        fell = served.variant.high < served.test.low
        yield from [f"on variants it gives {shown(served.variant)}, and not {shown(served.test)}"] * fell
    if c.delta is not None and c.delta.regressed:
        ids = ", ".join(line(f.id, 60) for f in c.flips.regressed[:5])
        yield f"{c.delta.regressed} of {c.delta.n} test examples got worse" + (f": {ids}" if ids else "")
    harmed = [line(name, 80) for name, e in sorted(c.collateral.items()) if e.high < 0]
    if harmed:
        yield f"it harms {', '.join(harmed)}, while it is active"
    if c.confidence is not None and c.confidence < 0.9:
        yield f"its routing is not sure (confidence {num(c.confidence)})"
    if c.kind.measured and c.kind.declared and c.kind.measured != c.kind.declared:
        yield f"it was declared {c.kind.declared} and measures as {c.kind.measured}"
    missing = unmeasured(c)
    if missing:
        yield f"not measurable, so nothing speaks from there: {', '.join(missing)}"
    for warning in report.warnings:
        if warning.startswith((f"{c.name}:", f"{c.name} ")):
            yield f"warning of the run: {line(warning, _LONG)}"
