"""The placement report as data: `report/placement.json`, the truth from which every other form is drawn.

Every number stands beside its n (see `parts` for how numbers are kept). Does not: measure, decide or draw.
Example: `load_report(Path("runs/a/report/placement.json")).capabilities[0].placement`.

`python -m hybrid.report.schema` prints the JSON schema that `docs/placement.schema.json` holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from hybrid.config.schema import PlacementName
from hybrid.errors import RunFolderError
from hybrid.report.order_parts import OrderPoint, Schedule, TaskForecast
from hybrid.report.parts import (
    ARMS,
    MOST_FLIPS,
    ArmResult,
    Arms,
    Artifacts,
    Calibration,
    Collateral,
    Composition,
    Count,
    Counterfactual,
    Delta,
    Effect,
    Estimate,
    Flip,
    Flips,
    Formats,
    Free,
    GateVerdict,
    Ingredient,
    Kind,
    LedgerTotals,
    ModelFacts,
    Number,
    Part,
    ProbeResult,
    ProposerCost,
    Rejected,
    Share,
    SkillEdit,
    StageCost,
    Substrate,
    Text,
    Training,
    TrainingMemory,
    TrainingPoint,
)
from hybrid.report.parts_generality import ArmGenerality, Generality, UnknownFacts, VariantPoint
from hybrid.report.parts_lifecycle import HistoryEntry, Moves
from hybrid.report.parts_merge import Merger
from hybrid.report.parts_proxy import Proxy, ProxyTrial
from hybrid.store.atomic import canonical_json

SCHEMA_VERSION = 1
__all__ = [
    "ARMS",
    "MOST_FLIPS",
    "SCHEMA_VERSION",
    "ArmGenerality",
    "ArmResult",
    "Arms",
    "Artifacts",
    "Calibration",
    "CapabilityReport",
    "Collateral",
    "Composition",
    "Count",
    "Counterfactual",
    "Delta",
    "Effect",
    "Estimate",
    "Flip",
    "Flips",
    "Formats",
    "Free",
    "GateFacts",
    "GateVerdict",
    "Generality",
    "HistoryEntry",
    "Ingredient",
    "Kind",
    "LedgerTotals",
    "Merger",
    "ModelFacts",
    "Moves",
    "Number",
    "OrderPoint",
    "ParentRun",
    "Part",
    "ProbeResult",
    "ProposerCost",
    "Provenance",
    "Proxy",
    "ProxyTrial",
    "Rejected",
    "Report",
    "RouterFacts",
    "Schedule",
    "Share",
    "SkillEdit",
    "StageCost",
    "Substrate",
    "TaskForecast",
    "Text",
    "Training",
    "TrainingMemory",
    "TrainingPoint",
    "UnknownFacts",
    "VariantPoint",
    "load_report",
    "schema_json",
]


class CapabilityReport(Part):
    """Everything about one capability: where it went, why, and the evidence for and against."""

    name: Annotated[Text, Field(min_length=1)]
    placement: PlacementName
    confidence: Share | None
    reason: Text
    decision_trail: tuple[Text, ...] = ()
    """Short reasons from the router's rules and the gates, in order."""
    recommendation: Literal["tool"] | None = None
    """Advice beside the placement; the decision trail says why."""
    kind: Kind
    profile: dict[Text, ProbeResult]
    arms: Arms
    delta: Delta | None
    """Chosen arm against base, paired, on the sealed test."""
    gate: tuple[GateVerdict, ...] = ()
    calibration: Calibration | None
    formats: Formats | None
    collateral: dict[Text, Collateral]
    rejected: tuple[Rejected, ...]
    counterfactual: Counterfactual | None = None
    skill_edits: tuple[SkillEdit, ...] = ()
    skill_text: Text | None = None
    seed_skill_text: Text | None = None
    training: Training | None = None
    generality: Generality | None = None
    """Null where no arm was judged with variants and nothing was watched."""
    proxy: Proxy | None = None
    """Strengths that were tried where a small model steers the base (`weights.method: proxy`)."""
    flips: Flips = Flips()
    history: tuple[HistoryEntry, ...] = ()
    """Reviews and replaced bases that this capability went through, oldest first."""
    ledger: LedgerTotals
    artifacts: Artifacts


class RouterFacts(Part):
    """The policy that routed, its thresholds, and how it compares with fixed policies when that was measured."""

    policy: Text
    thresholds: dict[Text, Free] = Field(default={})
    regret: Estimate | None
    baselines: dict[Text, Estimate] | None


class GateFacts(Part):
    """What the ship gate asked for. `family`: arms of all capabilities that were tested, over which p values are corrected."""

    alpha: Share
    minimum_effect: Share
    multiplicity: Text
    family: Count


class ParentRun(Part):
    """The run that this one was forked from: it began with that one's answers and checkpoints."""

    run_id: Text
    identity: Text
    changed: tuple[Text, ...]
    """What differs between the two runs: `field: old -> new`."""


class Provenance(Part):
    """What is needed to reproduce the run."""

    versions: dict[Text, Text]
    seeds: dict[Text, int]
    hashes: dict[Text, Text]
    parent: ParentRun | None = None


class Report(Part):
    """The placement report."""

    schema_version: Literal[1] = 1
    run_id: Text
    created: Text
    seed: int
    model: ModelFacts
    ledger: LedgerTotals
    capabilities: tuple[CapabilityReport, ...]
    router: RouterFacts
    gate: GateFacts | None = None
    schedule: Schedule | None
    merger: Merger | None = None
    """One merged adapter against several; null where none was offered (`weights.merge`)."""
    moves: Moves | None = None
    """What a new base moved; null for a run that did not replace one."""
    warnings: tuple[Text, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _named_once(self) -> Report:
        names = [c.name for c in self.capabilities]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"the capability {twice[0]!r} is reported twice")
        return self

    def to_json(self) -> str:
        """Canonical text: sorted keys, indent 2, a final newline, no NaN. Equal reports give equal bytes."""
        return canonical_json(self.model_dump(mode="json"), indent=2) + "\n"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that a report may hold")


def load_report(path: Path) -> Report:
    """Read and check `placement.json`. RunFolderError, in one sentence: absent, damaged, or of another version."""
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise RunFolderError(
            f"{path} does not exist; the run has not reached its report: start it again to go on"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); delete it and start the run again to rebuild it") from None
    found = version.get("schema_version") if isinstance(version, dict) else None
    if found != SCHEMA_VERSION or isinstance(found, bool):
        raise RunFolderError(
            f"{path} has schema_version {found!r} and this version of hybrid reads {SCHEMA_VERSION}; "
            "read it with the version that wrote it"
        )
    try:
        return Report.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(p) for p in first["loc"]) or "the file"
        raise RunFolderError(
            f"{path} is damaged at {place} ({first['msg']}; {error.error_count()} problems in all); "
            "delete it and start the run again to rebuild it"
        ) from None


def schema_json() -> str:
    """The JSON schema of the report as it is written (canonical text)."""
    return canonical_json(Report.model_json_schema(mode="serialization"), indent=2) + "\n"


if __name__ == "__main__":
    print(schema_json(), end="")
