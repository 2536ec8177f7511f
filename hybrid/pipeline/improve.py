"""Building arms: the text arm by SkillOpt, the weight arms by training, each judged by the lenient search gate alone.

Does not: open `confirm` or `test`, or decide what ships.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hybrid.backends.base import Adapter
from hybrid.capability.types import Capability, Example, Split
from hybrid.config.schema import PlacementName
from hybrid.errors import TrainingError
from hybrid.evidence.known import KnownFacts
from hybrid.evidence.types import Measurement, Rollout, Verdict
from hybrid.pipeline import proposers
from hybrid.pipeline.arms import Built
from hybrid.pipeline.generality import SentBack, WatchPoint, added, describe, sent_back, watch
from hybrid.pipeline.known import Rows, known_rows
from hybrid.pipeline.known import describe as told_facts
from hybrid.pipeline.lessons import Lessons, lessons
from hybrid.pipeline.plan_cost import DRAFT_ROWS
from hybrid.pipeline.proxy import Tried, ready, steer
from hybrid.pipeline.session import Session
from hybrid.pipeline.swarm import Composed, compose
from hybrid.pipeline.training import Climbed, select_checkpoint, summary, train_adapter
from hybrid.router.kinds import MeasuredKind
from hybrid.router.place import ARMS, ArmName
from hybrid.router.route import Route
from hybrid.skill.document import SkillDocument, new_document, parse
from hybrid.skill.edits import apply
from hybrid.skill.evidence_metadata import GateEvidence, stamp
from hybrid.skill.guards import Guards, pattern_texts
from hybrid.skill.leakguard import leaks
from hybrid.skill.library import portable_text
from hybrid.skill.record import SkillResult
from hybrid.skill.reflection import FailureLabel, ReflectionContext, RolloutView, TrialBook
from hybrid.skill.skillopt import optimise
from hybrid.skill.task import SkillTask
from hybrid.store.atomic import write_text
from hybrid.store.faults import faultpoint
from hybrid.weights.base import Method, TrainResult
from hybrid.weights.tree.figures import search_notes


@dataclass
class Improved:
    """What was built for one capability, with the histories that the report shows."""

    built: dict[ArmName, Built] = field(default_factory=dict)
    document: SkillDocument | None = None
    skill: SkillResult | None = None
    trainings: dict[ArmName, TrainResult] = field(default_factory=dict)
    watched: dict[ArmName, tuple[WatchPoint, ...]] = field(default_factory=dict)
    """The watched variants at every checkpoint of the training that counts."""
    sent_back: dict[ArmName, SentBack] = field(default_factory=dict)
    """First attempts that were trained again with variants."""
    rungs: dict[ArmName, Climbed] = field(default_factory=dict)
    """Trainings that ended at a rung while evidence was bought; those of the arms that are built go on from there."""
    known: dict[ArmName, KnownFacts] = field(default_factory=dict)
    proxies: dict[ArmName, Tried] = field(default_factory=dict)
    """Strengths that were tried where a small model steers the base."""
    composed: dict[ArmName, Composed] = field(default_factory=dict)
    """Arms whose adapter was mixed from others, with what the search found."""
    selected_steps: dict[ArmName, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def wanted_arms(route: Route, counterfactual: bool, method: Method) -> tuple[ArmName, ...]:
    """The arms to build: both = the text first, then an adapter that reads it.

    `distill` always builds the text and then the adapter that it teaches, whichever of them was asked for; the gate
    compares them. An adapter that reads the document has nothing to learn from it, so there is no `both`.
    """
    if method == "distill":
        return ("skill", "weights") if counterfactual or route.placement in ARMS else ()
    if counterfactual:
        return ("skill", "weights", "both")
    needed: dict[PlacementName, tuple[ArmName, ...]] = {
        "skill": ("skill",),
        "weights": ("weights",),
        "both": ("skill", "both"),
    }
    return needed.get(route.placement, ())


def placed_arms(route: Route, method: Method, forced: bool) -> tuple[ArmName, ...]:
    """The built arms among which the placement is chosen. Forced to weights, a distilled adapter does not compete with
    the document that taught it: that is how a text is promoted to weights."""
    if method == "distill" and forced and route.placement == "weights":
        return ("weights",)
    return wanted_arms(route, False, method)


def seed_document(session: Session, capability: Capability) -> SkillDocument:
    """The configured seed document of a capability, or an empty one of its name."""
    if capability.seed_skill is not None:
        return parse(capability.seed_skill, session.settings(capability).skill or "skill")
    described = session.settings(capability).description
    return new_document(capability.name, described or f"Instructions for {capability.name}.")


class Improver:
    """Builds the arms of one capability."""

    def __init__(self, session: Session, capability: Capability) -> None:
        self.session, self.capability = session, capability
        self.proposer, self.editor = proposers.build(session, capability)
        self._kind: MeasuredKind = "unclear"
        self._best_text = ""

    def seed_document(self) -> SkillDocument:
        """The configured seed document, or an empty one of the capability's name."""
        return seed_document(self.session, self.capability)

    def rollouts(self, body: str, examples: Sequence[Example], split: Split) -> list[RolloutView]:
        """Graded answers of the base with a document; `train` and `search` only."""
        candidate = self.session.candidate(self.capability, body)
        measured = self.session.meter.measure(candidate, self.capability, split, examples, stage="skill")
        return [_view(example, row[0], split) for example, row in zip(examples, measured.rollouts, strict=True)]

    def trial(self, bodies: Sequence[str], examples: Sequence[Example]) -> list[list[float]]:
        """Scores of trial documents on training rows, paid for like everything else."""
        candidates = [self.session.candidate(self.capability, body) for body in bodies]
        measure = self.session.meter.measure_many
        measured = measure(candidates, self.capability, "train", examples, stage="skill")
        return [[0.0 if math.isnan(v) else v for v in m.values] for m in measured]

    def draft(self) -> tuple[str, tuple[FailureLabel, ...]]:
        """A first document from one reflection over training failures, for the context-headroom probe, and what the
        failures under the seed document are failures of."""
        seed = self.seed_document().body
        rows = self.capability.splits["train"][:DRAFT_ROWS]
        views = self.rollouts(seed, rows, "train")
        context = ReflectionContext(
            body=seed,
            failures=tuple(v for v in views if not v.passed),
            successes=tuple(v for v in views if v.passed),
            train=self.capability.splits["train"],
            budget=DRAFT_ROWS,
            rejected=(),
            trial=self.trial,
            fits=lambda body: self._count_tokens(body) <= self._max_tokens,
            book=TrialBook(),
        )
        found = self.proposer.propose(context)
        body = apply(seed, [p.edit for p in found.proposals], self._count_tokens, self._max_tokens).body
        return (seed if self.guard.check(body, seed) else body), found.labels

    @cached_property
    def guard(self) -> Guards:
        """What no document of this capability may hold."""
        splits = self.capability.splits
        return Guards(
            splits["train"],
            [e for split in ("search", "confirm", "test") for e in splits[split]],
            self.session.loaded.config.skill.copy_guard,
            pattern_texts(self.session.settings(self.capability).grader),
        )

    @property
    def _max_tokens(self) -> int:
        return self.session.loaded.config.skill.max_tokens

    def _count_tokens(self, text: str) -> int:
        return self.session.backend.count_tokens(text)

    def skill_arm(self, into: Improved) -> None:
        """Optimise the document; an unchanged one builds no arm."""
        config = self.session.loaded.config
        seed = self.seed_document()
        with self.session.stage(self.capability.name, "skill") as note:
            result = optimise(
                SkillTask(
                    capability=self.capability.name,
                    train=self.capability.splits["train"],
                    search=self.capability.splits["search"],
                    seed_body=seed.body,
                    config=config.skill,
                    gate=config.gate.search,
                    proposer=self.proposer,
                    editor=self.editor,
                    guard=self.guard.check,
                    measure=self.rollouts,
                    count_tokens=self._count_tokens,
                    seed=config.seed,
                    trial=self.trial,
                    on_progress=lambda record: faultpoint("stage.skill-step"),
                )
            )
            into.skill = result
            note["summary"] = f"{len(result.accepted)} edits kept, {len(result.rejected)} rejected"
        if not result.body.strip():
            into.notes.append("skill: no edit passed the search gate")
            return
        splits = self.capability.splits
        held_out = [e for split in ("search", "confirm", "test") for e in splits[split]]
        leaked = leaks(result.body, splits["train"], held_out)
        if leaked:
            why = f"line {leaked[0].line} holds {leaked[0].why} ({leaked[0].example_id})"
            into.notes.append(f"skill: the document was refused: {why}, and {len(leaked) - 1} more")
            self.session.warn(f"{self.capability.name}: the optimised document was refused: {why}")
            return
        into.document = seed.with_body(result.body)
        into.built["skill"] = Built(skill=result.body)
        self._save(into.document, result)

    def _save(self, document: SkillDocument, result: SkillResult) -> None:
        folder = self.session.folder.path / "skills" / self.capability.name / "versions"
        for number, body in enumerate(result.versions):
            write_text(folder / f"{number:03d}.md", document.with_body(body).render())

    def weight_arm(self, into: Improved, arm: ArmName, skill: str, start: Measurement) -> None:
        """Train an adapter that reads `skill`; one that does not beat `start` on search builds no arm.

        One whose gain does not carry over to the watched variants is trained again with variants, where the
        configuration says so; the second attempt is then the arm, and the first is on record only.
        """
        if self.session.method(self.capability.name) == "swarm":
            self._compose(into, arm, skill)
            return
        try:
            rows, facts = known_rows(self.session, self.capability, self._kind, skill, self._text(into))
        except TrainingError as error:
            self._stopped(into, arm, error)
            return
        if facts is not None:
            into.known[arm] = facts
            into.notes.append(f"{arm}: {told_facts(facts)}")
        first = self._attempt(into, arm, skill, start, arm, rows)
        if first is None:
            return
        back = sent_back(self.session, self.capability, into.watched[arm], first[0])
        if back is not None:
            into.sent_back[arm] = back
            into.notes.append(f"{arm}: step {back.step}: {back.why}")
            again = rows.with_variants(added(self.session, self.capability))
            first = self._attempt(into, arm, skill, start, f"{arm}-augmented", again)
        if first is not None:
            into.selected_steps[arm] = first[0]
            into.built[arm] = Built(skill=skill, adapter=first[1])

    def rung(self, into: Improved, arm: ArmName, skill: str, step: int) -> TrainResult:
        """Train an adapter that reads `skill` to `step` steps, from the rung before where there is one.

        Raises TrainingError where there is nothing to train on.
        """
        rows, _ = known_rows(self.session, self.capability, self._kind, skill, self._text(into))
        name = f"{arm}-rung-{step}"
        result = train_adapter(
            self.session, self.capability, skill, name, None, rows, rung=step, after=into.rungs.get(arm)
        )
        into.rungs[arm] = Climbed(name, result)
        return result

    def _attempt(
        self, into: Improved, arm: ArmName, skill: str, start: Measurement, name: str, rows: Rows
    ) -> tuple[int, Adapter] | None:
        """One training in its own folder, and its best checkpoint where one beats `start`."""
        session, capability = self.session, self.capability
        with session.stage(capability.name, name) as note:
            try:
                taught = self._lessons(into, rows) if session.method(capability.name) == "distill" else None
                after = into.rungs.get(arm) if name == arm else None
                result = ready(session) if session.method(capability.name) == "proxy" else None
                result = result or train_adapter(session, capability, skill, name, taught, rows, after=after)
            except TrainingError as error:
                note["summary"] = f"stopped: {error}"
                self._stopped(into, arm, error)
                return None
            for warning in result.warnings:
                session.warn(f"{capability.name}: {name}: {warning}")
            into.notes += [f"{name}: alarm {a.monitor} ({a.action}): {a.message}" for a in result.alarms]
            into.notes += [
                f"{name}: {note}"
                for note in search_notes(session.loaded.config.weights_of(capability.name), result.history)
            ]
            if session.method(capability.name) == "proxy":
                result, chosen, into.proxies[arm] = steer(session, capability, name, result, skill, start)
                into.notes.append(f"{name}: {into.proxies[arm].summary}")
            else:
                chosen = select_checkpoint(session, capability, name, result, skill, start)
            into.trainings[arm] = result
            into.watched[arm] = watch(session, capability, skill, result, self.search("") if skill else start)
            note["summary"] = summary(result, chosen, start)
        if chosen is None:
            into.notes.append(f"{name}: no checkpoint passed the search gate; {result.note}".rstrip("; "))
            return None
        carried = describe(into.watched[arm], chosen[0])
        if carried:
            into.notes.append(f"{name}: {carried}")
        return chosen[0], chosen[1]

    def _compose(self, into: Improved, arm: ArmName, skill: str) -> None:
        """An adapter mixed from others instead of trained; one that does not beat the base on fresh rows builds no arm."""
        with self.session.stage(self.capability.name, arm) as note:
            found = compose(self.session, self.capability, arm, skill)
            note["summary"] = found if isinstance(found, str) else found.told()
        into.notes.append(f"{arm}: {note['summary']}")
        if isinstance(found, str):
            self.session.warn(f"{self.capability.name}: {arm}: {found}")
            return
        into.composed[arm] = found
        if found.built is None:
            into.notes.append(f"{arm}: nothing that was mixed beats the base on fresh examples")
        else:
            into.built[arm] = Built(skill=skill, adapter=found.built)

    def _stopped(self, into: Improved, arm: ArmName, error: TrainingError) -> None:
        into.notes.append(f"{arm}: training stopped: {error}")
        self.session.warn(f"{self.capability.name}: {arm}: training stopped: {error}")

    def _text(self, into: Improved) -> str:
        """The best text at hand: the accepted document, or the one that served best while probing."""
        return into.built["skill"].skill if "skill" in into.built else self._best_text

    def _lessons(self, into: Improved, rows: Rows) -> Lessons:
        """What the accepted document teaches. Raises TrainingError when there is none, or it teaches nothing."""
        taught = into.built.get("skill")
        if taught is None:
            raise TrainingError(
                "weights.method is distill, and no document was accepted: there is nothing to distill. Give the "
                "capability a seed document or a proposer that finds one, or use grpo or sft"
            )
        variants = self.capability.splits.get("variant", ())
        found = lessons(self.session, self.capability, taught.skill, [variants[i] for i in rows.variants])
        into.notes.append(f"weights: {found.summary}")
        return found

    def improve(
        self,
        arms: Sequence[ArmName],
        fallback: PlacementName | None,
        out: Improved,
    ) -> Improved:
        """Build the wanted arms in order; where the first finds nothing, the fallback is tried. `out` is what was built."""
        self.text(arms, out)
        for arm, skill in self.weight_arms(out, arms, fallback):
            self.weight_arm(out, arm, skill, self.search(skill))
        return out

    def know(self, kind: MeasuredKind, best_text: str) -> None:
        """What the probes found; it decides what counts as a fact that is not known."""
        self._kind, self._best_text = kind, best_text

    def text(self, arms: Sequence[ArmName], into: Improved | None = None) -> Improved:
        """Build the text arm, where it is wanted and was not built already."""
        out = Improved() if into is None else into
        if "skill" in arms and out.skill is None:
            self.skill_arm(out)
        return out

    def weight_arms(
        self, out: Improved, arms: Sequence[ArmName], fallback: PlacementName | None
    ) -> list[tuple[ArmName, str]]:
        """The adapters to train once the text arm is done, each with the text that it reads."""
        found: list[tuple[ArmName, str]] = []
        if "weights" in arms or ("skill" not in out.built and fallback == "weights"):
            found.append(("weights", ""))
        if "both" in arms and "skill" in out.built:
            found.append(("both", out.built["skill"].skill))
        return found

    def search(self, skill: str) -> Measurement:
        """The base with a text on `search`: what an adapter that reads it has to beat."""
        candidate = self.session.candidate(self.capability, skill)
        examples = self.capability.splits["search"]
        return self.session.meter.measure(candidate, self.capability, "search", examples, stage="select")


