"""The newer probes against hand-made truths: variance, known-ness, paraphrases, style, shapes, calibration, declared terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import FINGERPRINT, FakeBackend, capability, meter
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.backends.base import Sampling
from hybrid.backends.ranks import Ranked
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Capability, Example
from hybrid.config.schema import ExactGrader, ProbeConfig
from hybrid.errors import BackendError
from hybrid.evidence.stated import Reader
from hybrid.probe import shape
from hybrid.probe.base import ProbeContext, Terms
from hybrid.probe.calibration import calibration_probe
from hybrid.probe.declared import declared_terms
from hybrid.probe.knownness import further_contexts, probe_knownness
from hybrid.probe.paraphrase import consistency, groups_of, probe_paraphrases
from hybrid.probe.style import probe_style
from hybrid.probe.variance import variance_probe

EXACT = build_grader(ExactGrader(type="exact"))


def rows(*pairs: tuple[str, str], split: str = "search", **more: object) -> tuple[Example, ...]:
    return tuple(Example(id=f"{split}-{i}", prompt=p, reference=r, **more) for i, (p, r) in enumerate(pairs))  # type: ignore[arg-type]


def probing(folder: Path, answer: object, search: Sequence[Example], train: Sequence[Example] = (), **more: object):  # type: ignore[no-untyped-def]
    backend = FakeBackend(answer)  # type: ignore[arg-type]
    units = Capability("units", {"search": tuple(search), "train": tuple(train)}, EXACT)
    config = ProbeConfig(examples=max(8, len(search)), samples=2, **more.pop("config", {}))  # type: ignore[arg-type]
    return ProbeContext(meter(folder, backend), units, config, FINGERPRINT, Sampling(), 0, **more), backend  # type: ignore[arg-type]


def test_variance_lies_between_prompts_or_within_them() -> None:
    between = variance_probe([[1.0, 1.0], [0.0, 0.0]] * 10, 0)
    within = variance_probe([[1.0, 0.0], [0.0, 1.0]] * 10, 0)
    assert (between.value, within.value, between.n) == (1.0, 0.0, 20)
    assert (between.details["within"], within.details["between"]) == (0.0, 0.0)
    assert variance_probe([[1.0, 1.0]] * 9, 0).value is None
    assert variance_probe([[1.0, 0.0]], 0).value is None


def test_the_share_between_prompts_by_hand() -> None:
    """Four prompts of two samples: MSB = 2 (1/16 * 3 + 9/16) / 3 = 0.5, MSW = (0.5 + 0 + 0 + 0) / 4 ... ICC of the textbook."""
    table = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    means = [0.5, 1.0, 0.0, 0.0]
    grand = sum(means) / 4
    msb = 2 * sum((m - grand) ** 2 for m in means) / 3
    msw = sum((v - m) ** 2 for row, m in zip(table, means, strict=True) for v in row) / 4
    assert variance_probe(table, 0).value == pytest.approx((msb - msw) / (msb + msw))


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=2, max_size=12))
def test_the_share_is_a_share_in_any_order(table: list[list[float]]) -> None:
    found = variance_probe(table, 0)
    assert (
        found == variance_probe(table[::-1], 0)
        or found.value is None
        or found.value == pytest.approx(variance_probe(table[::-1], 0).value)
    )
    if found.value is not None:
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0  # type: ignore[operator]


TABLE = {"ant": "x1", "bee": "y2", "cat": "z3"}


def test_a_fact_is_right_where_it_is_held_and_unknown_everywhere_else(tmp_path: Path) -> None:
    """The model copies from the context or says nothing; one row it knows whatever stands before."""
    search = rows(*[(f"ask {i} {n}", TABLE[n]) for i in range(4) for n in TABLE], ("ask 9 dog", "w4"))
    train = rows(("ask t ant", "x1"), ("ask u bee", "y2"), ("ask v eel", "v5"), split="train")

    def copies(prompt: str, seed: int, adapter: object) -> str:
        head, _, question = prompt.rpartition("\n")
        name = question.split()[-1]
        held = re.search(rf"{name} (\w+)", head)
        return "w4" if name == "dog" else held[1] if held else "?"

    c, _ = probing(tmp_path, copies, search, train, config={"contexts": 2})
    base = c.measure()
    found, asked = probe_knownness(c, {"": base}, c.measure(samples=2))
    texts = further_contexts(train, 2, 0)
    assert len(texts) == len(set(texts)) == 2
    assert asked == 2 * len(search)
    assert found.value == pytest.approx(12 / 13)
    assert (found.details["highly"], found.details["unknown"]) == (1.0, 12.0)
    assert found.details["right_when_held"] == 1.0
    held = sum(e.reference in text for e in search for text in texts)
    assert found.details["held"] == held


def test_known_in_some_contexts_is_maybe_and_by_a_sample_alone_is_weakly(tmp_path: Path) -> None:
    search = rows(*[(f"q{i}", f"r{i}") for i in range(9)])
    train = rows(("t0", "u0"), ("t1", "u1"), split="train")

    def some(prompt: str, seed: int, adapter: object) -> str:
        number = int(prompt[-1])
        return f"r{number}" if number < 3 or (number < 6 and "t0" in prompt) else "?"

    class Warm(FakeBackend):
        def generate(self, requests, sampling, adapter):  # type: ignore[no-untyped-def]
            self.answer = some if sampling.temperature == 0 else lambda p, s, a: f"r{p[-1]}" if int(p[-1]) < 8 else "?"
            return super().generate(requests, sampling, adapter)

    backend = Warm(some)
    units = Capability("units", {"search": search, "train": train}, EXACT)
    c = ProbeContext(meter(tmp_path, backend), units, ProbeConfig(contexts=1), FINGERPRINT, Sampling(), 0)
    found, _ = probe_knownness(c, {"": c.measure()}, c.measure(samples=2))
    assert [found.details[k] for k in ("highly", "maybe", "weakly", "unknown")] == [3.0, 3.0, 2.0, 1.0]


def paraphrases(answers: Sequence[Sequence[tuple[str, bool]]]):  # type: ignore[no-untyped-def]
    return consistency(answers, 0)


def test_consistency_is_one_where_the_question_decides_and_zero_where_the_wording_does() -> None:
    same = paraphrases([[("a", True)] * 4] * 5 + [[("b", False)] * 4] * 5)
    assert same.value == 1.0
    assert same.details["consistency_all_right"] == same.details["consistency_none_right"] == 1.0
    wording = paraphrases([[("a", True), ("a", True), ("b", False), ("c", False)]] * 10)
    assert wording.value == pytest.approx((0.375 - 0.4375) / (1 - 0.4375))
    assert wording.details["groups_few_right"] == 10.0
    assert paraphrases([[("a", True)] * 3] * 4).value is None, "nothing is wrong: no room for inconsistency"
    assert paraphrases([]).value is None


def test_a_model_that_answers_each_wording_anew_has_no_consistency() -> None:
    """Simulated under the chance model itself: right with probability 0.6, wrong each time in another way."""
    import random

    rng = random.Random(0)
    groups = [[("a", True) if rng.random() < 0.6 else (f"w{i}-{j}", False) for j in range(4)] for i in range(400)]
    found = paraphrases(groups)
    assert abs(found.value) < 0.06  # type: ignore[arg-type]
    assert found.low < 0 < found.high  # type: ignore[operator]


def test_groups_by_name_by_parent_and_by_being_named() -> None:
    made = [
        Example(id="one", prompt="1", reference="a"),
        Example(id="two", prompt="2", reference="a", metadata={"paraphrase_of": "one"}),
        Example(id="three", prompt="3", reference="b", parent_id="p"),
        Example(id="four", prompt="4", reference="b", parent_id="p"),
        Example(id="five", prompt="5", reference="c", parent_id="p"),
        Example(id="six", prompt="6", reference="a"),
    ]
    assert [[e.id for e in group] for group in groups_of(made)] == [["one", "two"], ["three", "four"]]


def test_paraphrases_beyond_the_probed_rows_are_paid_for_up_to_the_limit(tmp_path: Path) -> None:
    search = [
        Example(id=f"s{i}", prompt=f"q{i}", reference="a", metadata={"paraphrase_of": f"g{i % 8}"}) for i in range(24)
    ]
    for limit, groups in ((16, 8), (5, 2), (0, 0)):
        backend = FakeBackend(lambda p, s, a: "a" if int(p[1:]) % 3 else "b")
        units = Capability("units", {"search": tuple(search)}, EXACT)
        config = ProbeConfig(examples=8, paraphrases=limit)
        c = ProbeContext(meter(tmp_path / str(limit), backend), units, config, FINGERPRINT, Sampling(), 0)
        c.measure()
        found, extra = probe_paraphrases(c)
        assert (found.n, extra) == (groups, 2 * groups)
        assert len(backend.asked) == 8 + extra


class Ranker:
    """Ranks by a table: tokens are characters."""

    def __init__(self) -> None:
        self.calls = 0

    def target_ranks(self, pairs):  # type: ignore[no-untyped-def]
        self.calls += 1
        return [
            Ranked(tuple(map(ord, target)), tuple(9 if c in "<>" and "brackets" not in prompt else 1 for c in target))
            for prompt, target in pairs
        ]


class Full:
    """Has no room."""

    def target_ranks(self, pairs):  # type: ignore[no-untyped-def]
        raise BackendError("the model has 128 positions")


def test_style_is_few_tokens_that_all_answers_share_and_a_text_takes_away(tmp_path: Path) -> None:
    search = rows(*[(f"q{i}", f"<{chr(97 + i)}x>") for i in range(9)])
    ranker = Ranker()
    c, _ = probing(tmp_path, lambda p, s, a: "", search, ranker=ranker)
    found = probe_style(c, "use brackets", "bracstek esu")
    assert found["style_shift"].value == pytest.approx(0.5)
    assert found["style_shift"].details["common"] == pytest.approx(2 / 3), "<, > and x are common, two of them shifted"
    assert found["style_shift"].details["common_text"] == 0.0
    assert found["text_style_gain"].value == pytest.approx(0.5)
    calls = ranker.calls
    again, _ = probing(tmp_path, lambda p, s, a: "", search, ranker=ranker)
    assert probe_style(again, "use brackets", "bracstek esu") == found
    assert ranker.calls == calls == 3, "a resumed run ranks nothing again"
    full, _ = probing(tmp_path / "full", lambda p, s, a: "", search, ranker=Full())
    assert "128 positions" in probe_style(full, "t", "c")["style_shift"].note, "what does not fit is not measured"
    absent, _ = probing(tmp_path / "none", lambda p, s, a: "", search)
    assert {r.value for r in probe_style(absent, "t", "c").values()} == {None}


def measured(folder: Path, search: Sequence[Example], answers: Sequence[str]):  # type: ignore[no-untyped-def]
    by_prompt = {e.prompt: a for e, a in zip(search, answers, strict=True)}
    c, _ = probing(folder, lambda p, s, a: by_prompt[p], search)
    return c.measure()


def test_right_content_in_the_wrong_form_is_a_gap_and_wrong_content_is_none(tmp_path: Path) -> None:
    search = rows(*[(f"q{i}", f"k{i}7") for i in range(10)])
    styled = shape.content_gap(search, measured(tmp_path / "a", search, [f"<k{i}7>" for i in range(10)]), "")
    assert styled.value == 1.0
    wrong = shape.content_gap(search, measured(tmp_path / "b", search, ["zzz"] * 10), "")
    assert wrong.value == 0.0
    right = shape.content_gap(search, measured(tmp_path / "c", search, [f"k{i}7" for i in range(10)]), "")
    assert right.value == 0.0
    everything = " ".join(f"k{i}7" for i in range(10))
    listing = shape.content_gap(search, measured(tmp_path / "d", search, [everything] * 10), "")
    assert listing.value == 0.0, "an answer that holds every reference holds none of them"


def test_content_that_a_text_tells_counts_in_any_form(tmp_path: Path) -> None:
    """A layout is not content: a text that only brings it gains nothing here; one that tells the answer does."""
    search = rows(*[(f"q{i}", f"k{i}7") for i in range(10)])
    known = measured(tmp_path / "a", search, [f"<k{i}7>" for i in range(10)])
    right = measured(tmp_path / "b", search, [f"k{i}7" for i in range(10)])
    nothing = measured(tmp_path / "c", search, ["zzz"] * 10)
    assert shape.content_gain(search, known, right).value == 0.0
    assert shape.content_gain(search, nothing, known).value == 1.0
    assert shape.content_gain(search, nothing, None).value is None


def test_facts_stand_in_a_text_and_letters_do_so_by_chance() -> None:
    facts = rows(*[(f"q{i}", f"k{i}7z") for i in range(10)])
    text = " ".join(f"fact k{i}7z." for i in range(5))
    assert shape.supplied(facts, text, 0).value == 0.5
    letters = rows(*[(f"q{i}", "ABCD"[i % 4]) for i in range(12)])
    assert shape.supplied(letters, "Answer A, B, C or D.", 0).value == 0.0
    assert shape.supplied(facts, " ", 0).value is None


def test_worked_out_answers_come_from_their_own_prompt() -> None:
    words = ["fgh", "klm", "prs", "tvw"]
    reversed_ = shape.from_prompt(rows(*[(f"q {w}", w[::-1]) for w in words]))
    assert reversed_.value == 1.0
    looked_up = shape.from_prompt(rows(*[(f"q {w}", "93") for w in words]))
    assert looked_up.value == 0.0
    sentence = shape.from_prompt(rows(*[(f"name the {w} of it", f"the {w} is here") for w in words]))
    assert sentence.value == pytest.approx(0.25), "of four words one comes from the own prompt alone"


def test_calibration_of_the_base_needs_stated_confidences(tmp_path: Path) -> None:
    search = rows(*[(f"q{i}", "a~9" if i % 2 else "b~9") for i in range(20)])
    said = measured(tmp_path, search, ["a~9"] * 20)
    reader = Reader(re.compile(r"~(?P<confidence>\d)"), 10)
    found = calibration_probe(said, reader, 0)
    assert found.value == pytest.approx(0.4)
    assert found.details["brier_of_the_mean"] == 0.25
    assert calibration_probe(said, None, 0).value is None
    assert calibration_probe(measured(tmp_path / "b", search, ["a"] * 20), reader, 0).value is None


def test_declared_terms_are_values_without_n() -> None:
    found = declared_terms(Terms(volatility=2.0, portable=False))
    assert {name: (r.value, r.n, r.low) for name, r in found.items()} == {
        "volatility": (2.0, 0, None),
        "portable": (0.0, 0, None),
    }
    assert declared_terms(Terms()) == {}


def test_format_gain_is_over_the_better_control(tmp_path: Path) -> None:
    from hybrid.capability.types import Score

    class Braces:
        def grade(self, completion: str, example: Example) -> Score:
            return Score(0.0, False, {"format": float(completion.startswith("<"))})

        def fingerprint(self) -> str:
            return "braces"

    units = capability(grader=Braces(), search=10)
    backend = FakeBackend(
        lambda p, s, a: "<" if p.startswith("use") or (p.startswith("any") and p[-2] in "01") else "x"
    )
    c = ProbeContext(meter(tmp_path, backend), units, ProbeConfig(examples=10), FINGERPRINT, Sampling(), 0)
    base, best, control = c.measure(), c.measure("use"), c.measure("any")
    assert shape.format_gain(base, best, control).value == pytest.approx(0.8)
    assert shape.format_gain(base, best, base).value == 1.0
    assert shape.format_gain(base, None, base).value is None
