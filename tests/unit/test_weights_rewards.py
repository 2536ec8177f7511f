"""Rewards: graded as measured, a Brier term that is proper, and a count of groups that teach something."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.capability.graders import GraderError, build_grader
from hybrid.capability.graders.base import Unjudged
from hybrid.capability.types import Example, Score
from hybrid.config.schema import ExactGrader, JsonGrader, RewardConfig
from hybrid.evidence.stated import Reader, parse_confidence
from hybrid.weights.rewards import Rewards, brier, columns_of, filled, signal_share

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


EXAMPLES = [Example(id="a", prompt="p", reference="ab"), Example(id="b", prompt="p", reference="cd")]


def test_rewards_grade_each_completion_once_for_all_columns_and_look_up_the_right_row():
    grader = CountingGrader()
    rewards = Rewards(EXAMPLES, grader, RewardConfig(brier_weight=0.5))
    assert [(c.name, c.weight) for c in rewards.columns] == [("accuracy", 1.0), ("brier", 0.5)]
    rows, texts = [1, 0, 1], ["cd~9", "cd~2", "cd"]
    assert rewards.column("accuracy", rows, texts) == [1.0, 0.0, 1.0]
    assert rewards.column("brier", rows, texts) == pytest.approx([0.99, 0.96, 0.0])
    assert grader.calls == 3
    assert rewards.column("accuracy", [0, 0, 0], texts) == [0.0, 0.0, 0.0]
    assert grader.calls == 6


def test_a_column_of_weight_zero_is_watched_and_one_that_nobody_asked_for_is_not_there():
    assert [c.name for c in columns_of(RewardConfig())] == ["accuracy"]
    watched = RewardConfig(confidence_pattern="tag", format_pattern="x", parts={"values": 0, "name": 0.5})
    assert [(c.name, c.weight) for c in columns_of(watched)] == [
        ("accuracy", 1.0), ("format", 0.0), ("brier", 0.0), ("part/name", 0.5), ("part/values", 0.0),
    ]  # fmt: skip


class Sharing:
    """Nine tenths for any wrong answer, as a grader of parts gives for a call with one wrong value."""

    def grade(self, completion: str, example: Example) -> Score:
        right = completion.split("~")[0] == example.reference
        return Score(1.0 if right else 0.9, right, {"format": 1.0})

    def fingerprint(self) -> str:
        return "sharing"


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.8])
def test_beside_a_scoring_rule_no_share_makes_wrong_on_purpose_pay(chance):
    rewards = Rewards(EXAMPLES, Sharing(), RewardConfig(brier_weight=1.0, confidence_pattern="percent"))

    def paid(text: str) -> float:
        return sum(c.weight * rewards.column(c.name, [0], [text])[0] for c in rewards.columns)

    stated = f"~{100 * chance:.0f}%"
    honest = chance * paid("ab" + stated) + (1 - chance) * paid("zz" + stated)
    assert honest > paid("zz~0%")
    assert Rewards(EXAMPLES, Sharing(), RewardConfig()).column("accuracy", [0], ["zz"]) == [0.9]


def test_parts_and_a_scoring_rule_exclude_one_another():
    with pytest.raises(ValidationError, match="wrong on purpose"):
        RewardConfig(brier_weight=0.5, parts={"values": 0.1})
    assert RewardConfig(brier_weight=0.5, parts={"values": 0.0}).parts == {"values": 0.0}


def test_the_layout_of_a_wrong_answer_is_never_paid_for():
    settings = RewardConfig(format_weight=1.0, format_pattern=r"^ab!$|^cd!$")
    rewards = Rewards(EXAMPLES, CountingGrader(), settings)
    assert rewards.column("format", [0, 0, 0], ["ab!", "cd!", "ab"]) == [1.0, 0.0, 0.0]


def test_a_layout_that_takes_too_long_to_match_is_not_well_formed():
    rewards = Rewards(EXAMPLES, CountingGrader(), RewardConfig(format_weight=1.0, format_pattern=r"^(\w+\s?)*$"))
    assert rewards.column("format", [0], ["ab" + "a" * 40 + "!"]) == [0.0]


def test_without_a_pattern_the_graders_facet_says_what_is_well_formed():
    exact = build_grader(ExactGrader(type="exact"))
    rewards = Rewards(EXAMPLES, exact, RewardConfig(format_weight=0.2))
    assert rewards.column("format", [0, 1], ["ab", "ab"]) == [1.0, 0.0]
    with pytest.raises(GraderError, match="no such facet"):
        Rewards(EXAMPLES, CountingGrader(), RewardConfig(format_weight=0.2)).column("format", [0], ["ab"])


def test_facets_are_partial_credit_and_an_unknown_one_is_an_error():
    grader = build_grader(JsonGrader(type="json", fields=("a", "b")))
    example = Example(id="j", prompt="p", reference='{"a": 1, "b": 2}')
    rewards = Rewards([example], grader, RewardConfig(parts={"field.a": 0.5, "nothing": 0.1}))
    texts = ['{"a": 1, "b": 3}', "no json"]
    assert rewards.column("part/field.a", [0, 0], texts) == [1.0, 0.0]
    with pytest.raises(GraderError, match=r"'nothing'.*field\.a, field\.b, format"):
        rewards.column("part/nothing", [0, 0], texts)


@pytest.mark.parametrize(
    ("form", "completion", "expected"),
    [
        ("digit", "dcba~7", 0.7),
        ("percent", "Paris, 85%", 0.85),
        ("percent", "85% sure, so Paris", None),
        ("tag", "<answer>4</answer><confidence> 0.8 </confidence>", 0.8),
        ("tag", "<confidence>0.1</confidence> no, <confidence>0.9</confidence>", 0.9),
        ("tag", "<confidence>80</confidence>", None),
        ("tag", "<confidence>0.8", None),
        ("tag", "<confidence>0.8.1</confidence>", None),
        (r"p=(?P<confidence>\S+)", "p=0.25", 0.25),
    ],
)
def test_confidence_is_read_in_the_named_forms(form, completion, expected):
    reader = Reader.of(RewardConfig(confidence_pattern=form))
    assert reader is not None
    assert reader.read(completion) == (None if expected is None else pytest.approx(expected))


def test_a_confidence_is_looked_for_at_the_end_only_so_that_reading_is_cheap():
    reader = Reader.of(RewardConfig(confidence_pattern="tag"))
    assert reader is not None
    assert reader.read("<confidence>0.8</confidence>" + "x" * 5_000) is None


def test_without_a_pattern_nothing_is_read():
    assert Reader.of(RewardConfig()) is None
    assert RewardConfig(brier_weight=1.0).confidence == (PATTERN, 10.0)
    with pytest.raises(ValidationError, match="confidence_scale"):
        RewardConfig(confidence_scale=100)


def test_signal_share_counts_groups_with_different_rewards():
    assert signal_share([0, 0, 1, 1, 0, 1, 0.5, 0.5], 2) == 0.25
    assert signal_share([1, 1, 1, 1], 4) == 0.0
    assert signal_share([0.0, 1e-12], 2) == 0.0


def test_a_completion_without_a_verdict_has_its_groups_mean_and_so_no_advantage():
    columns = [[1.0, 0.5, 0.0], [0.0, 0.1, 1.0], [0.0, 0.3, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    found = filled(columns, 2, 3)
    assert found[1] == pytest.approx([0.5, 0.4, 1.0])
    assert found[0] == columns[0] and found[2] == columns[2]
    assert found[3:] == [[0.0, 0.0, 1.0]] * 3  # a group without any verdict has no signal


def test_a_grader_that_may_fail_has_a_column_that_counts_its_failures():
    class Failing(CountingGrader):
        may_fail = True

        def grade(self, completion, example):
            if completion == "lost":
                raise Unjudged("no verdict")
            return super().grade(completion, example)

    rewards = Rewards(EXAMPLES, Failing(), RewardConfig())
    assert [c.name for c in rewards.columns] == ["accuracy", "unjudged"]
    assert rewards.column("unjudged", [0, 0], ["ab", "lost"]) == [0.0, 1.0]
    assert rewards.column("accuracy", [0, 0], ["ab", "lost"]) == [1.0, 0.0]
