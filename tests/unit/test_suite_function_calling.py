"""Function calling: one row as granular tasks, right and wrong answers of each, splits without shared functions, N-1 twins."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from hybrid.capability.graders import GraderError, build_grader
from hybrid.capability.sources import check_gold, load_capability
from hybrid.capability.suites.function_calling import EVALUATED, Options, place, without
from hybrid.capability.suites.function_calling_data import Function, Parameter, ToolRow, Wanted, unusable_because
from hybrid.capability.suites.function_calling_tasks import GRANULAR, TASKS, Task, applies, described, nest, render
from hybrid.capability.types import SPLITS, Example, Score
from hybrid.config.schema import CapabilityConfig, FunctionCallGrader

needs_bfcl = pytest.mark.skipif(importlib.util.find_spec("bfcl_eval") is None, reason="bfcl_eval is not installed")
SMALL = {"train": 8, "search": 6, "confirm": 8, "test": 8, "variant": 6}


def parameter(name: str, kind: str = "string", required: bool = True) -> Parameter:
    return Parameter(name, kind, "", required)


WEATHER = Function(
    "weather.now", "Weather of a town. In detail.", (parameter("town"), parameter("unit", required=False))
)
ROUTE = Function("route", "A way between towns", (parameter("start"), parameter("stops", "integer")))
TOWNS = Function("towns.largest", "The largest town of a country.", (parameter("country"),))
BOTH = ToolRow(
    "both",
    "parallel_multiple",
    "Weather of Bergen, and a way from Oslo with 2 stops.",
    (WEATHER, ROUTE, TOWNS),
    (
        Wanted("weather.now", {"town": ["Bergen", "Bergen, Norway"], "unit": ["", "C"]}),
        Wanted("route", {"start": ["Oslo"], "stops": [2]}),
    ),
)
TWICE = ToolRow(
    "twice", "parallel", "Weather of Bergen and Oslo", (WEATHER, TOWNS),
    (Wanted("weather.now", {"town": ["Bergen"]}), Wanted("weather.now", {"town": ["Oslo"]})),
)  # fmt: skip
ONE = ToolRow("one", "multiple", "Weather of Bergen", (WEATHER, TOWNS), (BOTH.calls[0],))
LARGEST = ToolRow(
    "largest", "simple", "Largest town of Chad?", (TOWNS,), (Wanted("towns.largest", {"country": ["Chad"]}),)
)
NONE_FITS = ToolRow("none", "irrelevance", "Sing a song.", (WEATHER,), ())
GRADER = build_grader(FunctionCallGrader(type="function-call"))


def rendered(task: Task) -> Example:
    """A row of each task."""
    if task == "nested":
        row, nesting = nest(ONE, LARGEST)
        return render(row, task, "0", nesting)
    return render({"parallel": TWICE, "irrelevance": NONE_FITS}.get(task, BOTH), task, "0")


def grade(completion: str, example: Example, **settings: Any) -> Score:
    return build_grader(FunctionCallGrader(type="function-call", **settings)).grade(completion, example)


@pytest.mark.parametrize("task", TASKS)
def test_the_gold_answer_of_every_task_passes_and_its_wrong_ones_do_not(task: Task) -> None:
    example = rendered(task)
    assert GRADER.grade(example.gold_completion, example).value == 1.0
    assert example.wrong
    for wrong in example.wrong:
        score = GRADER.grade(wrong, example)
        assert (score.passed, score.value) == (False, 0.0), wrong
    assert example == rendered(task)


def test_tasks_ask_only_rows_that_have_something_to_say() -> None:
    asked = {row.id: {task for task in TASKS if applies(row, task)} for row in (BOTH, TWICE, ONE, NONE_FITS)}
    single = {"call", "name_detection", "parameter_values", "response_generation"}
    assert asked == {
        "both": single | {"chaining", "next_best"},
        "twice": single | {"parallel", "next_best"},
        "one": single | {"nested"},
        "none": {"irrelevance"},
    }
    assert len(GRANULAR) == 7
    assert "call" not in GRANULAR


def test_acceptable_values_optional_arguments_and_loose_texts_pass() -> None:
    example = rendered("call")
    right = "route(stops=2, start='oslo')\nweather.now(town='bergen norway', unit='c')"
    assert grade(right, example).passed
    assert not grade(right.replace("'c'", "'F'"), example).passed
    assert not grade(right.replace(", unit='c'", ", wind=True"), example).passed
    facets = grade("route(stops=3, start='Oslo')\nflights(town='Bergen')", example).facets
    assert (facets["name"], facets["arguments"], facets["values"], facets["known"]) == (0.5, 0.5, 0.25, 0.5)


def test_a_mapping_may_hold_any_of_its_acceptable_values() -> None:
    spec = {"accept": [{"f": {"x": [{"a": [1, 2], "b": ["", "yes"]}], "y": [[{"c": [1.5]}]]}}]}
    example = Example(id="m", prompt="p", reference="f(x={'a': 1}, y=[{'c': 1.5}])", metadata={"calls": spec})
    assert grade(example.reference, example).passed
    assert grade("f(y=[{'c': 1.5}], x={'b': 'Yes', 'a': 2})", example).passed
    for wrong in ("f(x={'a': 3}, y=[{'c': 1.5}])", "f(x={'b': 'yes'}, y=[{'c': 1.5}])", "f(x={'a': 1}, y=[])"):
        assert not grade(wrong, example).passed


def test_a_nested_value_is_a_call_and_its_parts_are_looked_into() -> None:
    example = rendered("nested")
    assert example.reference == "weather.now(town=towns.largest(country='Chad'))"
    assert grade("weather.now(town=towns.largest(country='chad'), unit='C')", example).passed
    wrong = grade("weather.now(town=towns.biggest(country='Chad'))", example)
    assert (wrong.passed, wrong.facets["name"], wrong.facets["values"], wrong.facets["known"]) == (False, 1, 0, 0.5)
    assert grade("f(x=g(1))", rendered("call")).facets["format"] == 0.0


def test_names_are_a_list_and_the_next_one_is_any_that_is_left() -> None:
    example = rendered("name_detection")
    assert grade("`route, weather.now`", example).passed
    assert not grade("route, weather.now", example, order=True).passed
    part = grade("route, sing", example)
    assert (part.facets["name"], part.facets["known"], part.passed) == (0.5, 0.5, False)
    assert grade("weather.now()", example).facets["format"] == 0.0
    left = Example(id="n", prompt="p", reference="f", metadata={"calls": {"asked": "next", "names": ["f", "g"]}})
    assert [grade(text, left).passed for text in ("g", "f", "h", "f, g", "none")] == [True, True, False, False, False]


def test_arguments_alone_cannot_smuggle_a_call() -> None:
    example = rendered("parameter_values")
    assert grade("town='Bergen'\nstops=2, start='Oslo'", example).passed
    for text in (
        "town='Bergen'), route(start='Oslo', stops=2",
        "weather.now(town='Bergen')",
        "town=print('x')\nstops=2",
        "",
    ):
        assert not grade(text, example).passed


def test_an_answer_states_every_result_and_no_number_of_its_own() -> None:
    example = rendered("response_generation")
    first, second = example.metadata["calls"]["results"]
    assert grade(f"It is {second} in Bergen; the way has 2 stops: {first}.", example).passed
    assert grade(f"{first}", example).facets["values"] == 0.5
    assert not grade(f"{first} and {second}, 77777 in all", example).passed
    assert not grade(f"1{first} and {second}", example).passed


def test_a_refusal_that_begins_as_a_call_is_none() -> None:
    example = rendered("irrelevance")
    assert grade("I cannot do this.", example).passed
    assert not grade("weather.now(town=", example).passed


def test_metadata_that_cannot_be_read_is_an_error_of_the_data() -> None:
    with pytest.raises(GraderError, match=r"metadata\.calls\.asked"):
        grade("f()", Example(id="e", prompt="p", reference="f()", metadata={"calls": {"asked": "colour"}}))


def test_an_n_minus_one_twin_needs_another_answer_only_where_the_function_was_needed() -> None:
    needed, other = without(ONE, needed=True), without(ONE, needed=False)
    assert needed is not None and other is not None
    assert (needed.calls, [f.name for f in needed.library]) == ((), ["towns.largest"])
    assert (other.calls, [f.name for f in other.library]) == (ONE.calls, ["weather.now"])
    assert without(BOTH, needed=True) is None
    assert without(LARGEST, needed=True) is None


def test_rows_that_python_cannot_write_are_left_out() -> None:
    odd = Function("f", "", (parameter("from"),))
    assert "Python" in unusable_because(ToolRow("x", "simple", "q", (odd,), (Wanted("f", {"from": ["a"]}),)))
    assert "on offer" in unusable_because(ToolRow("x", "simple", "q", (odd,), (Wanted("g", {}),)))
    assert unusable_because(ONE) == ""


def test_a_library_is_signatures_or_json() -> None:
    assert described(WEATHER, "signatures") == "- weather.now(town: string, unit: string = default): Weather of a town."
    assert '"required": ["town"]' in described(WEATHER, "json")


def load(task: str, **options: Any) -> Any:
    section = {"type": "suite", "name": "function_calling", "sizes": SMALL, "options": {"task": task, **options}}
    config = CapabilityConfig.model_validate({"name": "calls", "source": section})
    return load_capability(config, lambda path: pytest.fail(f"{path} was read"), 3)


@needs_bfcl
@pytest.mark.parametrize("task", TASKS)
def test_real_rows_score_as_they_should(task: str) -> None:
    capability, problems = load(task)
    assert problems == []
    assert check_gold(capability) == []
    varied = task in ("call", "chaining", "parallel", "name_detection", "next_best")
    assert [len(capability.splits[split]) > 0 for split in SPLITS] == [True] * 4 + [varied]
    assert all(e.wrong for split in SPLITS for e in capability.splits[split])


@needs_bfcl
def test_no_function_of_a_training_row_is_met_elsewhere_and_a_row_keeps_its_split() -> None:
    placed = place(Options(), 3).rows
    names = {s: {f.name for row in rows for f in row.library} for s, rows in placed.items()}
    assert all(not names["train"] & names[split] for split, _ in EVALUATED)
    called = {s: {name for row in rows for name in row.names} for s, rows in placed.items()}
    assert not called["test"] & (called["search"] | called["confirm"])
    where = {row.id: split for split, rows in placed.items() for row in rows}
    assert where == {
        r.id: s for s, rows in place(Options(task="next_best", irrelevant=0), 3).rows.items() for r in rows
    }
    seen = place(Options(unseen=False), 3).rows
    train, test = ({f.name for row in seen[split] for f in row.library} for split in ("train", "test"))
    assert train & test


@needs_bfcl
def test_variants_and_shots_are_framed_and_marked() -> None:
    capability, _ = load("call", shots=1, template="Q: {question}", space=True)
    test, variants = capability.splits["test"], capability.splits["variant"]
    assert {e.metadata["active"] for e in variants} == {True, False}
    for example in variants:
        assert example.metadata["removed"] not in example.metadata["calls"]["library"]
        assert (example.reference == "") == example.metadata["active"]
    heads = {e.prompt[: e.prompt.index("Q: Functions:", 5)] for e in (*test, *variants)}
    assert len(heads) == 1
    assert all(e.gold_completion.startswith(" ") for e in test)
