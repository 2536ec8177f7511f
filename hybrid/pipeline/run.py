"""The run: probe, route, improve, gate, verify, report; the same command goes on where the last attempt stopped.

Resume is replay: every stage is deterministic, completions and trainings are found on disk by content, and sealed
splits may only be opened again for the same candidates. So a resumed run takes the same path and pays for nothing twice.

Does not: measure, decide or draw; the rooms it calls do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hybrid.capability.types import Capability
from hybrid.config.loader import LoadedConfig, resolved_json
from hybrid.evidence.gate import finalize, ship_gate
from hybrid.evidence.types import Verdict
from hybrid.pipeline import judges, merge, workers
from hybrid.pipeline.arms import Built, Shipping, arms_of, judge
from hybrid.pipeline.assemble import assemble, profile_json
from hybrid.pipeline.assemble_merge import merger_of
from hybrid.pipeline.attribution import left_out
from hybrid.pipeline.buying import buy
from hybrid.pipeline.follow import follow, join, open_backend
from hybrid.pipeline.fork import forked_fields, parent_of, warnings_of
from hybrid.pipeline.improve import Improved, Improver, keep_placed, placed_arms, wanted_arms
from hybrid.pipeline.lineage import read_lineage
from hybrid.pipeline.plan_cost import training_completions
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.previous import (
    asked_arms,
    carried,
    directed,
    goes_back,
    keep_document,
    offer_carried,
    offer_previous,
    previous_built,
    retires,
)
from hybrid.pipeline.probing import probe_context_of, tell_kind
from hybrid.pipeline.serving import leave_facts
from hybrid.pipeline.session import OnEvent, Session, identity_fields, open_session
from hybrid.pipeline.sharded import ShardedBackend
from hybrid.pipeline.shared import Asked, Shared, share
from hybrid.pipeline.shared_report import schedule_of
from hybrid.pipeline.swarm import check_folders, composed_last
from hybrid.pipeline.text_only import text_arms, text_route
from hybrid.pipeline.verify import Verified, collateral, verify
from hybrid.probe.lapse import lapse_probe
from hybrid.probe.profile import Probed, irrelevant_text, profile_capability, worked_examples
from hybrid.report.render import write_report
from hybrid.router.advice import Standing, standing, token_cost
from hybrid.router.lifecycle import Bounds, settle
from hybrid.router.place import ArmName, Placement, place
from hybrid.router.route import Route
from hybrid.skill.reflection import FailureLabel
from hybrid.store.atomic import write_json, write_text
from hybrid.store.faults import faultpoint
from hybrid.store.folder import RunFolder


@dataclass
class Outcome:
    """Everything known about one capability, filled stage by stage."""

    capability: Capability
    texts: dict[str, str] = field(default_factory=dict)
    labels: tuple[FailureLabel, ...] = ()
    """Of the failures that the draft was made from."""
    probed: Probed | None = None
    route: Route | None = None
    improved: Improved = field(default_factory=Improved)
    terms: Standing | None = None
    """What to prefer where a text and an adapter are equally good."""
    previous: Built | None = None
    """What shipped before, where this run is to change that."""
    shipping: Shipping | None = None
    verdicts: dict[ArmName, Verdict] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    """One-sided p of everything that met the ship gate, by arm and `merged`: what the correction is over."""
    merged_verdict: Verdict | None = None
    """Of the merged adapter, after the correction."""
    merged: bool = False
    """Whether the merged adapter stands in for the own one."""
    placement: Placement | None = None
    counterfactual: Placement | None = None
    verified: Verified | None = None


@dataclass(frozen=True)
class How:
    """How an attempt is made; see `run`."""

    probe_only: bool = False
    fork: Path | None = None
    strict: bool = False


def run(
    loaded: LoadedConfig,
    out: Path,
    *,
    fresh: bool = False,
    probe_only: bool = False,
    fork: Path | None = None,
    strict: bool = False,
    on_event: OnEvent,
) -> Path:
    """Run everything, or only the probes, into the folder `out`; returns `report/placement.json` (or `profile.json`).

    `fork` is the folder of a run that a new one in `out` goes on from; `strict` makes a skipped checkpoint an error.

    Under `accelerate launch` every process calls this; rank 0 leads, the others generate their parts and join its
    trainings. Raises HybridError subclasses, on every process alike; whatever was paid for by then is kept.
    """
    capabilities = load_capabilities(loaded)
    join(loaded)
    try:
        if workers.rank() > 0:
            return follow(loaded, capabilities, out)
        with workers.leading(), RunFolder(out, fresh=fresh) as folder:
            return _lead(loaded, folder, capabilities, How(probe_only, fork, strict), on_event)
    finally:
        workers.leave()


def _lead(
    loaded: LoadedConfig,
    folder: RunFolder,
    capabilities: tuple[Capability, ...],
    how: How,
    on_event: OnEvent,
) -> Path:
    started = time.monotonic()
    config = loaded.config
    backend = open_backend(loaded, capabilities, folder.path)
    info = backend.info()
    fields = identity_fields(loaded, capabilities, backend)
    parent = parent_of(folder, how.fork, fields)
    lineage = read_lineage(folder.path)
    own = forked_fields(fields, parent) | ({"lineage": lineage.sha256} if lineage else {})
    resumed = folder.claim(own, resolved_json(config, loaded.root), parent)
    capabilities = judges.bind(loaded, folder.path, capabilities, 0)
    folder.events.append("attempt.started", device=info.device, processes=workers.world_size())
    session = open_session(loaded, folder, capabilities, backend, on_event)
    session.parent, session.strict, session.lineage = parent, how.strict, lineage
    session.steering = fields.get("proxy", {})
    head = {"name": config.name, "device": info.device, "model": info.path, "out": str(folder.path)}
    on_event("run.started", {**head, "resumed": resumed, "reused_calls": session.ledger.total().calls})
    if info.device == "cpu" and config.model.device == "auto":
        session.warn("device: auto found no CUDA device and ran on the CPU")
    for text in (*warnings_of(parent), *goes_back(lineage)):
        session.warn(text)
    outcomes = [Outcome(c) for c in capabilities]
    _probe(session, outcomes)
    if how.probe_only:
        _count_shares(session)
        return _write_profiles(session, outcomes)
    shared = _improve(session, outcomes)
    offered = merge.offer(session, outcomes)
    for outcome in outcomes:
        _judge(session, outcome, offered)
    _place(session, outcomes)
    settled = merge.settle(session, outcomes, offered)
    for outcome in outcomes:
        _verify(session, outcome)
    path = _report(session, outcomes, shared, settled)
    placements = {o.capability.name: o.placement.placement for o in outcomes if o.placement}
    done = {"report": str(path), "placements": placements, "seconds": round(time.monotonic() - started, 2)}
    _count_shares(session)
    folder.events.append("run.done", placements=placements)
    on_event("run.done", {**done, "reused_calls": session.meter.reused})
    return path


def _count_shares(session: Session) -> None:
    """Put on record how many completions each process generated in this attempt. Alone, there is nothing to share."""
    if isinstance(session.backend, ShardedBackend):
        session.folder.events.append("run.shared", completions=list(session.backend.rows))


def _probe(session: Session, outcomes: Sequence[Outcome]) -> None:
    config = session.loaded.config
    for outcome in outcomes:
        capability = outcome.capability
        with session.stage(capability.name, "draft") as note:
            improver = Improver(session, capability)
            settings = session.settings(capability)
            oracle = capability.oracle or ""  # of a suite; a file of the configuration goes first
            if settings.oracle:
                oracle = session.loaded.resolve(settings.oracle).read_text(encoding="utf-8")
            draft, outcome.labels = improver.draft()
            outcome.texts = {
                "seed": improver.seed_document().body,
                "draft": draft,
                "worked examples": worked_examples(capability.splits["train"], config.probe.worked_examples),
                "oracle": oracle,
            }
            note["summary"] = f"{len(outcome.texts['draft'].splitlines())} lines from training failures"
    for i, outcome in enumerate(outcomes):
        capability = outcome.capability
        own = outcome.texts["draft"] or outcome.texts["worked examples"]
        others = [o.texts["draft"] for o in [*outcomes[i + 1 :], *outcomes[:i]]]
        with session.stage(capability.name, "probe") as note:
            context = probe_context_of(session, capability)
            mine = [outcome.texts["seed"], outcome.texts["oracle"]]
            control = irrelevant_text(own, others, config.seed, mine=mine)
            outcome.probed = profile_capability(context, outcome.texts, control)
            kinds = [label.kind for label in outcome.labels]
            outcome.probed.profile["lapse_share"] = lapse_probe(
                kinds.count("defect"), kinds.count("lapse"), document=outcome.texts["seed"], source="seed"
            )
            tell_kind(session, capability, outcome.probed.profile)
            outcome.route = directed(
                session, capability.name, outcome.probed.profile, config.router.force.get(capability.name)
            )
            if not config.trains:
                outcome.route = _without_weights(session, capability.name, outcome.route)
            note["summary"] = f"-> {outcome.route.placement} (confidence {outcome.route.confidence:.2f})"
        faultpoint("stage.probe")


def _without_weights(session: Session, name: str, asked: Route) -> Route:
    route = text_route(asked)
    if route.placement != asked.placement:
        session.warn(
            f"{name}: the probes say {asked.placement}; {session.backend.info().path} cannot be trained, so only a document was "
            "tried"
        )
    return route


def _improve(session: Session, outcomes: Sequence[Outcome]) -> tuple[Shared, ...]:
    """Build every arm; the trainings in which capabilities shared an adapter."""
    config = session.loaded.config
    asked: list[Asked] = []
    check_folders(session)
    for outcome in (outcomes[i] for i in composed_last(session, [o.capability.name for o in outcomes])):
        assert outcome.route is not None and outcome.probed is not None
        outcome.previous = previous_built(session, outcome.capability)
        improver = Improver(session, outcome.capability)
        improver.know(outcome.route.sure_kind, outcome.probed.best_text)
        if session.before(outcome.capability.name) is None:  # what shipped before is judged as it is, not routed anew
            outcome.route = buy(session, improver, outcome.route, outcome.improved)
        outcome.terms = _terms(session, outcome)
        arms, fallback = _arms_to_build(session, outcome), outcome.route.fallback
        if retires(session, outcome.capability):
            offer_previous(session, outcome.capability, outcome.improved, outcome.previous)
        elif config.weights.schedule.tasks == "separate":
            improver.improve(arms, fallback, outcome.improved)
            offer_previous(session, outcome.capability, outcome.improved, outcome.previous)
            offer_carried(session, outcome.capability, outcome.route, outcome.improved)
            own = outcome.improved.built.get("weights")
            steered = session.method(outcome.capability.name) == "proxy" and config.weights.proxy.apply == "logits"
            if own is not None and own.adapter is not None and not steered:  # a small model's adapter is none to mix
                session.adapters[outcome.capability.name] = own.adapter
            faultpoint("stage.improve")
        else:
            improver.text(arms, outcome.improved)
            offer_previous(session, outcome.capability, outcome.improved, outcome.previous)
            offer_carried(session, outcome.capability, outcome.route, outcome.improved)
            asked.append(Asked(improver, outcome.improved, improver.weight_arms(outcome.improved, arms, fallback)))
    return share(session, asked)


def _terms(session: Session, outcome: Outcome) -> Standing:
    """What the declared terms say about a text against an adapter, with the costs as they are known before building."""
    assert outcome.probed is not None
    config = session.loaded.config
    probing = session.ledger.stages(outcome.capability.name).get("probe")
    each = (probing.tokens_in + probing.tokens_out) / max(probing.calls, 1) if probing is not None else 0.0
    tokens = (
        training_completions(config.weights_of(outcome.capability.name), train=len(outcome.capability.splits["train"]))
        * each
    )
    document = session.backend.count_tokens(outcome.probed.best_text)
    return standing(outcome.probed.profile, config.router, document, token_cost(tokens, 0.0, tokens))


def _arms_to_build(session: Session, outcome: Outcome) -> tuple[ArmName, ...]:
    """The arms of the route; where a text works, gradients would too, and the text is the dearer one to live with: both."""
    assert outcome.route is not None and outcome.terms is not None
    config = session.loaded.config
    method = session.method(outcome.capability.name)
    wanted = wanted_arms(outcome.route, config.router.counterfactual, method)
    arms = asked_arms(session, outcome.capability, wanted)
    if not config.trains:
        return text_arms(arms)
    hot = outcome.terms.prefers == "weights" and outcome.route.fallback == "weights"
    return (*arms, "weights") if hot and arms == ("skill",) else arms


def _judge(session: Session, outcome: Outcome, offered: merge.Offered | None) -> None:
    if not outcome.improved.built:
        return
    with session.stage(outcome.capability.name, "ship") as note:
        built, result = outcome.improved.built, outcome.improved.skill
        most = session.loaded.config.skill.attribution
        own = result is not None and "skill" in built and built["skill"].skill == result.body
        without = left_out(result, most) if result is not None and own else ()
        member = offered is not None and outcome.capability.name in offered.own
        merged = offered.best.adapter if offered is not None and member else None
        outcome.shipping = judge(session, outcome.capability, built, without, merged)
        note["summary"] = ", ".join(f"{a}: {v.decision} ({v.delta:+.2f})" for a, v in outcome.shipping.verdicts.items())
    faultpoint("stage.ship")


def _place(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Correct over every arm of every capability that asked, then place each capability on what is left."""
    config = session.loaded.config
    policy, forced = config.gate.ship, config.router.force
    asked = {
        f"{o.capability.name}/{arm}": verdict
        for o in outcomes
        if o.shipping is not None
        for arm, verdict in o.shipping.verdicts.items()
    }
    asked |= {
        f"{o.capability.name}/{merge.MERGED}": o.shipping.merged.verdict
        for o in outcomes
        if o.shipping is not None and o.shipping.merged is not None
    }
    corrected = finalize(asked, policy)
    for outcome in outcomes:
        assert outcome.route is not None
        shipping = outcome.shipping
        if shipping is not None:
            outcome.verdicts = {arm: corrected[f"{outcome.capability.name}/{arm}"] for arm in shipping.verdicts}
            outcome.asked = {arm: verdict.p for arm, verdict in outcome.verdicts.items()}
            if shipping.merged is not None:
                outcome.asked[merge.MERGED] = shipping.merged.verdict.p
            outcome.merged_verdict = corrected.get(f"{outcome.capability.name}/{merge.MERGED}")
        # Without a counterfactual the fallback is built only where the text arm found nothing.
        fallback = None if "skill" in outcome.improved.built else outcome.route.fallback
        wanted = placed_arms(outcome.route, session.method(outcome.capability.name), outcome.capability.name in forced)
        built = outcome.verdicts if outcome.route.bought else ()
        hot = {"weights"} if outcome.terms is not None and outcome.terms.prefers == "weights" else set()
        routed = set(wanted) | (({fallback} | hot) & set(outcome.verdicts)) | set(built)
        if session.before(outcome.capability.name) is not None:
            routed = set(outcome.verdicts)
        elif carried(session, outcome.capability.name):
            routed.update(arm for arm in outcome.verdicts if arm == "skill")
        outcome.placement = _placed(session, outcome, {a: v for a, v in outcome.verdicts.items() if a in routed})
        keep_document(session, outcome.capability, outcome.improved, outcome.previous, outcome.placement)
        if config.router.counterfactual:
            outcome.counterfactual = _placed(session, outcome, outcome.verdicts)


