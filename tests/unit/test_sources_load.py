"""Loading a capability: split files, hygiene between splits, limits, gold answers, seed documents."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.graders import build_grader
from hybrid.capability.sources import LoadedCapability, check_gold, load_capability
from hybrid.capability.types import Capability, Example
from hybrid.config.schema import CapabilityConfig, ExactGrader
from hybrid.errors import Problem

SPLIT_FILES = ("train", "search", "confirm", "test")
Rows = dict[str, list[dict[str, Any]]]


def row(split: str, number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"{split}-{number}", "prompt": f"{split} question {number}", "reference": str(number)} | changes


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[LoadedCapability | None, list[Problem]]]:
    """Writes rows (by default three a split) and loads them."""

    def _load(
        changes: Rows | None = None, remove: tuple[str, ...] = (), seed: int = 0, **config: Any
    ) -> tuple[LoadedCapability | None, list[Problem]]:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        rows: Rows = {s: [row(s, n) for n in range(3)] for s in SPLIT_FILES}
        for split, content in (rows | (changes or {})).items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content), encoding="utf-8")
        for split in remove:
            (folder / f"{split}.jsonl").unlink()
        settings = {
            "name": "adding",
            "source": {"type": "jsonl", "path": "data"},
            "grader": {"type": "exact"},
        } | config
        return load_capability(CapabilityConfig.model_validate(settings), lambda p: tmp_path / p, seed)

    return _load


def test_a_sound_capability_loads_completely(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "SKILL.md").write_bytes("---\nname: adding\n---\nAdd \u2013 carefully.\n".encode())
    capability, problems = load(
        {"variant": [row("variant", 1, parent_id="test-1")]}, skill="SKILL.md", kind="procedural"
    )
    assert problems == []
    assert [len(capability.splits[s]) for s in ("train", "search", "confirm", "test", "variant")] == [3, 3, 3, 3, 1]
    assert capability.seed_skill == "---\nname: adding\n---\nAdd \u2013 carefully.\n"
    assert capability.declared_kind == "procedural"
    assert capability.places[("test", "test-1")] == (str(tmp_path / "data" / "test.jsonl"), 2)
    assert capability.grader.grade("1", capability.splits["test"][1]).passed
    assert check_gold(capability) == []


def test_every_missing_split_is_named_and_variant_is_optional(load: Callable[..., Any]) -> None:
    capability, problems = load(remove=("search", "test"))
    assert capability is None
    assert [(Path(p.file).name, p.message) for p in problems] == [
        ("search.jsonl", "the file is missing"),
        ("test.jsonl", "the file is missing"),
    ]
    assert load()[0].splits["variant"] == ()


def test_a_misspelled_split_file_is_not_ignored(load: Callable[..., Any]) -> None:
    _, problems = load({"variants": [row("variant", 1)]})
    assert len(problems) == 1
    assert Path(problems[0].file).name == "variants.jsonl"
    assert problems[0].fix == "rename it to variant.jsonl"


def test_a_folder_that_is_not_there_names_the_config_key(load: Callable[..., Any]) -> None:
    _, problems = load(source={"type": "jsonl", "path": "nowhere"})
    assert [(p.file, p.key) for p in problems] == [("config", "capabilities.adding.source.path")]
    assert "does not exist" in problems[0].message


def test_mistakes_of_all_places_come_in_one_pass(load: Callable[..., Any]) -> None:
    _, problems = load(
        {"train": [row("train", 1), row("train", 2, reference=2)], "test": [row("test", 1), {}]},
        skill="none.md",
        grader={"type": "regex", "pattern": "(["},
        limit={"variant": 3},
    )
    assert {(Path(p.file).name, p.line, p.key) for p in problems} == {
        ("train.jsonl", 2, "reference"),
        ("test.jsonl", 2, "id"),
        ("test.jsonl", 2, "prompt"),
        ("test.jsonl", 2, "reference"),
        ("config", 0, "capabilities.adding.skill"),
        ("config", 0, "capabilities.adding.grader"),
        ("config", 0, "capabilities.adding.limit.variant"),
    }


@pytest.mark.parametrize(
    "twin",
    [
        "train question 1",
        "  TRAIN\tquestion\n1 ",
        "\uff54\uff52\uff41\uff49\uff4e question \uff11",
        [{"role": "user", "content": "Train question 1"}],
        [{"role": "system", "content": "train"}, {"role": "user", "content": "question 1"}],
    ],
)
@pytest.mark.parametrize("split", ["search", "confirm", "test", "variant"])
def test_the_same_prompt_in_two_splits_names_both_places(load: Callable[..., Any], split: str, twin: Any) -> None:
    capability, problems = load({split: [row(split, 0), row(split, 1, prompt=twin)]})
    assert capability is None
    (problem,) = problems
    assert (Path(problem.file).name, problem.line, problem.key) == (f"{split}.jsonl", 2, "prompt")
    assert "train.jsonl:2" in problem.message


def test_a_repeated_prompt_within_a_split_is_allowed(load: Callable[..., Any]) -> None:
    assert load({"train": [row("train", 0), row("train", 1, prompt="train question 0")]})[1] == []


def test_the_same_id_in_two_splits_names_both_places(load: Callable[..., Any]) -> None:
    _, problems = load({"confirm": [row("confirm", 0), row("confirm", 1, id="search-2")]})
    (problem,) = problems
    assert (Path(problem.file).name, problem.line, problem.key) == ("confirm.jsonl", 2, "id")
    assert "search.jsonl:3" in problem.message
    assert load({"confirm": [row("confirm", 1)], "variant": [row("variant", 0, id="search-2")]})[1] == []


def test_a_variant_of_nothing_suggests_the_nearest_id(load: Callable[..., Any]) -> None:
    _, problems = load({"variant": [row("variant", 0, parent_id="tset-2"), row("variant", 1, parent_id="train-0")]})
    (problem,) = problems
    assert (problem.line, problem.key, problem.fix) == (1, "parent_id", "did you mean 'test-2'?")


def test_a_bad_row_does_not_orphan_its_variants(load: Callable[..., Any]) -> None:
    _, problems = load({"test": [row("test", 0, reference=1)], "variant": [row("variant", 0, parent_id="test-0")]})
    assert [p.key for p in problems] == ["reference"]


def test_limit_depends_on_seed_and_content_but_not_on_file_order(load: Callable[..., Any]) -> None:
    rows = [row("train", n) for n in range(40)]
    shuffled = random.Random(3).sample(rows, len(rows))
    first = load({"train": rows}, limit={"train": 10}, seed=1)[0].splits["train"]
    again = load({"train": shuffled}, limit={"train": 10}, seed=1)[0].splits["train"]
    other = load({"train": rows}, limit={"train": 10}, seed=2)[0].splits["train"]
    shorter = load({"train": rows}, limit={"train": 4}, seed=1)[0].splits["train"]
    assert first == again
    assert len(first) == 10
    assert {e.id for e in first} != {e.id for e in other}
    assert {e.id for e in first} != {f"train-{n}" for n in range(10)}
    assert first[:4] == shorter
    assert load({"train": rows}, seed=1)[0].splits["train"][0].id == "train-0"


def test_gold_answers_that_do_not_score_one_are_named_with_their_line(load: Callable[..., Any]) -> None:
    capability, _ = load(
        {
            "train": [row("train", 1, gold="<1>"), row("train", 2)],
            "test": [row("test", 1), row("test", 2, gold="<3>")],
            "confirm": [row("confirm", n, gold=f"<{n}>") for n in range(3)],
            "search": [row("search", n, gold=f"<{n}>") for n in range(3)],
        },
        grader={"type": "regex", "pattern": "<{reference}>"},
    )
    problems = check_gold(capability)
    assert {(Path(p.file).name, p.line, p.key) for p in problems} == {
        ("train.jsonl", 2, "reference"),
        ("test.jsonl", 1, "reference"),
        ("test.jsonl", 2, "gold"),
    }
    named = next(p for p in problems if p.key == "gold")
    assert "adding, test" in named.message
    assert '"test-2"' in named.message
    assert 'Expected "2", got "<3>".' in named.message


def test_gold_of_a_capability_without_places_and_of_a_failing_grader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example(id="a", prompt="p", reference="1", gold="2")
    plain = Capability("c", {"train": (example,)}, build_grader(ExactGrader(type="exact")))
    assert [(p.file, p.line) for p in check_gold(plain)] == [("c/train", 0)]

    from hybrid.config.schema import PythonGrader

    (tmp_path / "gold_fails_grader.py").write_text("def grade(c, e):\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    grader = build_grader(PythonGrader(type="python", path="gold_fails_grader:grade"))
    (problem,) = check_gold(Capability("c", {"train": (example,)}, grader))
    assert "ZeroDivisionError" in problem.message


def test_a_seed_document_that_cannot_be_read_is_a_problem(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xff")
    assert "byte 1 is not UTF-8" in load(skill="a.md")[1][0].message
    assert "there is no file" in load(skill="data")[1][0].message


def test_identity_follows_content(load: Callable[..., Any]) -> None:
    base = load()[0].fingerprint()
    assert base == load()[0].fingerprint()
    assert base != load({"test": [row("test", 0, reference="9")]})[0].fingerprint()
    assert base != load(grader={"type": "normalized"})[0].fingerprint()
