from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid.skill.document import new_document
from hybrid.skill.library import Library, Skill, save_skill
from hybrid.skill.references import split
from hybrid.skill.select import (
    K1,
    B,
    Bm25,
    SelectionPolicy,
    Selector,
    available_skills,
    compose,
    ending,
    terms,
    words,
)

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ANY = SelectionPolicy(threshold=0.0, close=0.0, most=3)


def skill(name: str, description: str, body: str = "", **references: str) -> Skill:
    paths = {f"references/{key}.md": text for key, text in references.items()}
    return Skill(document=new_document(name, description, body), references=paths)


CAPITALS = skill(
    "capitals", "Capital cities of lands.", "The capital of Bahrain is Manama.\nThe capital of Fiji is Suva.\n"
)
CODES = skill("currency-codes", "Currency codes of lands.", "The currency of Bahrain is BHD.\n")
LEAP = skill("leap-year", "Tells leap years from common ones.", "A year is a leap year when 4 divides it.\n")
RULES = skill("rules", "Rules of names.", "rule Kar @rev.\nrule Lim @next.\n")
LIBRARY = Library([RULES, LEAP, CODES, CAPITALS])


def test_the_skill_that_a_prompt_speaks_of_is_chosen_and_none_where_nothing_fits() -> None:
    selector = Selector(LIBRARY)
    assert selector.choose("What is the capital of Fiji?").names == ("capitals",)
    assert selector.choose("Which currency has Bahrain?").names[0] == "currency-codes"
    assert selector.choose("Is 1900 a leap year?").names == ("leap-year",)
    assert selector.choose("Which rule is @rev?").names == ("rules",)
    assert selector.choose("Translate this sentence into Finnish, please.").names == ()
    for empty in ("", "???", "the of and"):
        assert selector.choose(empty).names == ()
        assert set(selector.scores(empty).values()) == {0.0}
    assert Selector(Library([])).choose("What is the capital of Fiji?").names == ()


def test_worked_examples_before_the_question_do_not_hide_it() -> None:
    shots = "".join(f"Q: Stirb zog wemp number {n}?\nA: blorp\n" for n in range(8))
    asked = "Q: Capital of Fiji?\nA:"
    assert ending(shots + asked) == "Q: Capital of Fiji?"
    assert Selector(LIBRARY).choose(shots + asked).names == ("capitals",)


def test_bm25_is_the_published_formula() -> None:
    """One field, weight 1: Robertson and Zaragoza 2009, equation 3.15, over the most that the query could reach."""
    texts = ["red red blue", "blue green", "green"]
    found = Bm25([(text,) for text in texts], (1.0,)).scores("red blue")
    idf = {"red": np.log(1 + (3 - 1 + 0.5) / 1.5), "blue": np.log(1 + (3 - 2 + 0.5) / 2.5)}

    def weight(count: int, length: int) -> float:
        return count * (K1 + 1) / (K1 * (1 - B + B * length / 2) + count)

    most = (K1 + 1) * sum(idf.values())
    expected = [
        (idf["red"] * weight(2, 3) + idf["blue"] * weight(1, 3)) / most,
        idf["blue"] * weight(1, 2) / most,
        0.0,
    ]
    assert found == pytest.approx(expected, abs=1e-12)


@SLOW_MACHINE
@given(st.lists(st.text("ab .@1\n", max_size=30), max_size=6), st.text("abc .@1\n", max_size=30))
def test_scores_lie_between_0_and_1_and_do_not_depend_on_order(texts: list[str], query: str) -> None:
    scores = Bm25([(t,) for t in texts], (1.0,)).scores(query)
    assert all(0.0 <= s <= 1.0 for s in scores)
    assert Bm25([(t,) for t in texts[::-1]], (1.0,)).scores(query)[::-1] == pytest.approx(scores)
    assert [s > 0 for s in scores] == [bool(set(terms(t)) & set(terms(query))) for t in texts]


