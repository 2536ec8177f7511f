"""The placement report as one HTML file that opens from disk with the network off.

No script, no link to anywhere, no image: text, a style sheet and inline SVG under a content security policy that allows
nothing else. Model output reaches the page only through jinja2's autoescaping and the filters below. Long texts are
clipped so that the page stays below `MOST_BYTES`; what was left out is counted and is in placement.json.
Does not: decide or read files other than its own templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from hybrid.report import (
    composition_text,
    generality_text,
    lifecycle_text,
    memory_text,
    merge_text,
    order_text,
    proxy_text,
    svg,
)
from hybrid.report.diff import SIGNS, Change, edit_diff, whole_diff
from hybrid.report.kind_text import kind_evidence
from hybrid.report.schema import ARMS, CapabilityReport, Estimate, Report, Substrate
from hybrid.report.text import (
    ABSENT,
    ARM_NAMES,
    MARK,
    PLACEMENT_MEANS,
    clip,
    cost_line,
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

MOST_BYTES = 1_000_000
CLIPS = ((4000, 40), (1200, 40), (400, 20), (160, 10), (80, 5), (40, 2))
"""Characters shown of a text, and edits or flips shown of a list; the first pair that keeps the page small is taken."""
PLACEMENT_GLYPHS = {"keep": "●", "skill": "¶", "weights": "◼", "both": "◆", "neither": "○", "undecided": "?"}
DECISION_GLYPHS = {"accept": "✓", "reject": "✕", "undecided": "?"}


def marked(text: str) -> Markup:
    """Escaped text in which spelled-out hidden characters stand out. The pattern matches hexadecimal digits only."""
    return Markup(MARK.sub(r'<b class="u">\1</b>', str(escape(text))))  # noqa: S704


@pass_context
def one_line(context: Context, text: str, share: int = 1) -> Markup:
    """A line of hostile text, isolated from the direction of what surrounds it; `share` divides the clip length."""
    return Markup("<bdi>{}</bdi>").format(marked(line(text, max(40, context["clip_at"] // share))))


@pass_context
def block(context: Context, text: str, share: int = 1) -> Markup:
    """Hostile text with its lines, for places that keep white space."""
    return marked(visible(clip(text, max(40, context["clip_at"] // share))))


def data(value: float | int | None, shown: str | None = None) -> Markup:
    """A number as people read it, with its exact value for machines (`<data value>`)."""
    if value is None:
        return Markup('<span class="none">{}</span>').format(ABSENT)
    text = shown if shown is not None else (f"{value:,}" if isinstance(value, int) else num(value))
    return Markup('<data value="{}">{}</data>').format(repr(value), text.replace("-", "\u2212"))


def score(estimate: Estimate | None) -> Markup:
    """A mean with its interval and n."""
    if estimate is None:
        return data(None)
    return Markup('{} <span class="ci">{} n={}</span>').format(data(estimate.mean), interval(estimate), estimate.n)


def tokens(value: float | None) -> Markup:
    """A mean number of tokens, with one decimal."""
    return data(value, None if value is None else f"{value:,.1f}")


def share(value: float | None) -> Markup:
    """A confidence, with two decimals."""
    return data(value, None if value is None else f"{value:.2f}")


def change(part: Any) -> Markup:
    """A difference with its sign, coloured only where its interval excludes zero, and readable without colour."""
    value: float | None = part.mean if hasattr(part, "mean") else part.delta
    if value is None:
        return data(None)
    kind = (
        "up" if part.low is not None and part.low > 0 else "down" if part.high is not None and part.high < 0 else "flat"
    )
    return Markup('<span class="{}">{}</span>').format(kind, data(value, signed(value)))


def ends(part: object) -> str:
    """The signed interval of a difference, with true minus signs."""
    return interval(part, sign=True).replace("-", "\u2212")


@pass_context
def diff_lines(context: Context, changes: Sequence[Change]) -> Markup:
    """A diff, a line each, signed and coloured; clipped by lines and by characters."""
    most = max(6, context["clip_at"] // 20)
    rows = [
        Markup('<span class="d-{}"><i>{}</i>{}</span>').format(
            kind, SIGNS[kind], marked(visible(clip(text, min(400, context["clip_at"])))) or " "
        )
        for kind, text in changes[:most]
    ]
    if len(changes) > most:
        rows.append(
            Markup('<span class="d-gap"><i>…</i>{} lines more in placement.json</span>').format(len(changes) - most)
        )
    return Markup("").join(rows)


def _mark(arm: str, estimate: Estimate, faint: bool = False) -> svg.Mark:
    return svg.Mark(arm, estimate.mean, estimate.low, estimate.high, faint)


def arms_figure(capability: CapabilityReport, uid: str) -> Markup:
    """The interval plot of one capability's arms, or nothing when no arm was measured."""
    rows, told = [], []
    for arm in ARMS:
        found = capability.arms.of(arm)
        marks, values = [], []
        for name, estimate in (("test", found.test), ("variants", found.variant)) if found else ():
            if estimate:
                marks.append(_mark(arm, estimate, faint=name == "variants"))
                values.append(f"{num(estimate.mean)} {interval(estimate)} n={estimate.n}")
                told.append(f"{ARM_NAMES[arm]} on {name} {values[-1]}")
        if marks:
            served = arm == placed_arm(capability)
            rows.append(svg.Row(ARM_NAMES[arm], tuple(marks), "\n".join(values), served))
    if not rows:
        return Markup("")
    title = f"Scores of the arms of {line(capability.name, 80)}"
    return svg.intervals(uid, rows, title, "; ".join(told) + ".")


