"""The figure of `bench_depth.py`: accuracy against required steps, a line per arm with 95 % intervals, as a small SVG.

Does not: measure.
"""

from __future__ import annotations

from collections.abc import Mapping

from hybrid.evidence.stats import wilson

Cells = Mapping[int, tuple[int, int]]
SHOWN = (
    ("document", "with the document", "#1b7f5c", ""),
    ("at once", "at once", "#b3372f", ""),
    ("at once, after GRPO", "at once, after GRPO", "#3a6ea5", "5 4"),
    ("unpractised pair, document", "unpractised pair, document", "#1b7f5c", "5 4"),
)
LEFT, RIGHT, TOP, BOTTOM = 46, 410, 14, 236


def figure(curves: Mapping[str, Cells]) -> str:
    """The SVG of the arms that are there; curves map an arm to depth -> (right, asked)."""
    body = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _y(tick)
        body.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        body.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    body += [f'<text x="{_x(d):.1f}" y="{BOTTOM + 16}" text-anchor="middle">{d}</text>' for d in range(1, 9)]
    body.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 34}" text-anchor="middle">required steps d</text>')
    for number, (arm, label, colour, dash) in enumerate(s for s in SHOWN if curves.get(s[0])):
        body += _line(curves[arm], number, label, colour, dash)
    style = "font: 12px sans-serif; fill: #333"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 280" style="{style}" role="img">'
        "<title>Accuracy against required steps</title>"
        '<rect width="640" height="280" fill="white"/>' + "".join(body) + "</svg>\n"
    )


def _x(depth: float) -> float:
    return LEFT + 16 + (RIGHT - LEFT - 32) * (depth - 1) / 7


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _line(cells: Cells, number: int, label: str, colour: str, dash: str) -> list[str]:
    nudge = 2.0 * (number - 2)  # so that whiskers of one depth stand beside each other
    look = f'stroke="{colour}" stroke-dasharray="{dash}"'
    points, out = [], []
    for depth, (right, asked) in sorted(cells.items()):
        found = wilson(right, asked)
        x = _x(depth) + nudge
        points.append(f"{x:.1f},{_y(found.mean):.1f}")
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(found.low):.1f}" y2="{_y(found.high):.1f}" stroke="{colour}"/>'
        )
        out.append(f'<circle cx="{x:.1f}" cy="{_y(found.mean):.1f}" r="2.5" fill="{colour}"/>')
    out.append(f'<polyline points="{" ".join(points)}" fill="none" {look} stroke-width="1.5"/>')
    y = TOP + 12 + 20 * number
    out.append(f'<line x1="{RIGHT + 16}" x2="{RIGHT + 44}" y1="{y - 4}" y2="{y - 4}" {look} stroke-width="2"/>')
    out.append(f'<text x="{RIGHT + 50}" y="{y}">{label}</text>')
    return out