def test_terms() -> None:
    assert terms("The CAPITALS of get_current_time!") == ["capital", "get", "current", "time"]
    assert terms("q ab @rev $ash 12+3=") == ["q", "ab", "@rev", "$ash", "12", "<number>", "+", "3", "<number>", "="]
    assert terms("Grüße class bus") == ["grüsse", "class", "bus"]


def test_the_threshold_the_number_and_the_closeness_limit_what_is_chosen() -> None:
    same = Library([skill(name, "Capital cities.") for name in ("a", "b", "c", "d")] + [skill("e", "Capital letters.")])
    prompt = "capital cities"
    everything = Selector(same, SelectionPolicy(threshold=0.0, close=0.0, most=9)).choose(prompt)
    assert everything.names == ("a", "b", "c", "d", "e"), "ties go to the earlier name"
    assert Selector(same, SelectionPolicy(threshold=0.0, close=0.0, most=2)).choose(prompt).names == ("a", "b")
    assert Selector(same, SelectionPolicy(threshold=0.0, close=0.99, most=9)).choose(prompt).names == (
        "a",
        "b",
        "c",
        "d",
    )
    best = everything.scores["a"]
    assert Selector(same, SelectionPolicy(threshold=best, most=1)).choose(prompt).names == ("a",)
    assert Selector(same, SelectionPolicy(threshold=best + 1e-9, most=1)).choose(prompt).names == ()


def test_a_token_budget_leaves_out_what_does_not_fit_and_tries_the_next() -> None:
    long = skill("long", "Capital cities.", "capital cities " * 50)
    short = skill("short", "Capital cities.", "capital cities\n")
    tiny = skill("tiny", "Capital cities.", "capital\n")
    library = Library([long, short, tiny])
    policy = SelectionPolicy(threshold=0.0, close=0.0, max_tokens=3)
    chosen = Selector(library, policy).choose("capital cities")
    assert set(chosen.names) == {"short", "tiny"} and chosen.left_out == ("long",)
    assert compose(library, chosen.names, 2).tokens >= sum(words(library[n].document.body) for n in chosen.names)
    assert Selector(library, SelectionPolicy(threshold=0.0, max_tokens=1)).choose("capital").names in ((), ("tiny",))


def test_the_policy_refuses_what_makes_no_sense() -> None:
    for wrong in ({"most": 0}, {"threshold": 1.5}, {"close": -1}, {"max_tokens": 0}, {"margin": 1}):
        with pytest.raises(ValidationError):
            SelectionPolicy(**wrong)


def hashed(texts: Sequence[str]) -> np.ndarray:
    """Runs of three letters, hashed: near words without a word in common."""
    rows = np.zeros((len(texts), 256))
    for row, text in enumerate(texts):
        for start in range(len(text) - 2):
            rows[row, zlib.crc32(text.lower()[start : start + 3].encode()) % 256] += 1
    return rows


def test_an_embedder_finds_what_shares_no_word() -> None:
    prompt = "leapyears?"
    assert set(Selector(LIBRARY).scores(prompt).values()) == {0.0}
    scores = Selector(LIBRARY, embedder=hashed).scores(prompt)
    assert max(scores, key=scores.__getitem__) == "leap-year"
    assert all(0.0 <= s <= 1.0 for s in scores.values())
    alone = Selector(LIBRARY, SelectionPolicy(embedding_weight=0.0), embedder=hashed)
    assert alone.scores("capital of Fiji") == Selector(LIBRARY).scores("capital of Fiji")


