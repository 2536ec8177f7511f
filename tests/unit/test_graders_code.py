"""The code grader: what it accepts, the seven known cheats, forged replies, its settings and its mistakes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hybrid.capability.graders import GraderError, build_grader, check_grader, code, code_sandbox
from hybrid.capability.graders.code import code_of, same
from hybrid.capability.sources import check_gold
from hybrid.capability.types import Capability, Example, Grader
from hybrid.config.check import check
from hybrid.config.schema import GraderConfig
from hybrid.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_cheats

CONFIG: TypeAdapter[Any] = TypeAdapter(GraderConfig)
SETTINGS = {"type": "code", "acknowledge": "runs model-written code", "entry": "add", "network": "allowed"}
SECRET = 918_273_645


def grader(**more: Any) -> Grader:
    return build_grader(CONFIG.validate_python({**SETTINGS, **more}))


def example(*cases: tuple[list[Any], Any]) -> Example:
    listed = [{"args": args, "expect": expect} for args, expect in cases]
    return Example(id="e", prompt="Write add(a, b).", reference="", metadata={"cases": listed})


SUMS = example(([17, 25], 42), ([-4, 11], 7), ([0, 6], 6), ([2, 3], 5))
SHARE = {"score": "share"}


def test_an_honest_answer_passes_and_a_wrong_one_does_not() -> None:
    right = grader().grade(f"Here it is:\n```python\n{bench_cheats.HONEST}```\nDone.", SUMS)
    assert (right.value, right.passed, right.facets) == (1.0, True, {"format": 1.0, "cases": 1.0})
    wrong = grader().grade(bench_cheats.WRONG, SUMS)
    assert (wrong.value, wrong.passed, wrong.facets) == (0.0, False, {"format": 1.0, "cases": 0.0})


@pytest.mark.parametrize("name", bench_cheats.CHEATS)
def test_each_known_cheat_is_refused_and_earns_no_more_than_what_it_computes(name: str) -> None:
    cheat = bench_cheats.CHEATS[name]
    score = grader().grade(cheat, SUMS)
    assert (score.value, score.passed) == (0.0, False)
    assert score.facets["cases"] == (0.25 if name == "hard-coded inputs" else 0.0)  # one case stands in the prompt
    assert grader(**SHARE).grade(cheat, bench_cheats.EXAMPLE).value == 0.0


def test_the_two_common_graders_fall_for_them() -> None:
    cheats = bench_cheats.CHEATS.values()
    assert sum(map(bench_cheats.by_exit_status, cheats)) == 7
    assert sum(map(bench_cheats.by_sentinel, cheats)) == 5


def test_partial_credit_is_the_share_of_cases_and_never_a_pass() -> None:
    half = grader(**SHARE).grade("def add(a, b):\n    return a + b if a > 0 else 0", SUMS)
    assert (half.value, half.passed, half.facets["cases"]) == (0.5, False, 0.5)
    assert grader().grade("def add(a, b):\n    return a + b if a > 0 else 0", SUMS).value == 0.0


FORGED = """
import gc, json, os, sys
def add(a, b):
    frame = sys._getframe(1)
    request, replies = frame.f_locals["request"], frame.f_locals["replies"]
    {forge}
    return 0
"""


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        ("os.write(replies, b'{\"value\": 42}\\n' * 50)", "wrote into the channel"),
        (
            "os.write(replies, json.dumps({'value': True, 'nonce': request['nonce']}).encode() + b'\\n')",
            "another value",
        ),
        ("os.write(replies, b'[' * 900_000 + b'\\n')", "cannot be read"),
        ("os.write(replies, b'9' * 9000 + b'\\n')", "cannot be read"),
        ("os.write(replies, b'\\xff\\n')", "cannot be read"),
        ("os.write(replies, b'x' * 2_000_000)", "more than 1000000 bytes"),
        ("os.write(replies, json.dumps({'failed': ['a'], 'nonce': request['nonce']}).encode() + b'\\n')", "own"),
        ("os.close(replies)", "before it answered|closed the channel"),
    ],
)
def test_a_program_that_finds_the_channel_of_replies_gains_nothing(forge: str, why: str) -> None:
    score = grader(**SHARE).grade(FORGED.replace("{forge}", forge), SUMS)
    assert score.value == 0.0
    assert re.search(why, score.feedback), score.feedback


def test_replies_to_questions_that_were_not_asked_yet_are_refused() -> None:
    first_knows_all = """
