"""Samples of every suite: gold answers score 1.0 and listed wrong answers less; the same seed gives the same rows."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.sources import LoadedCapability, check_gold, load_capability
from hybrid.capability.suites import SUITES
from hybrid.capability.suites.facts import Options as FactOptions
from hybrid.capability.suites.reasoning_gym import FORMS, never_right
from hybrid.capability.suites.routes import Closable, Map, shortest
from hybrid.capability.suites.style import HOUSES
from hybrid.capability.types import SPLITS, Example
from hybrid.capability.variants import chosen, marks_of, twins
from hybrid.config.schema import CapabilityConfig

SIZES = {"train": 12, "search": 8, "confirm": 10, "test": 14, "variant": 8}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(SUITES)),
    ("facts", {"table": "countries"}),
    ("facts", {"table": "countries", "relation": "currency", "most_population": 5_000_000}),
    ("facts", {"table": "countries", "relation": "region", "variant": "wording"}),
    ("facts", {"table": "elements", "shots": 2, "space": True, "template": "Q: {question}\nA:"}),
    ("facts", {"table": "elements", "relation": "number", "apart": True}),
    ("facts", {"table": "fictional", "relation": "founded", "apart": True, "variant": "wording"}),
    ("givens", {"size": 3, "variant": "larger"}),
    ("items", {"rules": 2, "remove": "rule", "parents": ["train", "search", "test"]}),
    ("items", {"variant": "larger", "rules": 0}),
    ("reasoning_gym", {"generator": "spell_backward", "variant": {"min_word_len": 8}}),
    ("reasoning_gym", {"generator": "spiral_matrix", "partial": True}),
    ("reasoning_gym", {"generator": "string_insertion"}),
    ("reasoning_gym", {"generator": "leg_counting", "shots": 1, "template": "{question} "}),
    ("routes", {"ask": "length", "removals": "active"}),
    ("routes", {"variant": "larger"}),
    *(("style", {"task": task, "told": task == "list"}) for task in HOUSES),
]
OURS = ("facts", "givens", "items", "numeric_iteration", "routes", "style")
"""Suites that need no other package."""
IDS = [f"{name}-{'-'.join(map(str, options.values())) or 'defaults'}"[:60] for name, options in CASES]


def sample(name: str, options: dict[str, Any], seed: int = 0) -> LoadedCapability:
    source = {"type": "suite", "name": name, "options": options, "sizes": SIZES}
    config = CapabilityConfig.model_validate({"name": "sample", "source": source})
    capability, problems = load_capability(config, Path, seed)
    absent = [str(p) for p in problems if "is not installed" in p.message]
    if absent:
        pytest.skip(absent[0])
    assert problems == []
    assert capability is not None
    return capability


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_gold_answers_score_one_and_wrong_answers_less(name: str, options: dict[str, Any]) -> None:
    capability = sample(name, options)
    rows = [e for split in SPLITS for e in capability.splits[split]]
    assert check_gold(capability) == []
    assert all(e.wrong for e in rows if marks_of(e) != "other") or name == "function_calling"
    assert sum(bool(e.wrong) for e in rows) >= 0.9 * len(rows)
    asked = {split: size for split, size in SIZES.items() if split != "variant"}
    assert {split: len(capability.splits[split]) for split in asked} == asked
    for hostile in (
        "",
        "\x00",
        "(" * 3_000,
        "9" * 5_000,
        "-" * 5_000,
        "__import__('os').abort()",
        "[[[" * 500,
        "A-" * 3_000,
    ):
        score = capability.grader.grade(hostile, rows[0])
        assert not score.passed
        assert 0 <= score.value < 1


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_same_seed_gives_the_same_and_another_seed_other_rows(name: str, options: dict[str, Any]) -> None:
    first = sample(name, options)
    assert first.fingerprint() == sample(name, options).fingerprint()
    others = sample(name, options, seed=1)
    assert {e.prompt_text for e in first.splits["test"]} != {e.prompt_text for e in others.splits["test"]}


def test_rows_do_not_depend_on_the_process() -> None:
    """The order of sets differs between processes; the rows must not."""
    code = (
        "import sys, json; sys.path.insert(0, 'tests/unit')\n"
        "from test_suite_samples import CASES, OURS, sample\n"
        "print(json.dumps([sample(n, o).fingerprint() for n, o in CASES if n in OURS and not o.get('table')]))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    here = [sample(n, o).fingerprint() for n, o in CASES if n in OURS and not o.get("table")]
    assert json.loads(there.stdout) == here


@pytest.mark.parametrize("task", HOUSES)
def test_each_wrong_answer_of_a_style_breaks_its_own_check(task: str) -> None:
    capability = sample("style", {"task": task, "score": "share"})
    for example in capability.splits["test"]:
        checks = list(HOUSES[task].checks)  # type: ignore[index]  # a parametrised key
        for name, answer in zip(checks, example.wrong, strict=True):
            score = capability.grader.grade(answer, example)
            assert [c for c in checks if not score.facets[c]] == [name]
            assert score.value == pytest.approx(1 - 1 / len(checks))


def test_facts_apart_are_in_one_split_and_the_oracle_holds_them_all() -> None:
    capability = sample("facts", {"table": "elements", "apart": True})
    held = {split: {e.metadata["entity"] for e in capability.splits[split]} for split in SPLITS if split != "variant"}
    assert sum(map(len, held.values())) == len(set.union(*held.values()))
    for example in capability.splits["test"]:
        assert f"The chemical symbol of {example.metadata['entity']} is {example.reference}." in str(capability.oracle)


def test_facts_of_all_splits_share_entities_and_paraphrases_are_marked() -> None:
    capability = sample("facts", {"facts": 10})
    train, test = ({e.metadata["entity"] for e in capability.splits[s]} for s in ("train", "test"))
    assert train == test
    assert capability.declared_kind == "factual"
    groups: dict[str, set[str]] = {}
    for example in capability.splits["test"]:
        groups.setdefault(example.metadata["paraphrase_of"], set()).add(example.reference)
    assert any(len([e for e in capability.splits["test"] if e.metadata["paraphrase_of"] == g]) > 1 for g in groups)
    assert all(len(answers) == 1 for answers in groups.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"relation": "capital"}, "fictional have no 'capital'"),
        ({"table": "countries", "relation": "region"}, "write `variant: wording`"),
        ({"most_population": 5}, "fictional have no population"),
        ({"template": "Q:"}, "write it where the question belongs"),
        ({"shots": 2}, "nothing stands between question and answer"),
        ({"facts": 5}, "fewer rows than the sizes ask for"),
        ({"table": "elements", "facts": 200}, "elements hold 118 facts"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    source = {"type": "suite", "name": "facts", "options": options, "sizes": SIZES}
    capability, problems = load_capability(CapabilityConfig.model_validate({"name": "a", "source": source}), Path, 0)
    assert capability is None
    assert any(said in str(p) for p in problems)
    assert FactOptions().asked == "warden"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generator": "chian_sum"}, "did you mean 'chain_sum'?"),
        ({"generator": "codeio"}, "it runs code"),
        ({"config": {"min_term": 2}}, "did you mean 'min_terms'?"),
        ({"config": {"min_terms": 0}}, "min_terms must be positive"),
        ({"variant": {"seed": 1}}, "has no setting 'seed'"),
    ],
)
def test_settings_of_a_generator_are_checked(options: dict[str, Any], said: str) -> None:
    pytest.importorskip("reasoning_gym")
    source = {"type": "suite", "name": "reasoning_gym", "options": options, "sizes": SIZES}
    capability, problems = load_capability(CapabilityConfig.model_validate({"name": "a", "source": source}), Path, 0)
    assert capability is None
    assert any(said in str(p) for p in problems)


def test_what_a_generator_prints_stays_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """`bf` prints a dot for every program that it tries, which would spoil `--json`."""
    assert check_gold(sample("reasoning_gym", {"generator": "bf"})) == []
    assert capsys.readouterr().out == ""


ATTACKS = (
    "[open(MARK, 'w')]",
    "__import__('pathlib').Path(MARK).touch()",
    "[c for c in (open(MARK, 'w'),)]",
    "9**9**9**9",
    "9 * * 9",
    "(lambda: 0)()",
    "1" * 4_000 + "*1",
)


@pytest.mark.parametrize("generator", ["string_insertion", "spiral_matrix", "binary_matrix"])
def test_no_answer_is_run_as_a_program(generator: str, tmp_path: Path) -> None:
    """The package's own scorers of these call `eval` on the answer."""
    mark = tmp_path / "ran"
    capability = sample("reasoning_gym", {"generator": generator})
    for attack in ATTACKS:
        score = capability.grader.grade(attack.replace("MARK", repr(str(mark))), capability.splits["test"][0])
        assert (score.value, score.passed) == (0, False)
    assert not mark.exists()


