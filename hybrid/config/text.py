"""The section `skill` of the configuration: the loop, who proposes edits, and what a document may hold.

Does not: read files or check that they exist.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hybrid.config.section import Section


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
