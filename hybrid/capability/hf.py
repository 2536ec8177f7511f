"""Reads a Hugging Face data set into examples: a hub id, a folder of `save_to_disk`, or parquet, json and csv files.

Local data never touches the network. Code inside data sets is never run. Does not: compare splits, cut to a limit or
grade.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hybrid.capability.graders.text import quote
from hybrid.capability.rows import LARGEST_ROW_BYTES, ProblemList, Row, show
from hybrid.capability.types import SPLITS, Example, Split
from hybrid.config.schema import HfSource
from hybrid.errors import Problem

_READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_HUB_ID = re.compile(r"[\w][\w.-]*(?:/[\w.-]+)?")
_LONGEST_METADATA = 1000


def template_columns(template: str) -> list[str]:
    """The columns that a template names. Raises `ValueError` unless every slot is a plain name.

    Attribute access, indices, conversions and format specifications are refused: rows are data of strangers.
    """
    columns = []
    for _, name, specification, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or name.isdigit() or any(c in name for c in ".[]{}"):
            raise ValueError(f"{{{name}}} is not a plain column name")
        if specification or conversion:
            raise ValueError(f"{{{name}}} has a conversion or format; only the plain name is allowed")
        columns.append(name)
    return columns


def read_hf(
    source: HfSource, key: str, resolve: Callable[[str], Path], problems: ProblemList
) -> dict[Split, list[Row]]:
    """The readable rows of every asked split; everything else goes to `problems`, named by config key below `key`."""
    reader = _HfReader(source, key, problems)
    columns = reader.columns()
    if columns is None:
        return {}
    opened = _open(source, resolve, reader.report)
    if opened is None:
        return {}
    return {split: reader.rows(split, opened, columns) for split in SPLITS if split in source.splits}


_Report = Callable[[str, str, str], None]
_Opened = Callable[[str], Any]


class _HfReader:
    """Turns the rows of one data set into examples."""

    def __init__(self, source: HfSource, key: str, problems: ProblemList) -> None:
        self._source = source
        self._key = key
        self._problems = problems

    def report(self, key: str, message: str, fix: str) -> None:
        """Note a mistake of the configuration."""
        self._problems.add(Problem("config", 0, f"{self._key}.{key}", message, fix))

    def columns(self) -> dict[str, list[str]] | None:
        """Config key -> the columns that it names; None when a template is not usable."""
        found: dict[str, list[str]] = {}
        for key in ("prompt", "reference"):
            try:
                found[key] = template_columns(getattr(self._source, key))
            except ValueError as error:
                self.report(key, f"not a usable template: {error}", "write columns as {name}; double other braces")
        found |= {"id_column": [self._source.id_column] if self._source.id_column else []}
        found |= {"parent_column": [self._source.parent_column] if self._source.parent_column else []}
        return found if "prompt" in found and "reference" in found else None

    def rows(self, split: Split, opened: _Opened, columns: Mapping[str, list[str]]) -> list[Row]:
        """The rows of one split."""
        theirs = self._source.splits[split]
        key = f"splits.{split}"
        try:
            table = opened(theirs)
        except _load_errors() as error:
            self.report(key, f"{theirs!r} cannot be loaded: {_first_line(error)}", "name a split of the data set")
            return []
        if not self._columns_exist(table.column_names, columns):
            return []
        if not len(table):
            self.report(key, f"{theirs!r} has no rows", "choose another split or slice")
        needed = {name for names in columns.values() for name in names}
        kept = [n for n in table.column_names if n in needed or type(table.features[n]).__name__ == "Value"]
        file = f"{self._source.path}[{theirs}]"
        rows: list[Row] = []
        lines: dict[str, int] = {}
        for number, content in enumerate(table.select_columns(kept), 1):
            try:
                example = self._example(split, number, content, needed)
            except _BadRowError as error:
                self._problems.add(Problem(file, number, error.key, str(error), "correct or drop the row"))
                continue
            if example.id in lines:
                found = f"{quote(example.id)} was already used in row {lines[example.id]}"
                self._problems.add(Problem(file, number, "id_column", found, "choose a column of unique values"))
                continue
            lines[example.id] = number
            rows.append(Row(example, file, number))
        return rows

    def _columns_exist(self, present: list[str], columns: Mapping[str, list[str]]) -> bool:
        missing = [(key, name) for key, names in columns.items() for name in names if name not in present]
        for key, name in missing:
            nearest = get_close_matches(name, present, n=1, cutoff=0.0)
            fix = (
                f"the nearest is {nearest[0]!r}; columns: {', '.join(present[:20])}" if nearest else "it has no columns"
            )
            self.report(key, f"the data set has no column {name!r}", fix)
        return not missing

    def _example(self, split: Split, number: int, content: Mapping[str, Any], needed: set[str]) -> Example:
        source = self._source
        name = _text(content, source.id_column, "id_column") if source.id_column else f"{split}-{number}"
        if not 1 <= len(name) <= 200:
            raise _BadRowError("id_column", f"an id of {len(name)} characters, expected 1 to 200")
        prompt = _fill(source.prompt, content, "prompt")
        if not prompt.strip():
            raise _BadRowError("prompt", "the prompt is empty")
        parent = source.parent_column
        return Example(
            id=name,
            prompt=prompt,
            reference=_fill(source.reference, content, "reference"),
            metadata={k: v for k, v in content.items() if k not in needed and _is_plain(v)},
            parent_id=_text(content, parent, "parent_column") if parent and content[parent] is not None else None,
        )


class _BadRowError(ValueError):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _fill(template: str, content: Mapping[str, Any], key: str) -> str:
    filled = template.format_map({name: _text(content, name, key) for name in template_columns(template)})
    if len(filled.encode("utf-8")) > LARGEST_ROW_BYTES:
        raise _BadRowError(key, f"more than {LARGEST_ROW_BYTES} bytes")
    return filled


def _text(content: Mapping[str, Any], column: str, key: str) -> str:
    """A cell as text: text and numbers as they are, lists and objects as JSON."""
    value = content[column]
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise _BadRowError(key, f"column {column!r} holds {'null' if value is None else value}, expected a value")
    if isinstance(value, bool | int | float):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise _BadRowError(key, f"column {column!r} holds a {kind}, which has no text form") from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= _LONGEST_METADATA)


def _open(source: HfSource, resolve: Callable[[str], Path], report: _Report) -> _Opened | None:
    """A function from a split expression to a table of `datasets`; None when the data set cannot be opened."""
    try:
        import datasets
    except ImportError:
        report("type", "the package `datasets` is not installed", "pip install 'hybrid-placement[train]'")
        return None
    datasets.disable_progress_bars()
    path = resolve(source.path)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved(datasets, path)
        if path.is_file() or path.is_dir():
            return _files(datasets, path, source)
    except _load_errors() as error:
        report("path", f"{source.path!r} cannot be read: {_first_line(error)}", "check the files")
        return None
    if not _HUB_ID.fullmatch(source.path):
        report("path", f"there is nothing at {source.path!r}", "give a local folder, a data file, or a hub id")
        return None
    return lambda theirs: datasets.load_dataset(source.path, source.name, revision=source.revision, split=theirs)


def _saved(datasets: Any, path: Path) -> _Opened:
    loaded = datasets.load_from_disk(str(path))
    tables = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}

    def take(theirs: str) -> Any:
        lengths = {name: len(table) for name, table in tables.items()}
        asked = re.split(r"[\[+]", theirs)[0].strip()
        if asked not in tables:
            raise ValueError(f"there is no split {asked!r}; the splits are {', '.join(sorted(tables))}")
        parts = datasets.ReadInstruction.from_spec(theirs).to_absolute(lengths)
        taken = [
            tables[p.splitname].select(range(p.from_ or 0, lengths[p.splitname] if p.to is None else p.to))
            for p in parts
        ]
        return datasets.concatenate_datasets(taken)

    return take


def _files(datasets: Any, path: Path, source: HfSource) -> _Opened:
    """Files in one folder are splits by their names (shards `NAME-00000-of-00002` together); one file is `train`."""
    groups: dict[str, list[str]] = {}
    kinds: set[str] = set()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.suffix in _READERS and file.name not in ("dataset_infos.json", "dataset_info.json"):
            groups.setdefault("train" if path.is_file() else _SHARD.sub("", file.stem), []).append(str(file))
            kinds.add(_READERS[file.suffix])
    if len(kinds) > 1:
        raise ValueError(f"it holds files of several kinds ({', '.join(sorted(kinds))}); keep one kind")
    if not kinds:  # nested folders: the layouts that `datasets` itself understands
        if path.is_file():
            raise ValueError(f"{path.suffix or 'a file without suffix'} is not one of {', '.join(_READERS)}")
        return lambda theirs: datasets.load_dataset(str(path), source.name, split=theirs)
    kind = kinds.pop()
    return lambda theirs: datasets.load_dataset(kind, data_files=groups, split=theirs)


def _load_errors() -> tuple[type[Exception], ...]:
    """What loading raises for missing, unreachable or malformed data. Import errors of readers are included."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, ImportError)


def _first_line(error: BaseException) -> str:
    return quote(str(error) or show(type(error).__name__), 160)[1:-1]
