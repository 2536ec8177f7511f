"""Loading: paths, overrides, the resolved copy, what can be read on, and that only ConfigError ever comes out."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.config.loader import (
    check_paths,
    config_json_schema,
    inspect_config,
    load_checked,
    load_config,
    resolved_json,
)
from hybrid.errors import ConfigError, Problem

GOOD = """\
name: small
model: {path: reference}
capabilities:
  - name: units
    source: {type: jsonl, path: data/units}
    grader: {type: regex, pattern: "^x\\\\u2028{reference}\\U0001F600$", format: null}
  - name: capitals
    source: {type: jsonl, path: data/units}
    grader: {type: exact}
    skill: doc.md
router:
  force: {capitals: keep}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "data" / "units").mkdir(parents=True)
    (tmp_path / "doc.md").write_text("x", encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


def test_relative_paths_start_at_the_file_whatever_the_working_directory(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config(Path("run.yaml"))
    monkeypatch.chdir("/")
    assert loaded.resolve("data/units") == tmp_path / "data" / "units"
    assert loaded.resolve("/etc/hosts") == Path("/etc/hosts")
    assert loaded.path == Path("run.yaml")
    assert check_paths(loaded) == []


def test_lines_and_problems_point_into_the_file(config: Path) -> None:
    loaded = load_config(config, ["probe.samples=3"])
    assert loaded.lines[("capabilities", 1, "skill")] == 10
    assert loaded.problem(("capabilities", 1, "skill", "body"), "m", "f") == Problem(
        str(config), 10, "capabilities[1].skill.body", "m", "f"
    )
    assert loaded.problem(("probe", "samples"), "m").file == "--set"
    with pytest.raises(TypeError):
        loaded.lines[("x",)] = 1  # type: ignore[index]


def test_overrides_are_strict_yaml_and_reach_into_lists(config: Path) -> None:
    loaded = load_config(
        config,
        [
            "capabilities.0.name=metres",
            "capabilities[1].limit.train=5",
            "weights.grpo.learning_rate=1e-5",
            "seed=3",
            "seed=4",
        ],
    )
    assert [c.name for c in loaded.config.capabilities] == ["metres", "capitals"]
    assert loaded.config.capabilities[1].limit == {"train": 5}
    assert loaded.config.weights.grpo.learning_rate == 1e-5
    assert loaded.config.seed == 4
    assert load_config(config, ["budget={calls: 1e3}"]).config.budget.calls == 1000


@pytest.mark.parametrize(
    ("override", "key", "message", "fix"),
    [
        ("probe.sampels=3", "probe.sampels", "unknown key", "'samples'"),
        ("probe.samples=x", "probe.samples", "expected a whole number", "whole number"),
        ('probe.samples="3"', "probe.samples", "'3'", "remove the quotes"),
        ("probe.samples=0", "probe.samples", "out of range", "at least 2"),
        ("capabilities.7.name=x", "capabilities", "not an entry", "0 to 1"),
        ("capabilities.first.name=x", "capabilities", "not an entry", "0 to 1"),
        ("seed.x=1", "seed", "found a section", "whole number"),
        ("name.x=1", "name", "cannot be set inside", "section"),
        ("model=&a 1", "model", "anchor", "remove"),
        ("model=[", "model", "not valid YAML", "bracket"),
        ("seed", "", "not an assignment", "--set key=value"),
        ("=3", "", "not an assignment", "--set key=value"),
        ("a" * 500 + "=3", "", "not an assignment", "--set key=value"),
        ("capabilities.0.source.path=nowhere", "capabilities[0].source.path", "no data", "look in"),
    ],
)
def test_a_bad_override_is_reported_as_such(config: Path, override: str, key: str, message: str, fix: str) -> None:
    found = inspect_config(config, [override]).problems
    assert [(p.file, p.line, p.key) for p in found] == [("--set", 0, key)], [str(p) for p in found]
    assert message in found[0].message
    assert fix in found[0].fix


def test_a_replaced_section_no_longer_points_into_the_file(config: Path) -> None:
    found = problems_of(config, "router={force: {capitals: skil}}", "capabilities.1.grader={type: exact, x: 1}")
    assert [(p.file, p.line, p.key) for p in found] == [
        ("--set", 0, "capabilities[1].grader.x"),
        ("--set", 0, "router.force.capitals"),
    ]
    assert ("router", "force") not in load_config(config, ["router={}"]).lines


def test_the_resolved_copy_is_canonical_and_loads_as_the_same_configuration(config: Path, tmp_path: Path) -> None:
    loaded = load_config(config)
    text = resolved_json(loaded.config)
    assert list(json.loads(text)) == sorted(json.loads(text))
    again = config.with_name("config.resolved.json")
    again.write_text(text, encoding="utf-8")
    assert load_config(again).config == loaded.config
    assert resolved_json(load_config(again).config) == text


def test_the_resolved_copy_with_a_root_runs_from_another_folder(config: Path, tmp_path: Path) -> None:
    loaded = load_config(config)
    elsewhere = tmp_path / "runs" / "small" / "config.resolved.json"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text(resolved_json(loaded.config, loaded.root), encoding="utf-8")
    copied = load_checked(elsewhere)
    assert copied.resolve(copied.config.capabilities[0].source.path) == tmp_path / "data" / "units"
    assert copied.config.model.path == "reference"
    assert copied.config.capabilities[0].skill is None


def test_hub_ids_are_not_paths_but_near_misses_of_folders_are(config: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)

    def at(path: str) -> list[Problem]:
        return check_paths(load_config(config, [f"model.path={path}"]))

    assert at("google/gemma-3-270m") == at("gpt2") == at("models/tiny") == at("models/other") == []
    assert [p.fix for p in at("models/tny")] == ["did you mean 'models/tiny'?"]
    assert [p.key for p in at("./gpt2")] == ["model.path"]
    gguf = check_paths(load_config(config, ["model.path=models/tiny", "model.gguf_file=a.gguf"]))
    assert [(p.file, p.key) for p in gguf] == [("--set", "model.gguf_file")]


def test_paths_that_the_system_refuses_are_problems_not_crashes(config: Path) -> None:
    for bad in ('"a\\0b"', "x" * 5000, "data/" + "y" * 300):
        assert [p.key for p in inspect_config(config, [f"capabilities.1.skill={bad}"]).problems] == [
            "capabilities[1].skill"
        ]


def test_what_is_readable_keeps_its_places_in_the_file(config: Path) -> None:
    """A broken first capability must not hide, or shift, what is found in the data of the second."""
    text = GOOD.replace("type: regex, pattern", "pattern").replace("skill: doc.md", "skil: dok.md")
    config.write_text(text, encoding="utf-8")
    inspection = inspect_config(config)
    assert [p.key for p in inspection.problems] == [
        "capabilities[0].grader.type",
        "capabilities[1].skil",
        "capabilities[1].skil",
    ]
    assert inspection.loaded is None
    readable = inspection.readable
    assert readable is not None
    assert [(c.name, c.skill) for c in readable.config.capabilities] == [("capitals", None)]
    problem = readable.problem(("capabilities", 0, "source", "path"), "row 3 is empty")
    assert (problem.line, inspection.original(problem).key) == (8, "capabilities[1].source.path")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"- a\n", "section of keys"),
        (b"hello", "section of keys"),
        (b"name: \xff\xfe\n", "not UTF-8"),
        (b"x" * 1_000_001, "larger than"),
        ("é".encode() * 500_001, "larger than"),
    ],
)
def test_files_that_are_no_configuration(config: Path, content: bytes, message: str) -> None:
    config.write_bytes(content)
    (problem,) = problems_of(config)
    assert message in problem.message
    assert problem.fix