def test_no_distance_is_measured_to_what_is_no_number() -> None:
    """The package's own scorer gives `nan` 1.0."""
    capability = sample("reasoning_gym", {"generator": "complex_arithmetic"})
    row = capability.splits["test"][0]
    for answer in ("nan", "NaN + 1i", "inf", "-Infinity"):
        assert capability.grader.grade(answer, row).value == 0
    assert capability.grader.grade(f" {row.reference}\n", row).passed
    assert never_right("0.927") == ("", "I do not know", "nan", "inf", "0")
    assert never_right("7") == ("", "I do not know", "nan", "inf", "8")
    assert never_right("-12") == ("", "I do not know", "nan", "inf", "1", "-11")
    assert never_right("A B") == ("", "I do not know", "nan", "inf")


@pytest.mark.parametrize("attack", [*ATTACKS, "f'{9}'", "a.b()", "x" * 201, "2**3", "1234567890"])
def test_what_a_parser_may_see_holds_no_calls_names_or_powers(attack: str) -> None:
    """The scorers of countdown and puzzle24 hand the answer to sympy's parser, which evaluates it."""
    for generator in ("countdown", "puzzle24"):
        assert not FORMS[generator].fullmatch(attack)
        assert FORMS[generator].fullmatch("(25 + 3) * 4 - 100/2")


