"""Judges of a run: each bound to its endpoint, with a log and a budget of its own in the run folder.

    judge/<capability>/replies.jsonl     every verdict, before it is used; `replies-1.jsonl` and so on of other processes

Does not: judge (see `hybrid.backends.judge`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from hybrid.backends.chat_log import LoggedChat, Spent, stored_replies
from hybrid.capability.graders.judge import UnboundJudge
from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig
from hybrid.config.schema import JudgeGrader
from hybrid.pipeline.session import Session
from hybrid.report import schema as r


def bind(loaded: LoadedConfig, folder: Path, capabilities: Sequence[Capability], rank: int) -> tuple[Capability, ...]:
    """The capabilities with judges that can ask. A process has its own log: two cannot write to one.

    Every process has the whole budget. Raises UsageError for an address or a key that cannot be used.
    """
    return tuple(_bound(loaded, folder, c, rank) if isinstance(c.grader, UnboundJudge) else c for c in capabilities)


def _bound(loaded: LoadedConfig, folder: Path, capability: Capability, rank: int) -> Capability:
    from hybrid.backends.endpoint import EndpointChat
    from hybrid.backends.judge import Judge

    unbound = capability.grader
    assert isinstance(unbound, UnboundJudge)
    config = unbound.config
    section = f"capabilities.{capability.name}.grader"
    inner = EndpointChat(config.endpoint(), section=section)
    chat = LoggedChat(inner, log_of(folder, capability.name, rank), config.budget, section)
    return dataclasses.replace(capability, grader=Judge(config, unbound.check, chat, loaded.config.seed))


def log_of(folder: Path, capability: str, rank: int) -> Path:
    """Where the verdicts of a process are kept."""
    return folder / "judge" / capability / (f"replies-{rank}.jsonl" if rank else "replies.jsonl")


def spent(folder: Path, capability: str) -> Spent | None:
    """What the judge of a capability has cost so far, over all processes; None where none was asked."""
    logs = sorted((folder / "judge" / capability).glob("replies*.jsonl"))
    return Spent.of(entry for log in logs for entry in stored_replies(log)) if logs else None


def judge_cost(session: Session, capability: str | None) -> r.ProposerCost | None:
    """What judging a capability cost, or all of them; None where no judge was asked."""
    found = []
    for settings in session.loaded.config.capabilities:
        if isinstance(settings.grader, JudgeGrader) and capability in (None, settings.name):
            cost = spent(session.folder.path, settings.name)
            if cost is not None:
                found.append((cost, settings.grader.budget))
    if not found:
        return None
    priced = any(budget.usd_per_million_in + budget.usd_per_million_out > 0 for _, budget in found)
    return r.ProposerCost(
        calls=sum(cost.calls for cost, _ in found),
        attempts=sum(cost.attempts for cost, _ in found),
        tokens_in=sum(cost.tokens_in for cost, _ in found),
        tokens_out=sum(cost.tokens_out for cost, _ in found),
        usd=math.fsum(cost.usd for cost, _ in found) if priced else None,
    )


def tell_unjudged(session: Session) -> None:
    """A warning per capability some of whose answers got no verdict: they are in no mean and no test."""
    count: dict[str, list[int]] = {}
    for rollout in session.meter.store.all():
        seen = count.setdefault(rollout.capability, [0, 0])
        seen[0] += rollout.unjudged
        seen[1] += 1
    for name, (lost, total) in sorted(count.items()):
        if lost:
            session.warn(f"{name}: {lost} of {total} answers were not judged; they are left out of every mean and test")
