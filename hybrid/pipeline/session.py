"""What every stage of a run shares: the configuration, the capabilities, the meter, the run folder and the events.

Does not: decide the order of stages (see `run`).
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hybrid import __version__
from hybrid.backends.adapters import inspect_adapter
from hybrid.backends.base import Adapter, Backend, Sampling
from hybrid.backends.chat import ChatModel
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.config.schema import CapabilityConfig, OpenAIBackendConfig
from hybrid.evidence.classify import classifier_fingerprint
from hybrid.evidence.ledger import Ledger
from hybrid.evidence.measure import Meter
from hybrid.evidence.rollouts import RolloutStore
from hybrid.evidence.types import Candidate
from hybrid.pipeline.lineage import Before, Lineage
from hybrid.pipeline.proxy_identity import steering
from hybrid.store.folder import RunFolder
from hybrid.weights.base import Method

OnEvent = Callable[[str, dict[str, Any]], None]

NOT_IDENTITY = (
    "budget",
    "report",
    "backend.batch_size",
    "backend.share_timeout_s",
    *(
        f"backend.{key}"
        for key in ("concurrency", "requests_per_minute", "timeout_s", "deadline_s", "retries", "key_env")
    ),
    "model.threads",
    "weights.memory",
    *(f"skill.proposer.{key}" for key in ("budget", "timeout_s", "deadline_s", "retries", "key_env")),
)
"""Configuration keys that may change between attempts of one run: they change what it may cost and how it is shared or
scheduled, never what is measured."""


JUDGE_COSTS = ("budget", "timeout_s", "deadline_s", "retries", "key_env", "most_unjudged")
"""The same of a judge, in a capability's `grader`."""


def identity_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a dumped configuration that decides what a run measures."""
    kept = copy.deepcopy(config)
    for dotted in NOT_IDENTITY:
        *path, last = dotted.split(".")
        section: Any = kept
        for key in path:
            section = section.get(key, {})
        section.pop(last, None)
    for capability in kept.get("capabilities", ()):
        grader = capability["grader"]  # None where a suite brings its own
        if grader is not None and grader["type"] == "judge":
            for key in JUDGE_COSTS:
                grader.pop(key, None)
    return kept


LEAST_SHOWN = 64
"""Measurements of fewer answers than this show no progress of their own: a search makes hundreds of them."""


@dataclass
class Session:
    """One attempt at a run."""

    loaded: LoadedConfig
    folder: RunFolder
    capabilities: tuple[Capability, ...]
    backend: Backend
    meter: Meter
    ledger: Ledger
    on_event: OnEvent
    started: float = field(default_factory=time.monotonic)
    warnings: list[str] = field(default_factory=list)
    chat: ChatModel | None = None
    """The model that proposes edits, once one was asked for."""
    parent: dict[str, Any] | None = None
    """The run that this one was forked from, as `run.json` records it."""
    strict: bool = False
    """Whether a checkpoint that was skipped is an error."""
    steering: dict[str, str] = field(default_factory=dict)
    """The small model and the ready adapter of proxy-tuning, as the run's identity has them."""
    adapters: dict[str, Adapter] = field(default_factory=dict)
    """The adapter without a text that each capability's `weights` arm ended with, before any gate: experts for a mixture."""
    lineage: Lineage | None = None
    """The run that this one goes back to, on another base or to carry out a review."""

    def settings(self, capability: Capability) -> CapabilityConfig:
        """The configuration of a capability."""
        return next(c for c in self.loaded.config.capabilities if c.name == capability.name)

    def sampling(self, capability: Capability) -> Sampling:
        """How judged answers of a capability are generated."""
        return Sampling(**self.settings(capability).decoding.model_dump())

    def before(self, name: str) -> Before | None:
        """What shipped of a capability before, where this run is to change that; None otherwise."""
        return None if self.lineage is None else self.lineage.before(name)

    def method(self, name: str) -> Method:
        """How the adapter of a capability is trained: a text is promoted by distilling it, whatever the others do."""
        before = self.before(name)
        return "distill" if before and before.action == "promote" else self.loaded.config.method_of(name)

    def candidate(self, capability: Capability, skill: str = "", adapter: Adapter | None = None) -> Candidate:
        """The base with a skill text, an adapter, both or neither, at the capability's own decoding."""
        return Candidate(self.backend.info().fingerprint, skill, adapter, self.sampling(capability))

    def keep_backend_warnings(self) -> None:
        """Put on record what the backend did other than configured: a later attempt, which generates less, reports it too."""
        for text in getattr(self.backend, "warnings", ()):
            if self.folder.events.last("backend.warning", text=text) is None:
                self.folder.events.append("backend.warning", text=text)

    def told(self) -> tuple[str, ...]:
        """Every warning that a report holds: those of this attempt, and what the backend did in any."""
        kept = [event["data"]["text"] for event in self.folder.events.all("backend.warning")]
        return tuple(dict.fromkeys([*self.warnings, *kept]))

    def warn(self, message: str) -> None:
        """Put a warning on the report and the display, once."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.on_event("warning", {"message": message})

    @contextmanager
    def stage(self, capability: str, stage: str) -> Iterator[dict[str, str]]:
        """A stage with its start and end on record. Put a one-line `summary` into the yielded dict."""
        self.on_event("stage.started", {"capability": capability, "stage": stage})

        def progress(name: str, done: int, total: int) -> None:
            if total >= LEAST_SHOWN:
                data = {"capability": capability, "stage": stage, "done": done, "total": total, "unit": "answers"}
                self.on_event("progress", data)

        self.meter.progress = progress
        began = time.monotonic()
        note: dict[str, str] = {}
        yield note
        self.keep_backend_warnings()
        seconds = round(time.monotonic() - began, 3)
        data = {"capability": capability, "stage": stage, "seconds": seconds, "summary": note.get("summary", "")}
        self.folder.events.append("stage.done", **data, peak_memory_mb=peak_memory_mb())
        self.on_event("stage.done", data)


def peak_memory_mb() -> int:
    """Peak resident memory of this process so far, in MiB."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak / 1024) if sys.platform != "darwin" else int(peak / 1024 / 1024)


