"""What a run does differently because it goes back to another one (see `lineage`): a few decisions, called by `run`.

A capability that a review wants changed is sent where the review says; what shipped before is offered to the same gates beside
what is new, under the name of its own arm, and is measured on the sealed test. A run that goes back to nothing passes here as
it is.

Does not: decide what ships (`router.lifecycle.settle`).
"""

from __future__ import annotations

from dataclasses import replace

from hybrid.capability.types import Capability
from hybrid.config.schema import PlacementName
from hybrid.pipeline.arms import Built
from hybrid.pipeline.improve import Improved
from hybrid.pipeline.lineage import Lineage, previous_adapter, previous_document
from hybrid.pipeline.session import Session
from hybrid.probe.base import Profile
from hybrid.router.place import ARMS, ArmName, Placement
from hybrid.router.route import Route, route


def goes_back(lineage: Lineage | None) -> tuple[str, ...]:
    """What the report has to say of a run that goes back to another one."""
    if lineage is None:
        return ()
    if lineage.kind == "review":
        done = [f"{b.action} {name}" for name, b in sorted(lineage.capabilities.items()) if lineage.before(name)]
        return (f"carries out the review of run {lineage.run_id}: {', '.join(done)}",)
    told = [
        f"replaces the base of run {lineage.run_id} ({lineage.model.path}); its documents are the seeds here, and its confirm "
        "and test examples are looked at again, by another base"
    ]
    adapted = [name for name, b in sorted(lineage.capabilities.items()) if b.was in ("weights", "both")]
    if adapted:
        told.append(f"the adapters of {', '.join(adapted)} belong to the old base and were not carried over")
    return tuple(told)


def directed(session: Session, name: str, profile: Profile, forced: PlacementName | None) -> Route:
    """The route of a capability: where the review sends it, else by the rules (or by `forced`, of the configuration)."""
    before = session.before(name)
    if before is None or before.action == "retire":
        return route(profile, session.loaded.config.router, forced)
    assert session.lineage is not None
    found = route(profile, session.loaded.config.router, before.target)
    told = f"the review of run {session.lineage.run_id} wants to {before.action} it: {before.why}"
    return replace(found, reasons=(*found.reasons[:-1], told))


def asked_arms(session: Session, capability: Capability, arms: tuple[ArmName, ...]) -> tuple[ArmName, ...]:
    """The arms to build: the text alone where an adapter is demoted or a text renewed."""
    before = session.before(capability.name)
    return ("skill",) if before is not None and before.action in ("demote", "renew") else arms


def retires(session: Session, capability: Capability) -> bool:
    """Whether nothing new is built: what shipped before meets the gates as it is."""
    before = session.before(capability.name)
    return before is not None and before.action == "retire"


def previous_built(session: Session, capability: Capability) -> Built | None:
    """What shipped before, where this run is to change that. Raises AdapterError and DataError for damaged artefacts."""
    if session.before(capability.name) is None:
        return None
    folder = session.folder.path
    document = previous_document(folder, capability.name)
    text = document.body if document is not None else ""
    return Built(skill=text, adapter=previous_adapter(folder, capability.name))


def offer_previous(session: Session, capability: Capability, into: Improved, previous: Built | None) -> None:
    """Put what shipped before among the arms, where nothing new stands in its place."""
    before = session.before(capability.name)
    if before is None or previous is None:
        return
    for arm in ARMS:
        if arm == before.was and arm not in into.built:
            into.built[arm] = previous
            into.notes.append(
                f"{arm}: what run {session.lineage.run_id if session.lineage else ''} shipped, offered again"
            )


def keep_document(
    session: Session, capability: Capability, improved: Improved, previous: Built | None, placement: Placement
) -> None:
    """Where the previous document is placed, it is the one that is written and reported."""
    placed = next((b for arm, b in improved.built.items() if arm == placement.placement), None)
    if previous is not None and placed == previous and previous.skill:
        improved.document = previous_document(session.folder.path, capability.name)
