"""How many completions every stage asks for, as formulas over sizes: `typical`, and `upper` that is not exceeded.

Completions that are asked for twice are paid once, so the upper bounds are reached only where nothing repeats.

Does not: read data or configuration files, or know prices (see `plan`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from pydantic import BaseModel, ConfigDict

from hybrid.backends.judge import ASKS
from hybrid.capability.families import LEAST_VARIANTS
from hybrid.config.schema import Config, JudgeGrader, OfflineProposerConfig, SkillConfig, WeightsConfig
from hybrid.evidence.power import NOISE
from hybrid.probe.knownness import ROWS as KNOWN_ROWS
from hybrid.skill.schedule import edit_budget
from hybrid.weights.task_order import MOST_TASKS, checkpoint_every

DRAFT_ROWS = 32
"""Training rows that the draft document of the probes is made from."""
PRUNE_BATCHES, MOST_VICTIMS, SCREEN, MOST_EDITS, FRONT_ROWS = 4, 8, 2, 64, 32
"""As in `hybrid.skill`: batches the deletion pass checks, lines tried to make room, rows that screen a draft, edits of a
step where the proposer chooses how many, rows on which parents are compared."""
MOST_DRAFTS, MOST_DELETED = 48, 8
"""Drafts of one topic, and deletions among them; a line may also replace up to four others."""
RACE_SHARE = 0.5
"""Share of a full evaluation that a race typically spends on a challenger (`scripts/bench_gates.py` measures it)."""


class Estimate(BaseModel):
    """A count: what is typical, and what is not exceeded."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    typical: int
    upper: int


