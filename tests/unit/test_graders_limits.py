"""Hostile completions neither hang nor break a grader; runaway patterns are stopped; user callables are checked."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hybrid.capability.graders import GraderError, build_grader, matching
from hybrid.capability.types import Example, Grader
from hybrid.config.schema import GraderConfig

CONFIG: TypeAdapter[Any] = TypeAdapter(GraderConfig)
MEGABYTE = 1_000_000


def grader(**options: Any) -> Grader:
    return build_grader(CONFIG.validate_python(options))


def example(reference: str) -> Example:
    return Example(id="e", prompt="p", reference=reference)


GRADERS = {
    "exact": grader(type="exact"),
    "normalized": grader(type="normalized"),
    "numeric": grader(type="numeric"),
    "only": grader(type="numeric", which="only"),
    "choice": grader(type="choice", choices=["yes", "no", "C++"]),
    "regex": grader(type="regex", pattern=r"(?:answer: )?<{reference}>"),
    "json": grader(type="json"),
    "fields": grader(type="json", fields=["a", "b.0"]),
}
BOMBS = {
    "letters": "a" * MEGABYTE,
    "lists": "[" * MEGABYTE,
    "objects": '{"a":' * (MEGABYTE // 5),
    "open strings": '["' * (MEGABYTE // 2),
    "lists of one": '["a", ' * (MEGABYTE // 6),
    "deep then wide": "[" * 900 + "1," * (MEGABYTE // 2),
    "deep again and again": ("[" * 600 + "x") * (MEGABYTE // 601),
    "fences": "`" * MEGABYTE,
    "numbers": "1 " * (MEGABYTE // 2),
    "bars": "1/" * (MEGABYTE // 2),
    "thousands": "1,234," * (MEGABYTE // 6),
    "points": "1." * (MEGABYTE // 2),
    "signs": "-" * MEGABYTE,
    "choices": "yes " * (MEGABYTE // 4),
    "combining marks": "a" + "\u0301\u0316" * (MEGABYTE // 4),
    "expanding letters": "\ufdfa" * (MEGABYTE // 3),
    "unpaired surrogates": "\ud800" * (MEGABYTE // 3),
    "right to left": "\u202e\u200f" * (MEGABYTE // 6),
}


ANY = ("letters", "combining marks", "unpaired surrogates")
NUMBERS = ("numbers", "bars", "thousands", "points", "signs")
LISTS = ("lists", "objects", "open strings", "lists of one", "deep then wide", "deep again and again", "fences")
AIMED_AT = {
    "exact": ANY,
    "normalized": (*ANY, "expanding letters", "right to left", "points", "signs"),
    "numeric": (*ANY, *NUMBERS),
    "only": ("numbers",),
    "choice": (*ANY, "choices"),
    "regex": (*ANY, "signs"),
    "json": (*ANY, *LISTS),
    "fields": LISTS,
}


@pytest.mark.parametrize("name", GRADERS)
def test_a_megabyte_of_anything_is_graded_in_seconds(name: str) -> None:
    for bomb in AIMED_AT[name]:
        start = time.process_time()
        score = GRADERS[name].grade(BOMBS[bomb], example("7"))
        assert time.process_time() - start < 5.0, bomb
        assert score.value == 0.0, bomb


def _texts() -> st.SearchStrategy[str]:
    pieces = st.sampled_from(
        [
            "yes",
            "No",
            "c++",
            "<",
            ">",
            "{",
            "}",
            "[",
            "]",
            '"a"',
            ":",
            ",",
            "1",
            "-2.5",
            "3/4",
            "1e9",
            "```",
            "\n",
            "\\",
        ]
    )
    return st.one_of(st.text(st.characters(), max_size=60), st.lists(pieces, max_size=30).map("".join))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(completion=_texts(), reference=_texts(), name=st.sampled_from(sorted(GRADERS)))
def test_grading_never_raises_is_deterministic_and_consistent(completion: str, reference: str, name: str) -> None:
    score = GRADERS[name].grade(completion, example(reference))
    assert score.value in (0.0, 1.0)
    assert score.passed is (score.value == 1.0)
    assert all(0.0 <= facet <= 1.0 for facet in score.facets.values())
    assert not score.passed or score.facets["format"] == 1.0
    assert score.feedback.isprintable()
    assert score == GRADERS[name].grade(completion, example(reference))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    text=_texts(),
    number=st.decimals(allow_nan=False, allow_infinity=False),
    value=JSON_VALUES,
    pad=st.sampled_from(["", " ", "\n"]),
)
def test_gold_always_scores_one(text: str, number: object, value: object, pad: str) -> None:
    assert GRADERS["exact"].grade(pad + text + pad, example(text)).passed
    assert GRADERS["normalized"].grade(pad + text + pad, example(text)).passed
    assert GRADERS["regex"].grade(f"{pad}<{text.strip()}>{pad}", example(text)).passed
    plain = f"{number:f}" if len(f"{number:f}") < 500 else "12"
    assert GRADERS["numeric"].grade(f"so {plain}{pad}", example(plain)).passed
    dumped = json.dumps(value)
    assert GRADERS["json"].grade(pad + dumped + pad, example(dumped)).passed
    for choice in ("yes", "no", "C++"):
        assert GRADERS["choice"].grade(choice.upper() + pad, example(choice)).passed


RUNAWAY = r"(a|a)*b{reference}"


def test_a_runaway_pattern_is_stopped_and_grading_goes_on() -> None:
    runaway = grader(type="regex", pattern=RUNAWAY, timeout_s=0.3)
    assert runaway.grade("aab7", example("7")).passed
    start = time.monotonic()
    before = os.times().children_user
    score = runaway.grade("a" * 100_000, example("7"))
    assert (score.value, score.facets["format"]) == (0.0, 0.0)
    assert "too long" in score.feedback
    assert os.times().children_user - before < 2 * 0.3
    assert time.monotonic() - start < 20  # wall time, on a machine that others use too; unstopped it takes for ever
    assert runaway.grade("aab7", example("7")).passed
    assert GRADERS["regex"].grade("<7>", example("7")).passed


def test_a_worker_that_dies_by_itself_is_replaced_and_the_answer_is_not_lost() -> None:
    assert GRADERS["regex"].grade("<7>", example("7")).passed
    worker = matching.MATCHER._worker
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert GRADERS["regex"].grade("<7>", example("7")).passed
    assert matching.MATCHER._worker is not worker


def test_a_matcher_that_cannot_start_is_an_error_and_never_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_WORKER", Path("/nonexistent/worker.py"))
    matching.MATCHER.close()
    with pytest.raises(GraderError, match="died twice"):
        GRADERS["regex"].grade("<7>", example("7"))
    monkeypatch.undo()
    assert GRADERS["regex"].grade("<7>", example("7")).passed


def test_threads_share_the_worker_without_mixing_answers() -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for step in range(50):
            text = f"<{number if step % 2 else -1}>"
            if GRADERS["regex"].grade(text, example(str(number))).passed is not bool(step % 2):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_process_starts_its_own_worker() -> None:
    assert GRADERS["regex"].grade("<7>", example("7")).passed
    child = os.fork()
    if child == 0:
        os._exit(0 if GRADERS["regex"].grade("<8>", example("8")).passed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert GRADERS["regex"].grade("<7>", example("7")).passed


@pytest.fixture
def user_grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(100))

    def make(body: str) -> Grader:
        name = f"user_grader_{tmp_path.name.replace('-', '_')}_{next(count)}"
        source = f"from hybrid.capability.types import Score\n\ndef grade(completion, example):\n    {body}\n"
        (tmp_path / f"{name}.py").write_text(source)
        return grader(type="python", path=f"{name}:grade")

    return make


@pytest.mark.parametrize(
    ("body", "value", "passed"),
    [
        ("return completion == example.reference", 1.0, True),
        ("return False", 0.0, False),
        ("return 0.25", 0.25, False),
        ("return 1", 1.0, True),
        ("return Score(0.5, True, {'format': 1.0}, 'near')", 0.5, True),
    ],
)
def test_callables_may_return_bool_share_or_score(user_grader: Any, body: str, value: float, passed: bool) -> None:
    score = user_grader(body).grade("7", example("7"))
    assert (score.value, score.passed) == (value, passed)
    assert type(score.value) is float


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return float('nan')", "number from 0 to 1"),
        ("return 1.5", "number from 0 to 1"),
        ("return None", "NoneType"),
        ("return 'yes'", "str"),
        ("return Score(2.0, True)", "number from 0 to 1"),
        ("return Score(1.0, 1)", "wrong type"),
        ("return Score(1.0, True, {'format': -1.0})", "number from 0 to 1"),
    ],
)
def test_a_bug_in_a_callable_is_an_error_with_the_example_and_never_a_zero(
    user_grader: Any, body: str, message: str
) -> None:
    with pytest.raises(GraderError, match=message) as caught:
        user_grader(body).grade("7", example("7"))
    assert re.search(r"example 'e'", str(caught.value))


def test_the_identity_of_a_callable_follows_its_source(user_grader: Any) -> None:
    first, second = user_grader("return True"), user_grader("return False")
    assert first.fingerprint() != second.fingerprint()
    assert first.fingerprint() == first.fingerprint()
