"""The configuration: every key that a YAML file may hold, with its type, default, unit and meaning.

The docstring under each field becomes its description in `hybrid schema`. Unknown keys are errors. Paths are kept as
written; the loader resolves them against the folder of the YAML file. Does not: read files or check that they exist.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


Identifier = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", min_length=1, max_length=64)]
"""A capability or run name: lower-case letters, digits and single hyphens, as Agent Skills require of a folder name."""
PlacementName = Literal["keep", "skill", "weights", "both", "neither", "undecided"]


class ModelConfig(Section):
    """The base model."""

    path: str
    """A local folder, a hub id, or `reference` for the small model that ships with hybrid."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the base weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA when it works and names what it took; `cuda` without CUDA is an error."""
    gguf_file: str | None = None
    """File name of a GGUF inside the folder; it is dequantised once and cached as safetensors."""
    revision: str | None = None
    """Revision of a hub id. Pin it: a moving revision is a moving base."""
    chat: bool = False
    """True renders prompts with the tokenizer's chat template (the skill document is the system message)."""
    skill_separator: str = "\n"
    """Text between the skill document and a text prompt."""
    end_of_answer: str | None = None
    """A single token of the vocabulary that ends an answer (for base models: often "\\n"); default: the model's own."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; default: the physical cores that this process may use."""


class TransformersBackendConfig(Section):
    """In-process generation with transformers."""

    type: Literal["transformers"] = "transformers"
    batch_size: int = Field(default=256, ge=1)
    """Rows generated together."""


class ScriptedBackendConfig(Section):
    """Answers read from a JSON file, for tests and rehearsals: no model is loaded."""

    type: Literal["scripted"]
    script: str
    """JSON file; see `hybrid.backends.scripted`."""


BackendConfig = Annotated[TransformersBackendConfig | ScriptedBackendConfig, Field(discriminator="type")]


class JsonlSource(Section):
    """A folder with `train.jsonl`, `search.jsonl`, `confirm.jsonl`, `test.jsonl` and optionally `variant.jsonl`."""

    type: Literal["jsonl"]
    path: str


class HfSource(Section):
    """A Hugging Face `datasets` data set, local (a folder saved by `save_to_disk`, or parquet/json files) or from the hub."""

    type: Literal["hf"]
    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[Literal["train", "search", "confirm", "test", "variant"], str]
    """Our split -> theirs; slices such as `train[:200]` are allowed."""
    prompt: str = "{prompt}"
    """Template over the row's columns."""
    reference: str = "{reference}"
    """Template over the row's columns."""
    id_column: str | None = None
    parent_column: str | None = None


SourceConfig = Annotated[JsonlSource | HfSource, Field(discriminator="type")]


class ExactGrader(Section):
    """The completion equals the reference after stripping surrounding white space."""

    type: Literal["exact"]


class NormalizedGrader(Section):
    """Equal after Unicode NFKC, case folding, and removing punctuation, articles and extra spaces."""

    type: Literal["normalized"]
    articles: tuple[str, ...] = ("a", "an", "the")


class NumericGrader(Section):
    """The last number of the completion equals the reference within a tolerance."""

    type: Literal["numeric"]
    absolute: float = Field(default=1e-6, ge=0)
    relative: float = Field(default=1e-6, ge=0)
    which: Literal["first", "last", "only"] = "last"


class ChoiceGrader(Section):
    """The one choice that the completion names equals the reference."""

    type: Literal["choice"]
    choices: tuple[str, ...] = Field(min_length=2)


class RegexGrader(Section):
    """The completion matches a pattern in which `{reference}` stands for the escaped reference."""

    type: Literal["regex"]
    pattern: str
    full: bool = True
    """The whole stripped completion must match; false searches in it."""
    timeout_s: float = Field(default=0.5, gt=0, le=10)
    format: str | None = None
    """Pattern of a well-formed answer, right or wrong, for the `format` facet; default: the pattern with any reference."""


class JsonGrader(Section):
    """Fields of the completion's first JSON value equal those of the reference (itself JSON)."""

    type: Literal["json"]
    fields: tuple[str, ...] = ()
    """Dotted paths to compare; none: the whole value."""
    tolerance: float = Field(default=1e-9, ge=0)


