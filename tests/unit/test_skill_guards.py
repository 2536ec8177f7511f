from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.capability.types import Example, Message
from hybrid.config.schema import (
    ChoiceGrader,
    CopyGuardConfig,
    ExactGrader,
    GraderConfig,
    JsonGrader,
    PythonGrader,
    RegexGrader,
)
from hybrid.skill.edits import Append, apply
from hybrid.skill.guards import CopyGuard, Guards, HeldOutGuard, PatternGuard, body_faults, pattern_texts
from hybrid.skill.leakguard import leaks
from hybrid.skill.slow_section import with_slow

MANY = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
LONG = [
    "the red fox jumps over nine lazy dogs in spring",
    "a small boat sails past the old stone bridge at dawn",
    "seven grey geese fly south before the first cold night",
    "my green lamp burns until the last guest has gone home",
]
PATTERN = r"(?i)^answer:\s*\[{reference}\]\s*$"


def row(name: str, prompt: str, reference: str, gold: str | None = None) -> Example:
    return Example(id=name, prompt=prompt, reference=reference, gold=gold)


def copy_guard(train: Sequence[Example], words: int = 8, most: float = 0.5) -> CopyGuard:
    return CopyGuard(train, CopyGuardConfig(words=words, most=most))


def all_guards(train: Sequence[Example] = (), held: Sequence[Example] = (), patterns: Sequence[str] = ()) -> Guards:
    return Guards(train, held, CopyGuardConfig(), patterns)


# Copies of training answers


def test_copies_beyond_the_share_are_refused_with_numbers_and_a_line() -> None:
    guard = copy_guard([row(f"t{i}", f"q{i}", text) for i, text in enumerate(LONG)])
    assert guard.check("\n".join(["# Notes", *LONG[:2]])) == []
    (why,) = guard.check("\n".join(["# Notes", *LONG[:3]]))
    assert "3 of the 4 training answers of at least 8 words (75 %, at most 50 % are allowed) from line 2 on" in why


def test_a_run_is_enough_and_case_punctuation_and_line_ends_do_not_hide_it() -> None:
    guard = copy_guard([row("t", "q", LONG[0])], most=0)
    assert guard.check("So THE red, fox -- jumps\nover nine “lazy” dogs.\n")
    assert guard.check("the \uff52\uff45\uff44 fox jumps over nine lazy dogs\n")
    assert guard.check("the red fox jumps over nine lazy\n") == []
    assert guard.check("the red fox jumps over nine quick dogs in spring\n") == []


def test_the_gold_completion_counts_and_equal_answers_count_once() -> None:
    rows = [row(f"t{i}", f"q{i}", str(i), gold=LONG[0]) for i in range(9)] + [row("t9", "q", LONG[1])]
    assert copy_guard(rows).check(LONG[0]) == []
    assert copy_guard(rows, most=0.4).check(LONG[0])


def test_a_table_of_short_facts_is_no_answer_key() -> None:
    train = [row(f"t{i}", f"capital of country{i}", f"city number {i}") for i in range(40)]
    table = "\n".join(f"The capital of country{i} is city number {i}." for i in range(40))
    assert copy_guard(train).check(table) == []


def test_a_list_of_training_rows_is_an_answer_key_but_a_few_worked_examples_are_not() -> None:
    train = [row(f"t{i}", f"What is the price of {i} apples in the shop?", f"{7 * i} coins") for i in range(10)]
    lines = [f"{e.prompt} {e.reference}" for e in train]
    guard = copy_guard(train)
    assert guard.check("\n".join(lines[:5])) == []
    (why,) = guard.check("\n".join(["Multiply by seven.", *lines[:6]]))
    assert "6 of 10 training questions with their answers (60 %, at most 50 % are allowed) from line 2 on" in why
    apart = [part for e in train for part in (str(e.prompt), "", f"Answer: {e.reference}")]
    assert guard.check("\n".join(apart))
    assert guard.check("\n".join(f"{e.reference} = {e.prompt}" for e in train))


