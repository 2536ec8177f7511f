"""The placed model: a base with the documents and adapters that a run placed, applied per request.

    model = hybrid.load("runs/quickstart")               # or an export
    answer = model.generate("ask jfd Het")[0]
    answer.text, answer.applied.capability, answer.applied.why

What a request gets is decided in one place (`decide`): the capability that the caller names; else the one that the request
router finds; else nothing. A chosen capability's document, adapter and decoding settings are those of its measurement, and
the prompt is put together by the same function, so the answer is the one that was measured.
Does not: batch requests of several callers (see `engine`), or speak HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import ValidationError

from hybrid.backends.base import Adapter, Backend, Request, Sampling
from hybrid.backends.build import build_backend, default_cache_dir
from hybrid.backends.proxy_folder import is_proxy
from hybrid.capability.types import Message
from hybrid.config.suggest import did_you_mean
from hybrid.errors import BackendError, UsageError
from hybrid.evidence.compose import Prompt, as_turns, compose
from hybrid.serve.placement import Part, Placement, digest, read_placement
from hybrid.serve.routing import RequestRouter, RoutingPolicy

BASE, ROUTED = "base", "hybrid"
BASE_SAMPLING = Sampling(max_new_tokens=256)
"""How the bare base answers where nothing else is asked for."""
_TEMPLATE_TOKENS = 64
"""Tokens that a chat template may add to a prompt."""
_PLACEHOLDER = "?"
"""Stands for any question under a document."""


@runtime_checkable
class HasPositions(Protocol):
    """A backend that knows how many tokens prompt and answer may have together."""

    def positions(self) -> int | None:
        """The number; None without a limit."""
        ...


@dataclass(frozen=True)
class Applied:
    """What a request got, and why. `skill` and `adapter` are sha256 (hex), or None where none was applied.

    `seed` is the random stream that was used, None for greedy decoding; asking again with it gives the same answer.
    """

    capability: str | None
    placement: str | None
    skill: str | None
    adapter: str | None
    why: str
    seed: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Prepared:
    """A request as the backend gets it. `document` is a prompt of another text under the same document, or None.
    `shrink` lets the answer's limit give way to the model's positions: nobody asked for that limit."""

    request: Request
    sampling: Sampling
    adapter: Adapter | None
    document: Prompt | None
    applied: Applied
    shrink: bool = False


@dataclass(frozen=True)
class Answer:
    """One answer. Tokens are the base's own; `finish` is `length` where the answer was cut at its limit."""

    text: str
    finish: Literal["stop", "length"]
    tokens_in: int
    tokens_out: int
    applied: Applied