class PythonGrader(Section):
    """A callable `grade(completion, example) -> float | bool | Score`, by dotted path. It runs your code in this process."""

    type: Literal["python"]
    path: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """`package.module:function`."""


GraderConfig = Annotated[
    ExactGrader | NormalizedGrader | NumericGrader | ChoiceGrader | RegexGrader | JsonGrader | PythonGrader,
    Field(discriminator="type"),
]


class DecodingConfig(Section):
    """How answers are generated."""

    max_new_tokens: int = Field(default=64, ge=1, le=32_768)
    temperature: float = Field(default=0.0, ge=0.0, le=5.0)
    """Of judged answers; 0 is greedy. Probes and training sample at their own temperature."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)


class CapabilityConfig(Section):
    """A named behaviour: data, grader, and what is already known about it."""

    name: Identifier
    source: SourceConfig
    grader: GraderConfig
    skill: str | None = None
    """Seed document (a SKILL.md)."""
    oracle: str | None = None
    """A text known to hold what the capability needs, for the context-headroom probe only; it is never shipped."""
    kind: Literal["procedural", "factual", "stylistic"] | None = None
    """What you believe it is; compared with what is measured, never trusted."""
    description: str | None = Field(default=None, max_length=1024)
    """What it is and when it is needed, in a sentence or two: the description of its skill, and what a proposing model is
    told about it."""
    vocabulary: str | None = None
    """YAML file of candidate lines for the offline proposer; default: `skill.proposer.vocabulary`."""
    decoding: DecodingConfig = DecodingConfig()
    limit: dict[Literal["train", "search", "confirm", "test", "variant"], Annotated[int, Field(ge=1)]] = {}
    """At most so many examples of a split, the first by seeded shuffle."""


class ProbeConfig(Section):
    """How much is measured before routing."""

    examples: int = Field(default=64, ge=8)
    """Examples of `search` per probe."""
    samples: int = Field(default=8, ge=2, le=256)
    """k of pass@k."""
    temperature: float = Field(default=1.0, gt=0)
    worked_examples: int = Field(default=4, ge=0)
    """Train rows shown as worked examples in the context-headroom probe; 0 leaves that arm out."""
    variants: int = Field(default=64, ge=0)
    """Examples of `variant` measured; 0 leaves the probe out."""


class RouterConfig(Section):
    """Thresholds of the routing policy; all are shares in [0, 1]."""

    keep_above: float = Field(default=0.9, ge=0, le=1)
    """At or above this base score nothing needs improving."""
    context_gain: float = Field(default=0.1, ge=0, le=1)
    """Least gain of a text over the irrelevant-text control that makes text worth trying."""
    sampling_gain: float = Field(default=0.1, ge=0, le=1)
    """Least pass@k minus pass@1 that makes gradients worth trying."""
    signal_rate: float = Field(default=0.2, ge=0, le=1)
    """Least share of sampled groups with reward variance: below it GRPO has nothing to learn from."""
    lapse_share: float = Field(default=0.5, ge=0, le=1)
    """Least share of failures that break a rule which the document has, at its lower bound, that speaks for weights."""
    transfer: float = Field(default=0.5, ge=0, le=1)
    """Least gain on variants per gain in distribution for an adapter to ship."""
    force: dict[Identifier, Literal["keep", "skill", "weights", "both", "neither"]] = {}
    """Capability -> placement to attempt whatever the probes say; the gates still decide whether it ships."""
    counterfactual: bool = False
    """Train the other arms too, and say what they would have given."""


class OfflineProposerConfig(Section):
    """Edits built from failures on training rows: rules from a vocabulary, facts and worked examples; no language model."""

    type: Literal["offline"] = "offline"
    vocabulary: str | None = None
    """YAML file; see `hybrid.skill.vocabulary`."""
    trials: int = Field(default=4, ge=1)
    """Training rows on which each candidate rule is tried before it is proposed."""


class ProposerBudgetConfig(Section):
    """Hard limits of a proposer that asks a model, over the whole run and durable over resume; none means unlimited."""

    calls: int | None = Field(default=500, ge=1)
    """Requests."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens in plus tokens out."""
    usd: float | None = Field(default=None, gt=0)
    """Money; needs the two prices."""
    usd_per_million_in: float = Field(default=0.0, ge=0)
    usd_per_million_out: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _priced(self) -> ProposerBudgetConfig:
        if self.usd is not None and self.usd_per_million_in + self.usd_per_million_out == 0:
            raise ValueError("usd needs usd_per_million_in and usd_per_million_out: without prices it limits nothing")
        return self


