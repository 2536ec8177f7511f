"""What a run would cost and what it could show, before anything is paid: no model is loaded.

    print(render(plan(load_checked(Path("configs/quickstart.yaml")))))

Counts of completions are `typical` and `upper`; tokens are characters divided by 4 unless a tokenizer is given, so they
are an estimate and not a bound. Does not: estimate time (nothing has been measured yet) or refuse anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from hybrid.backends.memory import free_bytes, mib
from hybrid.backends.transformers_files import reference_folder
from hybrid.capability.types import SPLITS, Capability, Example
from hybrid.config.loader import LoadedConfig
from hybrid.config.paths import REFERENCE
from hybrid.config.schema import Config, JudgeGrader, ShipGateConfig
from hybrid.errors import BackendError
from hybrid.evidence.power import examples_needed, minimum_detectable_effect, power
from hybrid.pipeline import plan_cost as cost
from hybrid.pipeline.plan_cost import Calls, Estimate, Sizes, Work
from hybrid.pipeline.plan_memory import MemoryPlan, estimate_memory, nothing_here, with_small
from hybrid.pipeline.plan_text import render
from hybrid.pipeline.plan_types import CapabilityPlan, Detectable, EvidencePlan, Plan, StagePlan
from hybrid.pipeline.prepare import load_capabilities
from hybrid.skill.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Plan", "plan", "plan_capabilities", "render"]

CountTokens = Callable[[str], int]
CHARACTERS_PER_TOKEN = 4
_NOTHING = Estimate(typical=0, upper=0)


def plan(loaded: LoadedConfig, count_tokens: CountTokens | None = None) -> Plan:
    """The plan of a run. `count_tokens` counts with the model's tokenizer where one is at hand. Raises DataError."""
    return plan_capabilities(loaded, load_capabilities(loaded), count_tokens)


def plan_capabilities(
    loaded: LoadedConfig, capabilities: Sequence[Capability], count_tokens: CountTokens | None = None
) -> Plan:
    """The plan over capabilities that are already loaded."""
    config = loaded.config
    works = {c.name: cost.expected_work(config, c.name) for c in capabilities}
    family = max(1, sum(w.arms.upper for w in works.values())) if config.gate.ship.multiplicity == "holm" else 1
    counter = _Tokens(count_tokens or _characters, config)
    together = _sharing(config, works.values())
    rows = tuple(
        _judged(config, works, _capability(loaded, c, capabilities, works[c.name], family, counter, together))
        for c in capabilities
    )
    stages = [s for row in rows for s in row.stages]
    calls, tokens = _sum([s.calls for s in stages]), _sum([s.tokens for s in stages])
    longest = max((counter.longest(c) for c in capabilities), default=0)
    answer = max((c.decoding.max_new_tokens for c in config.capabilities), default=0)
    memory = _memory(loaded, longest, answer) if config.trains else nothing_here()
    return Plan(
        name=config.name,
        model=config.model.path,
        capabilities=rows,
        calls=calls,
        tokens=tokens,
        training_steps=_sum([s.training_steps for s in stages]),
        judge_calls=_sum([row.judge for row in rows if row.judge is not None]),
        tokens_from="characters / 4, no tokenizer was loaded" if count_tokens is None else "the model's tokenizer",
        memory=memory,
        warnings=(*_warnings(config, rows, calls, tokens), *_too_large(config, memory)),
    )


def _memory(loaded: LoadedConfig, longest: int, answer: int) -> MemoryPlan:
    """Of the base, and of the small model that steers it."""
    config, small = loaded.config, loaded.config.small
    base = estimate_memory(config, _model_folder(loaded, config.model.path), longest, answer)
    if small is None:
        return base
    other = config.model_copy(update={"model": small})
    trained = any(config.method_of(c.name) not in ("proxy", "swarm") for c in config.capabilities)
    return with_small(base, estimate_memory(other, _model_folder(loaded, small.path), longest, answer), trained)