def test_files_that_cannot_be_opened(config: Path, tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path / "rum.yaml")
    assert (problem.message, problem.fix) == ("there is no such file", f"did you mean '{tmp_path / 'run.yaml'}'?")
    assert "folder" in problems_of(tmp_path)[0].message
    assert problems_of(Path("a\0b"))[0].message.startswith("the file cannot be read")
    assert problems_of(tmp_path / "run.yaml" / "x")[0].message.startswith("the file cannot be read")


def test_everything_set_on_the_command_line_is_a_configuration_too(config: Path) -> None:
    config.write_text("", encoding="utf-8")
    capability = "{name: a, source: {type: jsonl, path: d}, grader: {type: exact}}"
    loaded = load_config(config, ["name=x", "model={path: reference}", f"capabilities=[{capability}]"])
    assert loaded.config.capabilities[0].name == "a"


def test_the_json_schema_describes_every_documented_field() -> None:
    schema = config_json_schema()
    assert schema["additionalProperties"] is False
    assert "CUDA" in schema["$defs"]["ModelConfig"]["properties"]["device"]["description"]
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema


_LINES = GOOD.splitlines(keepends=True)
_JUNK = st.sampled_from(
    [
        "x",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "&a",
        "*a",
        "!!x",
        "1e400",
        "null",
        "\t",
        "\0",
        "é",
        "#",
        "|",
        "~",
        "true",
        "-1",
    ]
)