class EndpointProposerConfig(Section):
    """Edits written by a language model behind an OpenAI-compatible endpoint."""

    type: Literal["endpoint"]
    url: str = Field(pattern=r"^https?://")
    """Base address, as in `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model at that endpoint."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key. The key itself belongs in no file."""
    structured: Literal["schema", "object", "none"] = "schema"
    """How the reply is held to JSON: by schema, as any JSON object, or by asking alone."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=2048, ge=64)
    """Tokens of one reply."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for one try."""
    deadline_s: float = Field(default=300.0, gt=0)
    """Longest wait for one reply, retries included."""
    retries: int = Field(default=4, ge=0, le=20)
    budget: ProposerBudgetConfig = ProposerBudgetConfig()


class SelfProposerConfig(Section):
    """Edits written by the target model itself."""

    type: Literal["self"]
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=64)
    budget: ProposerBudgetConfig = ProposerBudgetConfig()


class ReplayProposerConfig(Section):
    """Edits from a recording of another run's replies; a question that was not recorded stops the run."""

    type: Literal["replay"]
    path: str
    """JSONL file of recorded replies (`proposer/replies.jsonl` of a run folder)."""


ProposerConfig = Annotated[
    OfflineProposerConfig | EndpointProposerConfig | SelfProposerConfig | ReplayProposerConfig,
    Field(discriminator="type"),
]


class EditBudgetConfig(Section):
    """The textual learning rate: at most so many edits per step."""

    maximum: int = Field(default=4, ge=1, le=64)
    minimum: int = Field(default=1, ge=1, le=64)
    schedule: Literal["constant", "linear", "cosine", "autonomous"] = "cosine"
    """`autonomous` lets the proposer choose how many of its edits to apply, up to 64."""

    @model_validator(mode="after")
    def _ordered(self) -> EditBudgetConfig:
        if self.minimum > self.maximum:
            raise ValueError("minimum must not exceed maximum")
        return self


class CopyGuardConfig(Section):
    """How much of the training answers a document may hold word for word. Held-out answers are never allowed."""

    words: int = Field(default=8, ge=3)
    """A run of so many words that also stands in a training answer counts as a copy."""
    most: float = Field(default=0.5, ge=0, le=1)
    """Largest share of the training answers of at least that length that may be copied."""


class SkillConfig(Section):
    """The text substrate."""

    method: Literal["honest", "skillopt"] = "honest"
    """`honest` races edits on `search`; `skillopt` is the published algorithm, with its strict gate."""
    epochs: int = Field(default=2, ge=1, le=64)
    batch: int = Field(default=32, ge=1)
    """Training rows rolled out per step. `honest` stops at the first minibatch of failures where the proposer tries nothing
    itself: it would look at no more of them."""
    accumulation: int = Field(default=1, ge=1, le=64)
    """Batches per step."""
    minibatch: int = Field(default=8, ge=1)
    """Rollouts per reflection."""
    reflect_on: Literal["failures", "both"] | None = None
    """Which rollouts are reflected on; default: both for `skillopt`, failures for `honest`."""
    merge_batch: int = Field(default=8, ge=2)
    """Proposals merged in one go by a proposer that can."""
    edits: EditBudgetConfig = EditBudgetConfig()
    gate: Literal["race", "strict", "none"] | None = None
    """What an edit has to pass on `search`; default: `race` for `honest`, `strict` for `skillopt`."""
    rejected_memory: bool = True
    """Show the proposer what the gate turned down."""
    slow_update: bool = True
    """Let a proposer that can rewrite a protected section at the end of an epoch, gated like any edit."""
    slow_rows: int = Field(default=20, ge=1)
    """Training rows compared between the previous epoch's document and the present one."""
    optimiser_memory: bool = True
    """Let a proposer that can keep notes for itself from epoch to epoch; they are never part of the document."""
    parents: int = Field(default=1, ge=1, le=8)
    """Documents kept as starting points: more than one keeps a per-example Pareto front."""
    screen: int = Field(default=4, ge=0)
    """Training rows on which an edit that was never tried has to mend something before it is raced; 0 leaves this out."""
    max_tokens: int = Field(default=1024, ge=16)
    """Cap of the document's body, in the model's tokens."""
    attribution: int = Field(default=4, ge=0)
    """Kept edits whose worth is measured on `confirm` by leaving each out; 0 leaves this out."""
    copy_guard: CopyGuardConfig = CopyGuardConfig()
    proposer: ProposerConfig = OfflineProposerConfig()

    @property
    def vocabulary(self) -> str | None:
        """The candidate lines that all capabilities share, where the offline proposer works."""
        return self.proposer.vocabulary if isinstance(self.proposer, OfflineProposerConfig) else None

    @property
    def trials(self) -> int:
        """Training rows on which the proposer tries each draft; 0 where it tries none."""
        return self.proposer.trials if isinstance(self.proposer, OfflineProposerConfig) else 0

    @property
    def gate_rule(self) -> Literal["race", "strict", "none"]:
        """The gate, with the default of the method filled in."""
        return self.gate or ("strict" if self.method == "skillopt" else "race")

    @property
    def reflects_on(self) -> Literal["failures", "both"]:
        """Which rollouts are reflected on, with the default of the method filled in."""
        return self.reflect_on or ("both" if self.method == "skillopt" else "failures")


