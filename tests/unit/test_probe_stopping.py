"""Stopping early: what is left out could not have changed what is attempted, and the profile says what it saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FINGERPRINT, FakeBackend, capability, meter

from hybrid.backends.base import Sampling
from hybrid.config.schema import ProbeConfig, RouterConfig
from hybrid.probe.base import ProbeContext, ProbeResult
from hybrid.probe.profile import Probed, profile_capability
from hybrid.probe.stopping import (
    control_closes,
    knownness_closes,
    sampling_closes,
    sampling_rows,
    text_closes,
    text_sampling_closes,
)
from hybrid.router.route import route

POLICY, CONFIG, NEVER = RouterConfig(), ProbeConfig(), ProbeConfig(stop=False)


def result(low: float, high: float) -> ProbeResult:
    return ProbeResult(value=(low + high) / 2, low=low, high=high, n=64)


def number(prompt: str) -> int:
    return int(prompt.rpartition("q")[2].rstrip("?"))


def probe(folder: Path, answer: object, stop: bool, **texts: str) -> tuple[Probed, int]:
    """The profile, and the completions that were really asked for."""
    backend = FakeBackend(answer)  # type: ignore[arg-type]
    units = capability(train=12, search=64, variant=16)
    config = ProbeConfig(stop=stop, variants=16)
    c = ProbeContext(meter(folder, backend), units, config, FINGERPRINT, Sampling(), 0)
    return profile_capability(c, texts, "noise"), len(backend.asked)


def right(prompt: str) -> str:
    return f"a{number(prompt)}"


WORLDS = {
    "the base does it": lambda p, s, a: right(p),
    "a text does it": lambda p, s, a: right(p) if p.startswith("rule.") else "?",
    "samples vary": lambda p, s, a: right(p) if s % 3 == 0 else "?",
    "a text helps and samples under it vary": lambda p, s, a: right(p) if p.startswith("rule.") and s % 3 == 0 else "?",
    "nothing helps": lambda p, s, a: "?",
    "half is known": lambda p, s, a: right(p) if number(p) % 2 else "?",
    "any text helps": lambda p, s, a: right(p) if "\n" in p else "?",
}


@pytest.mark.parametrize("name", WORLDS)
def test_stopping_never_changes_the_route_and_never_asks_for_more(tmp_path: Path, name: str) -> None:
    whole, most = probe(tmp_path / "whole", WORLDS[name], False, draft="rule.", extra="else.")
    short, paid = probe(tmp_path / "short", WORLDS[name], True, draft="rule.", extra="else.")
    assert route(whole.profile, POLICY).placement == route(short.profile, POLICY).placement
    saved = short.profile["probe_saved"]
    assert paid <= most
    assert saved.n == paid, "every completion is counted"
    assert whole.profile["probe_saved"].n == most
    assert whole.profile["probe_saved"].value == 0.0
    assert saved.n + (saved.value or 0.0) >= most - 64, "what was left out is counted; contexts are not foreseen"
    assert (saved.value or 0) > 0
    assert ": " in saved.note


def test_a_base_that_surely_does_it_asks_for_nothing_more(tmp_path: Path) -> None:
    found, paid = probe(tmp_path, WORLDS["the base does it"], True, draft="rule.")
    assert paid == 64 + 16
    assert found.profile["sampling_gain"].value is None
    assert "surely at or above 0.90" in found.profile["sampling_gain"].note
    details = found.profile["probe_saved"].details
    assert (details["left_out_samples"], details["left_out_texts"], details["left_out_control"]) == (512.0, 64.0, 64.0)


def test_a_text_that_surely_does_it_leaves_one_block_of_samples(tmp_path: Path) -> None:
    found, _ = probe(tmp_path, WORLDS["a text does it"], True, draft="rule.", oracle="rule. again.")
    details = found.profile["probe_saved"].details
    assert details["asked_samples"] == 128.0
    assert details["left_out_texts"] == 64.0
    assert details["left_out_text_samples"] == 512.0
    oracle, _ = probe(tmp_path / "b", WORLDS["a text does it"], True, oracle="rule.")
    assert oracle.profile["probe_saved"].details["asked_samples"] > 128.0, "an oracle is never shipped"


def test_the_rules_by_hand() -> None:
    high, low, open_ = result(0.92, 1.0), result(0.0, 0.05), result(0.05, 0.3)
    assert text_closes("seed", high, result(0.5, 1.0), CONFIG, POLICY)
    assert text_closes("seed", high, open_, CONFIG, POLICY) is None
    assert text_closes("seed", high, result(0.5, 1.0), NEVER, POLICY) is None
    assert control_closes(low, CONFIG, POLICY)
    assert control_closes(open_, CONFIG, POLICY) is None
    assert (
        sampling_closes(result(0.2, 0.6), result(0.3, 0.6), CONFIG, POLICY)
        == "samples surely vary enough for gradients"
    )
    assert sampling_closes(low, open_, CONFIG, POLICY) == "samples surely vary too little for gradients"
    assert sampling_closes(result(0.2, 0.6), result(0.1, 0.6), CONFIG, POLICY) is None
    sure = {"text_score": high, "context_gain": result(0.5, 1.0)}
    assert sampling_rows(sure, "draft", CONFIG, POLICY)[0] == 16
    assert sampling_rows(sure, "oracle", CONFIG, POLICY)[0] == 64
    assert sampling_rows({**sure, "text_score": result(0.85, 1.0)}, "draft", CONFIG, POLICY)[0] == 64
    assert text_sampling_closes(sure, CONFIG, POLICY)
    assert text_sampling_closes({"text_score": result(0.5, 0.95)}, CONFIG, POLICY) is None
    facts = {"unknown": result(0.8, 1.0), "context_gain": result(0.5, 1.0), "supplied": result(0.8, 1.0)}
    assert knownness_closes(facts, CONFIG, POLICY) is None
    for name in facts:
        assert knownness_closes({**facts, name: low}, CONFIG, POLICY)
        assert knownness_closes({**facts, name: low}, NEVER, POLICY) is None
