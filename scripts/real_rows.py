"""What the builders of the real-model data share: the shape of a row, and how rows become splits.

Prompts are plain text for a base model: they end where the answer starts, and the answer ends at the end of its line.
`gold` begins with the space that the tokenizer of such a model expects there.

Does not: know any capability (see `real_facts.py` and `real_tasks.py`) or write files (see `make_real_data.py`).
"""

from __future__ import annotations

from typing import Any

from hybrid.capability.types import Example

Splits = dict[str, list[Example]]
SIZES = {"train": 200, "search": 48, "confirm": 144, "test": 96}
"""Rows of a split; a configuration may use fewer (`limit`)."""


def example(capability: str, number: str, prompt: str, reference: str, **extra: Any) -> Example:
    """A row; `extra` is its metadata, but for `parent_id`."""
    parent = extra.pop("parent_id", None)
    identity, gold = f"{capability}-{number}", f" {reference}"
    return Example(id=identity, prompt=prompt, reference=reference, gold=gold, metadata=extra, parent_id=parent)


def empty() -> Splits:
    """The five splits, without rows."""
    return {split: [] for split in ("train", "search", "confirm", "test", "variant")}


def deal(name: str, rows: list[tuple[str, str, str]], shots: str) -> Splits:
    """Unique (key, question, answer) rows in order, cut into the splits."""
    splits: Splits = empty()
    position = 0
    for split, size in SIZES.items():
        part = rows[position : position + size]
        if len(part) < size:
            raise ValueError(f"{name}: {len(rows)} rows are too few for the splits")
        splits[split] = [example(name, key, shots + question, answer) for key, question, answer in part]
        position += size
    return splits
