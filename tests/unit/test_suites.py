"""Suites as a source: options, sizes, a suite of the user's own, and wrong answers that rows list."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.sources import LoadedCapability, check_gold, load_capability
from hybrid.capability.suites import SUITES
from hybrid.capability.suites.__main__ import BEGIN, END, main
from hybrid.capability.suites.base import Deck, SuiteError
from hybrid.capability.suites.load import named_suite
from hybrid.capability.types import SPLITS, Example
from hybrid.config.loader import inspect_config
from hybrid.config.schema import CapabilityConfig, SuiteSizes
from hybrid.errors import Problem
from hybrid.pipeline.prepare import validate

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"train": 6, "search": 5, "confirm": 7, "test": 4, "variant": 3}
OWN = """
import itertools, random
from hybrid.capability.graders.callables import FunctionGrader
from hybrid.capability.suites.base import About, Deck, SuiteData, slug
from hybrid.capability.types import Example
from hybrid.config.schema import Section

class Options(Section):
    largest: int = 9_000
    fail: bool = False

class Doubling:
    about = About(measures="doubling", source="made up", licence="CC0-1.0")
    options = Options

    def build(self, options, sizes, seed):
        if options.fail:
            return {}["nothing"]
        rng, deck = random.Random(f"doubling {seed}"), Deck("doubling")
        drawn = (rng.randint(1, options.largest) for _ in itertools.count())
        rows = (Example(id=slug("double", n), prompt=f"{n} + {n} =", reference=str(2 * n), wrong=(str(n),)) for n in drawn)
        splits = deck.deal(rows, sizes)
        twins = (
            Example(id=f"{e.id}-again", prompt=f"2 * {e.prompt.split()[0]} =", reference=e.reference, parent_id=e.id)
            for e in splits["test"]
        )
        splits["variant"] = deck.take(twins, sizes.variant, "variant")
        return SuiteData(splits, FunctionGrader(lambda said, row: said.strip() == row.reference, "doubling"))

SUITE = Doubling()
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., tuple[LoadedCapability | None, list[Problem]]]:
    """Writes the suite above and loads it."""

    def _load(
        run_seed: int = 0, text: str = OWN, source: dict[str, Any] | None = None, **more: Any
    ) -> tuple[LoadedCapability | None, list[Problem]]:
        (tmp_path / "own.py").write_text(text, encoding="utf-8")
        section = {"type": "suite", "path": "own.py", "sizes": SMALL} | (source or {}) | more
        config = CapabilityConfig.model_validate({"name": "twice", "source": section})
        return load_capability(config, lambda p: tmp_path / p, run_seed)

    return _load


def prompts(capability: LoadedCapability) -> list[str]:
    return [e.prompt_text for split in SPLITS for e in capability.splits[split]]


def test_a_suite_of_ones_own_gives_rows_grader_and_places(own: Callable[..., Any]) -> None:
    capability, problems = own()
    assert problems == []
    assert {split: len(capability.splits[split]) for split in SPLITS} == SMALL
    assert len(set(prompts(capability))) == sum(SMALL.values())
    assert check_gold(capability) == []
    assert capability.grader.grade("no", capability.splits["test"][0]).value == 0
    first = capability.splits["train"][0]
    assert capability.places[("train", first.id)] == ("own[train]", 1)


def test_the_seed_is_the_runs_unless_the_source_names_one(own: Callable[..., Any]) -> None:
    here, there = own(1)[0], own(2)[0]
    assert here.fingerprint() == own(1)[0].fingerprint()
    assert here.fingerprint() != there.fingerprint()
    pinned = [own(run_seed, source={"seed": 1})[0].fingerprint() for run_seed in (1, 2)]
    assert pinned == [here.fingerprint()] * 2


def test_more_training_rows_leave_the_sealed_splits_alone(own: Callable[..., Any]) -> None:
    small, large = own()[0], own(sizes=SMALL | {"train": 30})[0]
    assert small.splits["test"] == large.splits["test"]
    assert small.splits["confirm"] == large.splits["confirm"]


@pytest.mark.parametrize(
    ("source", "key", "said"),
    [
        ({"options": {"largst": 9}}, "source.options.largst", "did you mean 'largest'?"),
        ({"options": {"largest": "many"}}, "source.options.largest", "expected a whole number"),
        ({"options": {"largest": 12}}, "source.sizes.search", "are asked for"),
        ({"options": {"fail": True}}, "source.path", "KeyError"),
        ({"text": "SUITE = 3"}, "source.path", "has no about, options, build"),
        ({"text": "import nowhere_at_all"}, "source.path", "nowhere_at_all"),
        ({"path": None, "name": "fact"}, "source.name", "there is no suite 'fact'"),
        (
            {"path": None, "name": "routes", "options": {"roads": 7}},
            "source.options.roads",
            "more than 0 and at most 1",
        ),
        (
            {"path": None, "name": "routes", "options": {"parents": ["tests"]}},
            "source.options.parents.0",
            "did you mean",
        ),
    ],
)
def test_each_mistake_names_its_key(own: Callable[..., Any], source: dict[str, Any], key: str, said: str) -> None:
    capability, (problem, *_) = own(**source)
    assert capability is None
    assert problem.key == f"capabilities.twice.{key}"
    assert said in str(problem)


def test_rows_of_a_suite_are_held_to_the_rules_of_rows(own: Callable[..., Any]) -> None:
    broken = OWN.replace('prompt=f"{n} + {n} ="', 'prompt=" "').replace('slug("double", n)', '"same"')
    broken = broken.replace("deck.deal(rows, sizes)", "{s: [next(rows)] * 2 for s in ('train', 'search', 'confirm')}")
    broken = broken.replace('splits["test"]\n', 'splits["train"]\n').replace(
        "deck.take(twins, sizes.variant, 'variant')", "[]"
    )
    _, problems = own(text=broken, sizes=SMALL | {"variant": 0})
    said = "\n".join(map(str, problems))
    assert "own[train]:1: prompt: found empty text" in said
    assert "own[train]:2: id: 'same' is used twice" in said
    assert "own[test]: the suite made no rows" in said


