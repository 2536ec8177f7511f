"""The configuration: every key that a YAML file may hold, with its type, default, unit and meaning.

The docstring under each field becomes its description in `hybrid schema`. Unknown keys are errors. Paths are kept as
written; the loader resolves them against the folder of the YAML file. Does not: read files or check that they exist.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from hybrid.config.data import HfSource as HfSource
from hybrid.config.data import JsonlSource as JsonlSource
from hybrid.config.data import SourceConfig as SourceConfig
from hybrid.config.data import SuiteSizes as SuiteSizes
from hybrid.config.data import SuiteSource as SuiteSource
from hybrid.config.endpoint import OpenAIBackendConfig as OpenAIBackendConfig
from hybrid.config.generality import AbstainConfig as AbstainConfig
from hybrid.config.generality import GeneralityConfig as GeneralityConfig
from hybrid.config.generality import TransferBound as TransferBound
from hybrid.config.generality import UnknownFacts as UnknownFacts
from hybrid.config.graders import ChoiceGrader as ChoiceGrader
from hybrid.config.graders import CodeGrader as CodeGrader
from hybrid.config.graders import ExactGrader as ExactGrader
from hybrid.config.graders import FunctionCallGrader as FunctionCallGrader
from hybrid.config.graders import GraderConfig as GraderConfig
from hybrid.config.graders import JsonGrader as JsonGrader
from hybrid.config.graders import JudgeGrader as JudgeGrader
from hybrid.config.graders import NormalizedGrader as NormalizedGrader
from hybrid.config.graders import NumericGrader as NumericGrader
from hybrid.config.graders import PythonGrader as PythonGrader
from hybrid.config.graders import RegexGrader as RegexGrader
from hybrid.config.memory import MemoryConfig as MemoryConfig
from hybrid.config.probe import ProbeConfig as ProbeConfig
from hybrid.config.proxy import SAME
from hybrid.config.proxy import ProxyConfig as ProxyConfig
from hybrid.config.quantization import QuantizationConfig as QuantizationConfig
from hybrid.config.rewards import RewardConfig as RewardConfig
from hybrid.config.router import RouterConfig as RouterConfig
from hybrid.config.rules import KeyRuleError
from hybrid.config.schedule import ScheduleConfig as ScheduleConfig
from hybrid.config.section import Identifier as Identifier
from hybrid.config.section import Section as Section
from hybrid.config.svf import DirectionsConfig as DirectionsConfig
from hybrid.config.svf import SvfConfig as SvfConfig
from hybrid.config.swarm import SwarmConfig as SwarmConfig
from hybrid.config.text import CopyGuardConfig as CopyGuardConfig
from hybrid.config.text import EditBudgetConfig as EditBudgetConfig
from hybrid.config.text import EndpointProposerConfig as EndpointProposerConfig
from hybrid.config.text import OfflineProposerConfig as OfflineProposerConfig
from hybrid.config.text import ProposerBudgetConfig as ProposerBudgetConfig
from hybrid.config.text import ProposerConfig as ProposerConfig
from hybrid.config.text import ReplayProposerConfig as ReplayProposerConfig
from hybrid.config.text import SelfProposerConfig as SelfProposerConfig
from hybrid.config.text import SkillConfig as SkillConfig
from hybrid.config.tree import CriticsConfig as CriticsConfig
from hybrid.config.tree import TreeConfig as TreeConfig
from hybrid.config.vllm import VllmBackendConfig as VllmBackendConfig
from hybrid.config.weights import DistillConfig as DistillConfig
from hybrid.config.weights import GrpoConfig as GrpoConfig
from hybrid.config.weights import LoraConfig as LoraConfig
from hybrid.config.weights import MethodName as MethodName
from hybrid.config.weights import SftConfig as SftConfig
from hybrid.config.weights import WarmStartConfig as WarmStartConfig
from hybrid.config.weights import WeightsConfig as WeightsConfig

PlacementName = Literal["keep", "skill", "weights", "both", "neither", "undecided"]


class ModelConfig(Section):
    """The base model."""

    path: str
    """A local folder, a hub id, or `reference` for the small model that ships with hybrid."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the base weights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA when it works and names what it took; `cuda` without CUDA is an error."""
    quantization: QuantizationConfig | None = None
    """Store the linear layers in 4 or 8 bits (needs bitsandbytes); none keeps them at `dtype`. Another base: answers, fingerprint
    and adapters are those of the quantised model."""
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
    """CPU threads of torch; default: the physical cores that this process may use, at most OMP_NUM_THREADS where that is set."""


