r"""Answers from a JSON file, for tests and rehearsals: no model, no torch, the same contract as a real backend.

    {"rules": [{"contains": "2 + 2", "answers": ["4"]},
               {"equals": "q Kar abcd =", "answers": ["dcba", "abcd"], "adapter": "3f9a"}],
     "default": "I do not know", "calls": "calls.jsonl"}

The first rule that fits answers, with `answers[seed % len(answers)]` at any temperature. A rule with `adapter` fits
only calls with an adapter whose sha256 begins so (`none`: only calls without one). `calls` names a file beside the
script that gets one line per request, so that a test can count paid requests across killed processes.

A token here is a run of word characters or one other visible character; an answer ends with one more, the end token.
Does not: read adapters, sleep, or make anything up: a prompt without rule and default is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hybrid.backends.base import Adapter, Completion, ModelInfo, Request, Sampling
from hybrid.errors import BackendError
from hybrid.store.atomic import canonical_json

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Rule(BaseModel):
    """One line of the script: a condition on the prompt (and adapter) and the answers to give."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    contains: str | None = None
    equals: str | None = None
    answers: tuple[str, ...] = Field(min_length=1)
    adapter: str | None = Field(default=None, pattern=r"^(none|[0-9a-f]{1,64})$")

    @model_validator(mode="after")
    def _one_condition(self) -> Rule:
        if (self.contains is None) == (self.equals is None):
            raise ValueError("give exactly one of `contains` and `equals`")
        return self

    def fits(self, prompt: str, adapter: Adapter | None) -> bool:
        """Whether this rule answers `prompt` under `adapter`."""
        if self.adapter == "none" and adapter is not None:
            return False
        if self.adapter not in (None, "none") and not (adapter and adapter.sha256.startswith(self.adapter or "")):
            return False
        return prompt == self.equals if self.contains is None else self.contains in prompt


class Script(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rules: tuple[Rule, ...] = ()
    default: str | None = None
    calls: str | None = Field(default=None, pattern=r"^[\w][\w.-]*$")
    """File name, beside the script, that gets one line per request."""


class ScriptedBackend:
    """The `Backend` over a script file. Raises BackendError when the file cannot be read or a prompt fits no rule."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._script = _read(path)

    def info(self) -> ModelInfo:
        """A model without parameters, identified by the script's rules; where the file lies does not count."""
        content = canonical_json(self._script.model_dump(mode="json", exclude={"calls"}))
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return ModelInfo(
            path=f"scripted:{self._path.name}", fingerprint=fingerprint, parameters=0, dtype="none", device="cpu"
        )

    def count_tokens(self, text: str) -> int:
        """Number of words and marks in `text`."""
        return len(_TOKEN.findall(text))

    def generate(self, requests: Sequence[Request], sampling: Sampling, adapter: Adapter | None) -> list[Completion]:
        """One scripted completion per request; each is written to the calls file before it is returned."""
        completions = []
        for request in requests:
            prompt = _text(request)
            completion = self._complete(prompt, self._answer(prompt, request.seed, adapter), sampling.max_new_tokens)
            self._count(prompt, request.seed, sampling, adapter)
            completions.append(completion)
        return completions

    def _answer(self, prompt: str, seed: int, adapter: Adapter | None) -> str:
        for rule in self._script.rules:
            if rule.fits(prompt, adapter):
                return rule.answers[seed % len(rule.answers)]
        if self._script.default is None:
            raise BackendError(f"{self._path}: no rule fits the prompt {prompt[:80]!r}; add a rule or a default")
        return self._script.default

    def _complete(self, prompt: str, answer: str, max_new_tokens: int) -> Completion:
        """A real model needs room for its end token: an answer that fills `max_new_tokens` finishes by length."""
        tokens = list(_TOKEN.finditer(answer))
        fits = len(tokens) < max_new_tokens
        return Completion(
            text=answer if len(tokens) <= max_new_tokens else answer[: tokens[max_new_tokens - 1].end()],
            tokens_in=self.count_tokens(prompt),
            tokens_out=len(tokens) + 1 if fits else max_new_tokens,
            seconds=0.0,
            finish="stop" if fits else "length",
        )

    def _count(self, prompt: str, seed: int, sampling: Sampling, adapter: Adapter | None) -> None:
        """Append one line, durably, in a single write: a kill leaves whole lines."""
        if self._script.calls is None:
            return
        identity = {
            "prompt": prompt,
            "seed": seed,
            "sampling": sampling.model_dump(),
            "adapter": adapter.sha256 if adapter else None,
        }
        key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        line = canonical_json({"key": key, "seed": seed, "adapter": identity["adapter"]}) + "\n"
        descriptor = os.open(self._path.parent / self._script.calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _text(request: Request) -> str:
    prompt = request.prompt
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def _read(path: Path) -> Script:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BackendError(f"{path}: cannot be read ({error}); backend.script must name a JSON file") from error
    try:
        return Script.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "script"
        raise BackendError(f"{path}: {place}: {first['msg']}; see `hybrid.backends.scripted` for the format") from error
