"""Rewards: graded as measured, a Brier term that is proper, and a count of groups that teach something."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.capability.types import Example, Score
from hybrid.weights.rewards import Rewards, brier, parse_confidence, signal_share

PATTERN = r"~(?P<confidence>\d)\s*$"


class CountingGrader:
    """Passes a completion that starts with the reference; counts its calls."""

    def __init__(self):
        self.calls = 0

    def grade(self, completion, example):
        self.calls += 1
        right = completion.startswith(example.reference)
        return Score(float(right), right)

    def fingerprint(self):
        return "counting"


@pytest.mark.parametrize(
    ("completion", "pattern", "scale", "expected"),
    [
        ("dcba~7", PATTERN, 10, 0.7),
        ("dcba~7 \n", PATTERN, 10, 0.7),
        ("dcba", PATTERN, 10, None),
        ("~7dcba", PATTERN, 10, None),
        ("p=20 p=80", r"p=(?P<confidence>\d+)", 100, 0.8),  # the last one counts
        ("p=120", r"p=(?P<confidence>\d+)", 100, None),
        ("p=-1", r"p=(?P<confidence>-?\d+)", 100, None),
        ("p=nan", r"p=(?P<confidence>\w+)", 1, None),
        ("p=inf", r"p=(?P<confidence>\w+)", 1, None),
        ("p=high", r"p=(?P<confidence>\w+)", 1, None),
        ("p=", r"p=(?P<confidence>\d)?", 1, None),
    ],
)
def test_parse_confidence(completion, pattern, scale, expected):
    assert parse_confidence(completion, re.compile(pattern), scale) == expected


def test_brier_is_one_when_sure_and_right_and_zero_when_sure_and_wrong_or_silent():
    assert brier(True, 1.0) == 1.0
    assert brier(False, 0.0) == 1.0
    assert brier(False, 1.0) == brier(True, 0.0) == brier(True, None) == brier(False, None) == 0.0
    assert brier(True, 0.7) == pytest.approx(0.91)


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_brier_is_a_proper_rule(percent, stated):
    """Saying the true probability is never worse in expectation than saying another one."""
    p, q = percent / 100, stated / 100

    def expected(confidence):
        return p * brier(True, confidence) + (1 - p) * brier(False, confidence)

    assert expected(p) >= expected(q) - 1e-12


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_accuracy_plus_brier_prefers_the_likelier_answer(one, other):
    """With equal weights the value of a calibrated answer grows with its probability: wrong on purpose never pays."""

    def value(p):
        return p + p * brier(True, p) + (1 - p) * brier(False, p)

    low, high = sorted((one / 100, other / 100))
    assert value(high) >= value(low) - 1e-12


def test_rewards_grade_each_completion_once_for_both_columns_and_look_up_the_right_row():
    grader = CountingGrader()
    examples = [Example(id="a", prompt="p", reference="ab"), Example(id="b", prompt="p", reference="cd")]
    rewards = Rewards(examples, grader, PATTERN, 10)
    rows, texts = [1, 0, 1], ["cd~9", "cd~2", "cd"]
    assert rewards.accuracy(rows, texts) == [1.0, 0.0, 1.0]
    assert rewards.brier(rows, texts) == pytest.approx([0.99, 0.96, 0.0])
    assert grader.calls == 3
    assert rewards.accuracy([0, 0, 0], texts) == [0.0, 0.0, 0.0]
    assert grader.calls == 6


def test_signal_share_counts_groups_with_different_rewards():
    assert signal_share([0, 0, 1, 1, 0, 1, 0.5, 0.5], 2) == 0.25
    assert signal_share([1, 1, 1, 1], 4) == 0.0
    assert signal_share([0.0, 1e-12], 2) == 0.0
