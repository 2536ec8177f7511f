"""What each grader accepts and refuses, adversarial completions included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from hybrid.capability.graders import build_grader, check_grader
from hybrid.capability.types import Example, Grader
from hybrid.config.schema import GraderConfig
from hybrid.errors import ConfigError

CONFIG: TypeAdapter[Any] = TypeAdapter(GraderConfig)


def grader(**settings: Any) -> Grader:
    return build_grader(CONFIG.validate_python(settings))


def example(reference: str) -> Example:
    return Example(id="e", prompt="p", reference=reference)


RIGHT, WRONG, UNREADABLE = (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)
"""(value, facet `format`)."""

EXACT = {"type": "exact"}
NORMALIZED = {"type": "normalized"}
LAST = {"type": "numeric"}
FIRST = {"type": "numeric", "which": "first"}
ONLY = {"type": "numeric", "which": "only"}
COLOURS = {"type": "choice", "choices": ["red", "blue", "light blue"]}
LANGUAGES = {"type": "choice", "choices": ["C", "C++", "straße"]}
ANGLES = {"type": "regex", "pattern": "<{reference}>"}
SEARCH = {"type": "regex", "pattern": "(?i)answer: {reference}$", "full": False}
LAYOUT = {"type": "regex", "pattern": "<{reference}>", "format": "<[a-z]+>"}
UNIT = {"type": "regex", "pattern": "{reference}{2}"}
JSON = {"type": "json"}
FIELDS = {"type": "json", "fields": ["name", "args.0.unit"]}

TABLE = [
    (EXACT, "abc", "abc", RIGHT),
    (EXACT, "abc", " abc\n", RIGHT),
    (EXACT, "abc", "ABC", WRONG),
    (EXACT, "abc", "", UNREADABLE),
    (EXACT, "", "  ", RIGHT),
    (EXACT, "abc", "\u0430bc", WRONG),  # a Cyrillic a
    (EXACT, "abc", "\u200fabc", WRONG),
    (EXACT, "abc", "abc" * 40_000, WRONG),
    (NORMALIZED, "The Eiffel Tower.", "eiffel  tower", RIGHT),
    (NORMALIZED, "ﬁsh", "FISH!", RIGHT),
    (NORMALIZED, "Straße", "STRASSE", RIGHT),
    (NORMALIZED, "abc", "\u200f\u202eabc\u200b", RIGHT),
    (NORMALIZED, "abc", "\u0430bc", WRONG),
    (NORMALIZED, "5", "-5", WRONG),
    (NORMALIZED, "-5", "\u22125", RIGHT),
    (NORMALIZED, "3.14", "314", WRONG),
    (NORMALIZED, ".5", "5", WRONG),
    (NORMALIZED, "1,000", "1000", RIGHT),
    (NORMALIZED, "well-known", "well\u2013known", RIGHT),
    (NORMALIZED, "cat", "the ...", UNREADABLE),
    (NORMALIZED, "cat", "a" * 100_000, WRONG),
    (LAST, "42", "It is 42.", RIGHT),
    (LAST, "42", "41 + 1 = 42", RIGHT),
    (LAST, "42", "42, not 41", WRONG),
    (FIRST, "42", "42, not 41", RIGHT),
    (ONLY, "42", "42, not 41", UNREADABLE),
    (ONLY, "42", "42, I say 42.0", RIGHT),
    (LAST, "1234567.5", "$1,234,567.50", RIGHT),
    (LAST, "1", "1,2345", WRONG),
    (LAST, "1500", "1.5e3", RIGHT),
    (LAST, "-7", "x = -7", RIGHT),
    (LAST, "-7", "x = \u22127", RIGHT),
    (LAST, "7", "10-7", RIGHT),
    (LAST, "0.75", "3/4", RIGHT),
    (LAST, "3/4", "0.75", RIGHT),
    (LAST, "3/4", "75%", WRONG),
    (LAST, "75", "75%", RIGHT),
    (LAST, "2024", "on 12/25/2024", RIGHT),
    (LAST, "1", "1/0", UNREADABLE),
    (LAST, "0.5", "it is .5", RIGHT),
    (LAST, "5", "it is...5", RIGHT),
    (LAST, "1", "version v1 x1", UNREADABLE),
    (LAST, "1", "\u0661", UNREADABLE),
    (LAST, "1", "forty-two", UNREADABLE),
    (LAST, "1", "NaN inf", UNREADABLE),
    (LAST, "1", "1e999999999999999999999", UNREADABLE),
    (LAST, "1", "1e999999999", WRONG),
    (LAST, "1", "9" * 100_000, UNREADABLE),
    (LAST, "0", "1e-999999999", RIGHT),
    (LAST, "1000000", "1000000.5", RIGHT),
    ({**LAST, "relative": 0, "absolute": 0}, "1000000", "1000000.0000001", WRONG),
    ({**LAST, "relative": 0, "absolute": 0}, "1" + "0" * 400 + "1", "1" + "0" * 400 + "2", WRONG),
    ({**LAST, "absolute": 0.5}, "10", "10.5", RIGHT),
    ({**LAST, "absolute": 0.5}, "10", "10.51", WRONG),
    (COLOURS, "red", "I choose RED.", RIGHT),
    (COLOURS, "red", "red, definitely red", RIGHT),
    (COLOURS, "red", "red or blue", UNREADABLE),
    (COLOURS, "blue", "light blue", WRONG),
    (COLOURS, "light blue", "Light Blue!", RIGHT),
    (COLOURS, "red", "hundred", UNREADABLE),
    (COLOURS, "red", "r\u0435d", UNREADABLE),
    (COLOURS, "red", "\u202ered\u202c", RIGHT),
    (COLOURS, "red", "", UNREADABLE),
    (COLOURS, "red", "red" * 30_000, UNREADABLE),
    (LANGUAGES, "C++", "it is c++", RIGHT),
    (LANGUAGES, "C", "it is c++", WRONG),
    (LANGUAGES, "Straße", "STRASSE", RIGHT),
    (ANGLES, "a.b", " <a.b>\n", RIGHT),
    (ANGLES, "a.b", "<axb>", WRONG),
    (ANGLES, "ab", "ab", UNREADABLE),
    (ANGLES, "ab", "x <ab>", UNREADABLE),
    (ANGLES, "a|b)", "<a|b)>", RIGHT),
    (ANGLES, "ab", "<ab>\ud800", UNREADABLE),
    (SEARCH, "ab", "So:\nANSWER: AB", RIGHT),
    (SEARCH, "ab", "Answer: cd", WRONG),
    (SEARCH, "ab", "Answer: ab or cd", WRONG),
    (SEARCH, "ab", "who knows", UNREADABLE),
    (LAYOUT, "ab", "<cd>", WRONG),
    (LAYOUT, "ab", "<12>", UNREADABLE),
    (LAYOUT, "12", "<12>", RIGHT),
    (UNIT, "ab", "abab", RIGHT),
    (UNIT, "ab", "abb", WRONG),
    (JSON, '{"a": 1, "b": [true, null]}', 'Sure: {"b": [true, null], "a": 1.0} as asked.', RIGHT),
    (JSON, '{"a": 1}', '```json\n{"a": 1}\n```', RIGHT),
    (JSON, '{"a": 1}', '{"a": 1', UNREADABLE),
    (JSON, '{"a": 1}', '{"a": true}', WRONG),
    (JSON, '{"a": 1}', '{"a": "1"}', WRONG),
    (JSON, '{"a": 1}', '{"a": 2} no, {"a": 1}', WRONG),
    (JSON, '{"a": 1}', '{"a": 2, "a": 1}', UNREADABLE),
    (JSON, '{"a": 1}', '{"a": NaN}', UNREADABLE),
    (JSON, '{"a": 1}', '{"a": 1e999}', UNREADABLE),
    (JSON, '{"a": 1}', '{"a": ' + "9" * 5000 + "}", UNREADABLE),
    (JSON, '{"a": 0.5}', '{"a": ' + "9" * 4000 + "}", WRONG),
    (JSON, '{"a": 1}', r"as \frac{a}{b} {x} shows [so it is]: " * 300 + '{"a": 1}', RIGHT),
    (JSON, "[1, 2]", "[1, 2, 3]", WRONG),
    (JSON, "42", "42", RIGHT),
    (JSON, "42", "the answer\n```json\n42\n```", RIGHT),
    (JSON, "42", "```42```", RIGHT),
    (JSON, '"x"', "x", UNREADABLE),
    (JSON, '{"a": 1}', "[" * 100_000, UNREADABLE),
    (JSON, '{"a": 1}', '{"a":' * 100_000, UNREADABLE),
    (JSON, '{"a": 1}', "[" * 100 + "]" * 100, UNREADABLE),
    (JSON, '{"a": 1}', "`" * 100_000, UNREADABLE),
    (JSON, '{"a": 1}', "[" * 100 + "]" * 100 + ' {"a": 1}', UNREADABLE),
    (JSON, '{"a": 1}', "[" * 5000 + "]" * 5000 + ' {"a": 1}', UNREADABLE),
    (JSON, '{"a": 1}', "[" * 900 + ' {"a": 1}', RIGHT),
    (JSON, '{"a": 1}', "[" * 5000 + ' {"a": 1}', UNREADABLE),
    (JSON, '{"a": "```[[1]]```"}', '{"a": "```[[1]]```"}', RIGHT),
    (JSON, '{"a": 1}', "", UNREADABLE),
    ({**JSON, "tolerance": 0.1}, '{"a": [1.0]}', '{"a": [1.05]}', RIGHT),
    ({**JSON, "tolerance": 0.1}, '{"a": [1.0]}', '{"a": [1.2]}', WRONG),
    (FIELDS, '{"name": "f", "args": [{"unit": 1}]}', '{"name": "f", "args": [{"unit": 1, "x": 0}], "y": 0}', RIGHT),
    (FIELDS, '{"name": "f", "args": [{"unit": 1}]}', '{"name": "f", "args": []}', WRONG),
    (FIELDS, '{"name": "f", "args": [{"unit": null}]}', '{"name": "f", "args": [{}]}', WRONG),
    (FIELDS, '{"name": "f"}', '{"name": "f"}', WRONG),
]


@pytest.mark.parametrize(("settings", "reference", "completion", "expected"), TABLE)
def test_table(settings: dict[str, Any], reference: str, completion: str, expected: tuple[float, float]) -> None:
    score = grader(**settings).grade(completion, example(reference))
    assert (score.value, score.facets["format"]) == expected
    assert score.passed is (score.value == 1.0)
    assert score.feedback.endswith(".")
    assert len(score.feedback) < 700
    assert score.feedback.isprintable()
    score.feedback.encode()


def test_json_facets_name_each_field() -> None:
    reference = '{"name": "f", "args": [{"unit": 1}]}'
    half = grader(**FIELDS).grade('{"name": "f", "args": [{"unit": 2}]}', example(reference))
    assert half.facets == {"format": 1.0, "field.name": 1.0, "field.args.0.unit": 0.0}
    assert (half.value, half.passed) == (0.0, False)
    assert half.feedback == 'Expected "args.0.unit = 1", got "args.0.unit = 2".'
    none = grader(**FIELDS).grade("no", example(reference))
    assert none.facets == {"format": 0.0, "field.name": 0.0, "field.args.0.unit": 0.0}


def test_feedback_cuts_long_texts_and_strips_control_characters() -> None:
    score = grader(**EXACT).grade("\x1b[31m\u202e" + "y\n" * 5000, example("x" * 5000))
    assert score.feedback.startswith('Expected "' + "x" * 200 + '…", got "[31my y')
    assert len(score.feedback) < 450


def test_feedback_never_contains_the_pattern() -> None:
    regex = grader(type="regex", pattern=r"(?:xyz){3}out:\s+{reference}", timeout_s=0.2)
    for completion in ("", "nothing", "xyzxyzxyzout:  cd", "xyzxyzxyzout: ab", "a" * 100_000):
        feedback = regex.grade(completion, example("ab")).feedback
        assert not any(part in feedback for part in ("(?:", "{3}", r"\s", "{reference}"))
        assert completion or "xyz" not in feedback


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({"type": "regex", "pattern": "a"}, "{reference}"),
        ({"type": "regex", "pattern": "({reference}"}, "not a regular expression"),
        ({"type": "regex", "pattern": "{reference}", "format": "["}, "format:"),
        ({"type": "choice", "choices": ["Yes", "yes "]}, "twice"),
        ({"type": "choice", "choices": ["yes", " "]}, "empty"),
        ({"type": "json", "fields": ["a..b"]}, "'a..b'"),
        ({"type": "numeric", "absolute": float("inf")}, "finite"),
        ({"type": "python", "path": "no_such_module_at_all:f"}, "no_such_module_at_all"),
        ({"type": "python", "path": "json:no_such_function"}, "no_such_function"),
    ],
)
def test_unusable_settings_are_found_before_anything_runs(settings: dict[str, Any], mistake: str) -> None:
    config = CONFIG.validate_python(settings)
    (found,) = check_grader(config)
    assert mistake in found
    with pytest.raises(ConfigError, match="grader"):
        build_grader(config)


def test_fingerprints_tell_settings_apart_and_are_stable() -> None:
    settings = [EXACT, NORMALIZED, LAST, FIRST, ONLY, COLOURS, LANGUAGES, ANGLES, SEARCH, LAYOUT, JSON, FIELDS]
    prints = [grader(**s).fingerprint() for s in settings]
    assert len(set(prints)) == len(settings)
    assert prints == [grader(**json.loads(json.dumps(s))).fingerprint() for s in settings]
    assert all(len(p) == 64 for p in prints)
