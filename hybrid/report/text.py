"""Words and numbers of the report, shared by all its forms, and the first defence against hostile text.

`visible` makes characters that hide or reorder text readable (`⟨U+202E⟩`); each form then escapes for itself. Numbers
keep three decimals, deltas their sign, and a p value below .0005 reads `<0.001`, never 0. Does not: know HTML.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from hybrid.report.schema import ARMS, CapabilityReport, Delta, Estimate, LedgerTotals, Report, Substrate

ABSENT = "—"
"""What stands where a number was not measured."""
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800\u00ad\u034f\u17b4\u17b5"
"""Characters that draw nothing although Unicode calls them letters, marks or symbols."""
MARK = re.compile(r"⟨(U\+[0-9A-F]{4,6})⟩")
"""A spelled-out character."""
ARM_NAMES: Mapping[str, str] = {"base": "base", "skill": "skill", "weights": "weights", "both": "skill + weights"}
PLACEMENT_MEANS: Mapping[str, str] = {
    "keep": "the base model is good enough as it is",
    "skill": "lives in a skill document",
    "weights": "lives in an adapter",
    "both": "lives in a skill document and an adapter",
    "neither": "neither text nor weights helped",
    "undecided": "the evidence does not decide at this size",
}


def _hidden(char: str) -> bool:
    if char in "\n\t":
        return False
    category = unicodedata.category(char)
    nothing = ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF  # Unicode's noncharacters
    return category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or nothing or char in _BLANK_LETTERS


class _Spelling(dict[int, str]):
    """Code point -> what is shown for it, filled as characters turn up: `str.translate` then runs at full speed."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = f"⟨U+{code:04X}⟩" if _hidden(char) else char
        return self[code]


_SPELLING = _Spelling()


def visible(text: str) -> str:
    """The text with control, bidirectional and zero-width characters spelled `⟨U+XXXX⟩`. Newline and tab stay."""
    return text.translate(_SPELLING)


def clip(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end, with the number of those left out between them."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]} … [{len(text) - limit:,} characters more in placement.json] … {text[-tail:]}"


def line(text: str, limit: int = 400) -> str:
    """One visible line: newlines become ⏎, tabs and runs of blanks one space, and the rest is clipped."""
    flat = re.sub(r"[^\S\n]*\n\s*", " ⏎ ", clip(text.strip(), limit))
    return visible(re.sub(r"[\t ]+", " ", flat))


def num(value: float | None) -> str:
    """A score with three decimals; tiny or huge values with three digits."""
    if value is None:
        return ABSENT
    if value and not 0.0005 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value + 0.0:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign and three decimals; zero is `+0.000`."""
    return ABSENT if value is None else f"{round(value, 3) + 0.0:+.3f}"


def pvalue(value: float | None) -> str:
    """A p value; what rounds to zero reads `<0.001`."""
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def interval(part: Any, *, sign: bool = False) -> str:
    """`[low, high]` of anything with both ends, or nothing when it has none."""
    if part is None or part.low is None or part.high is None:
        return ""
    show = signed if sign else num
    return f"[{show(part.low)}, {show(part.high)}]"


def seconds(value: float | None) -> str:
    """A duration in the two largest units that fit it."""
    if value is None:
        return ABSENT
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def free(value: Any) -> str:
    """One line for a free JSON value: numbers like scores, the rest as compact JSON."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return num(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {free(value[key])}" for key in sorted(value))
    if isinstance(value, list):
        return ", ".join(free(v) for v in value)
    return str(value)


def extras(part: Any) -> list[tuple[str, Any]]:
    """The further keys of a probe or a training step, by name; those under `details` count as keys of their own."""
    more = dict(part.model_extra or {})
    details = more.pop("details", None)
    if isinstance(details, dict):
        more = {**details, **more}
    elif details is not None:
        more["details"] = details
    return sorted(more.items())


def level_of(report: Report) -> str:
    """The level of the intervals as text (`95 %`), or nothing when the report mixes levels."""
    levels = {e.level for c in report.capabilities for a in ARMS if (e := sealed(c, a))}
    levels |= {c.delta.level for c in report.capabilities if c.delta}
    return f"{100 * levels.pop():.3g} %" if len(levels) == 1 else ""


def sealed(capability: CapabilityReport, arm: Substrate) -> Estimate | None:
    """The sealed-test estimate of one arm."""
    found = capability.arms.of(arm)
    return found.test if found else None


def placed_arm(capability: CapabilityReport) -> Substrate:
    """The arm that is served: the placement itself, or the base where nothing ships."""
    return capability.placement if capability.placement in ("skill", "weights", "both") else "base"


def verdict_line(capability: CapabilityReport) -> str:
    """One sentence: from what score to what score, with the paired difference."""
    base, delta = sealed(capability, "base"), capability.delta
    placed, means = placed_arm(capability), PLACEMENT_MEANS[capability.placement]
    if base is None:
        return f"{means}; the sealed test was not measured"
    if placed == "base" or delta is None:
        return f"{means}; the base scores {num(base.mean)} {interval(base)} on {base.n} test examples"
    after = sealed(capability, placed)
    reached = f"from {num(base.mean)} to {num(after.mean)}" if after else f"from {num(base.mean)}"
    return f"{means}: {reached} on {delta.n} sealed test examples ({delta_line(delta)})"


def delta_line(delta: Delta) -> str:
    """A paired difference in words."""
    return (
        f"{signed(delta.mean)} {interval(delta, sign=True)}, p {pvalue(delta.p)}, "
        f"{delta.improved} improved, {delta.regressed} regressed"
    )


def cost_line(ledger: LedgerTotals) -> str:
    """A ledger in words."""
    return (
        f"{ledger.calls:,} calls, {ledger.tokens_in:,} tokens in, {ledger.tokens_out:,} out, "
        f"{seconds(ledger.train_seconds)} training, {seconds(ledger.wall_seconds)} wall"
    )


def tally(report: Report) -> list[tuple[str, int]]:
    """How many capabilities went where, in a fixed order, without empty places."""
    counts = {p: sum(c.placement == p for c in report.capabilities) for p in PLACEMENT_MEANS}
    return [(placement, count) for placement, count in counts.items() if count]


def limits(report: Report) -> list[str]:
    """What this report cannot show, from its own numbers."""
    sizes = [e.n for c in report.capabilities for a in ARMS if (e := sealed(c, a))]
    said = [
        "One base model and one seed: intervals cover the choice of examples, not of model, seed or training run.",
        "The confirm and test splits were opened once. A second run on the same data reuses them: take fresh ones.",
        "A difference that the gates call undecided may be real; it is not shown at this number of examples.",
    ]
    if sizes:
        low, high = min(sizes), max(sizes)
        span = f"{low}" if low == high else f"{low} to {high}"
        said.insert(
            0, f"Sealed tests held {span} examples; a score of one half is then known to about ±{half_width(low):.2f}."
        )
    if any(c.delta is None for c in report.capabilities):
        said.append(f"{ABSENT} stands for what was not measured, or is not measurable at this size.")
    return said


def half_width(n: int) -> float:
    """Half of a 95 % normal interval for a share of one half over n examples: 1.96 / (2 sqrt n), at most 0.5."""
    return min(0.5, 0.98 / math.sqrt(max(n, 1)))
