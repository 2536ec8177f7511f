"""The leaves of the placement report: numbers with their n, and the small records that `schema` puts together.

Floats keep 6 significant digits (so a p value of 3e-9 stays one) and are never NaN or infinite. Lone surrogates in
model output become U+FFFD, because the file is UTF-8. Does not: know the report as a whole.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from hybrid.capability.types import Kind as KindName
from hybrid.config.schema import PlacementName

DIGITS = 6
MOST_FLIPS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") + 0.0  # adding zero turns -0.0 into 0.0: one value, one spelling


def _storable(value: str) -> str:
    return _SURROGATE.sub("\ufffd", value)


def _tidy(value: Any) -> Any:
    """Round every float of free JSON, and refuse what JSON cannot say."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must be finite: write null and a note where something is not measurable")
        return _rounded(value)
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, list):
        return [_tidy(v) for v in value]
    if isinstance(value, dict):
        return {_storable(k): _tidy(v) for k, v in value.items()}
    return value


Text = Annotated[str, AfterValidator(_storable)]
"""Any text, hostile or not; whoever draws it escapes it."""
Number = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_rounded)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_rounded)]
Count = Annotated[int, Field(ge=0)]
Free = Annotated[JsonValue, AfterValidator(_tidy)]
MeasuredKind = Literal["procedural", "factual", "stylistic", "mixed", "unclear"]
Substrate = Literal["base", "skill", "weights", "both"]
ARMS: tuple[Substrate, ...] = ("base", "skill", "weights", "both")


class Part(BaseModel):
    """Base of every part of the report: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class _Ranged(Part):
    @model_validator(mode="after")
    def _ordered(self) -> _Ranged:
        low, high = getattr(self, "low", None), getattr(self, "high", None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"low ({low}) must not exceed high ({high})")
        return self


class Estimate(_Ranged):
    """A mean score with its two-sided interval over n examples."""

    mean: Number
    low: Number
    high: Number
    n: Count
    level: Share = 0.95


class Delta(_Ranged):
    """A paired difference with its interval; `improved` and `regressed` count examples out of n."""

    mean: Number
    low: Number
    high: Number
    p: Share
    """One-sided, for a difference above zero."""
    n: Count
    improved: Count
    regressed: Count
    level: Share = 0.95


class Effect(_Ranged):
    """A paired difference without counts of examples."""

    delta: Number
    low: Number
    high: Number
    n: Count
    p: Share | None = None


class ModelFacts(Part):
    """The base model."""

    path: Text
    fingerprint: Text
    parameters: Count
    dtype: Text
    device: Text


class StageCost(Part):
    """What one stage cost. `calls` are completions, training rollouts included; seconds are of generating."""

    calls: Count
    tokens_in: Count
    tokens_out: Count
    seconds: Number = 0.0
    train_seconds: Number = 0.0


class ProposerCost(Part):
    """Requests to a model that proposes edits or judges answers. `usd` follows the configured prices; null without them."""

    calls: Count
    attempts: Count
    tokens_in: Count
    tokens_out: Count
    usd: Number | None = None


class LedgerTotals(Part):
    """What a run or a capability cost. `wall_seconds` is null where time cannot be told apart."""

    calls: Count
    tokens_in: Count
    tokens_out: Count
    train_seconds: Number
    wall_seconds: Number | None
    stages: dict[Text, StageCost] = {}
    proposer: ProposerCost | None = None
    """What the model that proposes edits cost over the whole run; null where none was asked."""
    judge: ProposerCost | None = None
    """What models that judge answers cost, training included; null where none was asked."""


class Kind(Part):
    """What the capability is: measured from the profile, and declared by its author (never trusted)."""

    measured: MeasuredKind | None
    declared: KindName | None
    confidence: Share | None
    """Probability of the measured kind, under a model fitted on capabilities of constructed kind."""
    scores: dict[Text, Share] = {}
    """Probability of each kind by itself; two can hold."""
    evidence: tuple[Text, ...] = ()
    """What speaks for and against, strongest first."""
    disagreement: Text | None = None
    """Where the measured kind surely is not the declared one: both, with the evidence."""


class ProbeResult(_Ranged):
    """One probe. `value` is null when it is not measurable at this size; `note` says so. More keys are allowed."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Free] = Field(init=False)
    value: Number | None
    low: Number | None = None
    high: Number | None = None
    n: Count
    note: Text = ""


class ArmResult(Part):
    """One cell of the 2x2 of adapter and skill, on the sealed test and on the variants."""

    test: Estimate | None
    variant: Estimate | None
    tokens_in: Number | None = None
    """Mean prompt tokens per test answer."""
    tokens_out: Number | None = None
    """Mean answer tokens per test answer."""