def _load(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load_config(path)
        except ConfigError as error:
            assert error.problems
            assert all(p.message and p.fix and p.file == str(path) for p in error.problems)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.lists(_JUNK, min_size=1, max_size=4))
def test_broken_text_gives_a_config_error_or_a_config(seed: int, junk: list[str]) -> None:
    rng = random.Random(seed)
    text = list(GOOD)
    for piece in junk:
        at = rng.randrange(len(text))
        text[at : at + rng.randrange(3)] = piece
    _load("".join(text))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "path", "name", "rank", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, inner in items for p in _paths(inner, (*path, key)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 10**6), _VALUES), min_size=1, max_size=5), st.data())
def test_any_value_anywhere_gives_a_config_error_or_a_config(
    changes: list[tuple[int, object]], data: st.DataObject
) -> None:
    from hybrid.config.schema import Config

    whole = Config.model_validate(
        {
            "name": "a",
            "model": {"path": "reference"},
            "capabilities": [
                {
                    "name": n,
                    "source": {"type": "jsonl", "path": "d"},
                    "grader": {"type": "choice", "choices": ["a", "b"]},
                }
                for n in ("x", "y")
            ],
            "router": {"force": {"x": "skill"}},
        }
    ).model_dump(mode="json")
    for number, value in changes:
        places = [p for p in _paths(whole) if p]
        if not places:
            break
        *parents, last = places[number % len(places)]
        here = whole
        for part in parents:
            here = here[part]  # type: ignore[index]
        if data.draw(st.booleans()):
            here[last] = value  # type: ignore[index]
        else:
            del here[last]  # type: ignore[attr-defined]
    _load(json.dumps(whole))


def test_a_config_with_thousands_of_mistakes_is_answered_quickly(config: Path) -> None:
    import time

    config.write_text(GOOD + "".join(f"key{i}: {i}\n" for i in range(5000)), encoding="utf-8")
    began = time.process_time()
    assert 100 <= len(problems_of(config)) <= 200
    assert time.process_time() - began < 4


def test_unreadable_file_is_a_problem(config: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    config.chmod(0)
    assert "permission" in problems_of(config)[0].message


PHASES = """\
weights:
  grpo:
    iterations: 4
    steps: 30
  checkpoint_every: 6
"""


def test_a_checkpoint_within_a_generation_phase_is_refused_at_its_line_with_the_nearest_legal_values(
    config: Path,
) -> None:
    config.write_text(GOOD + PHASES, encoding="utf-8")
    every, steps = sorted(problems_of(config), key=lambda p: -p.line)
    first = len(GOOD.splitlines())
    assert (every.line, every.key) == (first + 5, "weights.checkpoint_every")
    assert every.message == "6 lies within a generation phase, which is 4 optimiser steps (grpo.iterations)"
    assert every.fix.startswith("write 4 or 8:")
    assert (steps.line, steps.key) == (first + 4, "weights.grpo.steps")
    assert steps.fix.startswith("write 28 or 32:")


def test_the_legal_values_follow_the_iterations(config: Path) -> None:
    config.write_text(GOOD, encoding="utf-8")
    (found,) = problems_of(config, "weights.grpo.iterations=2")
    assert (found.key, found.fix[:14]) == ("weights.checkpoint_every", "write 24 or 26"), "the default of 25 is none"
    assert found.line == 0 or "weights" not in GOOD
    legal = ["weights.grpo.iterations=2", "weights.checkpoint_every=24"]
    assert load_config(config, legal).config.weights.grpo.iterations == 2
    (found,) = problems_of(config, *legal[:1], "weights.checkpoint_every=1")
    assert found.fix.startswith("write 2:"), "0 is no interval"
    load_config(config, ["weights.method=sft", *legal[:1]])  # another method generates nothing