class TransformersBackendConfig(Section):
    """In-process generation with transformers."""

    type: Literal["transformers"] = "transformers"
    batch_size: int = Field(default=256, ge=1)
    """Rows generated together. Several processes share whole batches: a call of one batch is one process's work."""
    share_timeout_s: float = Field(default=3600.0, gt=0.0)
    """Seconds that a process may take for its part of a call before the run ends with an error that names it."""


class ScriptedBackendConfig(Section):
    """Answers read from a JSON file, for tests and rehearsals: no model is loaded."""

    type: Literal["scripted"]
    script: str
    """JSON file; see `hybrid.backends.scripted`."""


BackendConfig = Annotated[
    TransformersBackendConfig | VllmBackendConfig | OpenAIBackendConfig | ScriptedBackendConfig,
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
    grader: GraderConfig | None = None
    """How answers are judged. Only a suite may leave it out: it brings its own."""
    method: MethodName | None = None
    """How its adapter comes about; default: `weights.method`. With `swarm` it is composed of the other capabilities' adapters."""
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
    volatility: float | None = Field(default=None, ge=0)
    """Declared: how often what is right here changes, in changes a month. A cost term, never a measurement."""
    calls_per_day: float | None = Field(default=None, ge=0)
    """Declared: how often it will be asked. A document is paid for in every call, a training once."""
    portable: bool | None = None
    """Declared: whether it has to move to other models, which a document does and an adapter does not."""
    abstain: AbstainConfig | None = None
    """An answer that stands for "I do not know", which the grader then accepts; none means that it is an answer like others."""
    limit: dict[Literal["train", "search", "confirm", "test", "variant"], Annotated[int, Field(ge=1)]] = Field(
        default={}
    )
    """At most so many examples of a split, the first by seeded shuffle."""

    @model_validator(mode="after")
    def _judged(self) -> CapabilityConfig:
        if self.grader is None and self.source.type != "suite":
            found = "the key 'grader' is missing: only a suite brings one"
            raise KeyRuleError(("grader",), found, "add `grader: {type: exact}`", None)
        return self


class SearchGateConfig(Section):
    """The lenient gate inside an improver. It may look at `search` as often as it likes."""

    part: int = Field(default=16, ge=4)
    """Examples per part of a race; a challenger that falls behind the incumbent after a part is dropped."""
    margin: float = Field(default=0.0, ge=0, le=1)
    """A challenger must be better by more than this at the end of the race."""
    early_p: float = Field(default=0.1, gt=0, lt=0.5)
    """A challenger whose sign test falls below this after two parts is accepted without the rest."""


class CalibrationGateConfig(Section):
    """A better calibration ships too, only jointly with an accuracy that is not worse. Each has half of `alpha` then."""

    minimum_effect: float = Field(default=0.02, gt=0, lt=1)
    """The least fall of the Brier loss worth shipping."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """Accuracy may not be worse by more than this at the lower end of its 95 % interval."""
    least: int = Field(default=30, ge=10)
    """Fewest answers that have to state a confidence, of the base and of the arm; with fewer it is not measurable."""


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
    calibration: CalibrationGateConfig | None = None
    """Let a better calibration ship too; none: the score alone decides. Needs `weights.rewards.confidence_pattern`."""


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
        if self.backend.type == "vllm" and self.model.quantization is not None:
            raise ValueError(
                "backend: vLLM packs a quantised base in its own way, which is another base than is trained"
            )
        if self.backend.type == "vllm" and "svf" in {c.method or self.weights.method for c in self.capabilities}:
            raise ValueError("backend: vLLM serves LoRA adapters alone; use backend.type transformers with method svf")
        steered = self.steers and self.weights.proxy.apply == "logits"
        if self.backend.type == "vllm" and steered:
            raise ValueError("weights.method: vLLM has no place for a second model beside the first; use transformers")
        if self.backend.type == "openai":
            self._fits_an_endpoint()
        unknown = sorted(set(self.router.force) - set(names))
        if unknown:
            raise ValueError(f"router.force: {unknown[0]!r} is not a capability of this file")
        judged = sorted(
            c.name
            for c in self.capabilities
            if c.abstain is not None and c.grader is not None and c.grader.type == "judge"
        )
        if judged:
            raise ValueError(f"capabilities: {judged[0]} has a judge, which decides itself what an abstention is worth")
        if self.gate.ship.calibration is not None and self.weights.rewards.confidence is None:
            raise ValueError(
                "gate.ship.calibration: no answer states a confidence, so nothing would read it; "
                "set weights.rewards.confidence_pattern"
            )
        scaling = self.weights.grpo.scale_rewards
        if self.weights.reinforces and self.weights.rewards.brier_weight > 0 and scaling != "none":
            raise ValueError(
                f"weights.grpo.scale_rewards: {scaling!r} divides by a deviation of rewards, which makes a Brier reward teach "
                'overconfidence (Bereket and Leskovec 2025, arXiv 2508.11800); use "none", or leave out rewards.brier_weight'
            )
        order = self.weights.schedule.order
        if not isinstance(order, str) and sorted(order) != sorted(names):
            raise ValueError("weights.schedule.order: name every capability of this file once, or write structured")
        if self.weights.unknown_facts == "relabel" and all(c.abstain is None for c in self.capabilities):
            raise ValueError("weights.unknown_facts: relabel needs a capability with `abstain: {answer: ...}`")
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> Config:
        """Every capability's own method stands where `weights.method` would; what is composed needs something to mix."""
        own = [c for c in self.capabilities if c.method not in (None, self.weights.method)]
        for capability in own:
            try:
                self.weights_of(capability.name)
            except ValidationError as error:
                why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"capabilities: {capability.name} has method {capability.method}: {why}") from None
        if own and self.backend.type == "openai":
            raise ValueError(f"capabilities: {own[0].name} has a method, and nothing can be trained on an endpoint")
        if own and self.weights.schedule.tasks == "shared":
            raise ValueError(
                f"weights.schedule.tasks: shared trains all capabilities alike, and {own[0].name} has a method of its own"
            )
        composed = [c.name for c in self.capabilities if self.method_of(c.name) == "swarm"]
        mixed = sorted(set(self.weights.swarm.experts) & set(composed))
        if mixed:
            raise ValueError(f"weights.swarm.experts: {mixed[0]!r} is composed itself; name what it is made of")
        if len(composed) == len(self.capabilities) and not self.weights.swarm.experts:
            raise ValueError(
                "weights.swarm.experts: every capability is composed, so there is nothing to mix; name folders of adapters, or "
                "give the others a `method` that trains"
            )
        return self

    def method_of(self, capability: str) -> MethodName:
        """How the adapter of a capability comes about."""
        return next(c.method for c in self.capabilities if c.name == capability) or self.weights.method

    def weights_of(self, capability: str) -> WeightsConfig:
        """`weights` with the capability's own method, which may have no warm start. Raises ValidationError where they do not
        fit together."""
        method = self.method_of(capability)
        if method == self.weights.method:
            return self.weights
        return WeightsConfig.model_validate({**dict(self.weights), "method": method, "warm_start": None})

    @property
    def steers(self) -> bool:
        """Whether any capability is carried by a proxy."""
        return any(self.method_of(c.name) == "proxy" for c in self.capabilities)

    @property
    def small(self) -> ModelConfig | None:
        """The small model of proxy-tuning, read and computed as the base is; None where there is none, or it is the base."""
        proxy = self.weights.proxy
        if not self.steers or proxy.small == SAME:
            return None
        own = {"path": proxy.small, "revision": proxy.revision, "quantization": None, "gguf_file": None}
        return self.model.model_copy(update=own)

    @property
    def trains(self) -> bool:
        """Whether there are weights to train: a model behind an endpoint has none that can be reached."""
        return self.backend.type != "openai"

    def _fits_an_endpoint(self) -> None:
        """Raise ValueError for what a model behind an endpoint cannot have, so that no key is passed over in silence."""
        for name, placement in self.router.force.items():
            if placement in ("weights", "both"):
                message = f"`{placement}` placements cannot be built on an endpoint (backend.type openai)"
                raise KeyRuleError(
                    ("router", "force", name), message, "force skill, or use backend.type transformers", "skill"
                )
        model = ModelConfig(path=self.model.path, chat=self.model.chat)
        weights = WeightsConfig(monitors=self.weights.monitors, rewards=self.weights.rewards)
        for section, mine, plain, why in (
            ("model", self.model, model, "the endpoint decides this itself"),
            ("weights", self.weights, weights, "nothing can be trained on an endpoint"),
        ):
            changed = next((key for key, value in mine if value != getattr(plain, key)), None)
            if changed is not None:
                fix, legal = "leave it out, or use backend.type transformers", plain.model_dump(mode="json")[changed]
                raise KeyRuleError((section, changed), f"{why} (backend.type openai)", fix, legal)
