"""Probes over backends whose truth is known: each number is what it is defined to be, with its control."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FINGERPRINT, FakeBackend, capability, meter
from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.base import Adapter, Sampling
from hybrid.capability.types import Capability, Example, Score
from hybrid.config.schema import ProbeConfig
from hybrid.probe.base import ProbeContext, ProbeResult
from hybrid.probe.context import probe_context
from hybrid.probe.profile import irrelevant_text, profile_capability, worked_examples
from hybrid.probe.sampling import probe_sampling
from hybrid.probe.score import probe_score
from hybrid.probe.variants import probe_variants

Answer = Callable[[str, int, Adapter | None], str]


def number(prompt: str) -> int:
    return int(prompt.rpartition("q")[2].rstrip("?"))


def gold(prompt: str) -> str:
    return f"a{number(prompt)}"


def knows(known: Callable[[str, int], bool]) -> Answer:
    """A model that answers rightly where `known(prompt, seed)` says so."""
    return lambda prompt, seed, adapter: gold(prompt) if known(prompt, seed) else "no"


class FormatGrader:
    """Right when equal; readable when it begins with `a`."""

    def grade(self, completion: str, example: Example) -> Score:
        right = completion == example.reference
        return Score(float(right), right, {"format": float(completion.startswith("a"))})

    def fingerprint(self) -> str:
        return "format"


def context(folder: Path, answer: Answer, units: Capability, **config: int) -> tuple[ProbeContext, FakeBackend]:
    """A context that measures everything; `stop=True` leaves out what is decided."""
    backend = FakeBackend(answer)
    settings = ProbeConfig(**{"examples": 40, "samples": 8, "variants": 20, "stop": False, **config})
    return ProbeContext(meter(folder, backend), units, settings, FINGERPRINT, Sampling(), 0), backend


def test_base_and_format_are_shares_of_greedy_answers(tmp_path: Path) -> None:
    units = capability(grader=FormatGrader(), search=60)
    c, backend = context(
        tmp_path, lambda p, s, a: gold(p) if number(p) < 10 else ("a?" if number(p) < 30 else "x"), units
    )
    results, base = probe_score(c)
    assert (results["base"].value, results["base"].n) == (0.25, 40), "40 of the 60 search rows are probed"
    assert (results["format"].value, results["format"].n) == (0.75, 40)
    assert results["base"].low < 0.25 < results["base"].high  # type: ignore[operator]
    assert base.example_ids == tuple(f"search-{i}" for i in range(40))
    assert len(backend.asked) == 40


def test_format_is_absent_where_the_grader_reports_none(tmp_path: Path) -> None:
    class Silent(FormatGrader):
        def grade(self, completion: str, example: Example) -> Score:
            return Score(1.0, True)

    c, _ = context(tmp_path, lambda p, s, a: "x", capability(grader=Silent(), search=20))
    results, _ = probe_score(c)
    assert results["format"] == ProbeResult(value=None, note="the grader reports no format")


def test_sampling_numbers_by_hand(tmp_path: Path) -> None:
    """Ten examples never right, ten always, twenty right exactly when the sample's seed is even."""
    units = capability(search=40)

    def known(prompt: str, seed: int) -> bool:
        return number(prompt) >= 30 or (number(prompt) >= 10 and seed % 2 == 0)

    c, backend = context(tmp_path, knows(known), units)
    found = probe_sampling(c).results
    counts = [0] * 40
    mixed = greedy_misses = 0
    for i, example in enumerate(units.splits["search"]):
        from hybrid.evidence.rollouts import sample_seed

        seeds = [sample_seed(0, example, s) for s in range(8)]
        counts[i] = sum(known(example.prompt_text, s) for s in seeds)
        mixed += 0 < counts[i] < 8
        greedy_misses += counts[i] == 0 and not known(example.prompt_text, seeds[0])
    assert mixed >= 18
    assert found["pass_at_k"].value == sum(c > 0 for c in counts) / 40
    assert found["pass_at_k"].details["pass_at_1"] == pytest.approx(sum(counts) / 320)
    assert found["sampling_gain"].value == pytest.approx(sum((c > 0) - c / 8 for c in counts) / 40)
    assert found["signal_rate"].value == mixed / 40
    assert found["unknown"].value == greedy_misses / 40 == 0.25
    assert all(r.n == 40 and r.low <= r.value <= r.high for r in found.values())  # type: ignore[operator]
    assert len(backend.asked) == 40 * 8 + 40


@pytest.mark.parametrize(("always", "pass_at_k", "unknown"), [(True, 1.0, 0.0), (False, 0.0, 1.0)])
def test_a_sure_model_has_nothing_to_sharpen(tmp_path: Path, always: bool, pass_at_k: float, unknown: float) -> None:
    c, _ = context(tmp_path, knows(lambda p, s: always), capability(search=40))
    found = probe_sampling(c).results
    assert found["pass_at_k"].value == pass_at_k
    assert found["unknown"].value == unknown
    assert found["sampling_gain"].value == found["signal_rate"].value == 0.0
    assert found["sampling_gain"].high > 0.0  # type: ignore[operator]  # 40 examples do not prove that there is none


