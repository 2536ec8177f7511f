"""Which changes make another run: every leaf of the configuration is either part of the identity or listed as not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import FakeBackend, capability
from scripted_world import World

from hybrid.config.loader import load_config
from hybrid.config.schema import Config, EndpointProposerConfig, OpenAIBackendConfig
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import NOT_IDENTITY, identity_config, identity_fields

FREE = {
    "backend.batch_size",
    "backend.share_timeout_s",
    "budget.calls",
    "budget.tokens",
    "budget.train_seconds",
    "budget.wall_seconds",
    "model.threads",
    "report.collateral_examples",
    "report.formats",
    "weights.memory.limit_mib",
    "weights.memory.preflight",
    "weights.memory.rehearse",
}
"""Leaves that may change between attempts. A new leaf that belongs here is added here by a person, not by accident."""

JSONL = {"name": "a", "source": {"type": "jsonl", "path": "a"}, "grader": {"type": "exact"}, "limit": {"train": 3}}
HF = {
    "name": "b",
    "source": {"type": "hf", "path": "b", "splits": {"train": "train", "search": "validation"}},
    "grader": {"type": "numeric"},
}
GRADERS: list[dict[str, Any]] = [
    {"type": "normalized"},
    {"type": "choice", "choices": ["x", "y"]},
    {"type": "regex", "pattern": "{reference}"},
    {"type": "json", "fields": ["a.b"]},
    {"type": "python", "path": "module:function"},
]
BACKENDS: list[dict[str, Any]] = [{"type": "transformers"}, {"type": "scripted", "script": "script.json"}]


def configs() -> list[Config]:
    """Configurations that together hold every leaf of the schema."""
    others = [{**JSONL, "name": f"c{i}", "grader": grader} for i, grader in enumerate(GRADERS)]
    return [
        Config.model_validate(
            {
                "name": "n",
                "model": {"path": "reference"},
                "backend": backend,
                "capabilities": [JSONL, HF, *others],
                "router": {"force": {"a": "skill"}},
            }
        )
        for backend in BACKENDS
    ]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of everything that holds no further keys; lists by position."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaf for key, part in items for leaf in leaves(part, (*path, key))]
    yield from inner or [path]


def changed(value: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    out: Any = copy.deepcopy(value)
    place = out
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "changed"
    return out  # type: ignore[no-any-return]


@pytest.mark.parametrize("config", configs(), ids=["transformers", "scripted"])
def test_every_leaf_is_part_of_the_identity_or_listed(config: Config) -> None:
    dumped = config.model_dump(mode="json")
    before = copy.deepcopy(dumped)
    same = set()
    for path in leaves(dumped):
        if identity_config(changed(dumped, path)) == identity_config(dumped):
            same.add(".".join(str(key) for key in path if not isinstance(key, int)))
    expected = (
        FREE if config.backend.type == "transformers" else FREE - {"backend.batch_size", "backend.share_timeout_s"}
    )
    assert same == expected
    assert dumped == before, "the configuration itself is left alone"


def test_what_is_listed_exists() -> None:
    """A renamed key must not leave a dead entry behind that frees nothing."""
    config = configs()[0]
    proposer = EndpointProposerConfig(type="endpoint", url="http://localhost/v1", model="m")
    skill = config.skill.model_copy(update={"proposer": proposer})
    endpoint = OpenAIBackendConfig(type="openai", url="http://localhost/v1")
    backends = (config.backend, endpoint)
    kinds = [
        config.model_copy(update={"skill": skill, "backend": backend}).model_dump(mode="json") for backend in backends
    ]
    for dotted in NOT_IDENTITY:
        assert any(_holds(dumped, dotted.split(".")) for dumped in kinds), dotted


def _holds(part: Any, keys: list[str]) -> bool:
    for key in keys:
        if key not in part:
            return False
        part = part[key]
    return True


def fields(world: World, *overrides: str) -> dict[str, Any]:
    loaded = load_config(world.config, overrides)
    return identity_fields(loaded, load_capabilities(loaded), FakeBackend(lambda p, s, a: ""))


def test_identity_covers_data_and_every_file_that_steers(world: World) -> None:
    first = fields(world)
    assert fields(world) == first
    for file, key in (
        ("codes/train.jsonl", "data"),
        ("codes/variant.jsonl", "data"),
        ("vocabulary.yaml", "files"),
    ):
        path = world.folder / file
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace("alpha", "gamma", 1), encoding="utf-8")
        assert fields(world)[key] != first[key], file
        path.write_text(before, encoding="utf-8")
    assert fields(world) == first


def test_identity_covers_oracles_and_vocabularies_of_capabilities(world: World) -> None:
    for name in ("oracle.txt", "own.yaml"):
        (world.folder / name).write_text("rules: ['one.']\n", encoding="utf-8")
    text = world.config.read_text(encoding="utf-8")
    for key, name in (("oracle", "oracle.txt"), ("vocabulary", "own.yaml")):
        world.config.write_text(text.replace("  - name: codes\n", f"  - name: codes\n    {key}: {name}\n"), "utf-8")
        first = fields(world)
        (world.folder / name).write_text("rules: ['two.']\n", encoding="utf-8")
        assert fields(world)["files"] != first["files"]


def test_order_of_rows_and_place_of_files_do_not_matter_where_they_should_not(world: World) -> None:
    first = fields(world)
    moved = world.folder.with_name("moved")
    world.folder.rename(moved)
    assert fields(World(moved)) == first


def test_identity_covers_the_model_and_where_it_runs() -> None:
    def of(**facts: str) -> dict[str, Any]:
        backend = FakeBackend(lambda p, s, a: "")
        info = backend.info()
        backend.info = lambda: type(info)(**{**info.__dict__, **facts})  # type: ignore[method-assign]
        loaded = type("L", (), {"config": configs()[0], "resolve": None})()
        loaded.config = loaded.config.model_copy()
        return identity_fields(loaded, (capability(),), backend)["model"]

    base = of()
    assert of(path="elsewhere") == base, "the fingerprint is the model, not its folder"
    for change in ({"fingerprint": "0" * 64}, {"dtype": "bfloat16"}, {"device": "cuda:0"}):
        assert of(**change) != base
