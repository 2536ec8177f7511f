"""The placement report as Markdown: the verdict table first, then the evidence, then provenance and limits.

Model output, names and messages are escaped so that they cannot open a tag, a link, a table cell or a code span; long
texts stand in fences longer than any run of backticks inside them. Does not: decide or read files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from hybrid.report import lifecycle_text, merge_text, order_text, proxy_text
from hybrid.report.calibration_text import HEAD, figure_rows, headline
from hybrid.report.composition_text import MATRIX, READING, composition, matrix
from hybrid.report.diff import SIGNS, Change, edit_diff, whole_diff
from hybrid.report.generality_text import MEANING, WATCHED, curve_table, facts_line, transfer_table
from hybrid.report.kind_text import kind_evidence, kind_line
from hybrid.report.memory_text import memory_line
from hybrid.report.schema import ARMS, CapabilityReport, Estimate, Flip, Report, SkillEdit, TrainingMemory
from hybrid.report.text import (
    ABSENT,
    ARM_NAMES,
    clip,
    cost_line,
    delta_line,
    extras,
    free,
    interval,
    level_of,
    limits,
    line,
    num,
    placed_arm,
    pvalue,
    sealed,
    seconds,
    signed,
    tally,
    verdict_line,
    visible,
)

_SPECIAL = re.compile(r"([\\`*_\[\]|~#$])")
_MOST_ROWS = 40


def esc(text: str, limit: int = 400) -> str:
    """One line of hostile text, safe in a table cell or a paragraph."""
    flat = line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", flat).replace("://", "&#58;//").replace("@", "&#64;")


def fence(text: str, limit: int = 6000, language: str = "text") -> list[str]:
    """A code block that its content cannot close."""
    shown = visible(clip(text, limit))
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    return [f"{ticks}{language}", *shown.split("\n"), ticks, ""]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A pipe table of cells that are already escaped."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    lines.extend(f"| {' | '.join(row)} |" for row in rows)
    return [*lines, ""]


def _estimate(estimate: Estimate | None) -> str:
    return ABSENT if estimate is None else f"{num(estimate.mean)} {interval(estimate)} n={estimate.n}"


def _verdicts(report: Report) -> list[str]:
    level = level_of(report)
    head = (
        "capability",
        "before",
        "skill",
        "weights",
        "both",
        "placed",
        f"delta [{level or 'its'} CI]",
        "p",
        "regressions",
        "calls",
    )
    rows = []
    for c in report.capabilities:
        d = c.delta
        scores = [num(e.mean) if (e := sealed(c, arm)) else ABSENT for arm in ARMS]
        change = (
            [f"{signed(d.mean)} {interval(d, sign=True)} n={d.n}", pvalue(d.p), str(d.regressed)] if d else [ABSENT] * 3
        )
        rows.append([esc(c.name), *scores, f"**{c.placement}**", *change, f"{c.ledger.calls}"])
    return table(head, rows)


def _trail(c: CapabilityReport) -> Iterator[str]:
    yield f"**{c.placement}**: {esc(c.reason, 2000)}"
    yield ""
    yield f"- confidence {num(c.confidence)}; kind {kind_line(c.kind)}"
    yield from (f"  - {esc(text, 1000)}" for text in kind_evidence(c.kind))
    yield f"- {esc(verdict_line(c))}"
    yield ""
    if c.decision_trail:
        yield "How it was decided, in order:"
        yield ""
        yield from (f"{number}. {esc(step, 1000)}" for number, step in enumerate(c.decision_trail, 1))
        yield ""


def _probes(c: CapabilityReport) -> Iterator[str]:
    if not c.profile:
        return
    yield "### Probes"
    yield ""
    rows = []
    for name, probe in sorted(c.profile.items()):
        more = "; ".join([esc(probe.note)] * bool(probe.note) + [f"{esc(k)} {esc(free(v))}" for k, v in extras(probe)])
        rows.append((esc(name), num(probe.value), interval(probe) or ABSENT, str(probe.n), more))
    yield from table(("probe", "value", "interval", "n", "note"), rows)


def _arms(c: CapabilityReport) -> Iterator[str]:
    yield "### Arms"
    yield ""
    rows = []
    for arm in ARMS:
        found = c.arms.of(arm)
        name = f"**{ARM_NAMES[arm]}** (served)" if arm == placed_arm(c) else ARM_NAMES[arm]
        if found is None:
            rows.append((name, ABSENT, ABSENT, ABSENT))
        else:
            tokens = " / ".join(ABSENT if t is None else f"{t:.1f}" for t in (found.tokens_in, found.tokens_out))
            rows.append((name, _estimate(found.test), _estimate(found.variant), tokens))
    yield from table(("arm", "sealed test", "variants", "tokens in / out per answer"), rows)
    if c.delta:
        yield f"Placed arm against base, paired on n={c.delta.n}: {delta_line(c.delta)}."
        yield ""


def _gates(c: CapabilityReport) -> Iterator[str]:
    if c.gate:
        yield "### Ship gate"
        yield ""
        head = ("arm", "decision", "delta", "interval", "p", "p adjusted", "n", "improved", "regressed", "reason")
        verdicts: list[tuple[str, ...]] = []
        for g in c.gate:
            reasons = [esc(g.reason)] + [
                f"{esc(k)} {signed(s.delta)} {interval(s, sign=True)} n={s.n}" for k, s in sorted(g.slices.items())
            ]
            counts = (str(g.n), str(g.improved), str(g.regressed))
            ps = (pvalue(g.p), pvalue(g.p_adjusted))
            verdicts.append(
                (g.arm, g.decision, signed(g.delta), interval(g, sign=True), *ps, *counts, "; ".join(reasons))
            )
        yield from table(head, verdicts)
    if c.rejected:
        yield "### Tried and not kept"
        yield ""
        rows = [
            (esc(r.substrate), esc(r.what), signed(r.delta), interval(r, sign=True) or ABSENT, str(r.n), esc(r.why))
            for r in c.rejected[:_MOST_ROWS]
        ]
        yield from table(("substrate", "what", "delta", "interval", "n", "why"), rows)
        if len(c.rejected) > _MOST_ROWS:
            yield f"{len(c.rejected) - _MOST_ROWS} more are in placement.json."
            yield ""
    if c.counterfactual:
        yield "### The other place"
        yield ""
        regret = c.counterfactual.regret
        numbers = f" Regret {delta_line(regret)}, n={regret.n}." if regret else ""
        yield f"{c.counterfactual.placement or 'no other placement'}: {esc(c.counterfactual.note, 2000)}{numbers}"
        yield ""


def _changes(changes: Sequence[Change]) -> list[str]:
    return fence("\n".join(f"{SIGNS[kind]} {text}" for kind, text in changes), language="diff")


def _edit(number: int, e: SkillEdit) -> Iterator[str]:
    numbers = f"{signed(e.delta)} {interval(e, sign=True)} n={e.n}" if e.delta is not None else "not measured"
    worth = (
        f" Worth on `confirm`: {signed(e.worth.delta)} {interval(e.worth, sign=True)} n={e.worth.n}." if e.worth else ""
    )
    yield f"**Edit {number}**, step {e.step}, {esc(e.op)}: {e.decision}, {numbers}. {esc(e.why, 1000)}.{worth}"
    yield ""
    yield from _changes(edit_diff(e))


def _skill(c: CapabilityReport) -> Iterator[str]:
    if c.skill_edits:
        accepted = sum(e.decision == "accept" for e in c.skill_edits)
        yield f"### Edits of the skill document ({accepted} of {len(c.skill_edits)} kept)"
        yield ""
        for number, edit in enumerate(c.skill_edits[:_MOST_ROWS], 1):
            yield from _edit(number, edit)
        if len(c.skill_edits) > _MOST_ROWS:
            yield f"{len(c.skill_edits) - _MOST_ROWS} more edits are in placement.json."
            yield ""
    changes = whole_diff(c)
    if changes:
        yield "### Skill document, seed to final"
        yield ""
        yield from _changes(changes)


def _training(c: CapabilityReport) -> Iterator[str]:
    if c.training:
        t = c.training
        yield "### Training"
        yield ""
        chosen = ABSENT if t.selected_step is None else str(t.selected_step)
        yield f"{esc(t.method)}, {t.steps} steps, checkpoint of step {chosen} selected on the search split."
        yield ""
        yield from _memory(t.memory)
        stride = max(1, -(-len(t.history) // 12))
        rows = [(str(p.step), num(p.reward), num(p.loss), esc(free(dict(extras(p))))) for p in t.history[::stride]]
        if rows:
            yield from table(("step", "reward", "loss", "more"), rows)


def _memory(m: TrainingMemory | None) -> Iterator[str]:
    if m:
        yield memory_line(m)
        yield ""


def _proxy(c: CapabilityReport) -> Iterator[str]:
    found = proxy_text.strengths(c)
    if found:
        yield "### Strengths of the proxy"
        yield ""
        yield esc(proxy_text.sentence(c), 1000)
        yield ""
        yield from table(found[0], [tuple(esc(cell) for cell in row) for row in found[1]])


def _generality(c: CapabilityReport) -> Iterator[str]:
    for title, found, said in (
        ("Transfer to variants", transfer_table(c), MEANING),
        ("Watched variants while training", curve_table(c), WATCHED),
    ):
        if found:
            yield f"### {title}"
            yield ""
            yield from table(found[0], [tuple(esc(cell) for cell in row) for row in found[1]])
            yield said
            yield ""
    facts = facts_line(c)
    if facts:
        yield esc(facts, 1000)
        yield ""


def _side_effects(c: CapabilityReport) -> Iterator[str]:
    for sentence in composition(c):
        yield esc(sentence, 2000)
        yield ""
    if c.collateral:
        yield "### Collateral: what this change does to the others"
        yield ""
        rows = [(esc(k), signed(v.delta), interval(v, sign=True), str(v.n)) for k, v in sorted(c.collateral.items())]
        yield from table(("capability", "delta", "interval", "n"), rows)
    if c.calibration:
        yield headline(c.calibration)
        yield ""
        if figures := figure_rows(c.calibration):
            yield from table(HEAD, figures)
    if c.formats:
        f = c.formats
        shares = ", ".join(f"{esc(k)} {num(v)}" for k, v in sorted(f.shares.items()))
        spread = f"effective {num(f.effective)}; excess collapse {num(f.excess_collapse)}"
        yield f"Answer formats (n={f.n}): {shares}; {spread}."
        yield ""


def _flips(c: CapabilityReport) -> Iterator[str]:
    for title, flips in (("improved", c.flips.improved), ("regressed", c.flips.regressed)):
        if flips:
            yield f"### Test examples that {title} ({len(flips)} shown)"
            yield ""
            yield from table(("id", "prompt", "reference", "before", "after"), [_flip(f) for f in flips])


def _flip(f: Flip) -> tuple[str, ...]:
    return tuple(esc(part, 300) for part in (f.id, f.prompt, f.reference, f.before, f.after))


def _history(c: CapabilityReport) -> Iterator[str]:
    found = lifecycle_text.history_table(c.history)
    if found:
        yield "### History"
        yield ""
        yield from table(found[0], [tuple(esc(cell, 1000) for cell in row) for row in found[1]])


def _merger(report: Report) -> Iterator[str]:
    if report.merger is None:
        return
    yield "## One adapter or several"
    yield ""
    yield esc(merge_text.merger_head(report.merger), 2000)
    yield ""
    for head, rows in (merge_text.tried_table(report.merger), merge_text.members_table(report.merger)):
        yield from table(tuple(esc(h) for h in head), [tuple(esc(cell, 500) for cell in row) for row in rows])


def _moves(report: Report) -> Iterator[str]:
    if report.moves is None:
        return
    yield "## What the new base moved"
    yield ""
    yield esc(lifecycle_text.moves_head(report.moves), 1000)
    yield ""
    head, rows = lifecycle_text.moves_table(report.moves)
    yield from table(head, [tuple(esc(cell) for cell in row) for row in rows])
    for move, now in zip(report.moves.capabilities, report.capabilities, strict=True):
        yield from (f"- {esc(text, 2000)}" for text in lifecycle_text.move_sentences(move))
        yield ""
        found = lifecycle_text.profile_table(move, now)
        if found and move.was != move.now:
            yield from table(found[0], [tuple(esc(cell) for cell in row) for row in found[1]])


def _capability(c: CapabilityReport) -> Iterator[str]:
    yield f"## {esc(c.name)}"
    yield ""
    for part in (
        _trail,
        _history,
        _probes,
        _arms,
        _gates,
        _skill,
        _training,
        _proxy,
        _generality,
        _side_effects,
        _flips,
    ):
        yield from part(c)
    yield f"Cost: {cost_line(c.ledger)}."
    yield ""


def _run(report: Report) -> Iterator[str]:
    yield "## Router"
    yield ""
    r = report.router
    yield f"Policy {esc(r.policy)}; {esc(free(r.thresholds), 2000) or 'no thresholds'}. Regret {_estimate(r.regret)}."
    yield ""
    if r.baselines:
        yield from table(("fixed policy", "score"), [(esc(k), _estimate(v)) for k, v in sorted(r.baselines.items())])
    for schedule in order_text.trainings(report.schedule):
        yield "## Task order"
        yield ""
        yield " ".join(esc(text, 2000) for text in order_text.sentences(schedule))
        yield ""
        for drawn in order_text.tables(schedule):
            yield f"{esc(drawn.title)}:"
            yield ""
            yield from table([esc(h) for h in drawn.head], [[esc(cell) for cell in row] for row in drawn.rows])
    stages = sorted(report.ledger.stages.items())
    yield "## Ledger"
    yield ""
    yield f"{cost_line(report.ledger)}."
    yield ""
    if stages:
        head = ("stage", "calls", "tokens in", "tokens out", "generating", "training")
        rows2 = [
            (esc(k), str(s.calls), str(s.tokens_in), str(s.tokens_out), seconds(s.seconds), seconds(s.train_seconds))
            for k, s in stages
        ]
        yield from table(head, rows2)


def _provenance(report: Report) -> Iterator[str]:
    yield "## Provenance"
    yield ""
    p = report.provenance
    facts = [
        ("run", report.run_id),
        ("created", report.created),
        ("seed", str(report.seed)),
        ("base fingerprint", report.model.fingerprint),
    ]
    groups = (("version", p.versions), ("seed", {k: str(v) for k, v in p.seeds.items()}), ("hash", p.hashes))
    if p.parent is not None:
        facts += [("forked from", p.parent.run_id), ("parent's identity", p.parent.identity)]
        facts += [("changed since", text) for text in p.parent.changed]
    facts += [(f"{kind}: {key}", value) for kind, group in groups for key, value in sorted(group.items())]
    yield from table(("what", "value"), [(esc(k), esc(v)) for k, v in facts])
    yield "## Warnings"
    yield ""
    yield from (f"- {esc(w, 2000)}" for w in report.warnings) if report.warnings else ("None.",)
    yield ""
    yield "## Limits"
    yield ""
    yield from (f"- {text}" for text in limits(report))


def to_markdown(report: Report) -> str:
    """The whole report as Markdown (GitHub dialect), ending in one newline. Pure: equal reports give equal text."""
    m = report.model
    lines = [f"# Placement report: {esc(report.run_id)}", ""]
    size = f"{m.parameters:,} parameters, {esc(m.dtype)}" if m.device != "remote" else "of unknown size,"
    lines += [f"Model {esc(m.path)}, {size} on {esc(m.device)}."]
    lines += [f"{len(report.capabilities)} capabilities: " + ", ".join(f"{n} {p}" for p, n in tally(report)) + ".", ""]
    lines += _verdicts(report)
    lines += [
        f"Scores are means on the sealed test; brackets are intervals; p is one-sided, paired. {ABSENT}: not measured.",
        "",
    ]
    lines += _moves(report)
    lines += _merger(report)
    for capability in report.capabilities:
        lines += _capability(capability)
    if drawn := matrix(report):
        lines += [f"## {MATRIX}", "", *table([esc(h) for h in drawn[0]], [[esc(x) for x in row] for row in drawn[1]])]
        lines += [READING, ""]
    lines += [*_run(report), *_provenance(report)]
    return "\n".join(lines).rstrip("\n") + "\n"