def named_files(loaded: LoadedConfig) -> dict[str, str]:
    """sha256 (hex) by path, as written, of the files that steer a run without being data: vocabularies, oracles, the
    module of a classifier of formats, adapters to mix. Raises AdapterError for a folder that is no adapter."""
    config = loaded.config
    replay = getattr(config.skill.proposer, "path", None)
    named = {config.skill.vocabulary, replay, *(p for c in config.capabilities for p in (c.vocabulary, c.oracle))}
    found = {p: hashlib.sha256(loaded.resolve(p).read_bytes()).hexdigest() for p in sorted(n for n in named if n)}
    names = {c.name for c in config.capabilities}
    if any(config.method_of(name) == "swarm" for name in names):
        folders = sorted(p for p in config.weights.swarm.experts if p not in names)
        found |= {p: inspect_adapter(loaded.resolve(p)).sha256 for p in folders}
    monitors = config.weights.monitors
    told = classifier_fingerprint(monitors)
    if monitors.classifier is not None and told is not None:
        found[monitors.classifier] = told
    return found


def identity_fields(loaded: LoadedConfig, capabilities: tuple[Capability, ...], backend: Backend) -> dict[str, Any]:
    """What makes a run this run: configuration, data, code version, base model and where it runs."""
    info = backend.info()
    return {
        "config": identity_config(loaded.config.model_dump(mode="json")),
        "data": {c.name: c.fingerprint() for c in capabilities},
        "files": named_files(loaded),
        "code": __version__,
        "model": {"fingerprint": info.fingerprint, "dtype": info.dtype, "device": info.device},
        **({"proxy": steered} if (steered := steering(loaded, backend)) else {}),
    }


def open_session(
    loaded: LoadedConfig, folder: RunFolder, capabilities: tuple[Capability, ...], backend: Backend, on_event: OnEvent
) -> Session:
    """Build the shared parts over an already claimed run folder."""
    config = loaded.config
    store = RolloutStore(folder.path / "rollouts")
    ledger = Ledger(config.budget, store.all(), folder.events.wall_seconds())
    chunk, turns = 4 * getattr(config.backend, "batch_size", 64), False
    if isinstance(config.backend, OpenAIBackendConfig):
        chunk, turns = (
            config.backend.concurrency,
            True,
        )  # answers that are paid for one by one are kept as soon as may be
    meter = Meter(
        backend,
        store,
        ledger,
        folder.events,
        seed=config.seed,
        separator=config.model.skill_separator,
        chunk=chunk,
        turns=turns,
    )
    return Session(loaded, folder, capabilities, backend, meter, ledger, on_event)
