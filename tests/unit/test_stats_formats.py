"""Format shares and excess collapse against the closed form."""

from __future__ import annotations

import math

import pytest

from hybrid.evidence.formats import effective_number, excess_collapse, format_use, merited_share, merited_shares, shares


def test_shares_are_sorted_by_name():
    assert shares(["b", "a", "b", "b"]) == {"a": 0.25, "b": 0.75}
    assert list(shares(["b", "a"])) == ["a", "b"]
    assert shares([]) == {}


@pytest.mark.parametrize(("share", "expected"), [({"a": 1.0}, 1.0), ({"a": 0.25, "b": 0.25, "c": 0.5}, 2**1.5)])
def test_effective_number(share, expected):
    assert effective_number(share) == pytest.approx(expected)


def test_merited_shares_follow_share_times_accuracy():
    found = merited_shares({"a": 0.28, "b": 0.62, "c": 0.10}, {"a": 0.30, "b": 0.15, "c": 0.20})
    assert found == pytest.approx({"a": 0.084 / 0.197, "b": 0.093 / 0.197, "c": 0.02 / 0.197})


def test_no_excess_at_the_optimum_and_some_beyond():
    base, right = {"a": 0.3, "b": 0.7}, {"a": 0.3, "b": 0.15}
    optimum = merited_shares(base, right)
    assert optimum is not None
    assert excess_collapse(optimum, base, right) == pytest.approx(0.0, abs=1e-12)
    assert excess_collapse({"a": 1.0, "b": 0.0}, base, right) == pytest.approx(-math.log(optimum["a"]))
    assert excess_collapse({"a": 0.9, "b": 0.1}, base, right) < excess_collapse({"a": 1.0}, base, right)


def test_infinite_or_undefined_excess_is_none():
    assert excess_collapse({"new": 1.0}, {"a": 1.0}, {"a": 0.5}) is None
    assert excess_collapse({"a": 1.0}, {"a": 1.0}, {"a": 0.0}) is None


def test_format_use_is_finite_for_a_format_that_the_base_never_showed():
    base = [("a", True)] * 20 + [("b", False)] * 20
    found = format_use([("new", True)] * 30, base)
    assert found is not None and found.excess_collapse is not None
    assert found.n == 30 and found.effective == 1.0
    assert found.excess_collapse > 2.0


def test_format_use_of_an_unchanged_merited_mix_has_little_excess():
    base = [("a", i < 60) for i in range(200)] + [("b", i < 60) for i in range(200)]
    found = format_use([("a", True)] * 50 + [("b", True)] * 50, base)
    assert found is not None and found.excess_collapse == pytest.approx(0.0, abs=1e-6)
    assert found.shares == {"a": 0.5, "b": 0.5}


def test_without_a_base_or_without_completions():
    alone = format_use([("a", True)])
    assert alone is not None and alone.excess_collapse is None
    assert format_use([]) is None


def test_the_merited_share_is_one_without_pairs_and_follows_accuracy_with_them():
    assert merited_share("a", []) == 1.0
    base = [("a", True)] * 30 + [("b", i < 10) for i in range(30)]
    assert merited_share("a", base) == pytest.approx(30.5 / 41, abs=1e-3)
    assert merited_share("never shown", base) < 0.02
    assert sum(merited_share(name, base) for name in "ab") == pytest.approx(1.0)