def evidence(confirm: int, family: int, policy: ShipGateConfig) -> EvidencePlan:
    """What the ship gate can show on so many examples, alone and as the hardest of `family` tests."""
    return EvidencePlan(
        confirm=confirm,
        minimum_effect=policy.minimum_effect,
        target_power=policy.power,
        family=family,
        alone=_detectable(confirm, policy.alpha, policy),
        worst_case=_detectable(confirm, policy.alpha / family, policy),
    )


def _detectable(confirm: int, alpha: float, policy: ShipGateConfig) -> Detectable:
    noise = cost.noise_for(policy.minimum_effect)
    return Detectable(
        alpha=alpha,
        effect=minimum_detectable_effect(confirm, alpha, policy.power, noise),
        power=power(confirm, policy.minimum_effect, alpha, noise),
        needed=examples_needed(policy.minimum_effect, alpha, policy.power, noise),
    )


def _capability(
    loaded: LoadedConfig,
    capability: Capability,
    everyone: Sequence[Capability],
    work: Work,
    family: int,
    counter: _Tokens,
    together: Estimate,
) -> CapabilityPlan:
    config = loaded.config.model_copy(update={"weights": loaded.config.weights_of(capability.name)})
    sizes = sizes_of(loaded, capability, everyone)
    settings = next(c for c in config.capabilities if c.name == capability.name)
    given = (capability.seed_skill is not None, bool(settings.oracle or capability.oracle))
    texts = sum((sizes.train > 0, config.probe.worked_examples > 0, *given))
    groups = {
        "probe": cost.probe_calls(config, sizes, texts),
        **({"buy": bought} if (bought := cost.buy_calls(config, sizes, capability.name)) else {}),
        "skill": cost.repeated(cost.skill_calls(config.skill, config.gate.search.part, sizes), work.documents),
        "weights": cost.repeated(_weights_calls(config, sizes, together), work.trainings),
        **({"merged": merged} if (merged := cost.merge_calls(config, sizes, work.trainings)) else {}),
        "ship": cost.ship_calls(sizes, work.arms, work.documents, config.skill.attribution),
        "verify": cost.verify_calls(sizes, work.arms, config.report.collateral_examples),
    }
    lengths = counter.of(capability, settings.decoding.max_new_tokens)
    most = work.trainings.model_copy(update={"upper": work.trainings.upper * cost.attempts(config.weights)})
    steps = _product(most, together, lambda n: cost.training_steps(config.weights, n))
    made = _product(most, together, lambda n: cost.training_completions(config.weights, n, sizes.train))
    return CapabilityPlan(
        name=capability.name,
        splits={split: len(capability.splits.get(split, ())) for split in SPLITS},
        stages=tuple(
            StagePlan(
                stage=stage,
                rows=rows,
                calls=cost.total(rows),
                tokens=lengths.of(rows),
                training_steps=steps if stage == "weights" else _NOTHING,
                training_completions=made if stage == "weights" else _NOTHING,
            )
            for stage, rows in groups.items()
        ),
        evidence=evidence(sizes.confirm, family, config.gate.ship) if work.arms.upper else None,
    )


def _judged(config: Config, works: Mapping[str, Work], row: CapabilityPlan) -> CapabilityPlan:
    """The row with what its judge is asked, where a judge grades its answers."""
    grader = next(c.grader for c in config.capabilities if c.name == row.name)
    if not isinstance(grader, JudgeGrader):
        return row
    others = [min(1, work.arms.upper) for name, work in works.items() if name != row.name]
    changes = Estimate(typical=0, upper=sum(others))
    visits = cost.collateral_visits(row.splits["search"], config.report.collateral_examples, changes)
    own = [calls for stage in row.stages for calls in stage.rows]
    return row.model_copy(update={"judge": cost.judge_calls(grader, own, visits)})


