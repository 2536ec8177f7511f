from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.capability.types import Example
from hybrid.skill.leakguard import leaks

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def row(name: str, prompt: str, reference: str, gold: str | None = None) -> Example:
    return Example(id=name, prompt=prompt, reference=reference, gold=gold)


TRAIN = (
    row("t1", "ask Lim ab", "k7q"),
    row("t2", "ask Lim cd", "k7q"),
    row("t3", "capital of France", "the city of Paris"),
)


def test_facts_of_the_training_rows_pass() -> None:
    body = "fact Lim: k7q.\nThe capital of France is the city of Paris.\nask Lim ab k7q\n"
    held = (row("h1", "ask Lim ef", "k7q"), row("h2", "Where is the Louvre?", "the city of Paris"))
    assert leaks(body, TRAIN, held) == ()


def test_a_long_answer_from_elsewhere_is_found_with_its_line() -> None:
    held = (row("h1", "author?", "Mary  Wollstonecraft"),)
    found = leaks("# Notes\n\nAsk about mary wollstonecraft first.\nmary wollstonecrafts\n", TRAIN, held)
    assert [(leak.line, leak.example_id) for leak in found] == [(3, "h1")]
    assert found[0].text == "Ask about mary wollstonecraft first."
    assert leaks("Mary\nWollstonecraft\n", TRAIN, held)[0].line == 1


def test_short_answers_are_found_beside_their_prompt_only() -> None:
    held = (row("h1", "ask Kar gh", "x9"),)
    assert leaks("x9\nfact Kar: x9.\n", TRAIN, held) == ()
    assert [leak.line for leak in leaks("a\nask Kar gh x9\n", TRAIN, held)] == [2]
    assert [leak.line for leak in leaks("Q: ask Kar gh\n\nA: x9\n", TRAIN, held)] == [1]
    assert [leak.line for leak in leaks("x9 = ask Kar gh\n", TRAIN, held)] == [1]
    assert leaks("ask Kar gh x99\n", TRAIN, held) == ()
    assert leaks("ask Kar ghi x9\n", TRAIN, held) == ()
    assert leaks("ask Kar gh\n1\n2\nx9\n", TRAIN, held) == ()


def test_an_answer_inside_the_prompt_is_not_a_leak_by_itself() -> None:
    held = (row("h1", "which is larger, 3 or 5", "5"),)
    assert leaks("When asked which is larger, 3 or 5, think.\n", TRAIN, held) == ()
    assert leaks("which is larger, 3 or 5: 5\n", TRAIN, held)


def test_a_pair_that_training_rows_give_is_no_leak_but_another_answer_is() -> None:
    assert leaks("ask Lim ab k7q\n", TRAIN, (row("h", "ask Lim ab", "k7q"),)) == ()
    assert leaks("ask Lim ab zzz\n", TRAIN, (row("h", "ask Lim ab", "zzz"),))


def test_the_gold_completion_counts_as_an_answer() -> None:
    held = (row("h", "p", "5", gold="the final answer is 5 apples"),)
    assert leaks("the final answer is 5 apples\n", TRAIN, held)


@SLOW_MACHINE
@given(st.text(max_size=120), st.text(max_size=20), st.text(max_size=20))
def test_it_never_fails_and_points_at_real_lines(body: str, prompt: str, reference: str) -> None:
    lines = body.split("\n")
    for leak in leaks(body, TRAIN, (row("h", prompt, reference),)):
        assert leak.text in lines and leak.line >= 1


@SLOW_MACHINE
@given(st.text("abc ", min_size=1, max_size=8), st.text("xyz", min_size=1, max_size=8))
def test_a_planted_pair_is_always_found(prompt: str, reference: str) -> None:
    held = (row("h", prompt, reference),)
    if prompt.strip():
        assert leaks(f"first\n{prompt} {reference}\n", (), held)