def _view(example: Example, rollout: Rollout, split: Split) -> RolloutView:
    """A graded answer as improvers see it. One that was not judged has nothing to mend, and in a race it is no score."""
    if rollout.unjudged:
        return RolloutView(example, rollout.text, 1.0 if split == "train" else math.nan, True, rollout.feedback)
    return RolloutView(example, rollout.text, rollout.value, rollout.passed, rollout.feedback)


def keep_placed(
    session: Session,
    capability: Capability,
    placed: Built | None,
    document: SkillDocument | None,
    verdict: Verdict | None,
) -> None:
    """Put what was placed where it is looked for: `skills/<capability>/SKILL.md` and `adapters/<capability>/`.

    The document carries its parent and the verdict that it ships on in its metadata. What the placement does not hold is
    removed, so that nothing lies there that did not ship.
    """
    skill = session.folder.path / "skills" / capability.name / "SKILL.md"
    adapter = session.folder.path / "adapters" / capability.name
    skill.unlink(missing_ok=True)
    shutil.rmtree(adapter, ignore_errors=True)
    if placed is not None and placed.skill and document is not None and verdict is not None:
        evidence = GateEvidence.of(verdict, session.backend.info().fingerprint, "confirm")
        write_text(skill, portable_text(stamp(document, evidence, seed_document(session, capability))))
    if placed is not None and placed.adapter is not None:
        shutil.copytree(placed.adapter.path, adapter)