def sizes_of(loaded: LoadedConfig, capability: Capability, everyone: Sequence[Capability]) -> Sizes:
    """Everything that the cost formulas count, for one capability."""
    config = loaded.config
    settings = next(c for c in config.capabilities if c.name == capability.name)
    path = settings.vocabulary or config.skill.vocabulary
    words = load_vocabulary(loaded.resolve(path)) if path else Vocabulary((), (), (), ())
    train = capability.splits.get("train", ())
    slots = [words.slots_of(e.prompt_text) for e in train]
    return Sizes(
        **{split: len(capability.splits.get(split, ())) for split in SPLITS},
        others=tuple(len(c.splits.get("search", ())) for c in everyone if c.name != capability.name),
        drafts=min(cost.MOST_DRAFTS, len(words.rules) + 3 * len(words.facts) + 2 * len(words.examples)),
        topics=len({s for row in slots for s in row}) + 1,
        topics_per_row=max((len(row) for row in slots), default=0) + 1,
        seed_lines=len((capability.seed_skill or "").splitlines()),
    )


@dataclass(frozen=True)
class _Lengths:
    """Mean tokens of a prompt, of a document and of an answer."""

    prompt: float
    text: Estimate
    answer: Estimate

    def of(self, rows: Sequence[Calls]) -> Estimate:
        """Tokens in and out of all rows."""
        typical = sum(r.typical * (self.prompt + self.answer.typical + r.reads_text * self.text.typical) for r in rows)
        upper = sum(r.upper * (self.prompt + self.answer.upper + r.reads_text * self.text.upper) for r in rows)
        return Estimate(typical=ceil(typical), upper=ceil(upper))


class _Tokens:
    """Token lengths of capabilities, by one way of counting."""

    def __init__(self, count: CountTokens, config: Config) -> None:
        self._count, self._config = count, config

    def of(self, capability: Capability, max_new_tokens: int) -> _Lengths:
        """Lengths for cost: means over all examples; the cap of documents and answers as upper values."""
        examples = _examples(capability)
        cap = self._config.skill.max_tokens
        seed = self._count(capability.seed_skill) if capability.seed_skill else cap // 4
        answers = ceil(self._mean([e.gold_completion for e in examples])) + 1
        return _Lengths(
            prompt=self._mean([e.prompt_text for e in examples]),
            text=Estimate(typical=min(seed, cap), upper=cap),
            answer=Estimate(typical=min(answers, max_new_tokens), upper=max_new_tokens),
        )

    def longest(self, capability: Capability) -> int:
        """Tokens of the longest prompt with a full document and a full answer."""
        settings = next(c for c in self._config.capabilities if c.name == capability.name)
        prompt = max((self._count(e.prompt_text) for e in _examples(capability)), default=0)
        return prompt + self._config.skill.max_tokens + settings.decoding.max_new_tokens

    def _mean(self, texts: Sequence[str]) -> float:
        return sum(self._count(t) for t in texts) / len(texts) if texts else 0.0


def _characters(text: str) -> int:
    return ceil(len(text) / CHARACTERS_PER_TOKEN)


def _examples(capability: Capability) -> list[Example]:
    return [e for split in SPLITS for e in capability.splits.get(split, ())]