def test_twins_are_marked_by_whether_the_answer_changed() -> None:
    whole = Map((("A", "B", 1), ("B", "C", 1), ("A", "C", 5), ("A", "D", 1)), "C")
    kind = Closable("way")
    assert shortest(whole) == (2, "A-B-C")
    assert {(t.removed, t.answer, t.active) for t in twins(kind, whole)} == {
        ("A-B", "A-C", True),
        ("B-C", "A-C", True),
        ("A-C", "A-B-C", False),
        ("A-D", "A-B-C", False),
    }
    both = chosen(kind, whole, "both", random.Random(0))
    assert [t.active for t in both] == [True, False]
    assert [t.active for t in chosen(kind, whole, "inactive", random.Random(0))] == [False]


def test_a_map_with_two_shortest_ways_has_no_answer() -> None:
    assert shortest(Map((("A", "B", 1), ("B", "C", 1), ("A", "C", 2)), "C")) is None
    assert shortest(Map((("A", "B", 1),), "C")) is None
    with pytest.raises(ValueError, match="no single answer"):
        twins(Closable("way"), Map((), "C"))


@pytest.mark.parametrize("name", ["routes", "items", "givens"])
def test_twins_of_a_suite_keep_the_convention(name: str) -> None:
    capability = sample(name, {"parents": ["train", "test"]})
    parents = {e.id: (split, e) for split in ("train", "test") for e in capability.splits[split]}
    marks = [marks_of(e) for e in capability.splits["variant"]]
    assert sorted(set(marks)) == ["active", "inactive"]
    for twin in capability.splits["variant"]:
        _, parent = parents[str(twin.parent_id)]
        changed = twin.reference != parent.reference
        assert changed == (marks_of(twin) == "active")
        assert (parent.gold_completion in twin.wrong) == changed
        assert len(twin.prompt_text) < len(parent.prompt_text) + 5
    assert {parents[str(e.parent_id)][0] for e in capability.splits["variant"]} == {"train", "test"}


def test_other_variants_are_not_taken_for_removals() -> None:
    row = Example(id="a", prompt="p", reference="r", metadata={"active": True, "change": "larger"})
    assert marks_of(row) == "other"
    assert marks_of(row.model_copy(update={"metadata": {"removed": "x", "active": 1}})) == "other"
