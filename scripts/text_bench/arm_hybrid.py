"""hybrid's skill loop with an endpoint proposer, as a run of `hybrid` has it, and its ship gate on `confirm`.

hybrid keeps every rollout and never asks twice for the same document and example (`evidence.measure.Meter`), so what it
pays are distinct pairs of them; that is counted here. Does not: judge anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid.backends.endpoint import EndpointChat
from hybrid.capability.types import Example, Split
from hybrid.config.schema import EndpointProposerConfig, SearchGateConfig, ShipGateConfig, SkillConfig
from hybrid.evidence.gate import ship_gate
from hybrid.skill.guards import Guards
from hybrid.skill.model_editor import ModelEditor
from hybrid.skill.model_proposer import ModelProposer
from hybrid.skill.record import StepRecord
from hybrid.skill.reflection import RolloutView, body_hash
from hybrid.skill.skillopt import optimise
from hybrid.skill.task import SkillTask
from hybrid.skill.text import normal
from text_bench.peers_skillopt import epochs_for
from text_bench.run import Run, proposer
from text_bench.target import Spent

ABLATIONS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "hybrid, strict gate": {"gate": "strict"},
    "hybrid, no search gate": {"gate": "none"},
    "hybrid, no rejected memory": {"rejected_memory": False},
    "hybrid, no slow update": {"slow_update": False, "optimiser_memory": False},
    "hybrid, method skillopt": {"method": "skillopt"},
}
"""Arms by name: settings that differ from hybrid's defaults."""


class _Paid:
    """Rollouts, paid for once per document and example."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen: set[tuple[str, str]] = set()
        self.bodies: dict[str, str] = {body_hash(normal(run.world.start)): normal(run.world.start)}

    def __call__(self, body: str, rows: Sequence[Example], split: Split) -> list[RolloutView]:
        """One view per row, in order."""
        owed = {(body, row.id) for row in rows} - self.seen
        if owed:
            self.run.count.pay(len(owed), split)
            self.seen |= owed
        asked = self.run.target.ask(body, rows)
        return [
            RolloutView(row, text, score.value, score.passed, score.feedback)
            for row, (text, score) in zip(rows, asked, strict=True)
        ]


def run_hybrid(run: Run, settings: dict[str, Any]) -> None:
    """Optimise, then ask the ship gate."""
    start = normal(run.world.start)
    paid = _Paid(run)
    config = _config(run, settings)
    run.hand(start)

    def progress(record: StepRecord) -> None:
        run.proposals.begin()
        run.hand(paid.bodies[record.after])

    with proposer(run):
        try:
            result = optimise(_task(run, config, paid, progress))
            run.close(result.body, result.stopped)
        except Spent:
            run.close(run.handed[-1][1], "the budget is spent")
    if run.ships:
        _ship(run, start)


def _config(run: Run, settings: dict[str, Any]) -> SkillConfig:
    """The defaults, the arm's settings, and as many epochs as the pool is gone through in."""
    config = SkillConfig.model_validate(settings)
    steps = -(-len(run.world.splits["train"]) // (config.batch * config.accumulation))
    edits = (config.edits.maximum + config.edits.minimum) / 2
    return config.model_copy(update={"epochs": epochs_for(len(run.proposals.edits), edits, steps)})


def _task(run: Run, config: SkillConfig, paid: _Paid, progress: Any) -> SkillTask:
    splits = run.world.splits
    chat = EndpointChat(EndpointProposerConfig(type="endpoint", url=run.url, model="pool"))
    asks: dict[str, Any] = {
        "capability": "text-benchmark",
        "task": "",
        "max_tokens": 2048,
        "temperature": 0.0,
        "seed": run.world.seed,
    }
    held_out = [e for split in ("search", "confirm", "test") for e in splits[split]]
    guards = Guards(splits["train"], held_out, config.copy_guard)

    def guard(body: str, before: str) -> list[str]:
        """hybrid's guards; every body that could become the document passes here, so this is where it is noted."""
        paid.bodies[body_hash(body)] = body
        return guards.check(body, before)

    return SkillTask(
        capability="text-benchmark",
        train=splits["train"],
        search=splits["search"],
        seed_body=run.world.start,
        config=config,
        gate=SearchGateConfig(),
        proposer=ModelProposer(chat, **asks),
        editor=ModelEditor(chat, **asks),
        guard=guard,
        measure=paid,
        count_tokens=run.target.tokens,
        seed=run.world.seed,
        on_progress=progress,
    )


def _ship(run: Run, start: str) -> None:
    """Both documents on `confirm`, once; without acceptance the user keeps the start."""
    rows = run.world.splits["confirm"]
    verdict = ship_gate(run.target.scores(start, rows), run.target.scores(run.final, rows), ShipGateConfig())
    run.ship_rollouts, run.ships = 2 * len(rows), verdict.decision == "accept"