def overview_figure(report: Report) -> Markup:
    """All capabilities with their arms and the paired difference, or nothing for an empty report."""
    rows, told = [], []
    for c in report.capabilities:
        tests: list[tuple[Substrate, Estimate]] = [(arm, e) for arm in ARMS if (e := sealed(c, arm))]
        delta = svg.Mark(placed_arm(c), c.delta.mean, c.delta.low, c.delta.high) if c.delta else None
        value = signed(c.delta.mean).replace("-", "\u2212") if c.delta else ABSENT
        name = line(c.name, 80)
        rows.append(svg.Row(name, tuple(_mark(a, e) for a, e in tests), value, note=c.placement, delta=delta))
        told.append(f"{name}: {c.placement}, difference {value}")
    if not rows:
        return Markup("")
    return svg.overview(
        "overview", rows, "Scores of all arms, and the difference made, by capability", "; ".join(told) + "."
    )


def curve_figure(capability: CapabilityReport, uid: str) -> Markup:
    """The reward curve (the loss where there is no reward), or nothing when nothing was logged."""
    training = capability.training
    if training is None:
        return Markup("")
    for axis in ("reward", "loss"):
        points = [(float(p.step), float(v)) for p in training.history if (v := getattr(p, axis)) is not None]
        if points:
            (first, start), (last, end) = points[0], points[-1]
            ends_at = f"from {num(start)} at step {first:g} to {num(end)} at step {last:g}"
            title = f"Training {axis} of {line(capability.name, 80)}"
            return svg.curve(uid, points, training.selected_step, (title, f"{axis} {ends_at}.", axis))
    return Markup("")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8")
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(
        {
            "line": one_line,
            "block": block,
            "data": data,
            "score": score,
            "change": change,
            "ends": ends,
            "tokens": tokens,
        }
    )
    env.filters.update(
        {
            "num": num,
            "signed": signed,
            "pvalue": pvalue,
            "seconds": seconds,
            "free": free,
            "diff": diff_lines,
            "share": share,
        }
    )
    env.globals.update(
        {
            "ABSENT": ABSENT,
            "ARMS": ARMS,
            "ARM_NAMES": ARM_NAMES,
            "MEANS": PLACEMENT_MEANS,
            "GLYPHS": PLACEMENT_GLYPHS,
            "DECISIONS": DECISION_GLYPHS,
            "sealed": sealed,
            "placed_arm": placed_arm,
            "verdict_line": verdict_line,
            "cost_line": cost_line,
            "extras": extras,
            "edit_diff": edit_diff,
            "whole_diff": whole_diff,
            "arms_figure": arms_figure,
            "curve_figure": curve_figure,
            "memory_figure": memory_text.memory_figure,
            "memory_line": memory_text.memory_line,
            "interval": interval,
            "kind_evidence": kind_evidence,
            "trainings": order_text.trainings,
            "order_sentences": order_text.sentences,
            "order_tables": order_text.tables,
            "told": generality_text,
            "life": lifecycle_text,
            "steered": proxy_text,
            "merging": merge_text,
            "composed": composition_text,
        }
    )
    return env


def to_html(report: Report) -> str:
    """The whole report as one self-contained page below `MOST_BYTES`, as long as the report itself allows it. Pure."""
    template = _environment().get_template("report.html.j2")
    page = ""
    for clip_at, most in CLIPS:
        page = template.render(
            r=report,
            clip_at=clip_at,
            most=most,
            tally=tally(report),
            level=level_of(report),
            limits=limits(report),
            overview=overview_figure(report),
        )
        if len(page.encode("utf-8")) < MOST_BYTES:
            break
    return page
