from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hybrid.skill.document import new_document
from hybrid.skill.library import Skill, load_library, save_skill
from hybrid.skill.references import INDEX, Split, is_split, split, whole
from hybrid.skill.text import has_marker, join, lines_of, normal, sections

SLOW_MACHINE = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
PROTECTED = "<!-- protected:start keep -->\nsecret one\n\n# not a section\nsecret two\n<!-- protected:end -->"
FENCED = "```text\ncode\n\n# not a heading\n```"
LINE = st.sampled_from(
    ["alpha beta gamma", "one two three four five six", "a", "", "  ", "## Units of length", "# Größe & `code` <b>",
     "- references/a.md: A (1 line)", INDEX, PROTECTED, FENCED, "```", "~~~", "\U0001f600", "# ../../etc/passwd"]
)  # fmt: skip
BODIES = st.lists(LINE, max_size=60).map("\n".join).map(normal).filter(lambda b: not sections(lines_of(b))[1])
CAPS = st.integers(24, 120)


def words(text: str) -> int:
    return len(text.split())


def document_of(rows: int) -> str:
    return "".join(f"## Topic {n}\n\n" + "".join(f"fact {n} {i} holds.\n" for i in range(8)) for n in range(rows))


@SLOW_MACHINE
@given(BODIES, CAPS)
@example("", 24)
@example("a\n \n" * 30, 24)
@example(join([INDEX, "- references/a.md: A (1 line)"] * 12), 24)
def test_nothing_is_lost_and_the_head_fits(body: str, cap: int) -> None:
    parts = split(body, words, cap)
    assert split(body, words, cap) == parts
    assert whole(parts.head, parts.references) == body
    assert words(parts.head) <= cap
    if words(body) <= cap:
        assert parts == Split(body)
    skill = Skill(document=new_document("a", "d", parts.head), references=parts.references)
    assert is_split(skill) == bool(parts.references)
    assert skill.named()[-len(parts.references) :] == tuple(parts.references) or not parts.references


@SLOW_MACHINE
@given(BODIES, CAPS)
def test_protected_sections_stay_whole_and_the_order_stays(body: str, cap: int) -> None:
    parts = split(body, words, cap)
    texts = [parts.head, *parts.references.values()]
    assert sum(text.count(PROTECTED) for text in texts) == body.count(PROTECTED)
    kept = parts.head if not parts.references else parts.head[: parts.head.rindex(INDEX)]
    assert "".join(join(lines_of(t)) for t in [kept, *parts.references.values()]).split() == body.split()
    for text in texts:
        assert not sections(lines_of(text))[1]


@SLOW_MACHINE
@given(BODIES, CAPS)
def test_a_split_skill_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, body: str, cap: int) -> None:
    folder = tmp_path_factory.mktemp("library")
    parts = split(body, words, cap)
    save_skill(folder, new_document("a", "d", parts.head), parts.references)
    skill = load_library(folder)["a"]
    assert whole(skill.document.body, skill.references) == body


def test_sections_move_whole_under_names_that_say_what_they_hold() -> None:
    parts = split(document_of(6), words, 140)
    assert list(parts.references) == [f"references/topic-{n}.md" for n in (3, 4, 5)]
    assert parts.references["references/topic-3.md"] == "## Topic 3\n\n" + "".join(
        f"fact 3 {i} holds.\n" for i in range(8)
    )
    assert parts.head.startswith(document_of(3).rstrip("\n"))
    assert parts.head.endswith(f"\n\n{INDEX}\n" + "".join(
        f"- references/topic-{n}.md: Topic {n} (10 lines)\n" for n in (3, 4, 5)
    ))  # fmt: skip


def test_a_list_without_sections_keeps_as_many_lines_as_fit() -> None:
    body = "".join(f"The capital of Land{n} is City{n}.\n" for n in range(100))
    parts = split(body, words, 200)
    kept = parts.head.split(f"\n\n{INDEX}")[0].split("\n")
    assert len(kept) >= 25 and kept == body.split("\n")[: len(kept)]
    assert all(words(text) <= 600 for text in parts.references.values())


def test_many_small_sections_share_references_so_that_the_index_stays_short() -> None:
    body = "".join(f"## Topic {n}\nfact {n} holds.\n" for n in range(200))
    parts = split(body, words, 100)
    index = parts.head[parts.head.index(INDEX) :]
    assert words(index) <= 25 < words(parts.head)
    assert whole(parts.head, parts.references) == body


def test_a_protected_section_longer_than_the_cap_moves_as_one() -> None:
    long = "<!-- protected:start slow -->\n" + "word word word\n" * 40 + "<!-- protected:end -->\n"
    body = "first line\n\n" + long + "last line\n"
    parts = split(body, words, 30)
    assert [path for path, text in parts.references.items() if long in text]
    assert parts.head.startswith("first line\n")
    assert not has_marker(parts.head)


def test_titles_of_hostile_lines_are_plain() -> None:
    body = "keep\n\n# [x](http://evil) <script>`$\n" + "word\n" * 60 + "# ../../up\n" + "word\n" * 60
    parts = split(body, words, 60)
    assert all(path.count("/") == 1 and ".." not in path for path in parts.references)
    index = parts.head[parts.head.index(INDEX) :]
    assert not set(index) & set("[]<>`$*|")


def test_a_cap_that_holds_no_index_is_an_error() -> None:
    with pytest.raises(ValueError, match="too small"):
        split("word " * 50 + "\n", words, 5)


@pytest.mark.parametrize(
    "head",
    [
        f"text\n{INDEX}\n- references/a.md: A (1 line)\n",
        f"text\n\n{INDEX}\n- references/b.md: A (1 line)\n",
        "text\n\n- references/a.md: A (1 line)\n",
        "Read references/a.md first.\n",
        "",
    ],
)
def test_references_that_no_split_made_are_no_part_of_the_body(head: str) -> None:
    assert whole(head, {"references/a.md": "a\n"}) == head
