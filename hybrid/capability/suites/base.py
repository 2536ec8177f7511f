"""What a suite is: rows made by a program, with the grader that fits them, and what the reader of a result must know.

A suite of your own is one file (`source: {type: suite, path: my_suite.py}`)::

    class Options(Section):
        largest: int = 9

    class Doubling:
        about = About(measures="doubling small numbers", source="made up here", licence="CC0-1.0")
        options = Options

        def build(self, options, sizes, seed):
            rng, deck = random.Random(f"doubling {seed}"), Deck("doubling")
            drawn = (rng.randint(1, options.largest) for _ in itertools.count())
            rows = (Example(id=f"double-{n}", prompt=f"{n} + {n} =", reference=str(2 * n)) for n in drawn)
            return SuiteData(deck.deal(rows, sizes), build_grader(NumericGrader(type="numeric")))

    SUITE = Doubling()

Does not: know any suite (the registry does), read the configuration (`load` does) or know what a model is.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hybrid.capability.graders.text import fold
from hybrid.capability.types import Example, Grader, Kind, Split
from hybrid.config.schema import Section, SuiteSizes
from hybrid.errors import HybridError

IN_ORDER: tuple[Split, ...] = ("test", "confirm", "search", "train")
"""Splits in the order in which they are dealt: what is asked of `train` never changes a sealed split."""
MOST_REPEATS = 20_000
"""Rows in a row that a stream may give without a new one among them, before it counts as exhausted."""


class SuiteError(HybridError):
    """A suite cannot make these rows. `key` is the configuration key below `source` that has to change."""

    def __init__(self, key: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.key, self.fix = key, fix


def require(module: str, install: str, who: str) -> None:
    """Raise `SuiteError` when a module is not installed. Imports nothing."""
    if importlib.util.find_spec(module) is None:
        raise SuiteError("name", f"{who} needs {module}, which is not installed", install)


@dataclass(frozen=True)
class About:
    """What a suite measures, where its rows come from, and under which licence they may be used.

    `needs` are modules that have to be installed, each with the line that installs it. `kind` is what the suite's author takes
    it for, where the configuration declares none; it is compared with what is measured, never trusted.
    """

    measures: str
    source: str
    licence: str
    needs: Mapping[str, str] | None = None
    kind: Kind | None = None


@dataclass(frozen=True)
class SuiteData:
    """What a suite makes.

    Every split but `variant` must hold rows. `grader` judges them unless the configuration names another. `skill` is a seed
    document (a whole SKILL.md) and `oracle` a text that holds what the rows need, where the suite knows any.
    """

    splits: Mapping[Split, list[Example]]
    grader: Grader
    skill: str | None = None
    oracle: str | None = None


class Suite(Protocol):
    """A maker of rows.

    `build` is a pure function of its arguments (and of the versions of installed packages): the same rows in the same order on
    every machine. No prompt stands in two splits (`Deck` sees to it); no id twice in a split; each gold answer scores 1.0 and
    each of the listed wrong ones less; a variant's `parent_id` names a row of another split. Raises `SuiteError` where the
    options or sizes cannot be met. It never uses the network or the clock.
    """

    about: About
    options: type[Any]
    """A `Section`: frozen, with defaults, unknown keys forbidden. Mistakes in it are shown with line and nearest key."""

    def build(self, options: Any, sizes: SuiteSizes, seed: int) -> SuiteData:
        """The rows: as many as `sizes` says in each split, or `SuiteError`."""
        ...


class NoOptions(Section):
    """The options of a suite that has none."""


class Deck:
    """Hands out rows and remembers them, so that no prompt and no id is used twice, whatever the stream repeats.

    Prompts are the same when equal after NFKC, case folding and collapsing white space.
    """

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._prompts: set[str] = set()
        self._ids: set[str] = set()

    def take(self, rows: Iterable[Example], count: int, split: Split) -> list[Example]:
        """The next `count` new rows of a stream. Raises `SuiteError` when it ends or repeats itself before."""
        taken: list[Example] = []
        repeats = 0
        stream = iter(rows)
        while len(taken) < count and repeats < MOST_REPEATS:
            row = next(stream, None)
            if row is None:
                break
            text = " ".join(fold(row.prompt_text).split())
            if text in self._prompts or row.id in self._ids:
                repeats += 1
                continue
            repeats = 0
            self._prompts.add(text)
            self._ids.add(row.id)
            taken.append(row)
        if len(taken) < count:
            raise SuiteError(
                f"sizes.{split}",
                f"{self._suite} has {len(taken)} rows left for {split}, and {count} are asked for",
                "lower the sizes, or set options that allow more rows",
            )
        return taken

    def deal(self, rows: Iterable[Example], sizes: SuiteSizes) -> dict[Split, list[Example]]:
        """The splits other than `variant` from one stream: `test` first, `train` last."""
        stream = iter(rows)
        return {split: self.take(stream, getattr(sizes, split), split) for split in IN_ORDER}


def slug(*parts: object) -> str:
    """An id from words and numbers: `slug("sum", "2 + 3")` is `sum-2-3`. At most 120 characters, ASCII."""
    text = "-".join(str(part) for part in parts).lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:120]


def words(text: str) -> tuple[str, ...]:
    """The words of a text: a long list of names that can be read."""
    return tuple(text.split())


def numbered(prefix: str, rows: Iterable[Example]) -> Iterable[Example]:
    """The rows with ids `prefix-1`, `prefix-2` and so on in the order of the stream."""
    for number, row in zip(itertools.count(1), rows, strict=False):
        yield row.model_copy(update={"id": f"{prefix}-{number}"})
