"""Known-ness of facts, and the answer that stands for not knowing."""

from __future__ import annotations

import pytest
from fakes import examples

from hybrid.capability.graders import build_grader
from hybrid.capability.graders.abstain import Abstaining, accepting, unknown_row
from hybrid.config.loader import load_config
from hybrid.config.schema import AbstainConfig, ExactGrader, WeightsConfig
from hybrid.evidence.known import known

PLAIN = build_grader(ExactGrader(type="exact"))


@pytest.mark.parametrize(
    ("greedy", "samples", "found"),
    [
        (True, [True, True], "highly"),
        (True, [True, False], "maybe"),
        (False, [True, False], "weakly"),
        (False, [False, False], "unknown"),
    ],
)
def test_the_four_classes(greedy: bool, samples: list[bool], found: str) -> None:
    assert known(greedy, samples) == found


def test_an_abstention_passes_on_unknown_rows_alone() -> None:
    grader = accepting(PLAIN, AbstainConfig(answer="I do not know", credit=0.2))
    (row,) = examples(1, "train")
    labelled = unknown_row(row, "I do not know")
    for text in ("I do not know", " i DO not know\n"):
        assert (grader.grade(text, labelled).value, grader.grade(text, labelled).passed) == (1.0, True)
        assert (grader.grade(text, row).value, grader.grade(text, row).passed) == (0.2, False)
    assert (grader.grade("a0", row).value, grader.grade("a0", labelled).value) == (1.0, 0.0)
    assert grader.grade("no", row).value == 0.0
    assert labelled.gold_completion == "I do not know"
    assert (labelled.id, labelled.prompt) == (row.id, row.prompt)


def test_without_the_setting_an_abstention_is_an_answer_like_others() -> None:
    (row,) = examples(1, "train")
    assert accepting(PLAIN, None) is PLAIN
    assert PLAIN.grade("I do not know", row).value == 0.0


def test_the_setting_is_part_of_what_a_grader_is() -> None:
    prints = {Abstaining(PLAIN, AbstainConfig(answer=a, credit=c)).fingerprint() for a in "xy" for c in (0.0, 0.5)}
    assert len(prints | {PLAIN.fingerprint()}) == 5


def test_relabelling_without_an_answer_is_a_mistake_of_the_configuration(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from hybrid.errors import ConfigError

    text = (
        "name: a\nmodel: {path: reference}\nweights: {unknown_facts: relabel}\n"
        "capabilities:\n  - {name: f, source: {type: jsonl, path: f}, grader: {type: exact}%s}\n"
    )
    (tmp_path / "a.yaml").write_text(text % "", encoding="utf-8")
    with pytest.raises(ConfigError, match="relabel needs"):
        load_config(tmp_path / "a.yaml", ())
    (tmp_path / "a.yaml").write_text(text % ", abstain: {answer: unknown}", encoding="utf-8")
    assert load_config(tmp_path / "a.yaml", ()).config.weights.unknown_facts == "relabel"
    with pytest.raises(ValueError, match="use drop"):
        WeightsConfig(method="distill", unknown_facts="relabel")
