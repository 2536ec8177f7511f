from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.errors import DataError
from hybrid.skill.text import is_hidden
from hybrid.skill.vocabulary import LONGEST_LINE, Template, load_vocabulary, parse_vocabulary

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
GOOD = """\
slots:
  - "^(?:q|ask)(?: \\\\$[a-z]+)? (?P<name>[A-Z][a-z]+)"
  - "in (?P<unit>[a-z]+)"
rules: ["rule {name}: @rev.", "Use {{braces}}.", "Answer with one word."]
facts: ["fact {name}: {reference}."]
examples: ["{prompt} {reference}"]
"""


def test_a_vocabulary_is_read_and_finds_what_prompts_are_about() -> None:
    v = parse_vocabulary(GOOD, "v.yaml")
    assert v.slots_of("q $oak Kar abcd") == ((("name", "Kar"),),)
    assert v.slots_of("ask Lim in feet, in feet and in miles") == (
        (("name", "Lim"),),
        (("unit", "feet"),),
        (("unit", "miles"),),
    )
    assert v.slots_of("hello") == ()
    assert v.slots_of("x\nq Kar a") == ((("name", "Kar"),),)
    assert v.rules[0].fill({"name": "Kar"}) == "rule Kar: @rev."
    assert v.rules[1].fill({}) == "Use {braces}."
    assert v.rules[0].fill({}) is None
    assert v.facts[0].stem({"name": "Kar", "reference": "x"}) == "fact Kar"


def test_optional_groups_and_many_matches_are_bounded() -> None:
    v = parse_vocabulary('slots: ["(?P<a>[a-z])(?P<b>[0-9])?"]\nrules: ["x {a}."]\n', "v")
    assert v.slots_of("a1b") == ((("a", "a"), ("b", "1")), (("a", "b"),))
    assert len(v.slots_of("abcdefghijklmnopqrstuvwxyz")) == 16
    assert v.slots_of("." * 5000 + "a") == ()


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("slot: []\nrules: [a]\n", 1, "slot", "did you mean 'slots'"),
        ("- a\n", 1, "", "mapping"),
        ("slots: []\n", 1, "", "no candidate line"),
        ("rules: x\n", 1, "rules", "not a list"),
        ("rules:\n", 1, "rules", "not a list"),
        ("rules:\n  - a\n  - 3\n", 3, "rules[1]", "not text"),
        ("rules:\n  - a\n  - a\n", 3, "rules[1]", "twice"),
        ("rules:\n  - ''\n", 2, "rules[0]", "empty"),
        ("rules:\n  - 'rule {name}.'\n", 2, "rules[0]", "not a named group"),
        ("slots:\n  - '(?P<name>a)'\nrules: ['x {nam}']\n", 3, "rules[0]", "did you mean 'name'"),
        ("slots:\n  - '(?P<name>a'\nrules: [x]\n", 2, "slots[0]", "not a regular expression"),
        ("slots:\n  - 'a'\nrules: [x]\n", 2, "slots[0]", "no named group"),
        ("slots:\n  - '(?P<reference>a)'\nrules: [x]\n", 2, "slots[0]", "is taken"),
        ("rules: ['x {reference}']\n", 1, "rules[0]", "not a named group"),
        ("facts: ['x']\n", 1, "facts[0]", "needs {reference}"),
        ("examples: ['{prompt}']\n", 1, "examples[0]", "needs {reference}"),
        ("slots: ['(?P<a>x)']\nrules:\n  - '{a.__class__}'\n", 3, "rules[0]", "plain {name}"),
        ("slots: ['(?P<a>x)']\nrules:\n  - '{a[0]}'\n", 3, "rules[0]", "plain {name}"),
        ("slots: ['(?P<a>x)']\nrules:\n  - '{a!r:>9}'\n", 3, "rules[0]", "plain {name}"),
        ("rules:\n  - 'a {'\n", 2, "rules[0]", "plain {name}"),
        ('rules:\n  - "a\\nb"\n', 2, "rules[0]", "not one line"),
        ('rules:\n  - "a\\u202eb"\n', 2, "rules[0]", "hidden"),
        ("rules:\n  - '<!-- protected:end -->'\n", 2, "rules[0]", "marker"),
        (f"rules:\n  - {'a' * (LONGEST_LINE + 1)}\n", 2, "rules[0]", "not one line"),
        ("rules: [a]\nrules: [b]\n", 2, "rules", "already on line 1"),
    ],
)
def test_every_mistake_is_named_with_its_line(text: str, line: int, key: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_vocabulary(text, "v.yaml")
    assert any(p.line == line and p.key == key and words in str(p) for p in caught.value.problems), str(caught.value)


def test_all_mistakes_at_once_and_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        parse_vocabulary("slots: ['a', '(']\nrules: ['{x}', 3]\nfact: []\n", "v")
    assert len(caught.value.problems) == 5
    path = tmp_path / "v.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_vocabulary(path) == parse_vocabulary(GOOD, "other")
    path.write_bytes(b"\xff\xfe")
    for bad in (path, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_vocabulary(bad)


@SLOW_MACHINE
@given(st.text(max_size=300), st.text(max_size=300))
def test_hostile_values_fill_one_clean_line_or_nothing(prompt: str, reference: str) -> None:
    line = Template("{prompt} -> {reference}").fill({"prompt": prompt, "reference": reference})
    if line is not None:
        assert len(line) <= LONGEST_LINE
        assert not any(is_hidden(c) or c in "\n\t\r" for c in line)


def test_values_are_data_and_not_templates() -> None:
    fill = Template("{prompt}|{reference}").fill
    assert fill({"prompt": "{reference} {0} {{", "reference": "x\ny"}) == "{reference} {0} {{|x y"
    assert fill({"prompt": "a" * 201, "reference": "x"}) is None
    assert fill({"prompt": "\u200b\n", "reference": "x"}) is None