def test_questions_without_their_answers_are_not_copied_rows() -> None:
    train = [row(f"t{i}", f"What is the price of {i} apples in the shop?", f"{7 * i} coins") for i in range(4)]
    assert copy_guard(train).check("\n".join(str(e.prompt) for e in train)) == []
    assert copy_guard(train).check("\n".join(f"{e.prompt} {e.reference}0" for e in train[1:])) == []
    inside = [row(f"t{i}", f"Which of the two numbers is larger, {i} or 3", f"{i}") for i in range(4, 8)]
    assert copy_guard(inside).check("\n\na\nb\nc\n".join(str(e.prompt) for e in inside)) == []
    far = "\n".join(line for e in train[1:] for line in (str(e.prompt), "a", "b", "c", f"{e.reference}", "d", "e", "f"))
    assert copy_guard(train).check(far) == []


def test_the_last_turn_of_a_chat_is_its_question() -> None:
    turns = [
        (Message(role="system", content="Be kind."), Message(role="user", content=f"a b c d e f g {i}")) for i in (1, 2)
    ]
    train = [Example(id=f"t{i}", prompt=t, reference=f"x{i}") for i, t in enumerate(turns)]
    assert copy_guard(train).check("a b c d e f g 1: x0\n") == []
    assert "2 of 2" in copy_guard(train).check("a b c d e f g 1: x0\na b c d e f g 2: x1\n")[0]


def test_scripts_without_spaces_are_counted_by_character() -> None:
    guard = copy_guard([row("t", "q", "東京は日本の首都です")])
    assert guard.check("覚え: 東京は日本の首都です。\n")
    assert guard.check("東京は日本の町です\n") == []


def test_no_training_rows_and_no_long_answers_refuse_nothing() -> None:
    assert copy_guard([], most=0).check(LONG[0]) == []
    assert copy_guard([row("t", "p", "x")], most=0).check("p x\n") == []


@MANY
@given(st.lists(st.text("abc ", max_size=14), max_size=4), st.text("abc \n.", max_size=40), st.integers(3, 5))
def test_the_copy_guard_agrees_with_a_slow_one(answers: list[str], body: str, words: int) -> None:
    long = {tuple(a.split()) for a in answers if len(a.split()) >= words}
    flat = f" {' '.join(body.replace('.', ' ').split())} "
    runs = {a: [" ".join(a[i : i + words]) for i in range(len(a) - words + 1)] for a in long}
    copied = [a for a in long if any(f" {run} " in flat for run in runs[a])]
    guard = copy_guard([row(f"t{i}", "", a) for i, a in enumerate(answers)], words)
    assert bool(guard.check(body)) == (len(copied) > 0.5 * len(long))


# Held-out answers

PIECES = ("ask", "Lim", "ß", "ss", "x9", "a_b", "-5", "é", "e\u0301", "Istanbul", "İ", "a long answer", ".", "")
GAPS = (" ", " ", "  ", "\n", "\u00a0", "", "\x1c")


def piece(rng: random.Random) -> str:
    return rng.choice(GAPS).join(rng.choices(PIECES, k=rng.randint(0, 3)))


def some_rows(rng: random.Random) -> list[Example]:
    golds = (None, None, piece(rng))
    return [row(f"e{i}", piece(rng), piece(rng), rng.choice(golds)) for i in range(rng.randint(0, 4))]


def test_the_index_gives_the_verdicts_of_leaks() -> None:
    found = 0
    for seed in range(4000):
        rng = random.Random(seed)
        train, held = some_rows(rng), some_rows(rng)
        planted = [text for e in held for text in (e.prompt_text, e.reference, e.gold_completion)] or [""]
        parts = rng.choices(planted, k=rng.randint(0, 4)) + [piece(rng) for _ in range(rng.randint(0, 3))]
        rng.shuffle(parts)
        body = rng.choice(["\n", " ", " ", ""]).join(parts)
        expected = leaks(body, train, held)
        found += bool(expected)
        guard = HeldOutGuard(train, held)
        assert guard.leaks(body) == expected, seed
        assert bool(guard.check(body)) == bool(expected), seed
    assert 500 < found < 3500, "both verdicts are common, or nothing was compared"


