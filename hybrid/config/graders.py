"""The sections of graders: how the answers of a capability are judged.

Does not: judge (see `hybrid.capability.graders`, and `hybrid.backends.judge` for the model that judges).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from hybrid.config.calls import FunctionCallGrader as FunctionCallGrader
from hybrid.config.section import Section
from hybrid.config.text import EndpointProposerConfig, ProposerBudgetConfig


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


class CodeGrader(Section):
    """The completion holds a Python function that gives the expected value for every hidden case. It runs model output."""

    type: Literal["code"]
    acknowledge: Literal["runs model-written code"]
    """This grader runs code that the model wrote on this machine; docs/code-grading.md says what holds it back and what does
    not."""
    entry: str = Field(pattern=r"^[A-Za-z_]\w*$", max_length=100)
    """Name of the function to call. The cases are the example's `metadata.cases`, or else its reference as JSON: a list of
    `{"args": [...], "expect": value}`."""
    score: Literal["all", "share"] = "all"
    """The value of an answer: 1 when every case passes and 0 otherwise, or the share of the cases that pass."""
    tolerance: float = Field(default=1e-9, ge=0, lt=1)
    """Relative and absolute tolerance where the expected number is written with a point or an exponent."""
    timeout_s: int = Field(default=2, ge=1, le=60)
    """Seconds of processor time for one answer, all cases together. It may do nothing for as long and 3 seconds more."""
    memory_mb: int = Field(default=256, ge=64, le=16_384)
    """Address space of the answer's process in MiB, of which Python itself takes about 25."""
    most_output: int = Field(default=1_000_000, ge=1000, le=10_000_000)
    """Bytes of all returned values together, as JSON. What is printed is thrown away."""
    sandbox: Literal["subprocess"] = "subprocess"
    """Where the code runs: a process of its own, with limits, and with the namespaces of Linux where they work."""
    network: Literal["none", "allowed"] = "none"
    """`none` refuses to grade on a machine that cannot cut the code off from network, files and other processes;
    `allowed` goes on there, with limits but with your rights."""


_Checked: TypeAlias = (
    ExactGrader
    | NormalizedGrader
    | NumericGrader
    | ChoiceGrader
    | RegexGrader
    | JsonGrader
    | CodeGrader
    | FunctionCallGrader
    | PythonGrader
)
CheckedGrader = Annotated[_Checked, Field(discriminator="type")]
"""Graders that check an answer without asking a model."""


class JudgeGrader(Section):
    """A language model behind an OpenAI-compatible endpoint grades open-ended answers by a rubric."""

    type: Literal["judge"]
    url: str = Field(pattern=r"^https?://")
    """Base address, as in `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model at that endpoint."""
    rubric: str = Field(min_length=1, max_length=8_000)
    """What makes an answer good, and what each grade means."""
    scale: int = Field(default=4, ge=1, le=100)
    """Grades are whole numbers from 0 to this; the value of an answer is its grade over it."""
    pass_at: int | None = Field(default=None, ge=1)
    """Least grade that passes; default: three quarters of the scale, rounded up."""
    check: CheckedGrader | None = None
    """A grader that an answer has to pass before the judge is asked; one that fails has value 0 and costs nothing."""
    check_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the value that passing `check` earns by itself; the judge's grade earns the rest."""
    show_reference: bool = True
    """Show the judge the example's reference, where it is not empty."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key. The key itself belongs in no file."""
    structured: Literal["schema", "object", "none"] = "schema"
    """How the verdict is held to JSON: by schema, as any JSON object, or by asking alone."""
    max_tokens: int = Field(default=512, ge=64)
    """Tokens of one verdict."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for one try."""
    deadline_s: float = Field(default=300.0, gt=0)
    """Longest wait for one verdict, retries included."""
    retries: int = Field(default=4, ge=0, le=20)
    most_unjudged: float = Field(default=0.1, gt=0, le=1)
    """The run stops when more than this share of the answers judged so far (of at least 20) got no readable verdict."""
    budget: ProposerBudgetConfig = ProposerBudgetConfig(calls=5_000)
    """Hard limits of this judge, over the whole run and durable over resume."""

    @model_validator(mode="after")
    def _consistent(self) -> JudgeGrader:
        if self.pass_at is not None and self.pass_at > self.scale:
            raise ValueError("pass_at must not exceed scale")
        if self.check_share > 0 and self.check is None:
            raise ValueError("check_share needs check: without it nothing earns that share")
        return self

    @property
    def passes_from(self) -> int:
        """The least grade that passes, with the default filled in."""
        return self.pass_at if self.pass_at is not None else -(-3 * self.scale // 4)

    def endpoint(self) -> EndpointProposerConfig:
        """Where the judge is asked, as the client of the endpoint wants it."""
        shared = ("url", "model", "key_env", "structured", "max_tokens", "timeout_s", "deadline_s", "retries", "budget")
        return EndpointProposerConfig(type="endpoint", **{name: getattr(self, name) for name in shared})


GraderConfig = Annotated[_Checked | JudgeGrader, Field(discriminator="type")]
