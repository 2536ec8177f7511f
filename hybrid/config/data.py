"""Where the examples of a capability come from.

Does not: read anything (see `hybrid.capability.sources`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


SourceConfig = Annotated[JsonlSource | HfSource, Field(discriminator="type")]
