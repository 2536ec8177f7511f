"""Inline SVG figures of the report: small pure functions from numbers to markup, the same bytes for the same numbers.

Colours come from the page's style sheet by class, so that figures follow dark mode and print; arms also differ by
shape (base: ring, skill: disc, weights: square, both: diamond). Every figure has a title and a description for screen
readers. All text is escaped here. Does not: know reports; callers hand over rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_MOST_POINTS = 240


@dataclass(frozen=True)
class Mark:
    """A dot with whiskers. `arm` chooses colour and shape; a `faint` mark is drawn small, hollow and dashed."""

    arm: str
    mean: float
    low: float
    high: float
    faint: bool = False


@dataclass(frozen=True)
class Row:
    """One labelled line of a figure. `value` is printed at its right end; a `strong` row gets a band."""

    label: str
    marks: tuple[Mark, ...]
    value: str = ""
    strong: bool = False
    note: str = ""
    delta: Mark | None = None


@dataclass(frozen=True)
class Scale:
    """A linear axis from data [low, high] to pixels [left, right]; values outside are clamped to its ends."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """Pixel of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) inside [low, high], at most about `most` of them."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _figure(uid: str, size: tuple[float, float], title: str, description: str, body: Sequence[str]) -> Markup:
    width, height = size
    head = (
        f'<svg class="figure" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-labelledby="{escape(uid)}-t {escape(uid)}-d">'
        f'<title id="{escape(uid)}-t">{escape(title)}</title><desc id="{escape(uid)}-d">{escape(description)}</desc>'
    )
    return Markup(head + "".join(body) + "</svg>")  # noqa: S704  # every text in `body` went through `_text`


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _shape(arm: str, x: float, y: float, r: float) -> str:
    if arm == "weights":
        return f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
    if arm == "both":
        d = r * 1.35
        return f'<path d="M{x:.1f} {y - d:.1f}L{x + d:.1f} {y:.1f}L{x:.1f} {y + d:.1f}L{x - d:.1f} {y:.1f}Z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'


def _mark(mark: Mark, scale: Scale, y: float) -> str:
    kind = f"mark m-{escape(mark.arm)}" + (" faint" if mark.faint else "")
    low, high, x = scale.at(mark.low), scale.at(mark.high), scale.at(mark.mean)
    r = 3.4 if mark.faint else 4.8
    whisker = _line("whisker", low, y, high, y)
    caps = "".join(_line("whisker", end, y - 3, end, y + 3) for end in (low, high))
    return f'<g class="{kind}">{whisker}{caps}{_shape(mark.arm, x, y, r)}</g>'


def _axis(scale: Scale, top: float, bottom: float, label: str, *, sign: bool = False) -> str:
    out = []
    for value in ticks(scale.low, scale.high):
        x = scale.at(value)
        zero = sign and abs(value) < 1e-12
        out.append(_line("zero" if zero else "grid", x, top, x, bottom))
        out.append(_text(x, bottom + 15, f"{value:+g}" if sign and not zero else f"{value:g}", "tick", "middle"))
    out.append(_text((scale.left + scale.right) / 2, bottom + 32, label, "axis", "middle"))
    return "".join(out)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _domain(marks: Sequence[Mark], low: float, high: float) -> tuple[float, float]:
    return min([low, *(m.low for m in marks)]), max([high, *(m.high for m in marks)])


def intervals(uid: str, rows: Sequence[Row], title: str, description: str) -> Markup:
    """Arms of one capability: a row each, the test mark above and the variant mark below it, on a score axis."""
    height, top, width = 46.0, 10.0, 620.0
    scale = Scale(*_domain([m for r in rows for m in r.marks], 0.0, 1.0), 126.0, 402.0)
    bottom = top + height * len(rows)
    body = [_axis(scale, top, bottom, "score")]
    for number, row in enumerate(rows):
        y = top + height * (number + 0.5)
        if row.strong:
            band = f'x="0" y="{y - height / 2 + 2:.1f}" width="{width:.0f}" height="{height - 4:.1f}" rx="6"'
            body.insert(0, f'<rect class="band" {band}/>')
        offsets = (0.0,) if len(row.marks) == 1 else (-8.0, 8.0)
        for mark, offset, value in zip(row.marks, offsets, row.value.split("\n"), strict=True):
            label = "variants" if mark.faint else _short(row.label, 16)
            kind = "small" if mark.faint else "label strong" if row.strong else "label"
            body.append(_text(12, y + offset + 4, label, kind))
            body.append(_mark(mark, scale, y + offset))
            body.append(_text(418, y + offset + 4, value, "small" if mark.faint else "value"))
    return _figure(uid, (width, bottom + 40), title, description, body)