@pytest.mark.parametrize(
    "rows", [np.zeros(4), np.zeros((3, 2)), np.full((4, 2), np.nan), np.full((4, 2), np.inf)], ids=str
)
def test_an_embedder_that_breaks_its_contract_is_an_error(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one row of finite numbers per text"):
        Selector(LIBRARY, embedder=lambda texts: rows)


def test_a_zero_vector_is_near_nothing() -> None:
    assert set(Selector(LIBRARY, embedder=lambda texts: np.zeros((len(texts), 2))).scores("???").values()) == {0.0}


def test_level_1_is_the_block_of_the_format(tmp_path: Path) -> None:
    for each in (*LIBRARY, skill("tags", "a <b> & 'c' \"d\"", "x\n")):
        save_skill(tmp_path, each.document, each.references)
    library = Library([*LIBRARY, skill("tags", "a <b> & 'c' \"d\"")])
    command = Path(sys.executable).parent / "agentskills"
    folders = [str(tmp_path / name) for name in library.names]
    done = subprocess.run([command, "to-prompt", *folders], capture_output=True, text=True, check=True)
    assert available_skills(library).strip() == done.stdout.strip().replace(f"{tmp_path.resolve()}/", "")
    for chosen in ((), ("tags",)):
        reading = compose(library, chosen, 1)
        assert reading.text == available_skills(library) and reading.tokens == words(reading.text) > 0


@SLOW_MACHINE
@given(st.text(max_size=80).filter(lambda t: t.isprintable() or "\n" in t))
def test_one_chosen_skill_is_its_plain_body(body: str) -> None:
    try:
        document = new_document("a", "d", body)
    except ValidationError:
        return
    library = Library([Skill(document=document), LEAP])
    for level in (2, 3):
        reading = compose(library, ["a"], level)  # type: ignore[arg-type]
        assert reading.text == document.body
        assert reading.tokens == words(document.body)


def test_no_skill_costs_nothing_and_several_are_told_apart() -> None:
    assert compose(LIBRARY, (), 2) == compose(LIBRARY, (), 3)
    assert (compose(LIBRARY, (), 2).text, compose(LIBRARY, (), 2).tokens) == ("", 0)
    both = compose(LIBRARY, ("rules", "capitals"), 2).text
    assert both == f"# rules\n{RULES.document.body}\n# capitals\n{CAPITALS.document.body}"
    with pytest.raises(KeyError):
        compose(LIBRARY, ("nothing",), 2)


FURTHER = skill(
    "further", "d", "Lengths: references/lengths.md\nWeights: references/weights.md\n",
    lengths="An inch is 2.54 cm.\n", weights="A pound is 454 g.\n", unnamed="never\n",
)  # fmt: skip


def test_references_are_read_on_demand_and_only_those_that_the_body_names() -> None:
    library = Library([FURTHER])
    body = FURTHER.document.body
    assert compose(library, ["further"], 2).text == body
    everything = compose(library, ["further"], 3).text
    assert everything == (
        f"{body}\n# references/lengths.md\nAn inch is 2.54 cm.\n\n# references/weights.md\nA pound is 454 g.\n"
    )
    selector = Selector(library)
    assert selector.open("How many cm is an inch?", "further") == ("references/lengths.md",)
    assert selector.open("What is love?", "further") == ()
    one = compose(library, ["further"], 3, opened=lambda name: selector.open("grams of a pound?", name))
    assert "pound" in one.text and "inch" not in one.text
    assert one.tokens == words(one.text)
    for path in ("references/unnamed.md", "../SKILL.md", "/etc/passwd"):
        with pytest.raises(ValueError, match="names no reference"):
            compose(library, ["further"], 3, opened=lambda name, path=path: [path])


def test_a_split_body_is_whole_again_at_level_3_and_its_facts_are_found_one_by_one() -> None:
    body = "".join(f"The capital of Land{chr(97 + n % 26)}{n} is City{n}.\n" for n in range(120))
    parts = split(body, words, 200)
    assert len(parts.references) > 1
    library = Library(
        [Skill(document=new_document("capitals", "Capital cities.", parts.head), references=parts.references)]
    )
    assert compose(library, ["capitals"], 3).text == body
    selector = Selector(library)
    for line in body.splitlines():
        prompt = line.split(" is ")[0] + " is"
        if line in parts.head:
            continue
        opened = compose(library, ["capitals"], 3, opened=lambda name, prompt=prompt: selector.open(prompt, name))
        assert line in opened.text
        assert opened.tokens < words(body)