@MANY
@given(st.text(max_size=30), st.text(max_size=14), st.text(max_size=30), st.text(max_size=30))
def test_the_index_gives_the_verdicts_of_leaks_on_any_text(prompt: str, answer: str, left: str, right: str) -> None:
    held = [row("h", prompt, answer)]
    body = f"{left}{prompt} {answer}{right}"
    assert HeldOutGuard([], held).leaks(body) == leaks(body, [], held)


def test_a_held_out_answer_is_refused_without_saying_which() -> None:
    held = [row("secret-id", "Who wrote Frankenstein?", "Mary Wollstonecraft")]
    guard = HeldOutGuard([row("t", "q", "x")], held)
    (why,) = guard.check("Be brief.\nFrankenstein is by Mary Wollstonecraft.\n")
    assert "kept for judging" in why
    assert not any(hint in why for hint in ("Mary", "secret-id", "Frankenstein", "line 2", "2"))
    assert guard.check("Be brief.\n") == []


# The grader's pattern


def test_what_a_grader_looks_for_is_taken_from_its_settings() -> None:
    regex = RegexGrader(type="regex", pattern=PATTERN, format=r"\[.*\]")
    cases: list[tuple[GraderConfig, tuple[str, ...]]] = [
        (regex, (PATTERN, r"\[.*\]")),
        (regex.model_copy(update={"format": None}), (PATTERN,)),
        (PythonGrader(type="python", path="my_graders.units:grade"), ("my_graders.units:grade",)),
        (ChoiceGrader(type="choice", choices=("yes", "no")), ()),
        (ExactGrader(type="exact"), ()),
        (JsonGrader(type="json", fields=("a.b",)), ()),
    ]
    for grader, expected in cases:
        assert pattern_texts(grader) == expected


@pytest.mark.parametrize(
    "line",
    [
        PATTERN,
        r"Match (?i)^answer:\s* please",
        r"answer:\s*\[ comes first",
        "- `(?i)^answer: \\s* \\[ {reference} \\] \\s* $`",
        r"(?i)^answer:\s*\[\]\s*$",
    ],
)
def test_quotations_of_the_pattern_are_refused_with_their_line(line: str) -> None:
    (why,) = PatternGuard([PATTERN]).check(f"Be brief.\n{line}\n")
    assert why.startswith("line 2 quotes the grader's pattern")


@pytest.mark.parametrize(
    "line", ["answer: [7]", "Answer: [42]", "The (answer: seven) goes in brackets.", "answer:", "{reference}"]
)
def test_words_and_layouts_are_not_the_pattern(line: str) -> None:
    assert PatternGuard([PATTERN, "{reference}", "Answer: yes"]).check(f"{line}\nAnswer: yes\n") == []


def test_long_plain_words_of_a_pattern_are_refused_unless_training_rows_show_them() -> None:
    pattern = "the final answer of this whole question is {reference}"
    line = "Write: the final answer of this whole question is N.\n"
    assert PatternGuard([pattern]).check(line)
    assert PatternGuard([pattern]).check("Write: the final answer of N.\n") == []
    shown = row("t", "q", "7", gold="the final answer of this whole question is 7")
    assert PatternGuard([pattern], [shown]).check(line) == []


def test_a_short_pattern_is_refused_only_as_a_whole_line() -> None:
    assert PatternGuard([r"\d+{reference}"]).check("* \\d+\n")
    assert PatternGuard([r"\d+{reference}"]).check("Use \\d+ here.\n") == []
    assert PatternGuard(["yes"]).check("yes\n") == []


def test_the_path_of_a_callable_is_refused_and_its_words_are_not() -> None:
    guard = PatternGuard(["unit_graders.strict:grade_units"])
    assert guard.check("See unit_graders.strict:grade_units.\n")
    assert guard.check("graders.strict is strict\n")
    assert guard.check("strict graders grade units\n") == []


@MANY
@given(st.integers(0, 40), st.integers(12, 40), st.text("xyz \n", max_size=20))
def test_every_telling_run_of_twelve_characters_is_found(start: int, size: int, around: str) -> None:
    pattern = r"^result=(?P<n>\d{1,3})[a-z]*\b|none$\s+(?:end)"
    run = pattern[start : start + size]
    if len(run) >= 12:
        assert PatternGuard([pattern]).check(around + run + around)


