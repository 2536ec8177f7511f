"""What serving needs to know of a run beside its report: how the model is loaded, and how each capability is asked.

A run writes it to `report/serving.json`, an export carries it along. It holds up to `MOST_EXAMPLES` training prompts of
every capability, from which the request router knows what belongs where; never a row of another split, and no answers.
Does not: hold documents, adapters or figures; those are in the run folder, the export and the report.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from hybrid.backends.base import Sampling
from hybrid.capability.types import Example
from hybrid.config.schema import BackendConfig, ModelConfig, TransformersBackendConfig
from hybrid.config.section import Section
from hybrid.errors import RunFolderError
from hybrid.store.atomic import write_json

SERVING = "serving.json"
MOST_EXAMPLES, MOST_CHARACTERS = 64, 2000
"""Training prompts kept of a capability, and characters kept of each."""


class CapabilityFacts(Section):
    """How a capability is asked. `turns`: its document was measured as the system message of a chat."""

    name: str
    description: str = ""
    sampling: Sampling
    turns: bool = False
    examples: tuple[str, ...] = ()


class ServingFacts(Section):
    """The file. Paths in `model` and `backend` are as the configuration has them."""

    schema_version: Literal[1] = 1
    model: ModelConfig
    small: ModelConfig | None = None
    """The small model that a proxy steers with; None where the run has none."""
    backend: BackendConfig = TransformersBackendConfig()
    capabilities: tuple[CapabilityFacts, ...] = Field(min_length=1)

    def of(self, name: str) -> CapabilityFacts | None:
        """What is known of one capability; None where it is not in the file."""
        return next((c for c in self.capabilities if c.name == name), None)


def some_prompts(examples: Sequence[Example]) -> tuple[str, ...]:
    """Prompts spread evenly over `examples`, of a chat the last turn, cut to a length."""
    count = min(MOST_EXAMPLES, len(examples))
    chosen = [examples[i * len(examples) // count] for i in range(count)]
    texts = [e.prompt if isinstance(e.prompt, str) else e.prompt[-1].content for e in chosen]
    return tuple(text[:MOST_CHARACTERS] for text in texts)


def write_facts(path: Path, facts: ServingFacts) -> None:
    """Write the file; equal facts give equal bytes."""
    write_json(path, facts.model_dump(mode="json"))


def read_facts(path: Path) -> ServingFacts:
    """Read and check the file. RunFolderError, in one sentence, for one that is absent or damaged."""
    again = "the command that made the run, given again, writes it anew"
    if path.is_symlink():
        raise RunFolderError(f"{path} is a symbolic link; replace it by a copy")
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing, so nothing says how the model is asked; {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); {again}") from None
    try:
        return ServingFacts.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(p) for p in first["loc"]) or "the file"
        raise RunFolderError(f"{path} is damaged at {place} ({first['msg']}); {again}") from None
