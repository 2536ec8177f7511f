"""The matrix of changes and the sentences about a mixed adapter say what the report's data says."""

from __future__ import annotations

import copy

from test_report_example import bare, example, example_data

from hybrid.report.composition_text import composition, matrix
from hybrid.report.explain import to_text
from hybrid.report.html import to_html
from hybrid.report.markdown import to_markdown
from hybrid.report.schema import Report
from hybrid.report.text import signed

MIXED = {
    "search": "cma",
    "ingredients": [{"name": "plain <b>", "coefficient": 0.75}, {"name": "idle", "coefficient": 0.0}],
    "chosen": "mixture",
    "best_expert": "plain",
    "evaluations": 120,
    "asked": 9000,
    "saved": 15000,
    "fresh": {
        "base": {"mean": 0.1, "low": 0.0, "high": 0.2, "n": 64},
        "mixture": {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 64},
    },
    "rank": 16,
    "error": 0.25,
}


def test_every_shipped_change_is_a_row_and_every_capability_a_column() -> None:
    report = example()
    drawn = matrix(report)
    assert drawn is not None
    head, rows = drawn
    assert head[1:] == tuple(c.name for c in report.capabilities)
    placed = [c for c in report.capabilities if c.placement in ("skill", "weights", "both")]
    assert [row[0] for row in rows] == [f"{c.name} ({c.placement})" for c in placed]
    for c, row in zip(placed, rows, strict=True):
        cells = dict(zip(head[1:], row[1:], strict=True))
        assert c.delta is None or cells[c.name].startswith(signed(c.delta.mean))
        for other, touch in c.collateral.items():
            if other in cells:
                assert cells[other].startswith(signed(touch.delta))
                assert cells[other].endswith("!") == (touch.high < 0)


def test_a_run_without_another_capability_has_no_matrix() -> None:
    assert matrix(bare()) is None
    assert "What each change does" not in to_markdown(bare())


def mixed(**changes: object) -> Report:
    data = copy.deepcopy(example_data())
    data["capabilities"][1]["artifacts"] |= {"method": "swarm", "composition": {**MIXED, **changes}}
    return Report.model_validate(data)


def test_a_mixed_adapter_says_what_it_is_made_of() -> None:
    first, fresh, lossy = composition(mixed().capabilities[1])
    assert "120 mixtures of 2 experts, 9,000 answers asked for, 15,000 spared" in first
    assert "+0.750 plain <b>" in first and "idle" not in first
    assert "mixture 0.600 [0.500, 0.700] n=64" in fresh and "Kept: the mixture" in fresh
    assert "rank 16" in lossy and "0.250" in lossy
    text = to_markdown(mixed())
    assert "plain &lt;b&gt;" in text and "<b>" not in text
    assert list(composition(example().capabilities[1])) == []
    page = to_html(mixed())
    assert "plain &lt;b&gt;" in page and "plain <b>" not in page and "120 mixtures" in page
    assert "120 mixtures" not in to_html(example())


def test_the_page_draws_the_matrix_once() -> None:
    assert to_html(example()).count("<table data-matrix>") == 1
    assert "data-matrix" not in to_html(bare())


def test_the_argument_says_how_it_was_mixed() -> None:
    report = mixed()
    assert any("120 mixtures of 2 experts" in text for text in to_text(report, report.capabilities[1]).splitlines())


def test_an_expert_that_was_as_good_alone_is_named() -> None:
    sentences = list(composition(mixed(chosen="best expert", error=0.0).capabilities[1]))
    assert len(sentences) == 2 and "plain alone, which is as good" in sentences[1]
