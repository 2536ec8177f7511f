"""Which compositions a configuration may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hybrid.config.loader import inspect_config
from hybrid.config.schema import Config
from hybrid.pipeline.swarm import choose, parts


def config(weights: dict[str, Any] | None = None, *methods: str | None, **more: Any) -> Config:
    capabilities = [
        {"name": f"c{i}", "source": {"type": "jsonl", "path": "."}, "grader": {"type": "exact"}, "method": method}
        for i, method in enumerate(methods or ("sft", "swarm"))
    ]
    data = {"name": "a", "model": {"path": "reference"}, "capabilities": capabilities, "weights": weights or {}, **more}
    return Config.model_validate(data)


def test_a_capability_has_its_own_method_and_the_others_that_of_the_run() -> None:
    found = config({"method": "grpo", "warm_start": {"steps": 2}}, None, "swarm", "sft")
    assert [found.method_of(f"c{i}") for i in range(3)] == ["grpo", "swarm", "sft"]
    assert found.weights_of("c0") is found.weights and found.weights.warm_start is not None
    assert found.weights_of("c1").steps == 0
    assert (found.weights_of("c2").steps, found.weights_of("c2").warm_start) == (found.weights.sft.steps, None)


@pytest.mark.parametrize(
    ("weights", "methods", "reason"),
    [
        ({"swarm": {"experts": ["c1"]}}, ("sft", "swarm"), "'c1' is composed itself"),
        ({"method": "swarm"}, (None, None), "nothing to mix"),
        ({"schedule": {"tasks": "shared"}}, (None, "sft"), "trains all capabilities alike"),
        ({"schedule": {"tasks": "shared"}}, (None, "swarm"), "shared needs method"),
        ({"method": "sft", "grpo": {"iterations": 2, "steps": 4}, "checkpoint_every": 3}, (None, "grpo"), "c1 has method grpo"),
        ({"method": "swarm", "warm_start": {"steps": 2}}, ("sft", None), "trains nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_composed_is_refused(
    weights: dict[str, Any], methods: tuple[str | None, ...], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(weights, *methods)


def test_an_endpoint_has_nothing_to_compose() -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        config({}, None, "sft", backend={"type": "openai", "url": "http://localhost:1/v1"})


def test_a_folder_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "name: a\nmodel: {path: reference}\ncapabilities:\n"
        "  - {name: one, source: {type: jsonl, path: .}, grader: {type: exact}}\n"
        "  - {name: two, source: {type: jsonl, path: .}, grader: {type: exact}, method: swarm}\n"
        "weights:\n  swarm:\n    experts:\n      - one\n      - elsewhere\n"
    )
    problems = inspect_config(tmp_path / "config.yaml").problems
    assert [(p.line, p.key) for p in problems] == [(10, "weights.swarm.experts[1]")]
    assert "elsewhere" in problems[0].message


def test_of_equals_the_simpler_one_is_kept() -> None:
    assert choose({"base": 0.5, "best expert": 0.7, "mixture": 0.7}, 0.0) == "best expert"
    assert choose({"base": 0.5, "best expert": 0.7, "mixture": 0.71}, 0.0) == "mixture"
    assert choose({"base": 0.5, "best expert": 0.4, "mixture": 0.5}, 0.0) == "base"
    assert choose({"base": 0.5, "best expert": 0.55, "mixture": 0.54}, 0.1) == "base"


def test_fresh_rows_were_not_searched_on() -> None:
    from hybrid.capability.types import Capability, Example

    def rows(split: str, n: int) -> tuple[Example, ...]:
        return tuple(Example(id=f"{split}{i}", prompt=f"{split}{i}", reference="x") for i in range(n))

    def made(search: int, train: int) -> Any:
        splits = {"train": rows("t", train), "search": rows("s", search), "confirm": (), "test": ()}
        return Capability(name="c", splits=splits, grader=None, seed_skill=None)  # type: ignore[arg-type]

    searched, split, fresh = parts(made(300, 50), 200)
    assert (len(searched), split, len(fresh)) == (200, "search", 100)
    assert not {e.id for e in searched} & {e.id for e in fresh}
    searched, split, fresh = parts(made(210, 50), 200)
    assert (len(searched), split, len(fresh)) == (200, "train", 50)


def test_a_plan_counts_the_search_and_no_training() -> None:
    from hybrid.pipeline.plan_cost import Sizes, total, training_completions, training_steps, weights_calls

    found = config({"swarm": {"evaluations": 50, "examples": 80}}, "sft", "swarm")
    composed = found.model_copy(update={"weights": found.weights_of("c1")})
    sizes = Sizes(train=30, search=120, confirm=40, test=40, variant=0)
    rows = {row.what: row for row in weights_calls(composed, sizes)}
    assert rows["mixtures on search"].upper == 50 * 80
    assert rows["mixture, best expert and base on fresh rows"].upper == 3 * 40, "what is left of search"
    assert total(rows.values()).typical < total(rows.values()).upper
    assert training_steps(composed.weights) == training_completions(composed.weights, train=30) == 0
