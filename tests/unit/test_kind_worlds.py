"""Capabilities of constructed kind: same seed same rows, right answers score 1, and the fit finds what they are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import kind_worlds as worlds
import kinds_fit

from hybrid.probe.base import ProbeResult
from hybrid.router.kinds import FEATURES, SINGLES, judge_kind

NAMES = [*worlds.FAMILIES, *worlds.UNSEEN]


@pytest.mark.parametrize("family", NAMES)
def test_rows_are_sound_and_come_from_the_seed(family: str) -> None:
    made, again = worlds.make_capability(7, [family]), worlds.make_capability(7, [family])
    assert made.capability.splits == again.capability.splits
    assert made.texts == again.texts
    other = worlds.make_capability(8, [family])
    assert other.capability.splits != made.capability.splits
    rows = [e for split in made.capability.splits.values() for e in split]
    assert len({e.prompt for e in rows}) == len(rows), "no question is in two splits"
    assert len(made.capability.splits["search"]) >= 32
    assert all(made.capability.grader.grade(e.gold_completion, e).value == 1.0 for e in rows)
    assert made.kinds <= set(SINGLES)


def rows(count: int) -> list[dict[str, object]]:
    """Facts are supplied, layouts gain format, and a few capabilities are both or neither."""
    found = []
    for i in range(count):
        facts, style = i % 2 == 0, i % 3 == 0
        values = {
            "base": 0.0,
            "unknown": 1.0,
            "supplied": 0.9 * facts,
            "format_gain": 0.9 * style,
            "content_gain": 0.9 * facts,
        }
        profile = {
            n: ProbeResult(value=values.get(n, 0.0) + 0.01 * (i % 5), low=-0.1, high=0.1, n=64) for n in FEATURES
        }
        kinds = [*(["factual"] if facts else []), *(["stylistic"] if style else [])]
        found.append({"seed": i, "family": f"{facts}{style}", "kinds": kinds, "profile": profile})
    return found


def test_the_fit_finds_what_makes_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_fit, "PENALTIES", (0.03, 0.3))
    monkeypatch.setattr(kinds_fit, "SHARPNESS", (1.0, 1.6))
    made = rows(30)
    model, losses, taken = kinds_fit.fit(made, "made up")
    weights = model.scores["factual"].weights
    assert max(weights, key=lambda n: weights[n]) in ("supplied", "content_gain")
    assert max(model.scores["stylistic"].weights, key=lambda n: model.scores["stylistic"].weights[n]) == "format_gain"
    verdicts = [judge_kind(row["profile"], model).kind for row in made]  # type: ignore[arg-type]
    assert verdicts == [kinds_fit.verdict_of(row["kinds"]) for row in made]  # type: ignore[arg-type]
    assert losses[taken] >= min(losses.values()), "the cautious one, not the least"