def _placed(session: Session, outcome: Outcome, verdicts: dict[ArmName, Verdict]) -> Placement:
    config = session.loaded.config
    shipping = outcome.shipping
    assert outcome.route is not None

    def compare(cheaper: ArmName, dearer: ArmName) -> Verdict:
        assert shipping is not None
        values = shipping.measured[cheaper].values, shipping.measured[dearer].values
        return ship_gate(*values, config.gate.ship)

    arms = {} if shipping is None else arms_of(shipping, verdicts)
    bounds = Bounds(config.gate.ship.minimum_effect, config.router.transfer, config.router.transfer_bound)
    before = session.before(outcome.capability.name)
    if before is not None:
        return settle(before.action, before.was, outcome.route, arms, compare, bounds)
    return place(
        outcome.route,
        arms,
        compare,
        minimum_effect=bounds.minimum_effect,
        transfer_floor=bounds.transfer_floor,
        transfer_bound=bounds.transfer_bound,
        terms=outcome.terms,
    )


def _verify(session: Session, outcome: Outcome) -> None:
    capability, placement = outcome.capability, outcome.placement
    assert placement is not None
    with session.stage(capability.name, "verify") as note:
        outcome.verified = verify(session, capability, outcome.improved.built, outcome.previous)
        placed = next((b for arm, b in outcome.improved.built.items() if arm == placement.placement), None)
        if placed is not None:
            outcome.verified.collateral = collateral(session, capability, placed)
        verdict = next((v for arm, v in outcome.verdicts.items() if arm == placement.placement), None)
        keep_placed(session, capability, placed, outcome.improved.document, verdict)
        scores = {name: m.mean for name, m in outcome.verified.test.items()}
        note["summary"] = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    faultpoint("stage.verify")


