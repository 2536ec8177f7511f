"""From a loaded configuration to capabilities: every data problem found in one pass.

Does not: load a model or spend anything.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hybrid.capability.graders import GraderError
from hybrid.capability.sources import check_gold, load_capability
from hybrid.capability.types import SPLITS, Capability
from hybrid.config.loader import LoadedConfig
from hybrid.errors import DataError, Problem
from hybrid.evidence.classify import build_classifier
from hybrid.skill.document import parse
from hybrid.skill.vocabulary import load_vocabulary


class ValidationReport(BaseModel):
    """What `hybrid validate` found. `capabilities` holds one row of facts per readable capability."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    problems: tuple[Problem, ...]
    capabilities: tuple[dict[str, str | int], ...]


def _gather(loaded: LoadedConfig) -> tuple[list[Capability], list[Problem]]:
    capabilities: list[Capability] = []
    problems: list[Problem] = []
    for index, settings in enumerate(loaded.config.capabilities):
        capability, found = load_capability(settings, loaded.resolve, loaded.config.seed)
        problems += [_placed(problem, loaded, index) for problem in found]
        if capability is None:
            continue
        capabilities.append(capability)
        if capability.seed_skill is not None:
            name = (
                str(loaded.resolve(settings.skill)) if settings.skill else f"the suite's document for {settings.name}"
            )
            problems += _tried(lambda text=capability.seed_skill, file=name: parse(text, file))
    for path in sorted({v for v in _vocabularies(loaded) if v is not None}):
        if loaded.resolve(path).is_file():
            problems += _tried(lambda p=path: load_vocabulary(loaded.resolve(p)))
    return capabilities, problems + _classifier(loaded)


def _placed(problem: Problem, loaded: LoadedConfig, index: int) -> Problem:
    """A problem of the configuration (`capabilities.NAME.key`) with file and line; one of the data as it is."""
    head = f"capabilities.{loaded.config.capabilities[index].name}."
    if problem.file != "config" or not problem.key.startswith(head):
        return problem
    rest = (int(part) if part.isdigit() else part for part in problem.key.removeprefix(head).split("."))
    return loaded.problem(("capabilities", index, *rest), problem.message, problem.fix)


def _classifier(loaded: LoadedConfig) -> list[Problem]:
    """What keeps answers from being told apart. Looked at before anything is spent: the report needs it at the end."""
    try:
        build_classifier(loaded.config.weights.monitors)
    except GraderError as error:
        return [loaded.problem(("weights", "monitors", "classifier"), str(error), "correct the path, or use formats")]
    return []


def _vocabularies(loaded: LoadedConfig) -> list[str | None]:
    return [loaded.config.skill.vocabulary, *(c.vocabulary for c in loaded.config.capabilities)]


def _tried(action: object) -> list[Problem]:
    try:
        action()  # type: ignore[operator]  # a thunk; its result is not wanted, only whether it raises
    except DataError as error:
        return list(error.problems)
    return []


def load_capabilities(loaded: LoadedConfig) -> tuple[Capability, ...]:
    """Every capability of the configuration, in its order. Raises DataError with all problems of all files."""
    capabilities, problems = _gather(loaded)
    if problems:
        raise DataError(problems)
    return tuple(capabilities)


def validate(loaded: LoadedConfig, score_gold: bool) -> ValidationReport:
    """All data problems at once; with `score_gold`, every gold answer is also graded and must score 1.0."""
    capabilities, problems = _gather(loaded)
    if score_gold:
        for capability in capabilities:
            problems += check_gold(capability)
    rows: list[dict[str, str | int]] = [
        {"name": c.name, **{split: len(c.splits.get(split, ())) for split in SPLITS}} for c in capabilities
    ]
    return ValidationReport(problems=tuple(sorted(problems)), capabilities=tuple(rows))