def test_what_the_greedy_answer_gets_is_not_unknown(tmp_path: Path) -> None:
    """A greedy answer can be right where no sample is."""

    class Cold(FakeBackend):
        def generate(self, requests, sampling, adapter):  # type: ignore[no-untyped-def]
            self.answer = knows(lambda p, s: sampling.temperature == 0 and number(p) < 10)
            return super().generate(requests, sampling, adapter)

    units = capability(search=40)
    backend = Cold(lambda p, s, a: "no")
    config = ProbeConfig(examples=40, samples=4, stop=False)
    found = probe_sampling(ProbeContext(meter(tmp_path, backend), units, config, FINGERPRINT, Sampling(), 0)).results
    assert found["pass_at_k"].value == 0.0
    assert found["unknown"].value == 0.75


def test_sampling_under_a_text_is_another_number(tmp_path: Path) -> None:
    c, backend = context(tmp_path, knows(lambda p, s: p.startswith("rule.") and s % 3 == 0), capability(search=40))
    plain, under = probe_sampling(c).results, probe_sampling(c, "rule.", prefix="text_").results
    assert set(under) == {f"text_{name}" for name in plain}
    assert plain["signal_rate"].value == 0.0
    assert under["text_signal_rate"].value > 0.7  # type: ignore[operator]
    assert sum(p.startswith("rule.\n") for p, _, _ in backend.asked) == 40 * 8 + 40


def test_greedy_rows_are_asked_greedily_and_samples_at_the_probe_temperature(tmp_path: Path) -> None:
    units = capability(search=8)
    seen: list[Sampling] = []

    class Watching(FakeBackend):
        def generate(self, requests, sampling, adapter):  # type: ignore[no-untyped-def]
            seen.extend([sampling] * len(requests))
            return super().generate(requests, sampling, adapter)

    config = ProbeConfig(examples=8, samples=2, temperature=0.7)
    greedy = Sampling(temperature=0.0, top_p=0.5, max_new_tokens=9)
    probe_sampling(ProbeContext(meter(tmp_path, Watching(lambda p, s, a: "x")), units, config, FINGERPRINT, greedy, 0))
    sampled = Sampling(temperature=0.7, top_p=1.0, max_new_tokens=9)
    assert seen.count(sampled) == 16
    assert seen.count(greedy) == 8


def test_context_gain_is_over_the_better_control(tmp_path: Path) -> None:
    """No text 0.25, irrelevant text 0.5, draft 0.75: the gain is 0.25 and not 0.5."""
    shares = {"": 10, "noise": 20, "draft": 30, "seed": 5}

    def known(prompt: str, seed: int) -> bool:
        text = prompt.rpartition("\n")[0]
        return number(prompt) < shares[text]

    c, backend = context(tmp_path, knows(known), capability(search=40))
    _, base = probe_score(c)
    headroom = probe_context(c, base, {"seed": "seed", "draft": "draft", "oracle": " \n"}, "noise")
    found, best = headroom.results, headroom.text
    assert best == "draft"
    assert found["text_score"].value == 0.75
    gain = found["context_gain"]
    assert gain.value == 0.25
    assert gain.details == {"score_seed": 0.125, "score_draft": 0.75, "score_control": 0.5, "score_no_text": 0.25}
    assert len(backend.asked) == 4 * 40, "an empty text is not tried"


def test_a_text_that_only_prompts_harder_gains_nothing(tmp_path: Path) -> None:
    """Any text lifts the score: with an irrelevant one as control there is no gain to see."""
    c, _ = context(tmp_path, knows(lambda p, s: "\n" in p), capability(search=40))
    _, base = probe_score(c)
    found = probe_context(c, base, {"draft": "useful words"}, "words useful").results
    assert base.mean == 0.0
    assert found["text_score"].value == 1.0
    assert found["context_gain"].value == 0.0
    assert found["context_gain"].low < 0  # type: ignore[operator]


def test_more_texts_widen_the_interval(tmp_path: Path) -> None:
    """The best of several texts was picked on the same rows (Bonferroni)."""

    def known(prompt: str, seed: int) -> bool:
        return "\n" in prompt and number(prompt) < 16

    widths = []
    for count in (1, 4):
        c, _ = context(tmp_path / str(count), knows(known), capability(search=40))
        _, base = probe_score(c)
        found = probe_context(c, base, {f"t{i}": f"text {i}" for i in range(count)}, "").results
        gain = found["context_gain"]
        assert gain.value == 0.4
        widths.append(gain.high - gain.low)  # type: ignore[operator]
    assert widths[1] > widths[0]


def test_among_equal_texts_the_seed_document_is_taken(tmp_path: Path) -> None:
    c, _ = context(tmp_path, knows(lambda p, s: "\n" in p), capability(search=20))
    _, base = probe_score(c)
    best = probe_context(c, base, {"draft": "draft", "seed": "seed", "oracle": "oracle"}, "").text
    assert best == "seed"