class LoraConfig(Section):
    """Shape of the adapter."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: int = Field(default=32, ge=1)
    rslora: bool = True
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023) instead of alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"


class RewardConfig(Section):
    """What training rewards. `brier_weight` must not exceed `accuracy_weight`: above it, answering wrong on purpose pays."""

    accuracy_weight: float = Field(default=1.0, gt=0)
    brier_weight: float = Field(default=0.0, ge=0)
    """Weight of 1 - (q - a)^2, q the confidence that the completion states, a in {0, 1} its correctness."""
    confidence_pattern: str = r"~(?P<confidence>\d)\s*$"
    """Regex with a group `confidence` in the completion; a tenth per unit when `confidence_scale` is 10."""
    confidence_scale: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _proper(self) -> RewardConfig:
        if self.brier_weight > self.accuracy_weight:
            raise ValueError(
                "brier_weight must not exceed accuracy_weight: above it, a surely wrong answer with confidence 0 pays more"
            )
        return self


class GrpoConfig(Section):
    """Group relative policy optimisation through TRL."""

    steps: int = Field(default=100, ge=1)
    """Optimiser steps."""
    prompts_per_step: int = Field(default=8, ge=1)
    generations: int = Field(default=8, ge=2)
    """Completions per prompt (the group)."""
    learning_rate: float = Field(default=2e-5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL to the base."""
    loss: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    scale_rewards: Literal["none", "group", "batch"] = "none"


