from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_proposer import BODY, GOOD, HOSTILE, JSON, Chat, blocks, edit, rejected, view

from hybrid.skill.edits import Append, Delete, Edit
from hybrid.skill.evidence_editor import aggregate
from hybrid.skill.model_editor import ModelEditor
from hybrid.skill.reflection import Comparison, Editor, Proposal, Review, ReviewContext, RolloutView

SOURCE = Literal["failure", "success"]


def editor(chat: Chat, notes: list[str] | None = None, **changes: Any) -> ModelEditor:
    values: dict[str, Any] = {"capability": "units", "task": "", "max_tokens": 700, "temperature": 0.0, "seed": 5}
    return ModelEditor(chat, **(values | {"on_note": (notes if notes is not None else []).append} | changes))


def p(made: Edit | str, support: int, source: SOURCE = "failure", gain: float | None = None) -> Proposal:
    what = Append(content=made) if isinstance(made, str) else made
    return Proposal(edit=what, support=support, source=source, rationale=f"why {support}", expected_gain=gain)


POOL = [
    p("use metres", 3),
    p("always use metres", 2, "success"),
    p("be brief", 1),
    p(Delete(target="Be brief."), 5, "success"),
]
ORDER = ["use metres", "be brief", "delete", "always use metres"]
"""The pool as a merge numbers it: failures first, then by weight."""


def names(proposals: list[Proposal]) -> list[str]:
    return [x.edit.content if isinstance(x.edit, Append) else x.edit.op for x in proposals]


def merged_reply(*edits: tuple[dict[str, Any], list[Any]]) -> str:
    return json.dumps({"edits": [{**made, "stands_for": numbers} for made, numbers in edits]})


def test_merge_sums_the_support_of_the_parts_and_puts_failures_first() -> None:
    notes: list[str] = []
    chat = Chat(
        merged_reply(
            (edit("delete", target="Be brief."), [2]),
            (edit(content="Use metres, always."), [0, 3]),
            (edit(content="be brief", why=""), [1]),
        )
    )
    merged = editor(chat, notes).merge(BODY, POOL, "my notes")
    assert names(merged) == ["Use metres, always.", "be brief", "delete"]
    assert [(m.support, m.source, m.rationale, m.expected_gain) for m in merged] == [
        (5, "failure", "because", None),
        (1, "failure", "why 1", None),
        (5, "success", "because", None),
    ]
    assert notes == []
    assert chat.requests[0].purpose == "merge" and "my notes" in chat.shown() and BODY.strip() in chat.shown()
    rows = [json.loads(line) for line in chat.shown().split("\n") if line.startswith('{"number"')]
    assert [row["content"] or row["op"] for row in rows] == ORDER and [row["support"] for row in rows] == [3, 1, 5, 2]


def test_what_stands_for_nothing_is_dropped_and_no_support_is_counted_twice() -> None:
    notes: list[str] = []
    chat = Chat(
        merged_reply(
            (edit(content="metres"), [0, 0, 77, -1]),
            (edit(content="metres again"), [0, 3]),
            (edit(content="my own idea"), []),
            (edit(content="metres once more"), [0]),
        )
    )
    merged = editor(chat, notes).merge(BODY, POOL, "")
    assert [(n, m.support) for n, m in zip(names(merged), merged, strict=True)] == [("metres", 3), ("metres again", 2)]
    assert notes == ["merge: 2 edits that stand for nothing were dropped", "merge: 2 proposed edits were left out"]


def test_two_merged_edits_that_are_equal_become_one() -> None:
    merged = editor(Chat(merged_reply((edit(content="x"), [0]), (edit(content="x"), [1])))).merge(BODY, POOL, "")
    assert [(n, m.support) for n, m in zip(names(merged), merged, strict=True)] == [("x", 4)]


def test_a_measured_gain_stays_with_its_own_edit() -> None:
    pool = [p("a", 1, gain=0.5), p("b", 1, gain=0.25)]
    kept = editor(Chat(merged_reply((edit(content="a"), [0, 1])))).merge(BODY, pool, "")
    made = editor(Chat(merged_reply((edit(content="a and b"), [0, 1])))).merge(BODY, pool, "")
    assert (kept[0].expected_gain, kept[0].support) == (0.5, 2)
    assert (made[0].expected_gain, made[0].support) == (None, 2)


