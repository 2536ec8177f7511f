"""Who proposes edits in a run: the offline proposer, a model behind an endpoint, the target itself, or a recording.

Does not: know how any of them works (see `hybrid.skill` and `hybrid.backends`).
"""

from __future__ import annotations

from hybrid.backends.chat import ChatModel
from hybrid.capability.types import Capability
from hybrid.config.schema import (
    EndpointProposerConfig,
    OfflineProposerConfig,
    ReplayProposerConfig,
    SelfProposerConfig,
)
from hybrid.pipeline.session import Session
from hybrid.skill.evidence_editor import EvidenceEditor
from hybrid.skill.model_editor import ModelEditor
from hybrid.skill.model_proposer import ModelProposer
from hybrid.skill.proposer import OfflineProposer
from hybrid.skill.reflection import Editor, Proposer
from hybrid.skill.vocabulary import Vocabulary, load_vocabulary

REPLIES = "proposer/replies.jsonl"
"""Where a run keeps what a proposing model said, relative to the run folder; it is also a recording for `replay`."""


def open_chat(session: Session) -> ChatModel | None:
    """The model that writes edits, one per run so that its budget is one; None for the offline proposer."""
    config = session.loaded.config.skill.proposer
    if isinstance(config, OfflineProposerConfig):
        return None
    if session.chat is None:
        session.chat = _chat(session, config)
    return session.chat


def _chat(session: Session, config: EndpointProposerConfig | SelfProposerConfig | ReplayProposerConfig) -> ChatModel:
    from hybrid.backends.chat_log import LoggedChat, ReplayChat

    if isinstance(config, ReplayProposerConfig):
        return ReplayChat(session.loaded.resolve(config.path))
    inner: ChatModel
    if isinstance(config, EndpointProposerConfig):
        from hybrid.backends.endpoint import EndpointChat

        inner = EndpointChat(config)
    else:
        from hybrid.backends.chat_target import TargetChat

        inner = TargetChat(session.backend, session.loaded.config.model.chat)
    return LoggedChat(inner, session.folder.path / REPLIES, config.budget)


def build(session: Session, capability: Capability) -> tuple[Proposer, Editor]:
    """The proposer and the editor of one capability. Raises UsageError for an address or a key that cannot be used."""
    config = session.loaded.config
    settings = config.skill.proposer
    chat = open_chat(session)
    if isinstance(settings, OfflineProposerConfig):
        return OfflineProposer(vocabulary(session, capability), settings.trials, config.seed), EvidenceEditor()
    assert chat is not None
    length = 2048 if isinstance(settings, ReplayProposerConfig) else settings.max_tokens
    temperature = 0.0 if isinstance(settings, ReplayProposerConfig) else settings.temperature
    task = session.settings(capability).description or ""
    proposer = ModelProposer(
        chat, capability=capability.name, task=task, max_tokens=length, temperature=temperature, seed=config.seed
    )
    editor = ModelEditor(
        chat,
        capability=capability.name,
        task=task,
        max_tokens=length,
        temperature=temperature,
        seed=config.seed,
        on_note=lambda note: session.warn(f"{capability.name}: the proposing model: {note}"),
    )
    return proposer, editor


def vocabulary(session: Session, capability: Capability) -> Vocabulary:
    """The candidate lines of a capability: its own file, else the configuration's, else none."""
    settings = session.loaded.config.skill.proposer
    shared = settings.vocabulary if isinstance(settings, OfflineProposerConfig) else None
    path = session.settings(capability).vocabulary or shared
    return load_vocabulary(session.loaded.resolve(path)) if path else Vocabulary((), (), (), ())
