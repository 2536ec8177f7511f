"""Hugging Face data sets from disk, offline: saved data sets, files, slices, templates and their mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid.capability.hf import template_columns
from hybrid.capability.sources import check_gold, load_capability
from hybrid.config.schema import CapabilityConfig

datasets = pytest.importorskip("datasets")
SPLITS = {"train": "train[:4]", "search": "train[4:7]", "confirm": "train[7:]", "test": "test"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def table(name: str, count: int, **changes: list[Any]) -> Any:
    columns = {
        "key": [f"{name}-{n}" for n in range(count)],
        "a": list(range(count)),
        "asked by": [name] * count,
        "sum": [n + 1 for n in range(count)],
        "level": ["easy" if n % 2 else "hard" for n in range(count)],
        "steps": [[n, 1] for n in range(count)],
    }
    return datasets.Dataset.from_dict(columns | changes)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    def _load(path: str = "set", **changes: Any) -> Any:
        source = {
            "type": "hf",
            "path": path,
            "splits": SPLITS,
            "prompt": "{asked by}: {a} + 1 = {{?}}",
            "reference": "{sum}",
            "id_column": "key",
        } | changes
        config = {"name": "adding", "source": source, "grader": {"type": "numeric"}}
        return load_capability(CapabilityConfig.model_validate(config), lambda p: tmp_path / p, seed=0)

    return _load


def _save_to_disk(path: Path, tables: dict[str, Any]) -> None:
    datasets.DatasetDict(tables).save_to_disk(str(path))


def _parquet(path: Path, tables: dict[str, Any]) -> None:
    path.mkdir()
    for name, content in tables.items():
        for shard in range(2):
            part = content.shard(2, shard, contiguous=True)
            part.to_parquet(str(path / f"{name}-{shard:05}-of-00002.parquet"))


def _jsonl(path: Path, tables: dict[str, Any]) -> None:
    path.mkdir()
    for name, content in tables.items():
        content.to_json(str(path / f"{name}.jsonl"))


@pytest.mark.parametrize("save", [_save_to_disk, _parquet, _jsonl])
def test_local_round_trip(load: Callable[..., Any], tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "set", {"train": table("train", 10), "test": table("test", 5)})
    capability, problems = load()
    assert problems == []
    assert {s: len(rows) for s, rows in capability.splits.items()} == {
        "train": 4, "search": 3, "confirm": 3, "test": 5, "variant": 0,
    }  # fmt: skip
    first = capability.splits["search"][0]
    assert (first.id, first.prompt, first.reference) == ("train-4", "train: 4 + 1 = {?}", "5")
    assert first.metadata == {"level": "hard"}
    assert capability.places[("search", "train-4")] == ("set[train[4:7]]", 1)
    assert check_gold(capability) == []


def test_one_csv_file_and_percent_slices(load: Callable[..., Any], tmp_path: Path) -> None:
    table("train", 20).remove_columns("steps").to_csv(str(tmp_path / "all.csv"), index=False)
    splits = {"train": "train[:50%]", "search": "train[50%:70%]", "confirm": "train[70%:85%]", "test": "train[-3:]"}
    capability, problems = load("all.csv", splits=splits)
    assert problems == []
    assert [len(capability.splits[s]) for s in ("train", "search", "confirm", "test")] == [10, 4, 3, 3]


def test_rows_without_an_id_column_are_numbered_per_split(load: Callable[..., Any], tmp_path: Path) -> None:
    _save_to_disk(tmp_path / "set", {"train": table("train", 10), "test": table("test", 5)})
    capability, _ = load(id_column=None)
    assert [e.id for e in capability.splits["search"]] == ["search-1", "search-2", "search-3"]


def test_lists_become_json_and_parents_are_read(load: Callable[..., Any], tmp_path: Path) -> None:
    other = table("variant", 2, parent=["test-1", None])
    tables = {"train": table("train", 10), "test": table("test", 5), "variant": other}
    tables = {
        n: t if "parent" in t.column_names else t.add_column("parent", [None] * len(t)) for n, t in tables.items()
    }
    _save_to_disk(tmp_path / "set", tables)
    capability, problems = load(reference="{steps}", parent_column="parent", splits={**SPLITS, "variant": "variant"})
    assert problems == []
    assert capability.splits["train"][2].reference == "[2, 1]"
    assert [e.parent_id for e in capability.splits["variant"]] == ["test-1", None]


@pytest.mark.parametrize(
    ("changes", "key", "message", "fix"),
    [
        ({"prompt": "{askd by}"}, "prompt", "no column 'askd by'", "'asked by'"),
        ({"id_column": "kee"}, "id_column", "no column 'kee'", "'key'"),
        ({"prompt": "{a.__class__}"}, "prompt", "plain column name", "{name}"),
        ({"prompt": "{a[0]}"}, "prompt", "plain column name", "{name}"),
        ({"prompt": "{a!r}"}, "prompt", "conversion or format", "{name}"),
        ({"prompt": "{a:>9999999999}"}, "prompt", "conversion or format", "{name}"),
        ({"prompt": "{}"}, "prompt", "plain column name", "{name}"),
        ({"prompt": "{a"}, "prompt", "not a usable template", "{name}"),
        ({"splits": {**SPLITS, "test": "tset"}}, "splits.test", "'tset' cannot be loaded", "split"),
        ({"splits": {**SPLITS, "test": "test[1:"}}, "splits.test", "cannot be loaded", "split"),
        ({"splits": {k: v for k, v in SPLITS.items() if k != "confirm"}}, "splits", "'confirm' is missing", "confirm"),
        ({"path": "./nowhere"}, "path", "nothing at", "local folder"),
        ({"path": "owner/no-such-set"}, "splits.train", "cannot be loaded", "split"),
    ],
)
def test_mistakes_name_the_config_key(
    load: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], key: str, message: str, fix: str
) -> None:
    _save_to_disk(tmp_path / "set", {"train": table("train", 10), "test": table("test", 5)})
    capability, problems = load(**changes)
    assert capability is None
    named = next(p for p in problems if p.key == f"capabilities.adding.source.{key}")
    assert named.file == "config"
    assert message in named.message
    assert fix in named.fix


def test_bad_cells_and_double_ids_name_the_row(load: Callable[..., Any], tmp_path: Path) -> None:
    keys = [f"test-{n}" for n in range(4)] + ["test-0"]
    sums = [1, 2, None, 4, 5]
    _save_to_disk(tmp_path / "set", {"train": table("train", 10), "test": table("test", 5, key=keys, sum=sums)})
    _, problems = load()
    assert [(p.file, p.line, p.key) for p in problems] == [
        ("set[test]", 3, "reference"),
        ("set[test]", 5, "id_column"),
    ]
    assert "holds null" in problems[0].message
    assert "row 1" in problems[1].message


def test_hygiene_applies_to_overlapping_slices(load: Callable[..., Any], tmp_path: Path) -> None:
    _save_to_disk(tmp_path / "set", {"train": table("train", 10), "test": table("test", 5)})
    _, problems = load(splits={**SPLITS, "search": "train[3:7]"})
    assert {(p.file, p.line, p.key) for p in problems} == {
        ("set[train[3:7]]", 1, "prompt"),
        ("set[train[3:7]]", 1, "id"),
    }


def test_damaged_and_mixed_files_are_problems(load: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"not parquet")
    assert "cannot be loaded" in load()[1][0].message
    (folder / "test.csv").write_text("a\n1\n")
    assert "several kinds" in load()[1][0].message


def test_template_columns_are_plain_names() -> None:
    assert template_columns("{{x}} {a b} and {c-d}") == ["a b", "c-d"]
