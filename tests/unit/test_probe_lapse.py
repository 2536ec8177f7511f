from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.evidence.stats import wilson
from hybrid.probe.lapse import lapse_probe


def test_it_is_the_share_of_lapses_with_its_interval() -> None:
    result = lapse_probe(3, 9, failures=15, document="rule Kar: @rev.\n", source="draft")
    assert (result.value, result.n) == (0.75, 12)
    assert (result.low, result.high) == pytest.approx((0.4677, 0.9111), abs=1e-4)  # Wilson by hand
    assert result.details == {"defects": 3.0, "lapses": 9.0, "unlabelled": 3.0}
    assert "draft" in result.note


def test_an_empty_document_and_no_labels_are_not_zero() -> None:
    empty = lapse_probe(8, 0, document=" \n", source="seed")
    assert (empty.value, empty.n) == (None, 0) and "no rule to lapse from" in empty.note
    nothing = lapse_probe(0, 0, failures=4, document="a\n", source="seed")
    assert nothing.value is None and "none of 4 failures" in nothing.note


@pytest.mark.parametrize(("defects", "lapses", "failures"), [(-1, 2, None), (2, -1, 5), (2, 2, 3)])
def test_impossible_counts_are_refused(defects: int, lapses: int, failures: int | None) -> None:
    with pytest.raises(ValueError, match="cannot be labels"):
        lapse_probe(defects, lapses, failures=failures, document="a\n", source="seed")


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_interval_holds_the_share(defects: int, lapses: int) -> None:
    result = lapse_probe(defects, lapses, document="a\n", source="seed")
    if defects + lapses == 0:
        assert result.value is None
        return
    interval = wilson(lapses, defects + lapses, 0.95)
    assert (result.value, result.low, result.high) == (interval.mean, interval.low, interval.high)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