def test_without_texts_or_rows_nothing_is_claimed(tmp_path: Path) -> None:
    c, _ = context(tmp_path, knows(lambda p, s: True), capability(search=20))
    _, base = probe_score(c)
    headroom = probe_context(c, base, {"draft": "", "seed": " "}, "noise")
    found, best = headroom.results, headroom.text
    assert best == ""
    assert {r.value for r in found.values()} == {None}
    empty, backend = context(tmp_path / "none", knows(lambda p, s: True), capability())
    probed = profile_capability(empty, {"draft": "text"}, "noise")
    assert {r.value for name, r in probed.profile.items() if name != "probe_saved"} == {None}
    assert all(r.n == 0 and r.note for r in probed.profile.values())
    assert backend.asked == []


def test_variant_gap_is_search_minus_variant(tmp_path: Path) -> None:
    units = capability(search=40, variant=30)
    c, backend = context(tmp_path, knows(lambda p, s: number(p) < (30 if p.startswith("search") else 5)), units)
    _, base = probe_score(c)
    gap = probe_variants(c, base)["variant_gap"]
    assert gap.value == 0.75 - 0.25
    assert (gap.n, gap.details["variant_score"]) == (20, 0.25)
    assert 0 < gap.low < 0.5 < gap.high <= 1.0  # type: ignore[operator]
    assert sum(p.startswith("variant") for p, _, _ in backend.asked) == 20


def test_no_gap_without_variants(tmp_path: Path) -> None:
    for name, units, config in (
        ("a", capability(search=9), {}),
        ("b", capability(search=9, variant=9), {"variants": 0}),
    ):
        c, _ = context(tmp_path / name, knows(lambda p, s: True), units, **config)
        _, base = probe_score(c)
        assert probe_variants(c, base)["variant_gap"].value is None


def test_the_profile_reads_only_search_and_variant_and_samples_under_a_text_that_gains(tmp_path: Path) -> None:
    units = capability(train=9, search=40, confirm=9, test=9, variant=9)
    c, backend = context(tmp_path, knows(lambda p, s: p.startswith("rule.")), units)
    probed = profile_capability(c, {"draft": "rule."}, "noise")
    assert probed.best_text == "rule."
    assert probed.profile["context_gain"].value == 1.0
    assert probed.profile["text_signal_rate"].value == 0.0
    assert not [p for p, _, _ in backend.asked if p.rpartition("\n")[2].split()[0] not in ("search", "variant")]
    other, backend = context(tmp_path / "b", knows(lambda p, s: False), units)
    useless = profile_capability(other, {"draft": "rule."}, "noise")
    assert not [
        name for name in useless.profile if name in ("text_pass_at_k", "text_sampling_gain", "text_signal_rate")
    ]
    assert all(math.isfinite(r.value) for r in useless.profile.values() if r.value is not None)


def test_the_same_probe_twice_is_free_and_equal(tmp_path: Path) -> None:
    units = capability(search=20, variant=9)
    answer = knows(lambda p, s: s % 3 == 0)
    first, backend = context(tmp_path, answer, units)
    once = profile_capability(first, {"draft": "rule."}, "noise")
    again, second = context(tmp_path, answer, units)
    assert profile_capability(again, {"draft": "rule."}, "noise") == once
    assert backend.asked
    assert second.asked == []


def test_texts_for_the_context_probe() -> None:
    rows = capability(train=3).splits["train"]
    assert worked_examples(rows, 2) == "train q0? a0\ntrain q1? a1"
    assert worked_examples(rows, 0) == ""
    assert irrelevant_text("own", ["", " ", "own", "theirs", "third"], 0) == "theirs"
    shared = ["form step.\nfrom the draft", "form step.\nrule a\nrule b"]
    assert irrelevant_text("form step.", shared, 0) == shared[1], "half of the first one is the own text"
    assert irrelevant_text("draft", shared, 0, mine=["form  step."]) == shared[1], "a seed document counts as well"
    own = "one two three four five six seven"
    shuffled = irrelevant_text(own, ["", own], 0)
    assert shuffled == irrelevant_text(own, [], 0) != own
    assert sorted("".join(shuffled.split())) == sorted("".join(own.split()))
    assert len(set(shuffled.split()) & set(own.split())) < 3, "the words are not there to help from another place"
    assert sorted(irrelevant_text(own, [], 0, letters=False).split()) == sorted(own.split())


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=4), st.integers(0, 99))
def test_a_text_is_never_its_own_control(words: list[str], seed: int) -> None:
    """The model would do as well under the control, and a text that works would look useless."""
    own = "\n".join(words) + "\n"
    control = irrelevant_text(own, ["", own.strip()], seed)
    assert control.split() != words or not words
    assert control == "" or sorted(control.split()) == sorted(words)
    assert (control == "") == (len(set(words)) < 2)
