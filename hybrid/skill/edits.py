"""Typed edits of a body, applied exactly or refused: append, insert_after, replace, delete.

The four operations are SkillOpt's (arXiv 2605.23904); the semantics are stricter. Targets are whole lines, compared
character by character; a missing target is refused and reported, never turned into an append. Protected sections and
front matter cannot be touched. Each edit is atomic, and `apply` is a pure function.
Does not: judge whether an edit helps.

    apply("a\\nb\\n", [Replace(target="b", content="c")]).body  # "a\\nc\\n"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from hybrid.skill.text import Section, has_marker, hidden, join, lines_of, normal, sections

CountTokens: TypeAlias = Callable[[str], int]
_FENCE = re.compile(r"(?m)^(?:---|\.\.\.)[ \t]*$")


class _Op(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Append(_Op):
    """Add lines at the end of the body."""

    op: Literal["append"] = "append"
    content: str


class InsertAfter(_Op):
    """Add lines right after the first editable occurrence of `target`."""

    op: Literal["insert_after"] = "insert_after"
    target: str
    content: str


class Replace(_Op):
    """Put lines in the place of the first editable occurrence of `target`."""

    op: Literal["replace"] = "replace"
    target: str
    content: str


class Delete(_Op):
    """Remove the first editable occurrence of `target`."""

    op: Literal["delete"] = "delete"
    target: str


Edit: TypeAlias = Annotated[Append | InsertAfter | Replace | Delete, Field(discriminator="op")]
"""`target` and `content` are one or more whole lines, joined by line feeds."""


@dataclass(frozen=True)
class Applied:
    """What became of a list of edits: the new body, the edits in it, and the others with the reason of each."""

    body: str
    applied: tuple[Edit, ...]
    refused: tuple[tuple[Edit, str], ...]


def apply(
    body: str, edits: Sequence[Edit], count_tokens: CountTokens | None = None, max_tokens: int | None = None
) -> Applied:
    """Apply `edits` one after the other; one that is refused leaves no trace.

    With both `count_tokens` and `max_tokens`, an edit that grows the body beyond `max_tokens` is refused; one that
    shrinks a body that is too long already is not. Never raises for the content of an edit.
    """
    current = normal(body)
    applied: list[Edit] = []
    refused: list[tuple[Edit, str]] = []
    for edit in edits:
        result = _one(current, edit)
        why = result if isinstance(result, Refusal) else None
        if why is None and count_tokens is not None and max_tokens is not None:
            why = _too_long(current, str(result), count_tokens, max_tokens)
        if why is None:
            current = str(result)
            applied.append(edit)
        else:
            refused.append((edit, why.why))
    return Applied(current, tuple(applied), tuple(refused))


@dataclass(frozen=True)
class Refusal:
    """Why an edit was not applied, in words that a proposer can act on."""

    why: str


def _too_long(before: str, after: str, count_tokens: CountTokens, max_tokens: int) -> Refusal | None:
    tokens = count_tokens(after)
    if tokens <= max_tokens or tokens < count_tokens(before):
        return None
    return Refusal(f"the body would have {tokens} tokens, at most {max_tokens} are allowed")


def _one(body: str, edit: Edit) -> str | Refusal:
    """The body after one edit, or why it was refused."""
    lines = lines_of(body)
    content: list[str] = []
    if not isinstance(edit, Delete):
        fault = _content_fault(edit.content)
        if fault is not None:
            return fault
        content = edit.content.strip("\n").split("\n")
    if isinstance(edit, Append):
        return join([*lines, *content])
    target = edit.target.strip("\n").split("\n")
    at = _find(lines, target)
    if isinstance(at, Refusal):
        return at
    after = at + len(target)
    if isinstance(edit, InsertAfter):
        return join([*lines[:after], *content, *lines[after:]])
    changed = join([*lines[:at], *content, *lines[after:]])
    return Refusal("it changes nothing") if changed == body else changed


def _content_fault(content: str) -> Refusal | None:
    if not content.strip():
        return Refusal("the content is empty")
    if has_marker(content):
        return Refusal("the content holds a marker of a protected section")
    if _FENCE.search(content):
        return Refusal("the content holds a front matter fence")
    found = hidden(content)
    return Refusal(f"the content holds the hidden character {found[0][1]}") if found else None


def _find(lines: Sequence[str], target: Sequence[str]) -> int | Refusal:
    """Index of the first occurrence of the target outside every protected section."""
    if not any(line.strip() for line in target):
        return Refusal("the target is empty")
    spans, _ = sections(lines)
    inside: Section | None = None
    for at in range(len(lines) - len(target) + 1):
        if list(lines[at : at + len(target)]) != list(target):
            continue
        span = next((s for s in spans if s.first < at + len(target) and at <= s.last), None)
        if span is None:
            return at
        inside = inside or span
    if inside is not None:
        return Refusal(f"the target is inside the protected section {inside.name}")
    return Refusal("the target is not a line of the body")