class Arms(Part):
    """All cells that were measured; null for those that were not."""

    base: ArmResult | None
    skill: ArmResult | None
    weights: ArmResult | None
    both: ArmResult | None

    def of(self, arm: Substrate) -> ArmResult | None:
        """The cell of one arm."""
        found: ArmResult | None = getattr(self, arm)
        return found


class Rejected(_Ranged):
    """Something that was tried and not kept. Numbers are null (and n 0) when it failed before it could be measured."""

    substrate: Text
    what: Text
    delta: Number | None
    low: Number | None
    high: Number | None
    n: Count = 0
    why: Text


class Collateral(_Ranged):
    """What the shipped change does to another capability."""

    delta: Number
    low: Number
    high: Number
    n: Count


class Calibration(Part):
    """How well stated confidences match correctness. `auroc` is null when all answers are right or all are wrong.

    The figures are the placed arm's (the base's where nothing was placed) over the `n` test answers that state a
    confidence; `unstated` ones are in none of them. Better figures at a lower accuracy are no gain.
    """

    brier: Number
    ece: Number
    auroc: Share | None
    n: Count
    unstated: Count = 0
    intervals: dict[Text, Estimate] = {}
    """`brier`, `ece` and `auroc` with their 95 % intervals."""
    base: dict[Text, Estimate] = {}
    """The same of the base's answers; empty where too few of them state a confidence."""


class Formats(Part):
    """Shares of answer formats, their effective number, and how much more they collapsed than accuracy explains."""

    shares: dict[Text, Share]
    effective: Number
    excess_collapse: Number | None
    n: Count


class GateVerdict(_Ranged):
    """The ship gate's decision about one arm, on the confirm split. `p_adjusted` is null without correction."""

    arm: Substrate
    decision: Literal["accept", "reject", "undecided"]
    delta: Number
    low: Number
    high: Number
    p: Share
    p_adjusted: Share | None
    n: Count
    improved: Count
    regressed: Count
    reason: Text
    slices: dict[Text, Effect] = {}
    """Named slices that regressed significantly."""


class Counterfactual(Part):
    """What the best other placement would have given. `regret` is that placement minus the chosen one."""

    placement: PlacementName | None
    regret: Delta | None
    note: Text


class SkillEdit(_Ranged):
    """One proposed edit of the document and what the search gate said. Numbers are null when it was never measured."""

    step: Count
    op: Text
    target: Text
    content: Text
    decision: Literal["accept", "reject", "undecided"]
    delta: Number | None
    low: Number | None
    high: Number | None
    n: Count
    why: Text
    worth: Effect | None = None
    """What the final document loses on `confirm` without this edit; null where that was not measured."""


class TrainingPoint(Part):
    """One logged step. `reward` is null for methods without one; more keys are allowed."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Free] = Field(init=False)
    step: Count
    reward: Number | None = None
    loss: Number | None = None


class TrainingMemory(Part):
    """What the training took beside its base, in MiB: as predicted before it began, and at its highest. None: not known."""

    rows_per_device: Count
    """Rows in one forward pass."""
    predicted_mib: Count | None
    measured_mib: Count | None


class Training(Part):
    """How the adapter was trained. `selected_step` is the checkpoint that the search gate chose."""

    method: Text
    steps: Count
    history: tuple[TrainingPoint, ...]
    selected_step: Count | None
    memory: TrainingMemory | None = None


class Flip(Part):
    """A test example whose outcome changed between the base and the placed arm."""

    id: Text
    prompt: Text
    reference: Text
    before: Text
    after: Text


class Flips(Part):
    """Examples that changed, at most 20 each way."""

    improved: Annotated[tuple[Flip, ...], Field(max_length=MOST_FLIPS)] = ()
    regressed: Annotated[tuple[Flip, ...], Field(max_length=MOST_FLIPS)] = ()


class Ingredient(Part):
    """An expert of a mixture: a capability of the run or the folder of an adapter, and its coefficient."""

    name: Text
    coefficient: Number


class Composition(Part):
    """How an adapter was mixed from others. `chosen` says what ships: `mixture`, or `best expert` where that one was as good
    alone; `best_expert` names it.

    `evaluations` counts mixtures, `asked` their answers and `saved` those that racing spared. `fresh` are scores on examples that
    the search did not read: of `base`, `best expert` and `mixture`. `error` is the relative norm that a smaller rank left out.
    """

    search: Text
    ingredients: tuple[Ingredient, ...]
    chosen: Text
    best_expert: Text
    evaluations: Count
    asked: Count
    saved: Count
    fresh: dict[Text, Estimate]
    rank: Count
    error: Share


class Artifacts(Part):
    """What ships: paths relative to the run folder, and the method that made the adapter."""

    skill: Text | None
    adapter: Text | None
    method: Text | None
    composition: Composition | None = None
    """Null where the adapter was not mixed from others."""