class PlacedModel:
    """A placement over a loaded base. Raises BackendError where the base is not the one that was measured."""

    def __init__(self, placement: Placement, backend: Backend, policy: RoutingPolicy | None = None) -> None:
        info = backend.info()
        if info.fingerprint != placement.fingerprint:
            raise BackendError(
                f"{info.path} is another model than {placement.folder} was made for: {info.fingerprint[:12]}..., not "
                f"{placement.fingerprint[:12]}... of {placement.model_path}; use that base (same weights, precision, "
                "quantisation and end of answer)"
            )
        self.placement, self.backend = placement, backend
        self._router = RequestRouter([p.described for p in placement.parts.values()], policy)
        shelf = getattr(backend, "shelf", None)
        if shelf is not None:
            shelf.make_room(len(placement.adapters))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Names of all capabilities, in the order of the run."""
        return tuple(self.placement.parts)

    def warm(self) -> None:
        """Attach every adapter now, so that one that cannot be used is an error here and no request waits for it.

        Raises AdapterError. Does nothing for a backend that holds no adapters in this process.
        """
        shelf = getattr(self.backend, "shelf", None)
        if shelf is None:
            return
        self.backend.can_share()  # type: ignore[attr-defined]  # a backend with a shelf has it
        for adapter in self.placement.adapters:
            if is_proxy(adapter):  # it is held elsewhere, and loads its small model when it is first used
                self.backend.generate([Request(_PLACEHOLDER, 0)], Sampling(max_new_tokens=1), adapter)
                continue
            with shelf.active(adapter):
                pass

    def decide(self, prompt: Prompt, capability: str | None = None) -> tuple[Part | None, str]:
        """The capability of a request, or None for the bare base, and why. `capability` names one, or `base`.

        Raises UsageError for an unknown name.
        """
        parts = self.placement.parts
        if capability is not None:
            if capability in parts:
                return parts[capability], "named by the caller"
            if capability == BASE:
                return None, "the base was asked for"
            hint = did_you_mean(capability, [*parts, BASE], "it has")
            raise UsageError(f"{self.placement.folder} has no capability {capability[:100]!a}; {hint}")
        text = prompt if isinstance(prompt, str) else _last_question(prompt)
        choice = self._router.choose(text)
        return (parts[choice.name] if choice.name is not None else None), choice.why

    def prepare(
        self,
        prompt: Prompt,
        *,
        capability: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Prepared:
        """Decide on a request and put its prompt together. What is not given is as the capability was measured.

        Raises UsageError for an unknown capability, settings out of range, and turns that the base cannot read.
        """
        part, why = self.decide(prompt, capability)
        measured = part.sampling if part is not None else BASE_SAMPLING
        asked = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        changed = {key: value for key, value in asked.items() if value is not None}
        try:
            sampling = Sampling(**{**measured.model_dump(), **changed})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(f"{first['loc'][0] if first['loc'] else 'sampling'}: {first['msg']}") from None
        text = self._readable(prompt, part)
        skill = part.skill if part is not None else ""
        separator = self.placement.model.skill_separator
        other: Prompt = _PLACEHOLDER if isinstance(text, str) else (Message(role="user", content=_PLACEHOLDER),)
        if seed is None:
            seed = secrets.randbits(63) if sampling.temperature > 0 else 0
        applied = Applied(
            capability=part.name if part else None,
            placement=part.placement if part else None,
            skill=digest(skill) if skill.strip() else None,
            adapter=part.adapter.sha256 if part and part.adapter else None,
            why=why,
            seed=seed if sampling.temperature > 0 else None,
        )
        return Prepared(
            Request(compose(text, skill, separator), seed),
            sampling,
            part.adapter if part else None,
            compose(other, skill, separator) if applied.skill else None,
            applied,
            shrink=part is None and max_new_tokens is None,
        )

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        capability: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> list[Answer]:
        """One answer per prompt, in order; those with one adapter and one decoding share batches.

        Raises UsageError (see `prepare`), BackendError for a prompt that the base cannot take, and AdapterError.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        prepared = [
            self.prepare(
                text,
                capability=capability,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
            for text in texts
        ]
        return self.answer(prepared)

    def chat(
        self,
        messages: Sequence[Message | dict[str, str]],
        *,
        capability: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Answer:
        """The assistant's next turn. Messages are `{"role": ..., "content": ...}`; raises as `generate` does."""
        try:
            turns = tuple(m if isinstance(m, Message) else Message.model_validate(m) for m in messages)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(f"messages: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        prepared = self.prepare(
            turns,
            capability=capability,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        return self.answer([prepared])[0]

    def answer(self, prepared: Sequence[Prepared]) -> list[Answer]:
        """Answers to prepared requests, in order."""
        groups: dict[tuple[str, str], list[int]] = {}
        prepared = [self._within(p) for p in prepared]
        for place, p in enumerate(prepared):
            key = (p.adapter.sha256 if p.adapter else "", p.sampling.model_dump_json())
            groups.setdefault(key, []).append(place)
        answers: dict[int, Answer] = {}
        for places in groups.values():
            first = prepared[places[0]]
            found = self.backend.generate([prepared[i].request for i in places], first.sampling, first.adapter)
            for i, c in zip(places, found, strict=True):
                answers[i] = Answer(c.text, c.finish, c.tokens_in, c.tokens_out, prepared[i].applied)
        return [answers[i] for i in range(len(prepared))]

    def _within(self, p: Prepared) -> Prepared:
        """Where nobody asked for a length, no more tokens than the model has positions left (a little less, to be sure)."""
        most = self.backend.positions() if p.shrink and isinstance(self.backend, HasPositions) else None
        if most is None:
            return p
        prompt = p.request.prompt
        text = prompt if isinstance(prompt, str) else "\n".join(m.content for m in prompt)
        left = most - self.backend.count_tokens(text) - _TEMPLATE_TOKENS
        return replace(
            p, sampling=p.sampling.model_copy(update={"max_new_tokens": max(1, min(p.sampling.max_new_tokens, left))})
        )

    def _readable(self, prompt: Prompt, part: Part | None) -> Prompt:
        """The prompt in the form that the capability was measured in, where it can be.

        A single user message is the question itself, so it becomes a text prompt where the capability's prompts are texts.
        A base without chat turns reads a system message and one question, joined as a document and a prompt are.
        """
        turns = self.placement.backend.type == "openai" or (part is not None and part.facts.turns)
        if isinstance(prompt, str):
            return as_turns(prompt) if turns else prompt
        if not prompt or prompt[-1].role != "user":
            raise UsageError("messages: the last one must be the user's, so that the assistant's turn is next")
        if len(prompt) == 1 and not turns:
            return prompt[0].content
        if self.placement.model.chat or self.placement.backend.type == "openai":
            return prompt
        if [m.role for m in prompt] != ["system", "user"]:
            raise UsageError(
                "messages: this base reads plain text, so a request is one user message, with a system message before it "
                "if need be; it was not measured on conversations"
            )
        return compose(prompt[1].content, prompt[0].content, self.placement.model.skill_separator)


def load(
    folder: str | Path,
    *,
    model: str | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    backend: Backend | None = None,
    policy: RoutingPolicy | None = None,
) -> PlacedModel:
    """The placed model of a run folder or an export.

    `model` is the folder or hub id of the base where it is not where the run had it, `device` where to compute; `backend`
    is one that is loaded already. Raises what `read_placement` and `build_backend` raise, and BackendError for another base.
    """
    placement = read_placement(Path(folder))
    if backend is not None:
        return PlacedModel(placement, backend, policy)
    changes = {key: value for key, value in {"path": model, "device": device}.items() if value is not None}
    config = placement.model.model_copy(update=changes)
    here = Path.cwd()
    resolve = placement.resolve if model is None else lambda text: here / text
    _there(placement, config.path, resolve)
    small = placement.small if any(is_proxy(a) for a in placement.adapters) else None
    built = build_backend(config, placement.backend, resolve, default_cache_dir(), small)
    return PlacedModel(placement, built, policy)


def _there(placement: Placement, path: str, resolve: Callable[[str], Path]) -> None:
    """Raise UsageError for a local base that is not where it was: an export may have been carried to another machine."""
    local = path.startswith((".", "/", "~")) and placement.backend.type in ("transformers", "vllm")
    if local and not resolve(path).exists():
        raise UsageError(
            f"{placement.folder} was made for the base in {path}, which is not there; say where it lies with --model PATH "
            "(in Python: model=PATH)"
        )


def _last_question(messages: tuple[Message, ...]) -> str:
    return next((m.content for m in reversed(messages) if m.role == "user"), "")