class SftConfig(Section):
    """Supervised fine-tuning on gold completions through TRL."""

    steps: int = Field(default=100, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class DistillConfig(Section):
    """Context distillation (Askell et al. 2021, 2112.00861; Snell et al. 2022, 2209.15189): the base that reads the accepted
    document teaches an adapter that does not."""

    samples: int = Field(default=4, ge=1, le=256)
    """Answers of the teacher to each training prompt."""
    temperature: float = Field(default=1.0, ge=0, le=5)
    """Of the teacher's answers; 0 is greedy, and needs `samples: 1`."""
    keep: Literal["passed", "all"] = "passed"
    """Which answers are taught: those that the grader passes, each different one once; or all, as often as they came."""
    targets: Literal["text", "logits"] = "text"
    """What is learnt of an answer: its tokens, or the teacher's distribution of every next token in it."""
    top_k: int = Field(default=32, ge=1)
    """`logits`: most likely tokens that are matched one by one; all others together are one more."""
    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    batch: int = Field(default=16, ge=1)
    """Answers per step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    paraphrases: Literal[False] = False
    """Prompts besides those of `train` are not offered yet."""

    @model_validator(mode="after")
    def _samples_differ(self) -> DistillConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples must be 1 at temperature 0: greedy answers are all the same")
        return self


class WarmStartConfig(Section):
    """Supervised steps on gold completions before GRPO, in the same training."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)


class ScheduleConfig(Section):
    """Order of training rows."""

    stages: Literal["none", "structured_first"] = "none"
    """`structured_first` trains on rows of low base entropy first, in `count` stages."""
    count: int = Field(default=2, ge=2, le=8)


class WeightsConfig(Section):
    """The weight substrate."""

    method: Literal["grpo", "sft", "distill"] = "grpo"
    """`distill` also builds the text arm, and teaches the adapter of the `weights` arm with its document."""
    lora: LoraConfig = LoraConfig()
    rewards: RewardConfig = RewardConfig()
    grpo: GrpoConfig = GrpoConfig()
    sft: SftConfig = SftConfig()
    distill: DistillConfig = DistillConfig()
    warm_start: WarmStartConfig | None = None
    """For `grpo`: begin with supervised steps; none begins at the base."""
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint_every: int = Field(default=25, ge=1)
    """Steps between checkpoints, which are also the candidates among which `search` selects."""
    rows_per_device: int | None = Field(default=None, ge=1)
    """Completions in one forward pass; default: the whole step."""

    @model_validator(mode="after")
    def _warm_start_is_for_grpo(self) -> WeightsConfig:
        if self.warm_start is not None and self.method != "grpo":
            raise ValueError(f"warm_start goes before grpo; method {self.method} is supervised from its first step")
        return self

    @property
    def supervised(self) -> SftConfig | DistillConfig:
        """Steps, batch and learning rate of the supervised method: those of `distill` for it, else those of `sft`."""
        return self.distill if self.method == "distill" else self.sft

    @property
    def steps(self) -> int:
        """Optimiser steps of one training, without a warm start's."""
        return self.grpo.steps if self.method == "grpo" else self.supervised.steps


class SearchGateConfig(Section):
    """The lenient gate inside an improver. It may look at `search` as often as it likes."""

    part: int = Field(default=16, ge=4)
    """Examples per part of a race; a challenger that falls behind the incumbent after a part is dropped."""
    margin: float = Field(default=0.0, ge=0, le=1)
    """A challenger must be better by more than this at the end of the race."""
    early_p: float = Field(default=0.1, gt=0, lt=0.5)
    """A challenger whose sign test falls below this after two parts is accepted without the rest."""


class ShipGateConfig(Section):
    """The honest gate: one paired test on `confirm`, opened once per capability."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    minimum_effect: float = Field(default=0.05, gt=0, lt=1)
    """The least gain worth shipping; the design effect of `plan`."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """Power at which `plan` states the minimum detectable effect."""
    multiplicity: Literal["holm", "none"] = "holm"
    """Correction over the capabilities of one run."""
    slice_by: str | None = None
    """Metadata key; a significant regression of any of its values vetoes."""


class GateConfig(Section):
    """Both gates."""

    search: SearchGateConfig = SearchGateConfig()
    ship: ShipGateConfig = ShipGateConfig()


class BudgetConfig(Section):
    """Hard limits over the whole run, durable over resume; none means unlimited."""

    calls: int | None = Field(default=None, ge=1)
    """Completions."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens in plus tokens out."""
    train_seconds: float | None = Field(default=None, gt=0)
    wall_seconds: float | None = Field(default=None, gt=0)


class ReportConfig(Section):
    """The placement report."""

    formats: tuple[Literal["json", "md", "html"], ...] = ("json", "md", "html")
    collateral_examples: int = Field(default=48, ge=0)
    """Examples of every other capability on which a shipped change is measured; 0 leaves it out."""


class Config(Section):
    """A run: one model, capabilities, and how to decide."""

    name: Identifier
    model: ModelConfig
    backend: BackendConfig = TransformersBackendConfig()
    capabilities: tuple[CapabilityConfig, ...] = Field(min_length=1)
    probe: ProbeConfig = ProbeConfig()
    router: RouterConfig = RouterConfig()
    skill: SkillConfig = SkillConfig()
    weights: WeightsConfig = WeightsConfig()
    gate: GateConfig = GateConfig()
    budget: BudgetConfig = BudgetConfig()
    report: ReportConfig = ReportConfig()
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        names = [c.name for c in self.capabilities]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"capabilities: the name {twice[0]!r} is used twice")
        unknown = sorted(set(self.router.force) - set(names))
        if unknown:
            raise ValueError(f"router.force: {unknown[0]!r} is not a capability of this file")
        return self
