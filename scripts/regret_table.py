"""One world of `regret_worlds`, run whole with every arm built, as one JSON row of the table that policies are replayed on.

Beside what `hybrid run` with `router.counterfactual: true` does, it measures what the fixed policies need: the document
optimised once more under the adapter (prompt -> weights -> prompt, as BetterTogether, Soylu et al. 2024, 2407.10930), and
every checkpoint on `search` and on some variants, which is what a small equal budget would have shown.

Costs are deterministic: tokens read, tokens generated, and tokens that went through a training step; `cpu` is the process's
own CPU time. The sealed test is scored but never paid for: it belongs to no policy.

Does not: decide anything (see `regret_policies`), or write data that names the truth where `hybrid` reads.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regret_worlds import STEPS, Drawn, draw_world, write_world

from hybrid.backends.base import Adapter, Backend
from hybrid.capability.families import divide
from hybrid.capability.graders import build_grader
from hybrid.capability.types import Capability, Example, Split
from hybrid.config.loader import load_config, resolved_json
from hybrid.config.schema import ExactGrader
from hybrid.evidence.types import Candidate, Measurement
from hybrid.pipeline import run as running
from hybrid.pipeline.follow import open_backend
from hybrid.pipeline.improve import Improver, _view
from hybrid.pipeline.prepare import load_capabilities
from hybrid.pipeline.session import Session, identity_fields, open_session
from hybrid.skill.reflection import RolloutView
from hybrid.skill.skillopt import optimise
from hybrid.skill.task import SkillTask
from hybrid.store.folder import RunFolder

ARMS = ("skill", "weights", "both")
RUNG_VARIANTS = 32
"""Variants on which every checkpoint is measured."""


def bits(values: Sequence[float]) -> str | list[float]:
    """Scores as a string of digits where all are 0 or 1."""
    if all(v in (0.0, 1.0) for v in values):
        return "".join(str(int(v)) for v in values)
    return [round(v, 4) for v in values]


@dataclass
class Costs:
    """What each part of the work cost, by name: completions, tokens in and out, trained tokens, CPU seconds."""

    session: Session
    found: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, int]]:
        """Enter what is paid inside under `name`; put `trained` tokens into the yielded dict."""
        before, began = self.session.ledger.total(), time.process_time()
        told: dict[str, int] = {}
        yield told
        after = self.session.ledger.total()
        self.found[name] = {
            "calls": after.calls - before.calls,
            "tokens_in": after.tokens_in - before.tokens_in,
            "tokens_out": after.tokens_out - before.tokens_out,
            "trained": told.get("trained", 0),
            "cpu": round(time.process_time() - began, 3),
        }

    def measured(self, name: str, *measurements: Measurement) -> None:
        """Enter measurements under `name`, as if nothing of them had been paid before."""
        rows = [r for m in measurements for row in m.rollouts for r in row]
        self.found[name] = {
            "calls": len(rows),
            "tokens_in": sum(r.tokens_in for r in rows),
            "tokens_out": sum(r.tokens_out for r in rows),
            "trained": 0,
            "cpu": round(sum(r.seconds for r in rows), 3),
        }


class World:
    """A drawn world with a session open on it."""

    def __init__(self, drawn: Drawn, folder: Path, backend: Backend | None) -> None:
        self.drawn, self.folder = drawn, folder
        self.loaded = load_config(write_world(drawn, folder), ())
        self.capabilities = load_capabilities(self.loaded)
        self.capability = self.capabilities[0]
        self.backend = backend or open_backend(self.loaded, self.capabilities, folder / "run")

    def open(self, folder: RunFolder) -> Session:
        """A session over a run folder."""
        fields = identity_fields(self.loaded, self.capabilities, self.backend)
        folder.claim(fields, resolved_json(self.loaded.config, self.loaded.root))
        folder.events.append("attempt.started", device="cpu", processes=1)
        return open_session(self.loaded, folder, self.capabilities, self.backend, lambda kind, data: None)

    def scores(self, session: Session, split: Split, skill: str = "", samples: int = 1) -> Measurement:
        """The base with a text on a split of this world; no policy pays for it."""
        candidate = session.candidate(self.capability, skill)
        if samples > 1:
            sampling = candidate.sampling.model_copy(update={"temperature": 1.0})
            candidate = Candidate(candidate.model_fingerprint, skill, None, sampling)
        examples = self.capability.splits[split]
        return session.meter.measure(candidate, self.capability, split, examples, samples=samples, stage="check")


def holds(world: World, folder: Path) -> tuple[bool, dict[str, float]]:
    """Whether the construction holds on the model, and what was measured. Looks at `train` rows alone."""
    with RunFolder(folder) as opened:
        session = world.open(opened)
        found: dict[str, float] = {}
        for name in world.drawn.bounds:
            if name == "sampled":
                hard = [i for i, e in enumerate(world.capability.splits["train"]) if not e.metadata.get("easy")]
                rows = world.scores(session, "train", samples=8).rollouts
                found[name] = sum(any(r.passed for r in rows[i]) for i in hard) / max(len(hard), 1)
            else:
                found[name] = world.scores(session, "train", world.drawn.oracle if name == "oracle" else "").mean
    right = all(low <= found[name] <= high for name, (low, high) in world.drawn.bounds.items())
    return right, {name: round(value, 4) for name, value in found.items()}


def make(seed: int, root: Path, backend: Backend | None) -> tuple[World, dict[str, float], int]:
    """The first draw of a seed whose construction holds."""
    for attempt in range(50):
        folder = root / f"{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        world = World(draw_world(seed, attempt), folder, backend)
        backend = world.backend
        right, found = holds(world, folder / "check")
        if right:
            return world, found, attempt
    raise SystemExit(f"seed {seed}: no draw of 50 holds on the model")


def optimise_under(session: Session, improver: Improver, adapter: Adapter, body: str) -> str:
    """The document optimised once more, read by the adapter."""
    capability, config = improver.capability, session.loaded.config

    def measure(text: str, examples: Sequence[Example], split: Split) -> list[RolloutView]:
        candidate = session.candidate(capability, text, adapter)
        measured = session.meter.measure(candidate, capability, split, examples, stage="again")
        return [_view(example, row[0], split) for example, row in zip(examples, measured.rollouts, strict=True)]

    def trial(bodies: Sequence[str], examples: Sequence[Example]) -> list[list[float]]:
        candidates = [session.candidate(capability, text, adapter) for text in bodies]
        measured = session.meter.measure_many(candidates, capability, "train", examples, stage="again")
        return [m.values for m in measured]

    task = SkillTask(
        capability=capability.name,
        train=capability.splits["train"],
        search=capability.splits["search"],
        seed_body=body,
        config=config.skill,
        gate=config.gate.search,
        proposer=improver.proposer,
        editor=improver.editor,
        guard=improver.guard.check,
        measure=measure,
        count_tokens=session.backend.count_tokens,
        seed=config.seed,
        trial=trial,
    )
    return optimise(task).body


def row_of(seed: int, root: Path, backend: Backend | None = None) -> tuple[dict[str, Any], Backend]:
    """Everything about one world. The backend is given back so that the next world need not load it."""
    began, cpu = time.monotonic(), time.process_time()
    world, checked, attempt = make(seed, root, backend)
    drawn, capability = world.drawn, world.capability
    with RunFolder(world.folder / "run") as folder:
        session = world.open(folder)
        costs = Costs(session)
        outcomes = [running.Outcome(capability)]
        outcome = outcomes[0]
        with costs.part("probes"):
            running._probe(session, outcomes)
        assert outcome.route is not None and outcome.probed is not None
        _probe_costs(session, outcome, costs)
        improver = Improver(session, capability)
        with costs.part("skill"):
            outcome.improved = improver.text(ARMS)
        for arm, skill in improver.weight_arms(outcome.improved, ARMS, None):
            with costs.part(arm) as told:
                improver.weight_arm(outcome.improved, arm, skill, improver.search(skill))
                result = outcome.improved.trainings.get(arm)
                told["trained"] = result.tokens_in + result.tokens_out if result else 0
        running._judge(session, outcome)
        running._place(session, outcomes)
        running._verify(session, outcome)
        built = outcome.improved.built
        splits = _splits(session, outcome, costs)
        curves = {arm: _curve(session, outcome, arm, costs) for arm in outcome.improved.trainings}
        table = {
            "seed": seed, "truth": drawn.truth, "flavour": drawn.flavour, "right": list(drawn.right), "attempt": attempt,
            "drawn": drawn.drawn, "checked": checked, "minimum_effect": session.loaded.config.gate.ship.minimum_effect,
            "profile": {name: probe.model_dump() for name, probe in outcome.probed.profile.items()},
            "route": {"placement": outcome.route.placement, "confidence": outcome.route.confidence},
            "placement": outcome.placement.placement if outcome.placement else "",
            "every_arm": outcome.counterfactual.placement if outcome.counterfactual else "",
            "built": sorted(built), "documents": {a: built[a].skill for a in built}, "curves": curves,
            "splits": splits, "notes": outcome.improved.notes,
        }  # fmt: skip
        middle = built.get("both") or built.get("weights")
        if middle is not None and middle.adapter is not None:
            with costs.part("again"):
                body = optimise_under(session, improver, middle.adapter, middle.skill)
            table["documents"]["again"] = body
            splits["again"] = _again(world, session, Candidate_of(session, world, body, middle.adapter), costs)
        elif "skill" in built:  # nothing was trained: prompt, and prompt again, is the prompt
            splits["again"] = splits["skill"]
    table |= {"costs": costs.found, "cpu": round(time.process_time() - cpu, 1)}
    table["wall"] = round(time.monotonic() - began, 1)
    return table, world.backend


def Candidate_of(session: Session, world: World, body: str, adapter: Adapter) -> Candidate:  # noqa: N802
    """The last stage of prompt -> weights -> prompt."""
    return session.candidate(world.capability, body, adapter)


def _again(world: World, session: Session, candidate: Candidate, costs: Costs) -> dict[str, Any]:
    """Scores of the last candidate: `confirm` and `test` were opened without it, so in a folder of their own."""
    found: dict[str, Any] = {}
    with RunFolder(world.folder / "again") as folder:
        apart = world.open(folder)
        for split in ("search", "confirm", "test", "variant"):
            if split in ("confirm", "test"):
                apart.meter.open_sealed(world.capability, split, [candidate])
            examples = world.capability.splits[split]
            measured = apart.meter.measure(candidate, world.capability, split, examples, stage="again")
            found[split] = bits(measured.values)
            if split == "confirm":
                confirm = measured
            if split == "variant":
                costs.measured("ship_again", confirm, measured)
    return found


def _probe_costs(session: Session, outcome: running.Outcome, costs: Costs) -> None:
    """Costs of the probes by part: what an early stop would have saved."""
    assert outcome.probed is not None
    capability = outcome.capability
    base = session.candidate(capability)
    hot = base.sampling.model_copy(update={"temperature": session.loaded.config.probe.temperature, "top_p": 1.0})

    def key(skill: str, sampled: bool) -> str:
        return Candidate(base.model_fingerprint, skill, None, hot if sampled else base.sampling).key[:32]

    best = outcome.probed.best_text
    same = hot == base.sampling
    names = {key("", True): "samples", key(best, True): "text_samples"} if best else {key("", True): "samples"}
    parts: dict[str, dict[str, float]] = {}
    for rollout in session.meter.store.all():
        if rollout.stage == "skill":
            part = "draft"
        elif rollout.split == "variant":
            part = "variants"
        elif same and rollout.sample == 0:
            part = "base" if rollout.candidate == key("", False) else "texts"
        else:
            part = names.get(rollout.candidate, "base" if rollout.candidate == key("", False) else "texts")
        sums = parts.setdefault(part, {"calls": 0, "tokens_in": 0, "tokens_out": 0, "trained": 0, "cpu": 0.0})
        sums["calls"] += 1
        sums["tokens_in"] += rollout.tokens_in
        sums["tokens_out"] += rollout.tokens_out
        sums["cpu"] += rollout.seconds
    for name, sums in sorted(parts.items()):
        costs.found[f"probe_{name}"] = {k: round(v, 3) for k, v in sums.items()}


def _splits(session: Session, outcome: running.Outcome, costs: Costs) -> dict[str, Any]:
    """Scores per example of the base and every built arm; what judging each of them costs."""
    assert outcome.verified is not None
    shipping, verified = outcome.shipping, outcome.verified
    found: dict[str, Any] = {}
    for name in ("base", *outcome.improved.built):
        found[name] = {"test": bits(verified.test[name].values), "variant": bits(verified.variant[name].values)}
        built = outcome.improved.built.get(name)  # type: ignore[call-overload]  # base is no arm
        candidate = session.candidate(outcome.capability, built.skill, built.adapter) if built else None
        examples = outcome.capability.splits["search"]
        search = session.meter.measure(
            candidate or session.candidate(outcome.capability), outcome.capability, "search", examples, stage="check"
        )
        found[name]["search"] = bits(search.values)
        if shipping is not None:
            measured = shipping.base if name == "base" else shipping.measured[name]  # type: ignore[index]
            found[name]["confirm"] = bits(measured.values)
            costs.measured(f"ship_{name}", measured, shipping.variants[name])
    return found


def _curve(session: Session, outcome: running.Outcome, arm: Any, costs: Costs) -> list[dict[str, Any]]:
    """Every checkpoint of a training on `search` and on the first variants, and what that costs."""
    improved, capability = outcome.improved, outcome.capability
    skill = improved.document.body if arm == "both" and improved.document else ""
    rows = []
    for step, adapter in improved.trainings[arm].checkpoints:
        candidate = session.candidate(capability, skill, adapter)
        measured = [
            session.meter.measure(candidate, capability, split, capability.splits[split][:count], stage="check")
            for split, count in (("search", None), ("variant", RUNG_VARIANTS))
        ]
        costs.measured(f"look_{arm}_{step}", *measured)
        rows.append({"step": step, "search": bits(measured[0].values), "variant": bits(measured[1].values)})
    return rows


def finished(raw: dict[str, Any]) -> dict[str, Any]:
    """A collected row in the form that `hybrid router fit` reads, without what only a person asks for."""
    drawn = draw_world(raw["seed"], raw["attempt"])
    variants = tuple(Example.model_validate(row) for row in drawn.rows["variant"])
    name = drawn.name
    parts = divide(
        Capability(name=name, splits={"variant": variants}, grader=build_grader(ExactGrader(type="exact"))),
        share=0.25,
        seed=drawn.seed,
        teach=False,
    )
    arms = {arm: dict(scores) for arm, scores in raw["splits"].items()}
    if "again" in arms and len(arms["again"]["variant"]) > len(parts.held):
        arms["again"]["variant"] = "".join(arms["again"]["variant"][i] for i in parts.held)
    # A run compares bids on `search` and on watched variants; of those only adapters have scores here, so `search` alone counts.
    looks = {
        arm: {str(look["step"]): {"search": look["search"], "variant": ""} for look in curve}
        for arm, curve in raw["curves"].items()
        if curve
    }
    return {
        "name": name, "group": drawn.truth, "flavour": drawn.flavour, "right": list(drawn.right), "drawn": drawn.drawn,
        "minimum_effect": raw["minimum_effect"], "steps": STEPS, "profile": raw["profile"], "arms": arms, "looks": looks,
        "looked": [], "costs": raw["costs"], "placed": raw["placement"],
    }  # fmt: skip


def collect(seed: int, root: Path, table: Path, backend: Backend | None = None) -> Backend | None:
    """Write the row of a seed unless it is there; the run folder goes when the row is written."""
    path = table / f"{seed}.json"
    if path.exists():
        return backend
    row, backend = row_of(seed, root, backend)
    table.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, sort_keys=True) + "\n", encoding="utf-8")
    part.rename(path)
    shutil.rmtree(root / str(seed), ignore_errors=True)
    got = {a: sum(map(int, s["test"])) / len(s["test"]) for a, s in row["splits"].items() if isinstance(s["test"], str)}
    print(seed, row["truth"], row["flavour"], row["right"], "route", row["route"]["placement"], "placed",
          row["placement"], "all", row["every_arm"], {k: round(v, 2) for k, v in got.items()},
          f"{row['wall']} s, cpu {row['cpu']}", flush=True)  # fmt: skip
    return backend


def run_routed(seed: int, told: Mapping[str, Any], root: Path, router: str) -> dict[str, Any]:
    """The capability's part of the report of `hybrid run` on a world, in a process of its own, routed and not counterfactual.

    `told` is the world's line of a table. A world may have been drawn several times until its construction held: the draw is the
    one that the line describes, which its base score has to bear out.
    """
    folder = root / str(seed)
    for attempt in range(50):
        drawn = draw_world(seed, attempt)
        if (drawn.drawn, drawn.flavour, list(drawn.right)) != (told["drawn"], told["flavour"], told["right"]):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        config = write_world(drawn, folder, router)
        command = [sys.executable, "-m", "hybrid", "run", str(config), "--out", str(folder / "run")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"seed {seed}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        report = json.loads((folder / "run" / "report" / "placement.json").read_text(encoding="utf-8"))
        found = dict(report["capabilities"][0])
        if math.isclose(
            found["profile"]["base"]["value"], told["profile"]["base"]["value"], abs_tol=1e-5
        ):  # a report rounds
            return found
    raise SystemExit(f"seed {seed}: no draw is the world of the table")
