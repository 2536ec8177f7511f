"""What a finished run leaves for whoever serves it: `report/serving.json` (see `hybrid.serve.facts`).

Does not: say what was placed; the report does.
"""

from __future__ import annotations

from pathlib import Path

from hybrid.capability.types import Capability
from hybrid.config.schema import OpenAIBackendConfig
from hybrid.pipeline.session import Session
from hybrid.serve.facts import SERVING, CapabilityFacts, ServingFacts, some_prompts, write_facts


def leave_facts(session: Session) -> Path:
    """Write the file; the same run writes the same bytes in every attempt."""
    config = session.loaded.config
    path = session.folder.path / "report" / SERVING
    capabilities = tuple(_facts(session, c) for c in session.capabilities)
    facts = ServingFacts(model=config.model, small=config.small, backend=config.backend, capabilities=capabilities)
    write_facts(path, facts)
    return path


def _facts(session: Session, capability: Capability) -> CapabilityFacts:
    train = capability.splits.get("train", ())
    endpoint = isinstance(session.loaded.config.backend, OpenAIBackendConfig)
    return CapabilityFacts(
        name=capability.name,
        description=session.settings(capability).description or "",
        sampling=session.sampling(capability),
        turns=endpoint or (bool(train) and not isinstance(train[0].prompt, str)),
        examples=some_prompts(train),
    )
