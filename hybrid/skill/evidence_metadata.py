"""What a document carries about itself: version, parent, hashes and its last gate, in `metadata` under `hybrid-`.

    stamped = stamp(document, GateEvidence(model=fingerprint, split="confirm", decision="accept", delta=0.2, ...))
    read_stamp(stamped).version      # 1, and one more whenever a changed body is stamped again
    verify_stamp(stamped)            # "sound"; "changed" once somebody edits the body

The model reads the body alone, so a stamp changes no measurement. A stamp is a record and no signature: it shows a body
that was edited by mistake, and says nothing about who wrote either. Does not: measure, or touch other keys of `metadata`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hybrid.errors import DataError, Problem
from hybrid.evidence.types import Decision, Verdict
from hybrid.skill.document import SkillDocument
from hybrid.skill.references import whole
from hybrid.skill.text import hidden, normal

PREFIX = "hybrid-"
State: TypeAlias = Literal["absent", "sound", "changed", "malformed"]
Number = Annotated[
    float, Field(allow_inf_nan=False), AfterValidator(lambda value: float(f"{value:.6g}") + 0.0)
]  # as in the report; adding zero turns -0.0 into 0.0


def _one_line(value: str) -> str:
    if not value.strip() or "\n" in value or hidden(value):
        raise ValueError("must be one visible line")
    return value


Line = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class GateEvidence(BaseModel):
    """The last gate that a document passed or failed: paired difference to what it was compared with, over n examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: Line
    """Fingerprint of the base model that read the document."""
    split: Line
    """The examples that were used, as in `confirm`."""
    decision: Decision
    delta: Number
    low: Number
    high: Number
    n: int = Field(ge=0)
    p: Number = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> GateEvidence:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self

    @classmethod
    def of(cls, verdict: Verdict, model: str, split: str) -> GateEvidence:
        """The evidence in a gate's verdict."""
        kept = verdict.model_dump(include={"decision", "delta", "low", "high", "n", "p"})
        return cls(model=model, split=split, **kept)


class Stamp(BaseModel):
    """Everything that a stamp says. `parent` is the body hash of the version before; None for the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = Field(ge=1)
    parent: Hash | None
    body: Hash
    evidence: GateEvidence


KEYS = (
    *(f"{PREFIX}{key}" for key in ("version", "parent", "body")),
    *(f"{PREFIX}{key}" for key in GateEvidence.model_fields),
)


def body_hash(body: str) -> str:
    """sha256 (hex) of a body in normal form."""
    return hashlib.sha256(normal(body).encode()).hexdigest()


def stamp(document: SkillDocument, evidence: GateEvidence, parent: SkillDocument | None = None) -> SkillDocument:
    """The document with a stamp of its present body.

    The version before is the one that the document's own stamp tells of (an edited document keeps the metadata it began
    with), else `parent`, say the seed document. The same body keeps its version and gets the new evidence, so that
    stamping twice is stamping once. A malformed stamp counts as none.
    """
    body = body_hash(document.body)
    before = _stamp_or_none(document)
    if before is not None and before.body == body:
        version, parent_hash = before.version, before.parent
    elif before is not None:
        version, parent_hash = before.version + 1, before.body
    elif parent is not None and body_hash(parent.body) != body:
        of_parent = _stamp_or_none(parent)
        version = of_parent.version + 1 if of_parent is not None else 1
        parent_hash = body_hash(parent.body)
    else:
        version, parent_hash = 1, None
    new = Stamp(version=version, parent=parent_hash, body=body, evidence=evidence)
    kept = {key: value for key, value in document.metadata.items() if key not in KEYS}
    return SkillDocument(**{**document.model_dump(), "metadata": {**kept, **_metadata(new)}})


def read_stamp(document: SkillDocument, file: str = "SKILL.md") -> Stamp | None:
    """The stamp; None for a document without one. Raises DataError for one that is malformed."""
    found = {key.removeprefix(PREFIX): document.metadata[key] for key in KEYS if key in document.metadata}
    if not found:
        return None
    evidence = {key: found[key] for key in GateEvidence.model_fields if key in found}
    try:
        return Stamp.model_validate(
            {
                "version": found.get("version"),
                "parent": found.get("parent"),
                "body": found.get("body"),
                "evidence": evidence,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = f"metadata.{PREFIX}{first['loc'][-1]}" if first["loc"] else "metadata"
        fix = f"remove the keys that begin with {PREFIX}, or take the document from its run again"
        raise DataError([Problem(file, 0, key, f"the stamp is malformed: {first['msg'].lower()}", fix)]) from None


def verify_stamp(document: SkillDocument, references: Mapping[str, str] | None = None) -> State:
    """Whether the body is the one that was stamped. A body that was split is judged whole, with its `references`."""
    try:
        found = read_stamp(document)
    except DataError:
        return "malformed"
    if found is None:
        return "absent"
    return "sound" if found.body == body_hash(whole(document.body, references or {})) else "changed"


def _stamp_or_none(document: SkillDocument) -> Stamp | None:
    try:
        return read_stamp(document)
    except DataError:
        return None


def _metadata(new: Stamp) -> dict[str, str]:
    values: dict[str, object] = {"version": new.version, "parent": new.parent, "body": new.body}
    values |= new.evidence.model_dump()
    text = {key: f"{v:.6g}" if isinstance(v, float) else str(v) for key, v in values.items() if v is not None}
    return {f"{PREFIX}{key}": value for key, value in text.items()}
