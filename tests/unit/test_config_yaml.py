"""The YAML dialect: what is accepted, what each plain scalar means, and that every mistake keeps its line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.config.yaml_strict import MAX_BYTES, format_path, parse_yaml


def problems(text: str) -> list[str]:
    return [str(p) for p in parse_yaml(text, "f.yaml")[2]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("0", 0),
        ("+7", 7),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("010", "010"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("9" * 5000, "9" * 5000),
        ('"1e-5"', "1e-5"),
        ("'true'", "true"),
        ("e5", "e5"),
    ],
)
def test_scalar_has_one_meaning(text: str, value: object) -> None:
    got, _, wrong = parse_yaml(f"key: {text}\n", "f.yaml")
    assert wrong == []
    assert got == {"key": value}
    assert type(got["key"]) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    text = "a: 1\nb:\n  - x\n  - c: 2\n    d: [3,\n      4]\n"
    _, lines, wrong = parse_yaml(text, "f.yaml")
    assert wrong == []
    assert lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "d"): 5,
        ("b", 1, "d", 0): 5,
        ("b", 1, "d", 1): 6,
    }


def test_duplicate_keys_are_collected_with_both_lines_and_the_first_value_stays() -> None:
    text = "a: 1\nb: {c: 1, c: 2}\na:\n  z: 1\n  z: 2\n"
    value, lines, _ = parse_yaml(text, "f.yaml")
    assert value == {"a": 1, "b": {"c": 1}}
    assert ("a", "z") not in lines
    assert problems(text) == [
        "f.yaml:2: b.c: this key is already on line 2; keep one of the two",
        "f.yaml:3: a: this key is already on line 1; keep one of the two",
        "f.yaml:5: a.z: this key is already on line 4; keep one of the two",
    ]


def test_anchors_aliases_tags_and_merges_are_all_reported_in_one_pass() -> None:
    text = "a: &x {p: 1}\nb: *x\nc: !!python/object/apply:os.system [echo]\n<<: {q: 1}\n"
    value, _, wrong = parse_yaml(text, "f.yaml")
    assert [(p.line, p.key) for p in wrong] == [(1, "a"), (2, "b"), (3, "c"), (4, "")]
    assert all(word in p.message for word, p in zip(("anchor", "alias", "tag", "merge"), wrong, strict=True))
    assert value == {"a": {"p": 1}, "b": None, "c": ["echo"]}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: 1\nb:\n\tc: 1\n", 3, "tab"),
        ("a: 1\nb: [1,\nc: 2\n", 4, "not valid YAML"),
        ('a: "\\U00110000"\n', 1, "cannot be read"),
        ("a: 1\nb: \x07\n", 2, "character is not allowed"),
        ('a: 1\nb: "\\ud83d"\n', 2, "surrogate"),
        ("a: 1\n2: x\n", 2, "not text"),
        ("a: 1\n? [x]\n: y\n", 2, "key must be text"),
        ("%YAML 99999999999.9\n---\na\n", 1, "not valid YAML"),
    ],
)
def test_mistakes_name_their_line(text: str, line: int, part: str) -> None:
    wrong = parse_yaml(text, "f.yaml")[2]
    assert [(p.line, part in p.message, bool(p.fix)) for p in wrong] == [(line, True, True)]


def test_depth_and_size_are_limited() -> None:
    assert parse_yaml("[" * 49 + "]" * 49, "f")[2] == []
    assert "nested" in problems("[" * 100_000)[0]
    assert "larger" in problems("x" * (MAX_BYTES + 1))[0]
    assert "larger" in problems("é" * (MAX_BYTES // 2 + 1))[0]


def test_an_alias_bomb_stays_small() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    value, _, wrong = parse_yaml(bomb, "f")
    assert len(json.dumps(value)) < 300
    assert len(wrong) == 9 + 16


def test_paths_print_without_ambiguity() -> None:
    assert format_path(("capabilities", 0, "grader", "type")) == "capabilities[0].grader.type"
    assert format_path(("a.b", "\x1b[31m")) == r"['a.b']['\x1b[31m']"


_SAFE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _SAFE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_SAFE, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(_JSON)
def test_every_json_document_reads_back_as_itself(value: object) -> None:
    got, _, wrong = parse_yaml(json.dumps(value), "f.json")
    assert wrong == []
    assert json.dumps(got, sort_keys=True) == json.dumps(value, sort_keys=True)


@settings(deadline=None)
@given(st.text(max_size=80) | st.text(st.sampled_from("ab:{}[]-\n \t\"'&*!?#|>%\\u0\x00,"), max_size=60))
def test_any_text_gives_a_value_or_problems_and_never_raises(text: str) -> None:
    value, lines, wrong = parse_yaml(text, "f")
    assert () in lines
    assert all(p.line >= 0 and p.message and p.fix for p in wrong)
    json.dumps(value, allow_nan=False).encode("utf-8")