def test_problems_of_the_configuration_have_the_files_lines(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    file = tmp_path / "run.yaml"
    source = "source:\n      type: suite\n      path: own.py\n      options:\n        largst: 3\n"
    file.write_text(f"name: a\nmodel: {{path: reference}}\ncapabilities:\n  - name: b\n    {source}", encoding="utf-8")
    inspection = inspect_config(file)
    assert inspection.loaded is not None
    (problem,) = validate(inspection.loaded, score_gold=False).problems
    assert (problem.file, problem.line, problem.key) == (str(file), 9, "capabilities[0].source.options.largst")


@pytest.mark.parametrize(
    ("capability", "key", "said"),
    [
        ("source: {type: jsonl, path: .}", "capabilities[0].grader", "the key 'grader' is missing"),
        ("source: {type: suite}", "capabilities[0].source", "exactly one suite"),
        ("source: {type: suite, name: a, path: b.py}", "capabilities[0].source", "exactly one suite"),
        ("source: {type: suite, name: facts, sizes: {tests: 3}}", "capabilities[0].source.sizes.tests", "'test'"),
    ],
)
def test_a_grader_may_only_be_left_out_of_a_suite(tmp_path: Path, capability: str, key: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"name: a\nmodel: {{path: reference}}\ncapabilities:\n- {{name: b, {capability}}}\n", encoding="utf-8"
    )
    (problem,) = inspect_config(file).problems
    assert problem.key == key
    assert said in str(problem)


def test_wrong_answers_that_the_grader_lets_through_are_shown_with_their_line(tmp_path: Path) -> None:
    row = {"reference": "10", "wrong": ["9", "is it 10?"]}
    for n, split in enumerate(("train", "search", "confirm", "test")):
        line = json.dumps({"id": f"r{n}", "prompt": f"question {n}", **row})
        (tmp_path / f"{split}.jsonl").write_text(line + "\n", encoding="utf-8")
    settings = {"name": "a", "source": {"type": "jsonl", "path": "."}, "grader": {"type": "numeric"}}
    capability, problems = load_capability(CapabilityConfig.model_validate(settings), lambda p: tmp_path / p, 0)
    assert problems == []
    assert capability is not None
    found = check_gold(capability)
    assert [(Path(p.file).name, p.line, p.key) for p in found] == [
        (f"{split}.jsonl", 1, "wrong") for split in ("confirm", "search", "test", "train")
    ]
    assert all('the wrong answer "is it 10?" passes' in p.message for p in found)


def test_wrong_answers_leave_fingerprints_as_they_were() -> None:
    row = Example(id="a", prompt="p", reference="r", metadata={"k": 1})
    assert row.fingerprint() == "ce6e01952f3c758b5e587870dadf1a95492aef3f97ee5135b3a345347f6f7fa7"
    assert row.model_copy(update={"wrong": ("x",)}).fingerprint() == row.fingerprint()


def test_a_deck_ends_a_stream_that_only_repeats_itself() -> None:
    row = Example(id="a", prompt="p", reference="r")
    deck = Deck("loop")
    with pytest.raises(SuiteError, match="1 rows left for test, and 4"):
        deck.deal(iter(lambda: row, None), SuiteSizes.model_validate(SMALL))


@pytest.mark.parametrize("name", sorted(SUITES))
def test_every_named_suite_says_what_it_is(name: str) -> None:
    suite = named_suite(name)
    assert suite.about.measures and suite.about.source and suite.about.licence
    suite.options()  # every option has a default


PAGES_OF_THEIR_OWN = ("function_calling", "numeric_iteration")


def test_the_page_of_suites_holds_every_suite_and_every_option() -> None:
    """`python -m hybrid.capability.suites --write docs/suites.md` mends it."""
    text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    for name in SUITES:
        assert f"\n### {name}\n" in text
        for option in named_suite(name).options.model_fields if name not in PAGES_OF_THEIR_OWN else ():
            assert f"| `{option}` |" in text, f"{name}: {option}"


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n", encoding="utf-8")
    assert main(["--write", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"head\n{BEGIN}\n| suite |")
    assert text.endswith(f"\n{END}\ntail\n")
    assert "old" not in text.split()


def test_the_suites_print_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["facts"]) == 0
    said = capsys.readouterr().out
    assert "| `relation` | none |" in said
    assert '"id": "warden-' in said
    assert main(["fact"]) == 2
    assert "did you mean 'facts'?" in capsys.readouterr().err


def test_the_suite_on_the_page_works(own: Callable[..., Any]) -> None:
    text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    capability, problems = own(text=code)
    assert problems == []
    assert check_gold(capability) == []
    assert len(capability.splits["variant"]) == SMALL["variant"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"name": "reasoning_gym"},
            "needs reasoning_gym, which is not installed; pip install 'hybrid-placement[demo]'",
        ),
        ({"name": "function_calling"}, "needs bfcl_eval, which is not installed; pip install --no-deps bfcl-eval"),
        ({"name": "facts", "options": {"table": "countries"}}, "the table countries needs countryinfo, which is not"),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_line_that_installs_it(
    source: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = CapabilityConfig.model_validate({"name": "a", "source": {"type": "suite", **source}})
    capability, (problem,) = load_capability(config, Path, 0)
    assert capability is None
    assert problem.key == "capabilities.a.source.name"
    assert said in str(problem)
