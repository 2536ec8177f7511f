"""A training that ends at a rung and goes on from there is the training that never stopped, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from weights_tiny import hashes, make_job, save_tiny, train


def test_going_on_from_a_rung_gives_the_adapters_of_one_go(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    rung = make_job(folder, tmp_path / "letters-weights-rung-2", grpo={"steps": 2})
    whole = make_job(folder, tmp_path / "letters-weights")
    first = train(rung)
    went_on = train(dataclasses.replace(whole, fork=rung.out))
    in_one_go = train(dataclasses.replace(whole, out=tmp_path / "alone"))
    assert hashes(first) == hashes(in_one_go)[:1], "the rung is a checkpoint of the whole training"
    assert hashes(went_on) == hashes(in_one_go)
    assert (went_on.completions, went_on.tokens_in) == (in_one_go.completions, in_one_go.tokens_in)
