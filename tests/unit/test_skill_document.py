from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.errors import DataError
from hybrid.skill.document import SkillDocument, new_document, parse
from hybrid.skill.text import is_hidden, normal

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.from_regex(r"\A[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}\Z")
CHARACTERS = st.characters(codec="utf-8").filter(lambda c: not is_hidden(c))
TEXTS = st.text(CHARACTERS, min_size=1, max_size=80).filter(lambda t: bool(t.strip()))
TRICKY = st.one_of(
    st.sampled_from(
        ["no", "1.0", "null", "~", "true", "- a", "a: b", "a:b", "# x", "#x", "'", '"', "---", "a\nb", " a "]
    ),
    st.sampled_from(["{x}", "&a", "*a", "!t", "%", "@", "`", "|", ">", "1e5", "0x1F", "=", "<<", "y\t"]),
)
VALUES = TEXTS | TRICKY
BODIES = st.text(CHARACTERS, max_size=200).filter(lambda t: "protected" not in t)


@st.composite
def documents(draw: st.DrawFn) -> SkillDocument:
    return SkillDocument(
        name=draw(NAMES),
        description=draw(VALUES),
        license=draw(st.none() | VALUES),
        compatibility=draw(st.none() | VALUES),
        metadata=draw(
            st.dictionaries(VALUES.filter(lambda k: "\n" not in k), st.text(CHARACTERS, max_size=40) | TRICKY)
        ),
        allowed_tools=draw(st.none() | VALUES),
        body=draw(BODIES),
    )


@SLOW_MACHINE
@given(documents())
@example(new_document("a", "\U0001f600 é", "---\nname: other\n---\n"))
@example(new_document("a", "d", "\n\n  \n x\n\n\n"))
def test_a_document_survives_the_file_and_renders_the_same_bytes(document: SkillDocument) -> None:
    text = document.render()
    again = parse(text, "SKILL.md")
    assert again == document
    assert again.render() == text
    assert parse(text.replace("\n", "\r\n"), "SKILL.md") == document


@SLOW_MACHINE
@given(st.text(CHARACTERS, max_size=100))
def test_normal_form_is_a_fixed_point(text: str) -> None:
    body = normal(text)
    assert normal(body) == body
    assert body == "" or (body.endswith("\n") and not body.endswith("\n\n") and body.split("\n")[0].strip())


def test_metadata_order_does_not_change_the_bytes() -> None:
    a = SkillDocument(name="a", description="d", metadata={"x": "1", "y": "2"})
    b = SkillDocument(name="a", description="d", metadata={"y": "2", "x": "1"})
    assert a == b and a.render() == b.render()


def test_the_body_is_what_follows_the_front_matter() -> None:
    document = parse("---\nname: units\ndescription: Converts.\n---\n\n# Units\n\n---\nOne.\n\n\n", "SKILL.md")
    assert document.body == "# Units\n\n---\nOne.\n"


def _problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(DataError) as caught:
        parse(text, "s/SKILL.md")
    assert all(p.file == "s/SKILL.md" and p.line >= 1 for p in caught.value.problems)
    return [(p.line, p.key, p.message) for p in caught.value.problems]


HEAD = "---\nname: a\ndescription: d\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("# no front matter\n", 1, "", "does not begin"),
        ("", 1, "", "does not begin"),
        ("---\nname: a\n", 1, "", "never closed"),
        ("---\njust text\n---\n", 1, "", "not a mapping"),
        ("---\n---\n", 1, "", "not a mapping"),
        ("---\nname: a\n---\n", 1, "description", "missing"),
        ("---\nname: A b\ndescription: d\n---\n", 2, "name", "not a legal name"),
        ("---\nname: a--b\ndescription: d\n---\n", 2, "name", "not a legal name"),
        (f"---\nname: {'a' * 65}\ndescription: d\n---\n", 2, "name", "65 characters"),
        (f"---\nname: a\ndescription: {'d' * 1025}\n---\n", 3, "description", "1025 characters"),
        ("---\nname: a\ndescription: ' '\n---\n", 3, "description", "empty"),
        (HEAD + "licence: MIT\n---\n", 4, "licence", "unknown key"),
        (HEAD + "allowed_tools: x\n---\n", 4, "allowed_tools", "unknown key"),
        (HEAD + f"compatibility: {'c' * 501}\n---\n", 4, "compatibility", "501"),
        (HEAD + "license: 3\n---\n", 4, "license", "not text"),
        (HEAD + "metadata:\n  version: 1.0\n---\n", 5, "metadata.version", "not text"),
        (HEAD + "metadata: [a]\n---\n", 4, "metadata", "not a mapping"),
        (HEAD + "allowed-tools: [a, b]\n---\n", 4, "allowed-tools", "not text"),
        (HEAD + "name: b\n---\n", 4, "name", "already on line 2"),
        (HEAD + "x: &a b\n---\n", 4, "x", "anchor"),
        ("---\nname: a\n\tdescription: d\n---\n", 3, "", ""),
        (HEAD + "---\nline\na\u200bb\n", 6, "", "U+200B"),
        (HEAD + "---\n\u202eevil\n", 5, "", "U+202E"),
        (HEAD + "---\nok\n\U000e0041\n", 6, "", "U+E0041"),
        (HEAD + "---\na\x07\n", 5, "", "U+0007"),
        (HEAD + "---\na\rb\n", 5, "", "U+000D"),
        (HEAD + 'license: "a\\u200bb"\n---\n', 4, "license", "hidden"),
        (HEAD + "---\nx\n<!-- protected:start a -->\ny\n", 6, "", "never closed"),
        (HEAD + "---\n<!-- protected:end -->\n", 5, "", "never started"),
        (HEAD + "---\n<!--protected:start a-->\n", 5, "", "not a marker"),
    ],
)
def test_every_mistake_is_named_with_its_line(text: str, line: int, key: str, words: str) -> None:
    assert any(p[0] == line and p[1] == key and words in p[2] for p in _problems(text)), _problems(text)


def test_all_mistakes_are_reported_at_once() -> None:
    found = _problems("---\nname: A\nlicens: x\n---\nok\nbad\u200b\n<!-- protected:end -->\n")
    assert [p[0] for p in found] == [1, 2, 3, 6, 7]


def test_an_illegal_document_cannot_be_built() -> None:
    for bad in ({"name": "A"}, {"description": ""}, {"body": "a\u200b"}, {"body": "<!-- protected:start x -->"}):
        with pytest.raises(ValidationError):
            SkillDocument(**{"name": "a", "description": "d", **bad})
    with pytest.raises(ValidationError):
        new_document("a", "d").with_body("\u202e")


@SLOW_MACHINE
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_with_places(text: str) -> None:
    for candidate in (text, HEAD + text, HEAD + "---\n" + text):
        try:
            document = parse(candidate, "f")
        except DataError as error:
            assert error.problems
        else:
            assert parse(document.render(), "f") == document
