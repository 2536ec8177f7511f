"""Where the examples of a capability come from.

Does not: read anything (see `hybrid.capability.sources`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section


class JsonlSource(Section):
    """A folder with `train.jsonl`, `search.jsonl`, `confirm.jsonl`, `test.jsonl` and optionally `variant.jsonl`."""

    type: Literal["jsonl"]
    path: str


class HfSource(Section):
    """A Hugging Face `datasets` data set, local (a folder saved by `save_to_disk`, or parquet/json files) or from the hub."""

    type: Literal["hf"]
    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[Literal["train", "search", "confirm", "test", "variant"], str]
    """Our split -> theirs; slices such as `train[:200]` are allowed."""
    prompt: str = "{prompt}"
    """Template over the row's columns."""
    reference: str = "{reference}"
    """Template over the row's columns."""
    id_column: str | None = None
    parent_column: str | None = None


class SuiteSizes(Section):
    """Rows per split that a suite is asked for."""

    train: int = Field(default=96, ge=1, le=100_000)
    search: int = Field(default=96, ge=1, le=100_000)
    confirm: int = Field(default=160, ge=1, le=100_000)
    test: int = Field(default=160, ge=1, le=100_000)
    variant: int = Field(default=64, ge=0, le=100_000)
    """0 leaves the split out."""


class SuiteSource(Section):
    """Rows that a suite makes: one that ships with hybrid, or a file of yours. `docs/suites.md` lists them with their options."""

    type: Literal["suite"]
    name: str | None = None
    """A suite that ships with hybrid."""
    path: str | None = None
    """A Python file of yours that holds `SUITE`. It runs in this process with all your rights."""
    options: dict[str, Any] = Field(default={})
    """Settings of the suite; each suite has its own."""
    sizes: SuiteSizes = SuiteSizes()
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """What the rows are drawn with; default: the run's seed."""

    @model_validator(mode="after")
    def _one_suite(self) -> SuiteSource:
        if (self.name is None) == (self.path is None):
            raise ValueError(
                "exactly one suite is wanted; write `name: facts`, say, or `path: my_suite.py`, and not both"
            )
        return self


SourceConfig = Annotated[JsonlSource | HfSource | SuiteSource, Field(discriminator="type")]
