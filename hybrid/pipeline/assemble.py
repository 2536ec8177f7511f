"""From outcomes to the placement report: everything known, in the contract's shape. Nothing is measured here.

Does not: draw (see `hybrid.report`).
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from hybrid import __version__
from hybrid.evidence.classify import build_classifier
from hybrid.evidence.formats import format_use
from hybrid.evidence.gate import ship_gate
from hybrid.evidence.ledger import Cost
from hybrid.evidence.stats import holm, mean_interval
from hybrid.evidence.types import Measurement, Verdict
from hybrid.pipeline import assemble_generality, assemble_lifecycle, assemble_proxy
from hybrid.pipeline.attribution import Worth
from hybrid.pipeline.calibrated import calibration_of
from hybrid.pipeline.judges import judge_cost, tell_unjudged
from hybrid.pipeline.merge import MERGED
from hybrid.pipeline.probing import kind_of
from hybrid.pipeline.session import Session
from hybrid.pipeline.shared_job import SHARED
from hybrid.report import schema as r
from hybrid.skill.edits import Edit

if TYPE_CHECKING:
    from hybrid.pipeline.run import Outcome

STACK = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
TEXT_LIMIT = 2_000
"""Characters of model output that the report shows of one completion."""


def assemble(
    session: Session,
    outcomes: Sequence[Outcome],
    created: str,
    wall_seconds: float,
    schedule: r.Schedule | None = None,
    merger: r.Merger | None = None,
) -> r.Report:
    """The report of a finished run. `created` and `wall_seconds` come from the events: a later attempt keeps them."""
    info = session.backend.info()
    config = session.loaded.config
    fields = session.folder.path / "run.json"
    adjusted = _adjusted(outcomes)
    tell_unjudged(session)
    return r.Report(
        run_id=_run_id(session),
        created=created,
        seed=config.seed,
        model=r.ModelFacts(
            path=config.model.path,
            fingerprint=info.fingerprint,
            parameters=info.parameters,
            dtype=info.dtype,
            device=info.device,
        ),
        ledger=_totals(session, None, wall_seconds),
        capabilities=tuple(_capability(session, o, adjusted) for o in outcomes),
        router=r.RouterFacts(
            policy="rules over probes, thresholds from the configuration",
            thresholds={k: v for k, v in config.router.model_dump(mode="json").items() if isinstance(v, float)},
            regret=None,
            baselines=None,
        ),
        gate=r.GateFacts(
            **config.gate.ship.model_dump(include={"alpha", "minimum_effect", "multiplicity"}), family=len(adjusted)
        ),
        schedule=schedule,
        merger=merger,
        moves=assemble_lifecycle.moves_of(session, outcomes),
        warnings=session.told(),
        provenance=r.Provenance(
            versions=_versions(),
            seeds={"run": config.seed},
            hashes={
                "identity": _identity(fields),
                "model": info.fingerprint,
                **{f"data/{c.name}": c.fingerprint() for c in session.capabilities},
                **_shipped_skills(session),
            },
            parent=_parent(session),
        ),
    )


def profile_json(session: Session, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What `hybrid probe` writes: profiles and routes, without anything trained."""
    return {
        "schema_version": r.SCHEMA_VERSION,
        "capabilities": [
            {
                "name": o.capability.name,
                "profile": {k: v.model_dump(mode="json") for k, v in sorted(_profile(o).items())},
                "route": {
                    "placement": o.route.placement,
                    "confidence": o.route.confidence,
                    "reasons": list(o.route.reasons),
                    "fallback": o.route.fallback,
                    "kind": o.route.kind,
                },
                "kind": kind_of(o.capability, o.probed.profile if o.probed else {}).model_dump(mode="json"),
            }
            for o in outcomes
            if o.route is not None
        ],
        "warnings": list(session.told()),
    }


