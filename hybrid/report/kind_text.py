"""What a capability was measured to be, in lines: for the terminal and for Markdown alike.

Does not: judge kinds; the report holds what was judged.
"""

from __future__ import annotations

from hybrid.report.parts import Kind
from hybrid.report.text import line, num


def kind_line(kind: Kind) -> str:
    """`measured factual, declared procedural (confidence 0.97)`; the confidence is that of the measured kind."""
    sure = f" (confidence {num(kind.confidence)})" if kind.confidence is not None else ""
    return f"measured {kind.measured or 'undecided'}, declared {kind.declared or 'nothing'}{sure}"


def kind_evidence(kind: Kind) -> list[str]:
    """The scores of the kinds, what speaks for and against them, and a disagreement with what was declared."""
    said = []
    if kind.disagreement:
        said.append(f"disagreement: {line(kind.disagreement, 1000)}")
    if kind.scores:
        said.append("each by itself: " + ", ".join(f"{line(k, 40)} {num(v)}" for k, v in sorted(kind.scores.items())))
    return said + [line(text, 300) for text in kind.evidence]