def overview(uid: str, rows: Sequence[Row], title: str, description: str) -> Markup:
    """All capabilities: left every arm's sealed test, right the paired difference of the placed arm from the base."""
    height, top, width = 50.0, 26.0, 960.0
    deltas = [r.delta for r in rows if r.delta]
    score = Scale(*_domain([m for r in rows for m in r.marks], 0.0, 1.0), 190.0, 560.0)
    change = Scale(*_domain(deltas, -0.1, 0.1), 618.0, 870.0)
    bottom = top + height * len(rows)
    body = [
        _axis(score, top, bottom, "score on the sealed test"),
        _axis(change, top, bottom, "placed arm minus base, paired", sign=True),
    ]
    for number, row in enumerate(rows):
        y = top + height * (number + 0.5)
        if number:
            body.append(_line("rule", 0, y - height / 2, width, y - height / 2))
        body.append(_text(0, y - 1, _short(row.label, 24), "label strong"))
        body.append(_text(0, y + 14, row.note, "small"))
        middle = (len(row.marks) - 1) / 2
        body.extend(_mark(mark, score, y + 10.0 * (i - middle)) for i, mark in enumerate(row.marks))
        if row.delta:
            body.append(_mark(row.delta, change, y))
        body.append(_text(884, y + 4, row.value, "value"))
    return _figure(uid, (width, bottom + 40), title, description, body)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average over up to `window` values on each side."""
    out = []
    for i in range(len(values)):
        near = values[max(0, i - window) : i + window + 1]
        out.append(sum(near) / len(near))
    return out


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about 240 points, evenly taken, the last one always kept."""
    stride = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def curve(
    uid: str, points: Sequence[tuple[float, float]], selected: int | None, labels: tuple[str, str, str]
) -> Markup:
    """A training curve: raw values faint, their moving average strong, the selected step marked.

    `points` are (step, value), at least one; `labels` are the figure's title, its description and the value axis.
    """
    title, description, axis = labels
    ordered = thin(sorted(points))
    steps, values = [p[0] for p in ordered], [p[1] for p in ordered]
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or max(abs(high) * 0.1, 0.05)
    x = Scale(min(steps), max(max(steps), min(steps) + 1, selected or 0), 52.0, 600.0)
    y = Scale(low - pad, high + pad, 172.0, 12.0)
    body = []
    for value in ticks(y.low, y.high, 4):
        body.append(_line("grid", x.left, y.at(value), x.right, y.at(value)))
        body.append(_text(44, y.at(value) + 4, f"{value:g}", "tick", "end"))
    body.extend(_text(x.at(value), 188, f"{value:g}", "tick", "middle") for value in ticks(x.low, x.high, 6))
    body.append(_text((x.left + x.right) / 2, 206, f"optimiser step · {axis}", "axis", "middle"))
    body.append(f'<path class="raw" d="{_path([(x.at(s), y.at(v)) for s, v in ordered])}"/>')
    mean = smooth(values, max(1, len(values) // 16))
    body.append(f'<path class="trend" d="{_path([(x.at(s), y.at(v)) for s, v in zip(steps, mean, strict=True)])}"/>')
    if selected is not None:
        at = x.at(selected)
        side = "end" if at > 480 else "start"
        body.append(_line("chosen", at, y.right, at, y.left))
        body.append(_text(at + (-6 if side == "end" else 6), 162, f"selected: {selected}", "small strong", side))
    return _figure(uid, (620, 214), title, description, body)


def bars(uid: str, rows: Sequence[tuple[str, float, str]], labels: tuple[str, str, str]) -> Markup:
    """A bar per row from zero: its label, its length and the value printed after it. `labels` are the figure's title, its
    description and the axis. At least one row."""
    title, description, axis = labels
    height, top = 26.0, 6.0
    scale = Scale(0.0, max([1.0, *(size for _, size, _ in rows)]), 126.0, 480.0)
    bottom = top + height * len(rows)
    body = [_axis(scale, top, bottom, axis)]
    for number, (label, size, value) in enumerate(rows):
        y, end = top + height * (number + 0.5), scale.at(size)
        box = f'x="{scale.left:.1f}" y="{y - 8:.1f}" width="{end - scale.left:.1f}" height="16"'
        body += [
            _text(12, y + 4, _short(label, 16), "label"),
            f'<rect class="bar" {box}/>',
            _text(end + 8, y + 4, value, "value"),
        ]
    return _figure(uid, (620.0, bottom + 40), title, description, body)