def _capability(session: Session, outcome: Outcome, adjusted: Mapping[str, float]) -> r.CapabilityReport:
    placement, route, verified = outcome.placement, outcome.route, outcome.verified
    assert placement is not None and route is not None and verified is not None
    name = outcome.capability.name
    arm = placement.placement if placement.placement in outcome.improved.built else None
    refused = [f"{x.arm} not placed: {x.why}" for x in placement.refused]
    calibration, unmeasured = calibration_of(
        session.loaded.config, verified.test["base"], verified.test[arm] if arm else None
    )
    return r.CapabilityReport(
        name=name,
        placement=placement.placement,
        confidence=route.confidence,
        reason=placement.reason,
        decision_trail=(
            *route.reasons,
            *outcome.improved.notes,
            *assemble_generality.trail(outcome),
            *refused,
            *([unmeasured] if unmeasured else ()),
            f"placed: {placement.reason}",
        ),
        recommendation=route.recommendation,
        kind=kind_of(outcome.capability, outcome.probed.profile if outcome.probed else {}),
        profile=_profile(outcome),
        arms=_arms(outcome, session.loaded.config.seed),
        delta=_delta(verified.test["base"], verified.test[arm], session) if arm else None,
        gate=tuple(
            _verdict(a, v, adjusted.get(f"{name}/{_asked_as(outcome, a)}")) for a, v in outcome.verdicts.items()
        ),
        calibration=calibration,
        formats=_formats(session, outcome, arm),
        collateral={
            other: r.Collateral(delta=t.delta, low=t.low, high=t.high, n=t.n)
            for other, t in sorted(verified.collateral.items())
        },
        rejected=_rejected(outcome),
        counterfactual=_counterfactual(session, outcome),
        skill_edits=_edits(outcome),
        skill_text=outcome.improved.document.body if outcome.improved.document else None,
        seed_skill_text=outcome.texts.get("seed") or None,
        training=_training(session, outcome, arm),
        generality=assemble_generality.assembled(outcome, arm),
        proxy=assemble_proxy.assembled(session, outcome, arm),
        flips=_flips(outcome, arm),
        history=assemble_lifecycle.history_of(session, outcome, _run_id(session)),
        ledger=_totals(session, name, None),
        artifacts=r.Artifacts(
            skill=f"skills/{name}/SKILL.md" if arm in ("skill", "both") else None,
            adapter=f"adapters/{name}" if arm in ("weights", "both") else None,
            method=_method(session, outcome) if arm in ("weights", "both") else None,
            composition=_composition(outcome, arm),
        ),
    )


def _method(session: Session, outcome: Outcome) -> str:
    trained = session.method(outcome.capability.name)
    return f"{trained}, {MERGED}" if outcome.merged else trained


def _composition(outcome: Outcome, arm: str | None) -> r.Composition | None:
    found = next((c for name, c in outcome.improved.composed.items() if name == arm), None)
    if found is None:
        return None
    pairs = zip(found.experts, found.coefficients, strict=True)
    return r.Composition(
        search=found.search,
        ingredients=tuple(r.Ingredient(name=n, coefficient=c) for n, c in pairs),
        chosen=found.chosen,
        best_expert=found.best,
        evaluations=found.evaluations,
        asked=found.asked,
        saved=found.saved,
        fresh={n: r.Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n) for n, i in found.fresh.items()},
        rank=found.rank,
        error=found.error,
    )


def _profile(outcome: Outcome) -> dict[str, r.ProbeResult]:
    assert outcome.probed is not None
    return {
        name: r.ProbeResult(value=p.value, low=p.low, high=p.high, n=p.n, note=p.note, **p.details)
        for name, p in outcome.probed.profile.items()
    }


def _estimate(measured: Measurement, seed: int) -> r.Estimate | None:
    if not measured.values:
        return None
    i = mean_interval(measured.values, 0.95, seed)
    return r.Estimate(mean=i.mean, low=i.low, high=i.high, n=i.n)


def _arms(outcome: Outcome, seed: int) -> r.Arms:
    verified = outcome.verified
    assert verified is not None

    def arm(name: str) -> r.ArmResult | None:
        if name not in verified.test:
            return None
        rollouts = [row[0] for row in verified.test[name].rollouts]
        n = max(len(rollouts), 1)
        varied = verified.variant.get(name)
        return r.ArmResult(
            test=_estimate(verified.test[name], seed),
            variant=_estimate(varied, seed) if varied is not None else None,
            tokens_in=sum(x.tokens_in for x in rollouts) / n,
            tokens_out=sum(x.tokens_out for x in rollouts) / n,
        )

    return r.Arms(base=arm("base"), skill=arm("skill"), weights=arm("weights"), both=arm("both"))


def _delta(before: Measurement, after: Measurement, session: Session) -> r.Delta:
    v = ship_gate(before.values, after.values, session.loaded.config.gate.ship)
    return r.Delta(mean=v.delta, low=v.low, high=v.high, p=v.p, n=v.n, improved=v.improved, regressed=v.regressed)