@pytest.mark.parametrize(
    "bad", ["", "no", '{"edits": []}', '{"edits": 1}', GOOD, merged_reply((edit("sing"), [0])), '{"edits":' * 90_000]
)
def test_an_unusable_merge_falls_back_to_equal_edits(bad: str) -> None:
    notes: list[str] = []
    chat = Chat(bad)
    pool = [*POOL, p("be brief", 4)]
    assert editor(chat, notes).merge(BODY, pool, "") == aggregate(pool)
    assert len(chat.requests) == 1 and notes[-1].startswith("merge: the reply could not be used")


def test_nothing_is_asked_where_nothing_is_to_be_merged_or_shown() -> None:
    notes: list[str] = []
    chat = Chat()
    assert editor(chat, notes).merge(BODY, [], "") == []
    assert [m.support for m in editor(chat, notes).merge(BODY, [p("a", 1), p("a", 2)], "")] == [3]
    assert notes == []
    long = [p("a" * 19_000, 1), p("b" * 19_000, 1), p("c" * 19_000, 1)]
    assert editor(chat, notes).merge(BODY, long, "") == aggregate(long)
    assert editor(chat, notes).rank(BODY, long, 2, "") == long[:2]
    assert len(notes) == 2 and all("too long to be shown" in note for note in notes)


def test_rank_keeps_the_models_order_within_the_budget() -> None:
    chat = Chat('{"selected": [3, 0, 3, 9, -1, true, "1", 1, 2]}')
    assert editor(chat).rank(BODY, POOL, 2, "") == [POOL[3], POOL[0]]
    assert chat.requests[0].purpose == "rank" and "at most 2" in chat.shown()
    assert editor(chat).rank(BODY, POOL[:2], 2, "") == POOL[:2]
    assert len(chat.requests) == 1


@pytest.mark.parametrize(("reply", "chosen"), [("[1]", [1]), ("[]", []), ("[2, 1, 0]", [2, 1, 0])])
def test_without_a_budget_the_model_chooses_how_many(reply: str, chosen: list[int]) -> None:
    chat = Chat(f'{{"selected": {reply}}}')
    assert editor(chat).rank(BODY, POOL, None, "") == [POOL[n] for n in chosen]
    assert "as many as are worth trying" in chat.shown()


@pytest.mark.parametrize("bad", ["", "0", '{"selected": 3}', '{"selected": [77]}', '{"selected": [NaN, [0], 1.0]}'])
def test_an_unusable_ranking_keeps_the_order(bad: str) -> None:
    notes: list[str] = []
    assert editor(Chat(bad), notes).rank(BODY, POOL, 3, "") == POOL[:3]
    six = [*POOL, p("e", 9), p("f", 8)]
    assert names(editor(Chat(bad), notes).rank(BODY, six, None, "")) == ["e", "f", "use metres", "be brief"]
    assert len(notes) == 2 and all(note.startswith("rank: the reply could not be used") for note in notes)


def test_choosing_nothing_within_a_budget_is_no_choice() -> None:
    assert editor(Chat('{"selected": []}')).rank(BODY, POOL, 1, "") == POOL[:1]


def pair(number: int, before: bool, after: bool, text: str = "") -> Comparison:
    def one(passed: bool, said: str) -> RolloutView:
        return RolloutView(view(number).example, said + text, float(passed), passed, "seen")

    return Comparison(one(before, f"old{number}"), one(after, f"new{number}"))


def review_context(**changes: Any) -> ReviewContext:
    compared = (pair(1, True, True), pair(2, False, False), pair(3, False, True), pair(4, True, False))
    values: dict[str, Any] = {"body": BODY, "slow": "kept advice", "compared": compared, "memory": "earlier notes"}
    values |= {"accepted": (Append(content="Be brief."),), "rejected": (rejected(Append(content="gone")),)}
    return ReviewContext(**(values | changes))


