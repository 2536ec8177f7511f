"""The code grader: the answer is a Python function, judged by what it returns for hidden inputs.

    add = Example(id="1", prompt="Write add(a, b).", reference="", metadata={"cases": [{"args": [2, 3], "expect": 5}]})
    build_grader(config).grade("```python\\ndef add(a, b):\\n    return a + b\\n```", add).passed   # True

The program runs in `code_sandbox`, which sees inputs one at a time and no expected value; the verdict is computed here
from plain values. So an exit, a printed "all tests passed" or an object that equals everything is just not an answer.
Does not: compile or run anything in this process, or repeat inputs, values or a program's own words in its feedback.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import Any

from hybrid.capability.graders.base import GraderError, settings_fingerprint
from hybrid.capability.graders.code_sandbox import Answer, Limits, run_program, why_not
from hybrid.capability.types import Example, Score
from hybrid.config import schema

LONGEST = 100_000
"""Characters of code; more is not read."""
DEEPEST = 64
_FENCE = "```"


@dataclass(frozen=True)
class Case:
    """One call and the value that it has to give."""

    args: list[Any]
    expect: Any


class Code:
    """Correct when the function of the answer gives the expected value for every case.

    Facets: `format` (1.0 when it is Python at all) and `cases` (the share that passed).
    """

    def __init__(self, config: schema.CodeGrader) -> None:
        self._config = config
        self._limits = Limits(config.timeout_s, config.memory_mb, config.most_output, isolated=not why_not(True))

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion. Raises `GraderError` when the example has no usable cases, or the machine fails."""
        cases = _cases(example)
        code = code_of(completion)
        if not code.strip():
            return _unreadable("it is empty")
        if len(code) > LONGEST:
            return _unreadable(f"it has more than {LONGEST} characters")
        report = run_program(code, self._config.entry, [case.args for case in cases], self._limits)
        if report.unreadable:
            return _unreadable(report.unreadable)
        if report.broken:
            return self._score(0, len(cases), report.broken)
        wrong = [self._what_is_wrong(case, answer) for case, answer in zip(cases, report.answers, strict=True)]
        first = next((f"case {number}: {what}" for number, what in enumerate(wrong, 1) if what), "")
        return self._score(wrong.count(""), len(cases), first)

    def fingerprint(self) -> str:
        """Identity of the rule and of the Python that runs the answers."""
        python = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        return settings_fingerprint(self._config, {"python": python})

    def _what_is_wrong(self, case: Case, answer: Answer) -> str:
        if answer.failed:
            return answer.failed
        return "" if same(case.expect, answer.value, self._config.tolerance) else "it returned another value"

    def _score(self, passed: int, of: int, why: str) -> Score:
        every = passed == of
        share = passed / of
        value = share if self._config.score == "share" else float(every)
        feedback = "Correct." if every else f"The code passes {passed} of {of} hidden cases; {why}."
        return Score(value, every, {"format": 1.0, "cases": share}, feedback)


def _unreadable(why: str) -> Score:
    return Score(0.0, False, {"format": 0.0, "cases": 0.0}, f"The code cannot be used: {why}.")


def code_of(completion: str) -> str:
    """What stands in the first fenced block of a completion (to its end, where the fence is not closed), or all of it."""
    lines = completion.splitlines()
    opened = next((i for i, line in enumerate(lines) if line.lstrip().startswith(_FENCE)), None)
    if opened is None:
        return completion
    rest = lines[opened + 1 :]
    closed = next((i for i, line in enumerate(rest) if line.lstrip().startswith(_FENCE)), len(rest))
    return "\n".join(rest[:closed]) + "\n"


def same(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether plain values are equal in type and value, all the way down.

    A number that is expected with a point or an exponent may come as an integer and may be off by the tolerance,
    relative or absolute; an expected integer has to be one, and true is not 1.
    """
    if type(expected) is float:
        return type(got) in (int, float) and _near(expected, got, tolerance)
    if type(expected) is not type(got):
        return False
    if isinstance(expected, dict):
        return expected.keys() == got.keys() and all(same(expected[k], got[k], tolerance) for k in expected)
    if isinstance(expected, list):
        return len(expected) == len(got) and all(same(e, g, tolerance) for e, g in zip(expected, got, strict=True))
    return bool(expected == got)


def _near(expected: float, got: float, tolerance: float) -> bool:
    try:
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer beyond the range of floats
        return False


def code_mistakes(config: schema.CodeGrader) -> list[str]:
    """What keeps programs from being run here; empty when nothing does."""
    mistakes = [] if math.isfinite(config.tolerance) else ["tolerance: it must be a finite number"]
    shut_in = why_not(True)
    if not shut_in:
        return mistakes
    if config.network == "none":
        choice = "run on Linux with namespaces, or accept that answers run with your rights: `network: allowed`"
        return [*mistakes, f"network: this machine cannot shut programs in ({shut_in}); {choice}"]
    started = why_not(False)
    return [*mistakes, f"sandbox: programs cannot be run here at all ({started})"] if started else mistakes


def _cases(example: Example) -> list[Case]:
    """The hidden cases: `metadata.cases`, or else the reference as JSON."""
    place = f"code grader, example {example.id!r}: "
    if "cases" in example.metadata:
        found, where = example.metadata["cases"], "metadata.cases"
    else:
        where = "the reference (there is no metadata.cases)"
        try:
            found = json.loads(example.reference)
        except (ValueError, RecursionError):
            raise GraderError(f"{place}{where} is not JSON; {_WANTED}") from None
    if not isinstance(found, list) or not found:
        raise GraderError(f"{place}{where} is not a list of cases; {_WANTED}")
    for number, case in enumerate(found, 1):
        if not isinstance(case, dict) or set(case) != {"args", "expect"} or not isinstance(case["args"], list):
            raise GraderError(f"{place}case {number} of {where} is not a case; {_WANTED}")
        if _deeper_than([case["args"], case["expect"]], DEEPEST):
            raise GraderError(f"{place}case {number} of {where} is nested deeper than {DEEPEST} levels; flatten it")
    return [Case(case["args"], case["expect"]) for case in found]


_WANTED = 'write a list such as [{"args": [2, 3], "expect": 5}]'


def _deeper_than(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit):
        layer = [c for v in layer if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
        if not layer:
            return False
    return True