def _adjusted(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return holm({f"{o.capability.name}/{a}": p for o in outcomes for a, p in o.asked.items()})


def _asked_as(outcome: Outcome, arm: str) -> str:
    return MERGED if outcome.merged and arm == "weights" else arm


def _verdict(arm: r.Substrate, v: Verdict, adjusted: float | None) -> r.GateVerdict:
    return r.GateVerdict(
        arm=arm,
        decision=v.decision,
        delta=v.delta,
        low=v.low,
        high=v.high,
        p=v.p,
        p_adjusted=adjusted,
        n=v.n,
        improved=v.improved,
        regressed=v.regressed,
        reason=v.reason,
        slices={
            name: r.Effect(delta=s["delta"], low=s["low"], high=s["high"], n=s["n"], p=s.get("p"))
            for name, s in v.slices.items()
        },
    )


def _edit_parts(edit: Edit) -> tuple[str, str, str]:
    return edit.op, getattr(edit, "target", ""), getattr(edit, "content", "")


def _edits(outcome: Outcome) -> tuple[r.SkillEdit, ...]:
    result = outcome.improved.skill
    if result is None:
        return ()
    worths = {(w.step, w.edit): w for w in (outcome.shipping.worths if outcome.shipping else ())}
    rows = []
    for step in result.history:
        for attempt in step.attempts:
            for edit in attempt.edits:
                shared = f" (together with {len(attempt.edits) - 1} more)" if len(attempt.edits) > 1 else ""
                where = " on training rows" if attempt.by == "screen" else ""
                found = worths.get((step.step, edit)) if attempt.accepted else None
                rows.append(_judged(step.step, *_edit_parts(edit), attempt.verdict, where + shared, found))
        rows += [_refused(step.step, *_edit_parts(x.edit), x.why) for x in step.refused]
    for epoch in result.epochs:
        last = max(step.step for step in result.history if step.epoch == epoch.epoch)
        if epoch.verdict is not None:
            rows.append(_judged(last, "slow_update", "", epoch.slow or "", epoch.verdict, "", None))
        elif epoch.refused:
            rows.append(_refused(last, "slow_update", "", epoch.slow or "", epoch.refused))
    return tuple(rows)


def _judged(step: int, op: str, target: str, content: str, v: Verdict, note: str, worth: Worth | None) -> r.SkillEdit:
    return r.SkillEdit(
        step=step,
        op=op,
        target=target,
        content=content,
        decision=v.decision,
        delta=v.delta,
        low=v.low,
        high=v.high,
        n=v.n,
        why=v.reason + note,
        worth=r.Effect(delta=worth.delta, low=worth.low, high=worth.high, n=worth.n) if worth else None,
    )


def _refused(step: int, op: str, target: str, content: str, why: str) -> r.SkillEdit:
    return r.SkillEdit(
        step=step,
        op=op,
        target=target,
        content=content,
        decision="reject",
        delta=None,
        low=None,
        high=None,
        n=0,
        why=f"not applied: {why}",
    )


def _rejected(outcome: Outcome) -> tuple[r.Rejected, ...]:
    rows = []
    if outcome.improved.skill is not None:
        for x in outcome.improved.skill.rejected:
            op, target, content = _edit_parts(x.edit)
            v = x.verdict
            what = f"{op} {content or target}"
            rows.append(
                r.Rejected(substrate="skill", what=what, delta=v.delta, low=v.low, high=v.high, n=v.n, why=v.reason)
            )
    rows += assemble_generality.sent_back(outcome)
    placement = outcome.placement
    for refusal in placement.refused if placement is not None else ():
        v = outcome.verdicts[refusal.arm]
        rows.append(
            r.Rejected(substrate=refusal.arm, what="arm", delta=v.delta, low=v.low, high=v.high, n=v.n, why=refusal.why)
        )
    return tuple(rows)


def _counterfactual(session: Session, outcome: Outcome) -> r.Counterfactual | None:
    other, placement, verified = outcome.counterfactual, outcome.placement, outcome.verified
    if other is None or placement is None or verified is None:
        return None
    mine = verified.test.get(placement.placement, verified.test["base"])
    best = verified.test.get(other.placement, verified.test["base"])
    agreed = other.placement == placement.placement
    note = "all arms were trained; " + ("they confirm the placement" if agreed else f"they say {other.placement}")
    return r.Counterfactual(
        placement=other.placement,
        regret=None if agreed else _delta(mine, best, session),
        note=f"{note}: {other.reason}",
    )


def _training(session: Session, outcome: Outcome, arm: str | None) -> r.Training | None:
    trainings = outcome.improved.trainings
    if not trainings:
        return None
    name = arm if arm in trainings else sorted(trainings)[0]
    result = trainings[name]
    history = tuple(r.TrainingPoint.model_validate({**row, "step": int(row["step"])}) for row in result.history)
    return r.Training(
        method=f"{_title(session, outcome)} ({name})",
        steps=result.steps,
        history=history,
        selected_step=outcome.improved.selected_steps.get(name),
        memory=None if result.memory is None else r.TrainingMemory(**asdict(result.memory)),
    )


def _title(session: Session, outcome: Outcome) -> str:
    configured, method = session.loaded.config.weights, session.method(outcome.capability.name)
    return configured.title if method == configured.method else method


def _flips(outcome: Outcome, arm: str | None) -> r.Flips:
    verified = outcome.verified
    if arm is None or verified is None:
        return r.Flips()
    examples = outcome.capability.splits["test"]
    improved: list[r.Flip] = []
    regressed: list[r.Flip] = []
    for example, before, after in zip(
        examples, verified.test["base"].rollouts, verified.test[arm].rollouts, strict=True
    ):
        if before[0].passed == after[0].passed or before[0].unjudged or after[0].unjudged:
            continue
        flip = r.Flip(
            id=example.id,
            prompt=example.prompt_text[:TEXT_LIMIT],
            reference=example.reference[:TEXT_LIMIT],
            before=before[0].text[:TEXT_LIMIT],
            after=after[0].text[:TEXT_LIMIT],
        )
        (improved if after[0].passed else regressed).append(flip)
    return r.Flips(improved=tuple(improved[: r.MOST_FLIPS]), regressed=tuple(regressed[: r.MOST_FLIPS]))


def _formats(session: Session, outcome: Outcome, arm: str | None) -> r.Formats | None:
    """Formats of the placed arm's test answers (the base's where nothing was placed), compared with the base's.

    Nothing is generated for it: the answers are those of the sealed test. None without a declared classifier.
    """
    classify, verified = build_classifier(session.loaded.config.weights.monitors), outcome.verified
    if classify is None or verified is None:
        return None

    def labelled(name: str) -> list[tuple[str, bool]]:
        return [(classify(x.text), x.passed) for row in verified.test[name].rollouts for x in row]

    used = format_use(labelled(arm), labelled("base")) if arm else format_use(labelled("base"))
    return None if used is None else r.Formats(**used.model_dump())


def _totals(session: Session, capability: str | None, wall_seconds: float | None) -> r.LedgerTotals:
    total = session.ledger.total(capability)
    stages: dict[str, Cost] = session.ledger.stages(capability or SHARED)
    return r.LedgerTotals(
        calls=total.calls,
        tokens_in=total.tokens_in,
        tokens_out=total.tokens_out,
        train_seconds=total.train_seconds,
        wall_seconds=wall_seconds,
        proposer=_proposer_cost(session) if capability is None else None,
        judge=judge_cost(session, capability),
        stages={
            name: r.StageCost(
                calls=c.calls,
                tokens_in=c.tokens_in,
                tokens_out=c.tokens_out,
                seconds=c.seconds,
                train_seconds=c.train_seconds,
            )
            for name, c in stages.items()
        },
    )


def _proposer_cost(session: Session) -> r.ProposerCost | None:
    from hybrid.backends.chat_log import LoggedChat

    budget = getattr(session.loaded.config.skill.proposer, "budget", None)
    if budget is None or not isinstance(session.chat, LoggedChat):
        return None
    spent = session.chat.spent()
    priced = budget.usd_per_million_in + budget.usd_per_million_out > 0
    return r.ProposerCost(
        calls=spent.calls,
        attempts=spent.attempts,
        tokens_in=spent.tokens_in,
        tokens_out=spent.tokens_out,
        usd=spent.usd if priced else None,
    )


def _shipped_skills(session: Session) -> dict[str, str]:
    """sha256 (hex) of every SKILL.md that shipped, front matter included, so that an export can tell a changed one."""
    found = {}
    for capability in session.capabilities:
        path = session.folder.path / "skills" / capability.name / "SKILL.md"
        if path.is_file():
            found[f"skill/{capability.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _parent(session: Session) -> r.ParentRun | None:
    """The run that this one was forked from, without where it lies."""
    parent = session.parent
    if parent is None:
        return None
    return r.ParentRun(run_id=parent["run_id"], identity=parent["identity"], changed=tuple(parent["changed"]))


def _run_id(session: Session) -> str:
    return f"{session.loaded.config.name}-{_identity(session.folder.path / 'run.json')[:12]}"


def _identity(path: Any) -> str:
    import json

    return str(json.loads(path.read_text(encoding="utf-8"))["identity"])


def _versions() -> dict[str, str]:
    found = {"hybrid": __version__, "python": platform.python_version()}
    for package in STACK:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
