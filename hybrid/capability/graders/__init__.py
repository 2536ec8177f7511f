"""Graders: completion -> `Score`, one module per family, chosen by `type` in the config.

Does not: generate, read data or average. Example::

    grader = build_grader(ExactGrader(type="exact"))
    grader.grade("42 ", Example(id="1", prompt="6 * 7 =", reference="42")).passed  # True
"""

from __future__ import annotations

import math

from hybrid.capability.graders.base import GraderError
from hybrid.capability.graders.callables import PythonCallable, load_callable
from hybrid.capability.graders.calls import FunctionCall
from hybrid.capability.graders.code import Code, code_mistakes
from hybrid.capability.graders.judge import UnboundJudge
from hybrid.capability.graders.numeric import Numeric
from hybrid.capability.graders.pattern import Regex, pattern_mistakes
from hybrid.capability.graders.structured import Json
from hybrid.capability.graders.words import Choice, Exact, Normalized, choice_mistakes
from hybrid.capability.types import Grader
from hybrid.config import schema
from hybrid.errors import ConfigError, Problem

__all__ = ["GraderError", "build_grader", "check_grader"]


def check_grader(config: schema.GraderConfig) -> list[str]:
    """What keeps this grader from being built, as `key: what is wrong`; empty when nothing does.

    A python grader is imported, which runs the top level of its module. For a code grader a small program of our own is
    run once, to see whether this machine can shut programs in.
    """
    match config:
        case schema.ChoiceGrader():
            return choice_mistakes(config)
        case schema.RegexGrader():
            return pattern_mistakes(config)
        case schema.NumericGrader():
            bounds = {"absolute": config.absolute, "relative": config.relative}
            return [f"{key}: it must be a finite number" for key, value in bounds.items() if not math.isfinite(value)]
        case schema.JsonGrader():
            return [f"fields: {path!r} has an empty part" for path in config.fields if "" in path.split(".")]
        case schema.CodeGrader():
            return code_mistakes(config)
        case schema.JudgeGrader():
            return [f"check.{mistake}" for mistake in check_grader(config.check)] if config.check is not None else []
        case schema.PythonGrader():
            try:
                load_callable(config.path)
            except GraderError as error:
                return [f"path: {error}"]
    return []


def build_grader(config: schema.GraderConfig) -> Grader:
    """The grader of a config section. Raises `ConfigError` with everything that `check_grader` finds."""
    mistakes = check_grader(config)
    if mistakes:
        raise ConfigError([Problem("config", 0, "grader", mistake) for mistake in mistakes])
    match config:
        case schema.ExactGrader():
            return Exact(config)
        case schema.NormalizedGrader():
            return Normalized(config)
        case schema.NumericGrader():
            return Numeric(config)
        case schema.ChoiceGrader():
            return Choice(config)
        case schema.RegexGrader():
            return Regex(config)
        case schema.JsonGrader():
            return Json(config)
        case schema.CodeGrader():
            return Code(config)
        case schema.FunctionCallGrader():
            return FunctionCall(config)
        case schema.PythonGrader():
            return PythonCallable(config)
        case schema.JudgeGrader():
            return UnboundJudge(config, build_grader(config.check) if config.check is not None else None)