def _write_profiles(session: Session, outcomes: Sequence[Outcome]) -> Path:
    path = session.folder.path / "report" / "profile.json"
    write_json(path, profile_json(session, outcomes))
    return path


def _report(
    session: Session, outcomes: Sequence[Outcome], shared: Sequence[Shared], settled: merge.Settled | None
) -> Path:
    path = session.folder.path / "report" / "placement.json"
    faultpoint("stage.report")
    told = schedule_of(shared), merger_of(settled, session.loaded.config.seed)
    report = assemble(session, outcomes, _created(session), _wall_seconds(session), *told)
    write_text(path, report.to_json())
    leave_facts(session)
    write_report(session.folder.path, session.loaded.config.report.formats)
    return path


def _wall_seconds(session: Session) -> float:
    """Seconds until everything was measured for the first time; later attempts only read it, so that reports keep their bytes."""
    events = session.folder.events
    measured = events.last("run.measured") or events.append(
        "run.measured", wall_seconds=round(events.wall_seconds(), 3)
    )
    return float(measured["data"]["wall_seconds"])


def _created(session: Session) -> str:
    """When the run began (first attempt), in UTC: the same in every attempt, so that reports keep their bytes."""
    first: dict[str, Any] = session.folder.events.all("attempt.started")[0]
    return datetime.fromtimestamp(first["t"], UTC).isoformat(timespec="seconds")