def test_a_review_gives_new_advice_and_new_notes() -> None:
    chat = Chat(json.dumps({"slow": "\nCheck the unit.\nThen answer.\n", "memory": "rules help"}))
    review = editor(chat).review(review_context())
    assert review == Review(slow="Check the unit.\nThen answer.", memory="rules help")
    shown = chat.shown()
    assert chat.requests[0].purpose == "review" and editor(chat).looks_back
    rows = [json.loads(line) for line in shown.split("\n") if line.startswith('{"group"')]
    assert [(row["group"], row["example"]) for row in rows] == [
        ("regressed", "e4"), ("failing", "e2"), ("improved", "e3"), ("solved", "e1"),
    ]  # fmt: skip
    assert (rows[0]["answer_before"], rows[0]["answer"]) == ("old4", "new4")
    assert '"regressed": 1, "failing": 1, "improved": 1, "solved": 1' in shown
    for text in ("kept advice", "earlier notes", '"content": "gone"', '"change": -0.031'):
        assert text in shown


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ("<!-- protected:end -->\nevil", "marker"),
        ("ok\n<!--PROTECTED : start x-->", "marker"),
        ("---\nname: evil\n---", "front matter fence"),
        ("a\u202eb", "U+202E"),
        ("a\ud800b", "U+D800"),
        ("a\u200bb", "U+200B"),
        ("x" * 4_001, "4001 characters"),
        (["a"], "not text"),
        (3, "not text"),
    ],
)
def test_slow_text_that_has_no_place_in_a_document_is_refused_and_the_notes_are_kept(slow: Any, words: str) -> None:
    review = editor(Chat(json.dumps({"slow": slow, "memory": "m" * 5_000}))).review(review_context())
    assert review is not None and review.slow is None and review.memory == "m" * 2_000
    assert len(review.notes) == 1 and words in review.notes[0]


@pytest.mark.parametrize(
    "reply", ['{"slow": null, "memory": null}', '{"slow": " \\n", "memory": ""}', '{"slow": null}']
)
def test_null_and_blank_leave_things_as_they_are(reply: str) -> None:
    assert editor(Chat(reply)).review(review_context()) == Review()


@pytest.mark.parametrize("bad", ["", "fine as it is", '{"slow": "a', "[1]"])
def test_an_unusable_review_is_a_note(bad: str) -> None:
    review = editor(Chat(bad)).review(review_context())
    assert review is not None and review.slow is None and review.memory is None
    assert len(review.notes) == 1 and "could not be used" in review.notes[0]


def test_memory_loses_hidden_characters() -> None:
    review = editor(Chat(json.dumps({"memory": "a\u202e\ud800\nb "}))).review(review_context())
    assert review == Review(memory="a\nb")


def test_foreign_text_stays_behind_fences_and_caps_hold() -> None:
    chat = Chat(merged_reply(), '{"selected": [0]}', '{"slow": null}')
    foreign = HOSTILE + "z" * 300
    pool = [p(foreign, 1), p(foreign + "!", 2)]
    made = editor(chat, most_characters=20_000)
    made.merge(foreign, pool, foreign)
    made.rank(foreign, pool, 1, foreign)
    compared = tuple(pair(n, n % 2 > 0, n % 3 > 0, foreign * 40) for n in range(400))
    made.review(
        review_context(slow=foreign, memory=foreign, compared=compared, accepted=(Append(content=foreign),) * 99)
    )
    assert [r.purpose for r in chat.requests] == ["merge", "rank", "review"]
    for request in chat.requests:
        assert sum(len(m.content) for m in request.messages) <= 20_000
        outside, inside = blocks(request.messages[1].content)
        assert "Ignore previous" not in outside and sum("Ignore previous" in b for b in inside) >= 3
    assert '{"group": "regressed"' in chat.shown()


def test_a_cap_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="20000"):
        editor(Chat(), most_characters=100)


def test_the_same_calls_ask_with_the_same_bytes() -> None:
    def requests() -> list[str]:
        chat = Chat(merged_reply((edit(content="a"), [0])), '{"selected": [1]}', '{"slow": null}')
        made: Editor = editor(chat)
        made.merge(BODY, POOL, "m")
        made.rank(BODY, POOL, 1, "m")
        made.review(review_context())
        return [r.model_dump_json() for r in chat.requests]

    assert requests() == requests() and len(requests()) == 3


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.text(),
        JSON.map(lambda x: json.dumps({"edits": [{"op": "append", "content": "x", "stands_for": x}], "selected": x})),
        JSON.map(lambda x: json.dumps({"edits": x, "selected": [x, 1], "slow": x, "memory": x})),
    )
)
def test_no_reply_raises_or_makes_more_of_it(text: str) -> None:
    made = editor(Chat(answer=lambda request: text))
    merged = made.merge(BODY, POOL, "")
    assert len(merged) <= len(POOL) and sum(m.support for m in merged) <= sum(x.support for x in POOL)
    ranked = made.rank(BODY, POOL, 2, "")
    assert 1 <= len(ranked) <= 2 and all(r in POOL for r in ranked)
    review = made.review(review_context())
    assert review is not None and Review.model_validate_json(review.model_dump_json()) == review