import json, os, sys
def add(a, b):
    frame = sys._getframe(1)
    nonce, replies = frame.f_locals["request"]["nonce"], frame.f_locals["replies"]
    for value in (42, 7, 6, 5):
        os.write(replies, json.dumps({"value": value, "nonce": nonce}).encode() + b"\\n")
"""
    score = grader(**SHARE).grade(first_knows_all, SUMS)
    assert score.value == 0.25  # the first question was open; the others were not


SEARCH = """
import gc, sys
def add(high, low, control):
    seen, todo, frame = set(), [*gc.get_objects(), sys.argv, sys.modules], sys._getframe(0)
    while frame:
        todo += frame.f_locals.values()
        frame = frame.f_back
    while todo:
        thing = todo.pop()
        if type(thing) is int and (thing // 1000, thing % 1000) == (high, low):
            return True
        if type(thing) in (str, bytes) and str(high) + str(low) in str(thing):
            return True
        if type(thing) in (list, tuple, dict) and thing is not todo and id(thing) not in seen:
            seen.add(id(thing))
            todo += thing.values() if type(thing) is dict else thing
    return False
"""


def test_expected_values_are_nowhere_in_the_process_of_the_program() -> None:
    high, low = divmod(SECRET, 1000)
    found = grader(timeout_s=20).grade(SEARCH, example(([high, low, 0], False), ([high, low, 0], SECRET)))
    assert found.facets["cases"] == 0.5, found.feedback
    assert (
        grader(timeout_s=20).grade(SEARCH, example(([high, low, [SECRET]], True))).passed
    )  # the search does find things


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (True, 1, False),
        (1.0, 1, True),
        (1.0, True, False),
        (0.3, 0.1 + 0.2, True),
        (0.3, 0.3001, False),
        (1e300, 10**4000, False),
        (0.0, float("nan"), False),
        (1.0, float("inf"), False),
        ("a", "a", True),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
        ([1, [2.0]], [1, [2]], True),
        ([1, 2], [1], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([], {}, False),
    ],
)
def test_types_and_values_are_compared_all_the_way_down(expected: Any, got: Any, equal: bool) -> None:
    assert same(expected, got, 1e-9) is equal


@pytest.mark.parametrize(
    ("returned", "expect", "passed"),
    [
        ("(1, (2, 3))", [1, [2, 3]], True),
        ("{'k': [None, 'é\\ud800']}", {"k": [None, "é\ud800"]}, True),
        ("2 ** 80", 2**80, True),
        ("{1: 2}", {"1": 2}, False),
        ("{1, 2}", [1, 2], False),
        ("b'a'", "a", False),
        ("float('nan')", 0.0, False),
        ("type('int', (int,), {'__eq__': lambda *_: True})(5)", 5, False),
        ("type('L', (list,), {'__len__': lambda _: 1})([5])", [5], False),
        ("type('S', (str,), {})('x')", "x", False),
        ("[[]] * 200_000", [], False),
        ("10 ** 6000", 1, False),
        ("(lambda f: f(f))(lambda f: [f] and [0])", [0], True),
    ],
)
def test_only_plain_values_count(returned: str, expect: Any, passed: bool) -> None:
    score = grader().grade(f"def add():\n    return {returned}", example(([], expect)))
    assert score.passed is passed, score.feedback


def test_endless_values_are_no_values() -> None:
    nested = "def add():\n    x = []\n    x.append(x)\n    return x"
    deep = "def add():\n    x = []\n    for _ in range(100_000):\n        x = [x]\n    return x"
    for program in (nested, deep):
        score = grader().grade(program, example(([], [])))
        assert score.feedback.endswith("something else than plain values.")


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb\n```\ny\n```", "x = 1\n"),
        ("```\nx = 1\ny = 2\n", "x = 1\ny = 2\n"),
        ("  ```py\nx\n  ```", "x\n"),
        ("```", "\n"),
        ("say `x`", "say `x`"),
    ],
)
def test_the_code_is_the_first_fenced_block_or_everything(completion: str, expected: str) -> None:
    assert code_of(completion) == expected


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n",
        "```\n```",
        "def add(a, b:",
        "I do not know.",
        "x" * 200_000,
        "x = '\ud800'",
        "x = 1\0",
        "(" * 50_000,
        "1" + "+1" * 45_000,
        "\u202edef",
        "x = " + "9" * 5000,
    ],
)
def test_what_is_no_python_scores_zero_with_format_zero(completion: str) -> None:
    score = grader().grade(completion, SUMS)
    assert (score.value, score.passed, score.facets) == (0.0, False, {"format": 0.0, "cases": 0.0})
    assert score.feedback.isprintable()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("x = 1", "defines no function 'add'"),
        ("add = 3", "defines no function 'add'"),
        ("raise KeyboardInterrupt", "loading it failed (KeyboardInterrupt)"),
        ("import numpy_is_not_here", "loading it failed (ModuleNotFoundError)"),
        ("def add(a): return a", "case 1: TypeError"),
        ("def add(a, b): raise SystemExit", "case 1: SystemExit"),
        ("class Expected42(Exception): pass\ndef add(a, b): raise Expected42", "case 1: an error of its own"),
        ("def add(a, b): raise ValueError('the arguments were 17 and 25')", "case 1: ValueError."),
        ("def add(a, b): raise SyntaxError('x', ('f', a, b, 'x'))", "case 1: SyntaxError."),
        ("def add(a, b): return input()", "case 1: EOFError"),
        ("import ctypes\ndef add(a, b): ctypes.string_at(0)", "ended before it answered"),
    ],
)
def test_python_that_does_not_answer_scores_zero_with_the_reason(program: str, why: str) -> None:
    score = grader().grade(program, SUMS)
    assert (score.value, score.facets) == (0.0, {"format": 1.0, "cases": 0.0})
    assert why in score.feedback
    assert "17" not in score.feedback


def test_a_mistake_of_syntax_is_told_with_its_line() -> None:
    assert "SyntaxError in line 2" in grader().grade("x = 1\ndef add(a, b:\n", SUMS).feedback


def test_a_main_block_does_not_run_and_a_failed_case_does_not_end_the_others() -> None:
    program = (
        "def add(a, b):\n    if a < 0: raise SystemExit\n    return a + b\nif __name__ == '__main__':\n    exit()\n"
    )
    assert grader(**SHARE).grade(program, SUMS).value == 0.75


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.characters(), max_size=40), head=st.sampled_from(["", "```\n", "def add(a, b): return "]))
def test_grading_never_raises_and_is_consistent(text: str, head: str) -> None:
    score = grader().grade(head + text, SUMS)
    assert score.value in (0.0, 1.0)
    assert score.passed is (score.value == 1.0)
    assert score.feedback.isprintable()


def test_sets_hashes_and_random_numbers_come_out_alike_every_time() -> None:
    program = (
        "import random\ndef add():\n    names = {'one', 'two', 'three', 'four', 'five', 'six', 'seven'}\n"
        "    return [list(names), hash('x'), random.random(), random.Random('s').random()]"
    )
    limits = code_sandbox.Limits(2, 256, 100_000, isolated=not code_sandbox.why_not(True))
    first, second = (code_sandbox.run_program(program, "add", [[]], limits).answers[0] for _ in range(2))
    assert not first.failed
    assert first == second


def test_cases_may_stand_in_the_reference_and_an_honest_gold_answer_passes() -> None:
    in_reference = Example(
        id="r", prompt="p", reference='[{"args": [2, 3], "expect": 5}]', gold=f"```\n{bench_cheats.HONEST}```"
    )
    in_metadata = SUMS.model_copy(update={"id": "m", "reference": bench_cheats.HONEST})
    assert check_gold(Capability("c", {"train": (in_reference, in_metadata)}, grader())) == []
    wrong = in_metadata.model_copy(update={"reference": bench_cheats.WRONG})
    (problem,) = check_gold(Capability("c", {"train": (wrong,)}, grader()))
    assert "passes 0 of 4 hidden cases" in problem.message


@pytest.mark.parametrize(
    ("reference", "metadata", "message"),
    [
        ("5", {}, "is not a list of cases"),
        ("five", {}, "is not JSON"),
        ("[]", {}, "is not a list of cases"),
        ("[" * 100_000, {}, "is not JSON"),
        ("[]", {"cases": "add"}, "metadata.cases is not a list of cases"),
        ("", {"cases": [{"args": [1], "expect": 2}, {"args": 1, "expect": 2}]}, "case 2 of metadata.cases"),
        ("", {"cases": [{"args": [1]}]}, "case 1 of metadata.cases"),
        ("", {"cases": [{"args": [1], "expect": 1, "expected": 1}]}, "case 1 of metadata.cases"),
    ],
)
def test_broken_cases_are_an_error_that_names_the_example_and_never_a_zero(
    reference: str, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraderError, match=message) as caught:
        grader().grade(bench_cheats.HONEST, Example(id="broken", prompt="p", reference=reference, metadata=metadata))
    assert "'broken'" in str(caught.value)
    assert '"expect": 5' in str(caught.value)


def _file(**section: Any) -> dict[str, Any]:
    capability = {"name": "c", "source": {"type": "jsonl", "path": "."}, "grader": {"type": "code", **section}}
    return {"name": "f", "model": {"path": "reference"}, "capabilities": [capability], "seed": "x"}


@pytest.mark.parametrize("given_value", [{}, {"acknowledge": "yes"}, {"acknowledge": True}])
def test_without_the_acknowledgement_nothing_is_run_and_the_mistake_says_what_it_means(given_value: Any) -> None:
    mistakes = {".".join(map(str, m.path)): m for m in check(_file(entry="add", **given_value)).mistakes}
    mistake = mistakes["capabilities.0.grader.acknowledge"]
    assert "runs model-written code" in mistake.fix
    if given_value != {"acknowledge": True}:
        assert "runs code that the model wrote on this machine" in mistake.message
    assert "seed" in mistakes  # the other mistakes of the file are found in the same pass
    with pytest.raises(ValidationError):
        CONFIG.validate_python({"type": "code", "entry": "add", **given_value})


def test_a_machine_that_cannot_shut_programs_in_refuses_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "why_not", lambda isolated: "unshare: not permitted" if isolated else "")
    refused = {**SETTINGS, "network": "none"}
    (mistake,) = check_grader(CONFIG.validate_python(refused))
    assert mistake.startswith("network: this machine cannot shut programs in (unshare: not permitted)")
    with pytest.raises(ConfigError, match="network: allowed"):
        build_grader(CONFIG.validate_python(refused))
    allowed = build_grader(CONFIG.validate_python(SETTINGS))
    assert isinstance(allowed, code.Code)
    assert allowed._limits.isolated is False
    monkeypatch.setattr(code, "why_not", lambda isolated: "no processes")
    (mistake,) = check_grader(CONFIG.validate_python(SETTINGS))
    assert mistake.startswith("sandbox: programs cannot be run here at all")


def test_a_worker_that_cannot_start_is_an_error_and_never_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = grader()
    monkeypatch.setattr(code_sandbox, "_WORKER", Path("/nonexistent/worker.py"))
    with pytest.raises(GraderError, match="before it stood ready"):
        judge.grade(bench_cheats.HONEST, SUMS)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(GraderError, match="cannot be started"):
        judge.grade(bench_cheats.HONEST, SUMS)


def test_the_identity_follows_every_setting() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"entry": "sub"},
        SHARE,
        {"tolerance": 0.1},
        {"timeout_s": 3},
        {"memory_mb": 512},
    ]
    prints = [grader(**change).fingerprint() for change in changes]
    assert len(set(prints)) == len(changes)
    assert prints[0] == grader().fingerprint()
