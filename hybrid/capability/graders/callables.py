"""Functions as graders: a callable of the user's by dotted path, or one that a suite brings.

They run in this process with all its rights.

Does not: limit their time, or turn their failures into scores: a bug in a grader is not the model's fault.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from hybrid.capability.graders.base import GraderError, right, settings_fingerprint, wrong
from hybrid.capability.types import Example, Score
from hybrid.config import schema


class FunctionGrader:
    """Calls `function(completion, example)`; it returns a share in [0, 1], true or false, or a `Score`.

    A share passes when it is 1. The callable must be deterministic and quick; hybrid cannot check that. `label` names it in
    messages. `identity` is what its judgements depend on beside the source file that defines it: settings, a version.
    """

    def __init__(self, function: Callable[[str, Example], Any], label: str, identity: str = "") -> None:
        self._function, self._label, self._identity = function, label, identity

    def grade(self, completion: str, example: Example) -> Score:
        """Score one completion. Raises `GraderError` when the callable raises or returns anything else."""
        try:
            verdict = self._function(completion, example)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise GraderError(f"{self._place(example)} raised {what}; fix the grader and run again") from error
        if isinstance(verdict, Score):
            return self._checked(verdict, example)
        if isinstance(verdict, bool):
            verdict = float(verdict)
        if isinstance(verdict, Real):
            share = float(verdict)
            feedback = (right() if share == 1.0 else wrong(example.reference, completion)).feedback
            return self._checked(Score(share, share == 1.0, {}, feedback), example)
        kind = f"{type(verdict).__module__}.{type(verdict).__qualname__}"
        raise GraderError(f"{self._place(example)} returned {kind}; it must return a float, a bool or a Score")

    def fingerprint(self) -> str:
        """Identity of label, settings and of the source file that defines the callable, without what that file imports."""
        content = [self._label, self._identity, source_hash(self._function)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _checked(self, score: Score, example: Example) -> Score:
        if not isinstance(score.passed, bool) or not isinstance(score.feedback, str):
            raise GraderError(f"{self._place(example)} returned a Score whose passed or feedback has the wrong type")
        if not isinstance(score.facets, Mapping):
            raise GraderError(f"{self._place(example)} returned a Score whose facets are not a mapping")
        for name, value in [("value", score.value), *score.facets.items()]:
            if not isinstance(value, Real) or not math.isfinite(value) or not 0.0 <= value <= 1.0:
                raise GraderError(f"{self._place(example)} gave {name} = {value!r}; it must be a number from 0 to 1")
        return score

    def _place(self, example: Example) -> str:
        return f"{self._label}, example {example.id!r}:"


class PythonCallable(FunctionGrader):
    """A function of the configuration, by its dotted path."""

    def __init__(self, config: schema.PythonGrader) -> None:
        super().__init__(load_callable(config.path), f"python grader {config.path}")
        self._config = config

    def fingerprint(self) -> str:
        """Identity of the path and of the source file that defines the callable, without what that file imports."""
        return settings_fingerprint(self._config, {"source": source_hash(self._function)})


def load_callable(path: str) -> Callable[..., Any]:
    """Import `package.module:function`. Raises `GraderError` saying what is missing."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise GraderError(
            f"module {module_name!r} cannot be imported ({what}); put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise GraderError(f"module {module_name!r} has no callable {name!r}")
    return function  # type: ignore[no-any-return]  # what it returns is checked at every call


def source_hash(function: Callable[..., Any]) -> str:
    """sha256 (hex) of the source file that defines a callable; empty where there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # built-in, or an instance: its class tells
        file = inspect.getsourcefile(type(function))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