def _sum(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(typical=sum(e.typical for e in estimates), upper=sum(e.upper for e in estimates))


def _product(trainings: Estimate, together: Estimate, each: Callable[[int], int]) -> Estimate:
    typical, upper = each(together.typical), each(together.upper)
    return Estimate(typical=trainings.typical * typical, upper=trainings.upper * max(typical, upper))


def _sharing(config: Config, works: Iterable[Work]) -> Estimate:
    """How many capabilities train one adapter together; 1 where each trains its own."""
    if config.weights.schedule.tasks == "separate":
        return Estimate(typical=1, upper=1)
    works = tuple(works)
    return Estimate(
        typical=max(1, sum(w.trainings.typical > 0 for w in works)),
        upper=max(1, sum(w.trainings.upper > 0 for w in works)),
    )


def _weights_calls(config: Config, sizes: Sizes, together: Estimate) -> tuple[Calls, ...]:
    alone = cost.weights_calls(config, sizes)
    if together.upper < 2:
        return alone
    typical, upper = (cost.shared_calls(config, sizes, n) for n in (together.typical, together.upper))
    rows = [u.model_copy(update={"typical": t.typical}) for t, u in zip(typical, upper, strict=True)]
    return cost.most_of(alone, rows, together)


def _model_folder(loaded: LoadedConfig, path: str) -> Path | None:
    if path == REFERENCE:
        try:
            return reference_folder()
        except BackendError:
            return None
    folder = loaded.resolve(path)
    return folder if folder.is_dir() else None


def _warnings(config: Config, rows: Sequence[CapabilityPlan], calls: Estimate, tokens: Estimate) -> Iterator[str]:
    for row in rows:
        if row.evidence is not None:
            yield from _too_small(row.name, row.evidence)
    asked = sum(cost.requests(config.skill, row.splits["train"]) for row in rows)
    allowed = getattr(getattr(config.skill.proposer, "budget", None), "calls", None)
    if asked and allowed is not None and allowed < asked:
        yield (
            f"skill.proposer.budget.calls: {allowed:,} is below the upper bound of {asked:,} requests to the proposing model; "
            "the run may stop (exit code 3), and the same command goes on with a larger one"
        )
    for row in rows:
        yield from _judge_budget(config, row)
    for what, limit, estimate in (("calls", config.budget.calls, calls), ("tokens", config.budget.tokens, tokens)):
        if limit is not None and limit < estimate.upper:
            short = limit < estimate.typical
            need = f"even the typical {estimate.typical:,}" if short else f"the upper bound {estimate.upper:,}"
            yield f"budget.{what}: {limit:,} is below {need}; the run {'will' if short else 'may'} stop (exit code 3)"


def _judge_budget(config: Config, row: CapabilityPlan) -> Iterator[str]:
    grader = next(c.grader for c in config.capabilities if c.name == row.name)
    limit = grader.budget.calls if isinstance(grader, JudgeGrader) else None
    if row.judge is None or limit is None or limit >= row.judge.upper:
        return
    short = limit < row.judge.typical
    need = f"even the typical {row.judge.typical:,}" if short else f"the upper bound of {row.judge.upper:,}"
    yield (
        f"capabilities.{row.name}.grader.budget.calls: {limit:,} is below {need} requests to its judge; the run "
        f"{'will' if short else 'may'} stop (exit code 3), and the same command goes on with a larger one"
    )


def _too_large(config: Config, plan: MemoryPlan) -> Iterator[str]:
    """What does not fit into this machine's memory. The memory of a GPU is not asked: that would load torch."""
    room = free_bytes("cpu")
    if config.model.device == "cuda" or room is None or plan.train_mib is None or plan.generate_mib is None:
        return
    if plan.generate_mib > mib(room):
        yield (
            f"generating takes about {plan.generate_mib:,} MiB and this machine has {mib(room):,} MiB free: lower "
            "backend.batch_size, or set model.quantization"
        )
    elif plan.train_mib > mib(room):
        yield (
            f"training takes about {plan.train_mib:,} MiB and this machine has {mib(room):,} MiB free: lower "
            "weights.rows_per_device (left out, a training cuts its steps to what fits), or set model.quantization"
        )


def _too_small(name: str, plan: EvidencePlan) -> Iterator[str]:
    for shown, where in ((plan.alone, "alone"), (plan.worst_case, f"as the hardest of {plan.family} tests")):
        if shown.effect is None or shown.effect > plan.minimum_effect:
            seen = "none is measurable" if shown.effect is None else f"only from +{shown.effect:.3f} on"
            goal, size = f"a gain of +{plan.minimum_effect:g}", f"{plan.confirm} confirm examples"
            yield (
                f"{name}: {size} cannot show {goal} {where}, {seen} (power {plan.target_power:g}); "
                f"{shown.needed:,} examples or a larger gate.ship.minimum_effect would do"
            )
            return