# Bodies as a whole


def test_what_no_body_may_hold_is_told_with_its_line() -> None:
    assert body_faults("a\n<!-- protected:start x -->\nb\n<!-- protected:end -->\n") == []
    body = "\n\na\u200bb\n---\n<!-- protected:end -->\n...\n<!-- protected:start y -->\n"
    found = body_faults(body)
    assert [why.split(":")[0] for why in found] == ["line 1", "line 2", "line 3", "line 4", "line 5"]
    assert "U+200B" in found[0] and "fence" in found[1] and "never started" in found[2] and "never closed" in found[4]


# The front


def test_each_guard_speaks_through_the_front() -> None:
    train = [row(f"t{i}", f"q{i}", text) for i, text in enumerate(LONG)]
    front = all_guards(train, [row("h", "who?", "Mary Wollstonecraft")], [PATTERN])
    assert front.check("Be brief.\n", "") == []
    body = "\n".join([*LONG, "Mary Wollstonecraft", PATTERN, "---"])
    found = front.check(body, "")
    assert len(found) == 4
    assert all(any(word in why for why in found) for word in ("copies", "kept for judging", "pattern", "fence"))


def test_old_faults_do_not_count_and_new_ones_do() -> None:
    train = [row(f"t{i}", f"q{i}", text) for i, text in enumerate(LONG)]
    held = [row("h1", "who?", "Mary Wollstonecraft"), row("h2", "where?", "the Villa Diodati")]
    front = all_guards(train, held, [PATTERN])
    before = "\n".join([*LONG[:3], "Mary Wollstonecraft", PATTERN, "---", "a\u200bb"]) + "\n"
    assert len(front.check(before, "")) == 5
    assert front.check("New first line.\n" + before + "Be brief.\n", before) == []
    assert front.check(before.replace(LONG[0] + "\n", ""), before) == []
    for line, word in [
        (LONG[3], "copies"),
        ("the Villa Diodati", "kept for judging"),
        ("Mary Wollstonecraft", "kept for judging"),
        (PATTERN, "quotes"),
        (f"See {PATTERN[:20]} again.", "quotes"),
        ("a\u2060b", "U+2060"),
        ("---", "fence"),
    ]:
        found = front.check(f"{before}{line}\n", before)
        assert len(found) >= 1 and all(word in why for why in found), line


def test_protected_sections_stay_as_they_are_and_the_slow_one_may_change() -> None:
    front = all_guards()
    sealed = "<!-- protected:start licence -->\nkeep\n<!-- protected:end -->\n"
    before = f"a\n{sealed}"
    assert front.check(f"b\n{sealed}c\n", before) == []
    for body in ("a\n", before.replace("keep", "kept"), f"{before}{sealed}"):
        assert front.check(body, before) == ["the protected section licence was changed: leave it as it is"]
    new = "<!-- protected:start mine -->\nx\n<!-- protected:end -->\n"
    assert "mine" in front.check(before + new, before)[0]
    assert front.check(with_slow(before, "one"), before) == []
    assert front.check(before, with_slow(before, "one")) == []
    (why,) = all_guards([], [], [PATTERN]).check(with_slow(before, PATTERN), before)
    assert why.startswith("line 6 quotes")


@MANY
@given(st.text(max_size=60), st.text(max_size=60))
def test_the_front_is_deterministic_and_a_body_is_never_worse_than_itself(body: str, before: str) -> None:
    rows = [row("t", "a b c d e f g", "h i j k l m n o")]
    front = all_guards(rows, [row("h", "a", "b")], [PATTERN])
    assert front.check(body, body) == []
    assert front.check(body, before) == all_guards(rows, [row("h", "a", "b")], [PATTERN]).check(body, before)


@MANY
@given(st.lists(st.sampled_from(["a", "b c", "## d", "- e", "1. f"]), max_size=5))
def test_edits_that_apply_without_copying_pass(lines: list[str]) -> None:
    body = apply("seed\n", [Append(content=line) for line in lines]).body
    assert all_guards([row("t", "q", LONG[0])], [row("h", "who?", "Mary W")], [PATTERN]).check(body, "seed\n") == []