class Calls(BaseModel):
    """Completions asked for one purpose. `reads_text`: the prompt carries a skill document."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    what: str
    typical: int
    upper: int
    reads_text: bool = False


@dataclass(frozen=True)
class Sizes:
    """Examples per split, and of `search` in every other capability; what the proposer has to try.

    `drafts` is the most edits tried for one topic, `topics` the distinct ones of `train`, `topics_per_row` the most in
    one row (each plus one, for edits that concern every example); `seed_lines` are those of the seed document.
    """

    train: int
    search: int
    confirm: int
    test: int
    variant: int
    others: tuple[int, ...] = ()
    drafts: int = 0
    topics: int = 1
    topics_per_row: int = 1
    seed_lines: int = 0


@dataclass(frozen=True)
class Work:
    """What will be built for a capability: documents optimised, adapters trained, arms that reach the ship gate."""

    documents: Estimate
    trainings: Estimate
    arms: Estimate


def noise_for(effect: float) -> float:
    """Share of examples that flip for no reason, each way: that of `power`, less where the effect leaves no room."""
    return min(NOISE, (1.0 - effect) / 2.0)


def total(rows: Iterable[Calls]) -> Estimate:
    """Sums of both columns."""
    rows = tuple(rows)
    return Estimate(typical=sum(r.typical for r in rows), upper=sum(r.upper for r in rows))


def expected_work(config: Config, name: str) -> Work:
    """From `router.force` and `router.counterfactual`; without them the route may lead to any one or two arms.
    Without weights to train, to a document alone."""

    def fixed(documents: int, trainings: int, arms: int) -> Work:
        return Work(*(Estimate(typical=n, upper=n) for n in (documents, trainings, arms)))

    if not config.trains:
        unbuilt = config.router.force.get(name) in ("keep", "neither") and not config.router.counterfactual
        return fixed(0, 0, 0) if unbuilt else fixed(1, 0, 1)
    if config.method_of(name) == "distill":
        routed = config.router.force.get(name)
        if routed in ("keep", "neither") and not config.router.counterfactual:
            return fixed(0, 0, 0)
        if routed or config.router.counterfactual:
            return fixed(1, 1, 2)
        one = Estimate(typical=1, upper=1)
        return Work(one, one, Estimate(typical=2, upper=2))
    if config.router.counterfactual:
        return fixed(1, 2, 3)
    forced = {"skill": (1, 0, 1), "weights": (0, 1, 1), "both": (1, 1, 2), "keep": (0, 0, 0), "neither": (0, 0, 0)}
    if name in config.router.force:
        return fixed(*forced[config.router.force[name]])
    one = Estimate(typical=1, upper=1)
    return Work(one, one, Estimate(typical=1, upper=2))


def reflection_trials(failures: int, budget: int, sizes: Sizes, trials: int) -> int:
    """Most completions of one reflection: every draft of every topic looked at, the body itself, and making room."""
    topics = min(sizes.topics, failures * sizes.topics_per_row, 2 * budget + 1)
    drafts = min(MOST_DRAFTS, 5 * sizes.drafts + MOST_DELETED)
    return (topics * (drafts + 1) + budget * MOST_VICTIMS) * trials


def probe_calls(config: Config, sizes: Sizes, texts: int) -> tuple[Calls, ...]:
    """`texts` counts the texts tried apart from the irrelevant control: seed, draft, worked examples, oracle."""
    probe, trials = config.probe, config.skill.trials
    e, rows = min(probe.examples, sizes.search), min(DRAFT_ROWS, sizes.train)
    tried = reflection_trials(rows, DRAFT_ROWS, sizes, trials)
    variants = min(probe.variants, sizes.variant)
    share = 2 if probe.stop else 1  # of the samples, about half are left out where probes may stop
    contexts = probe.contexts * min(KNOWN_ROWS, e)
    return (
        Calls(what="draft: training rows", typical=rows, upper=rows),
        Calls(
            what="draft: trials",
            typical=first_trials(sizes, trials),
            upper=max(tried, first_trials(sizes, trials)),
            reads_text=True,
        ),
        Calls(what="greedy", typical=e, upper=e),
        Calls(what="samples", typical=e * probe.samples // share, upper=e * probe.samples),
        Calls(what="texts and control", typical=e * (texts + 1), upper=e * (texts + 1), reads_text=True),
        Calls(what="samples under a text", typical=e * probe.samples // 2, upper=e * probe.samples, reads_text=True),
        Calls(what="variants", typical=variants, upper=variants),
        Calls(what="known-ness in contexts", typical=contexts // 2, upper=contexts, reads_text=True),
        Calls(what="paraphrases", typical=0, upper=min(probe.paraphrases, sizes.search - e)),
    )


def first_trials(sizes: Sizes, trials: int) -> int:
    """Completions of screening every draft of every topic once, after which the trial book answers."""
    return sizes.topics * sizes.drafts * max(SCREEN, trials // 2)


def skill_calls(skill: SkillConfig, part: int, sizes: Sizes) -> tuple[Calls, ...]:
    """One optimisation: batches and trials on `train`, races on `search`, and the deletion pass on both.

    A step races its edits together and, where they lose, one by one. `part` is the race's number of examples per part.
    """
    asks, alone = asks_model(skill), skill.gate_rule == "race"
    per_step, steps = skill.batch * skill.accumulation, most_steps(skill, sizes.train)
    batches = skill.epochs * sizes.train
    budgets = [edit_budget(step, steps, skill.edits) or MOST_EDITS for step in range(steps)]
    reflections = ceil(min(per_step, sizes.train) / skill.minibatch)
    judged = sizes.search if skill.gate_rule != "none" else 0
    gates = ceil((RACE_SHARE if alone else 1.0) * skill.epochs * ceil(sizes.train / per_step) * judged)
    screened = 2 * skill.screen * sum(budgets) if asks and alone else 0
    looks = 2 * min(skill.slow_rows, sizes.train) * (skill.epochs - 1) if asks and skill.slow_update else 0
    slow = (skill.epochs - 1) * judged if asks and skill.slow_update else 0
    fronts = FRONT_ROWS * (sum(budgets) + skill.parents) + skill.epochs * judged if skill.parents > 1 else 0
    trials = reflections * sum(reflection_trials(skill.minibatch, b, sizes, skill.trials) for b in budgets)
    races = sum(b + 1 if b > 1 and alone else 1 for b in budgets)
    checked = sizes.search + min(sizes.train, PRUNE_BATCHES * skill.batch)
    lines = sizes.seed_lines + sum(budgets)
    return (
        Calls(what="batches", typical=batches, upper=batches, reads_text=True),
        Calls(
            what="trials",
            typical=min(first_trials(sizes, skill.trials), trials),
            upper=trials,
            reads_text=True,
        ),
        Calls(what="start on search", typical=sizes.search, upper=sizes.search, reads_text=True),
        Calls(what="screens", typical=screened // 4, upper=screened, reads_text=True),
        Calls(what="gate", typical=min(gates, races * judged), upper=races * judged, reads_text=True),
        Calls(what="parents", typical=fronts // 4, upper=fronts, reads_text=True),
        Calls(what="looks back", typical=looks // 2 + slow, upper=looks + slow, reads_text=True),
        Calls(
            what="deletion pass",
            typical=min(lines * part, lines * checked) if skill.method == "honest" else 0,
            upper=(lines + 1) * checked if skill.method == "honest" else 0,
            reads_text=True,
        ),
    )


def asks_model(skill: SkillConfig) -> bool:
    """Whether a model proposes the edits: it tries none of them itself."""
    return not isinstance(skill.proposer, OfflineProposerConfig)


def most_steps(skill: SkillConfig, train: int) -> int:
    """Most steps of one optimisation: the honest loop ends a step of a proposing model with a minibatch of failures."""
    per_step = skill.batch * skill.accumulation
    least = min(skill.minibatch, per_step) if asks_model(skill) and skill.method == "honest" else per_step
    return skill.epochs * ceil(train / least)


def requests(skill: SkillConfig, train: int) -> int:
    """Most requests to the proposing model for one document: the draft, and per step every reflection with its repair, the
    merges of both trees, a ranking; a review an epoch."""
    if not asks_model(skill):
        return 0
    steps, per_step = most_steps(skill, train), skill.batch * skill.accumulation
    looks = ceil(min(per_step, train) / skill.minibatch) + (skill.reflects_on == "both")
    return 2 + steps * (2 * looks + looks + 1) + skill.epochs


def training_steps(weights: WeightsConfig, sharing: int = 1) -> int:
    """Optimiser steps of one training, a warm start's included. Among `sharing` tasks in one adapter: a task's part of the
    ordered training, of the mixed one, and of the trainings that measure backward transfer (itself, and it after every
    other task)."""
    steps = weights.steps + (weights.warm_start.steps if weights.warm_start is not None else 0)
    return steps if sharing < 2 else 2 * steps + sharing * pair_steps(weights, sharing)


def pair_steps(weights: WeightsConfig, sharing: int) -> int:
    """Steps of each training of the matrix; 0 where none is measured."""
    measured = weights.schedule.order == "transfer" and 2 <= sharing <= MOST_TASKS
    return (weights.schedule.pair_steps or weights.steps) if measured else 0


def training_completions(weights: WeightsConfig, sharing: int = 1, train: int = 0) -> int:
    """Completions that one training generates, on `train` rows; none for supervised fine-tuning. `sharing`: see
    `training_steps`. Leaves of a tree count one by one, although they share what they begin with."""
    grpo = weights.grpo
    if weights.steps == 0:
        return 0
    if weights.method == "tree" and not weights.reinforces:
        return train * grpo.generations
    each = grpo.prompts_per_step * grpo.generations if weights.reinforces else 0
    steps = grpo.steps if sharing < 2 else training_steps(weights, sharing)
    return each * (steps // weights.phase)


def shared_calls(config: Config, sizes: Sizes, sharing: int) -> tuple[Calls, ...]:
    """One task among `sharing` in one adapter: entropies before the ordered training, after each stage and after the mixed
    one; every checkpoint of both on `search`; for the matrix, the task after itself and after each other."""
    weights, schedule = config.weights, config.weights.schedule
    every = checkpoint_every(weights.steps, weights.checkpoint_every, weights.phase)
    rows = min(schedule.entropy_rows, sizes.train) * config.probe.samples
    checkpoints = 2 * sharing * (weights.steps // every) * sizes.search
    pairs = sharing * sizes.search if pair_steps(weights, sharing) else 0
    made = training_completions(weights, sharing)
    return (
        Calls(what="answer entropies", typical=(sharing + 2) * rows, upper=(sharing + 2) * rows, reads_text=True),
        Calls(what="backward transfer on search", typical=pairs, upper=pairs, reads_text=True),
        Calls(what="training completions", typical=made, upper=made, reads_text=True),
        Calls(what="checkpoints on search", typical=checkpoints, upper=checkpoints, reads_text=True),
        Calls(what="start on search", typical=sizes.search, upper=sizes.search),
    )


def rungs(config: Config) -> tuple[int, ...]:
    """Steps of `router.buy.steps` at which a training can be ended and gone on with: whole phases, before its end."""
    weights = config.weights
    return tuple(s for s in config.router.buy.steps if s < weights.steps and s % weights.phase == 0)


def buy_calls(config: Config, sizes: Sizes, name: str) -> tuple[Calls, ...]:
    """The evidence that the router buys where probes leave a choice open: two adapters to the first rung, one further, and
    every look at them, at the text and at the base. Nothing where it never buys (see `hybrid.pipeline.buying`)."""
    router, steps = config.router, rungs(config)
    bought = router.buy_below > 0 and not router.counterfactual and name not in router.force and bool(steps)
    shared = config.weights.schedule.tasks == "shared"
    if not bought or config.weights_of(name).trainer != "grpo" or shared:
        return ()
    if sizes.search < router.buy.examples:
        return ()
    grpo = config.weights.grpo
    each = min(router.buy.examples, sizes.search) + min(router.buy.examples, sizes.variant)
    made = (steps[0] + steps[-1]) // config.weights.phase * grpo.prompts_per_step * grpo.generations
    looks = each * (2 + 2 + len(steps) - 1)
    return (
        Calls(what="bought: training completions", typical=made // 4, upper=made, reads_text=True),
        Calls(what="bought: arms, text and base", typical=looks // 4, upper=looks, reads_text=True),
    )


def attempts(weights: WeightsConfig) -> int:
    """Most times that one adapter is trained: a second time where it may be sent back with variants."""
    return 2 if weights.generality.augment == "variants" else 1


def watched_variants(weights: WeightsConfig, variants: int) -> int:
    """Most variants that a checkpoint is measured on."""
    count = int(weights.generality.watch * variants)
    return count if count >= LEAST_VARIANTS and variants - count >= LEAST_VARIANTS else 0


def weights_calls(config: Config, sizes: Sizes) -> tuple[Calls, ...]:
    """One training: its own completions, every checkpoint and the start on `search` and on the watched variants, the ordering
    of rows, and which of them are known. A second attempt counts in the upper bounds alone."""
    if config.weights.method == "swarm":
        return swarm_calls(config, sizes)
    checkpoints = ceil(config.weights.steps / config.weights.checkpoint_every) + (config.weights.warm_start is not None)
    steered = config.weights.method == "proxy"
    checkpoints = max(checkpoints, 1) if steered else checkpoints  # an adapter that is given is one
    strengths = (len(config.weights.proxy.alphas) - 1) * sizes.search if steered else 0
    taught = sizes.train * config.weights.distill.samples if config.weights.method == "distill" else 0
    selection, made = checkpoints * sizes.search, training_completions(config.weights, train=sizes.train)
    ordering = sizes.train * config.probe.samples if config.weights.schedule.stages != "none" else 0
    tries, watched = attempts(config.weights), watched_variants(config.weights, sizes.variant)
    asked = sizes.train * (1 + config.probe.samples) if config.weights.unknown_facts != "keep" else 0
    again = sizes.variant * config.weights.distill.samples if taught and tries > 1 else 0
    return (
        Calls(what="known facts", typical=asked, upper=asked),
        Calls(what="known facts under a text", typical=asked // 2, upper=asked, reads_text=True),
        Calls(what="ordering of rows", typical=ordering, upper=ordering),
        Calls(what="teacher's answers", typical=taught, upper=taught + again, reads_text=True),
        Calls(what="training completions", typical=made, upper=made * tries, reads_text=True),
        Calls(what="checkpoints on search", typical=selection, upper=selection * tries, reads_text=True),
        *(
            [Calls(what="strengths on search", typical=strengths, upper=strengths * tries, reads_text=True)]
            if steered
            else []
        ),
        Calls(
            what="checkpoints on watched variants",
            typical=checkpoints * watched,
            upper=checkpoints * watched * tries,
            reads_text=True,
        ),
        Calls(what="base on watched variants", typical=watched, upper=watched),
        Calls(what="start on search", typical=sizes.search, upper=2 * sizes.search),
    )


def swarm_calls(config: Config, sizes: Sizes) -> tuple[Calls, ...]:
    """One search over mixtures: each on the examples that are searched on, at most; base, best expert and mixture on the rest."""
    swarm = config.weights.swarm
    searched = min(swarm.examples, sizes.search)
    raced = RACE_SHARE if swarm.drop_p > 0 and searched > swarm.block else 1.0
    fresh = max(sizes.search - searched, min(sizes.train, swarm.examples))
    return (
        Calls(
            what="mixtures on search",
            typical=ceil(raced * swarm.evaluations * searched),
            upper=swarm.evaluations * searched,
            reads_text=True,
        ),
        Calls(what="mixture, best expert and base on fresh rows", typical=3 * fresh, upper=3 * fresh, reads_text=True),
        Calls(what="start on search", typical=sizes.search, upper=2 * sizes.search),
    )


def ship_calls(sizes: Sizes, arms: Estimate, documents: Estimate, attribution: int) -> tuple[Calls, ...]:
    """Base and arms, each on `confirm` and `variant`; nothing when no arm can be built. A document that passes is also
    measured without each of up to `attribution` of its edits."""
    each, left_out = sizes.confirm + sizes.variant, attribution * sizes.confirm
    return (
        Calls(what="base", typical=each * min(1, arms.typical), upper=each * min(1, arms.upper)),
        Calls(what="arms", typical=each * arms.typical, upper=each * arms.upper, reads_text=True),
        Calls(
            what="worth of edits",
            typical=left_out * documents.typical // 2,
            upper=left_out * documents.upper,
            reads_text=True,
        ),
    )


def merge_calls(config: Config, sizes: Sizes, trainings: Estimate) -> tuple[Calls, ...]:
    """A merged adapter for this capability and others: every scale and the own adapter on `search`, the best on `confirm` and the
    variants. Nothing without `weights.merge`, or where nothing is trained."""
    merge = config.weights.merge
    if merge is None:
        return ()
    search = (len(merge.scales) + 1) * sizes.search
    gate = sizes.confirm + sizes.variant
    typical, upper = min(1, trainings.typical), min(1, trainings.upper)
    return (
        Calls(what="merged adapters on search", typical=search * typical, upper=search * upper),
        Calls(what="merged adapter at the gate", typical=gate * typical, upper=gate * upper),
    )


def verify_calls(sizes: Sizes, arms: Estimate, collateral_examples: int) -> tuple[Calls, ...]:
    """Base and arms on the sealed `test`; variants without an arm; other capabilities under the placed change."""
    others = sum(min(n, collateral_examples) for n in sizes.others)
    return (
        Calls(what="base on test", typical=sizes.test, upper=sizes.test),
        Calls(what="base on variants", typical=0 if arms.typical else sizes.variant, upper=sizes.variant),
        Calls(what="arms on test", typical=sizes.test * arms.typical, upper=sizes.test * arms.upper, reads_text=True),
        Calls(what="collateral: base", typical=0, upper=others * min(1, arms.upper)),
        Calls(what="collateral: placed", typical=0, upper=others * min(1, arms.upper), reads_text=True),
    )


def judge_calls(grader: JudgeGrader, own: Sequence[Calls], visits: Estimate) -> Estimate:
    """Requests to the judge of a capability: one per answer that reaches it, twice where the first verdict cannot be read.

    `own` are the capability's rows of all stages, of which those about other capabilities' examples are left out; `visits` are
    answers to its examples under the changes of others. A check that goes before the judge typically stops half of the answers.
    """
    answers = [row for row in own if not row.what.startswith("collateral")]
    typical = sum(row.typical for row in answers) + visits.typical
    upper = sum(row.upper for row in answers) + visits.upper
    return Estimate(typical=ceil(typical / 2) if grader.check is not None else typical, upper=ASKS * upper)


def collateral_visits(search: int, examples: int, changes: Estimate) -> Estimate:
    """Answers to a capability's examples while `changes` other capabilities are verified: the base once, each change once."""
    rows = min(search, examples)
    return Estimate(typical=0, upper=rows * (changes.upper + min(1, changes.upper)))


def most_of(alone: Sequence[Calls], shared: Sequence[Calls], sharing: Estimate) -> tuple[Calls, ...]:
    """The calls of a training that is shared where at least two tasks want it, `typical` and `upper` by their own counts."""
    names = dict.fromkeys(row.what for row in (*alone, *shared))
    by = [{row.what: row for row in rows} for rows in (alone, shared)]
    found = []
    for what in names:
        rows = [table.get(what) for table in by]
        typical, upper = (rows[count >= 2] for count in (sharing.typical, sharing.upper))
        found.append(
            Calls(
                what=what,
                typical=typical.typical if typical else 0,
                upper=upper.upper if upper else 0,
                reads_text=any(row.reads_text for row in rows if row),
            )
        )
    return tuple(found)


def repeated(rows: Sequence[Calls], times: Estimate) -> tuple[Calls, ...]:
    """The same rows for so many documents or trainings."""
    return tuple(
        r.model_copy(update={"typical": r.typical * times.typical, "upper": r.upper * times.upper}) for r in rows
    )
