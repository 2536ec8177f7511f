"""Splits a document that outgrew its cap: the head of the body stays, whole sections move to `references/<slug>.md`.

    parts = split(body, count_tokens, cap=1024)
    parts.head            # the beginning of the body, then one line per reference
    whole(parts.head, parts.references) == body

Lossless to the byte and deterministic. A protected section and a fenced block are never cut; a section is cut between
paragraphs, and a paragraph between lines, only where it is larger than the cap by itself. The order of lines is kept.
Does not: decide what matters most (the beginning stays), read or write files, or count tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid.skill.library import REFERENCE, REFERENCES, Skill
from hybrid.skill.text import join, lines_of, normal, sections, single_line

CountTokens: TypeAlias = Callable[[str], int]
INDEX = "More, each to be read when it is needed:"
_ENTRY = re.compile(rf"- ({REFERENCE.pattern}): .+ \(\d+ lines?\)")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_INDEX_SHARE = 0.25
"""Sections are kept apart as long as their index takes at most this share of the cap; else neighbours share a file."""
_TITLE = 40
_SLUG = 30
Piece: TypeAlias = tuple[str, ...]
"""Lines that stay together."""


@dataclass(frozen=True)
class Split:
    """The head that stays in SKILL.md, and the references by path, in the order of the document."""

    head: str
    references: Mapping[str, str] = field(default_factory=dict)


def split(body: str, count_tokens: CountTokens, cap: int) -> Split:
    """Split a body so that its head has at most `cap` tokens; one that fits already is left as it is.

    References have at most `cap` tokens each and hold one section (or part of a longer one) each, as far as the index stays
    short; else neighbours share a reference, and references grow. One line, one fenced block or one protected section may
    be longer by itself. Raises ValueError where the cap is too small for an index of one line.
    """
    body = normal(body)
    if count_tokens(body) <= cap:
        return Split(body)
    pieces = _pieces(lines_of(body), count_tokens, cap)
    kept = _fitting(pieces, count_tokens, cap)
    limit, total = cap, count_tokens(body)
    groupings = [(True, limit)]
    while limit < 2 * total:
        groupings.append((False, limit))
        limit *= 2
    for share, least in ((_INDEX_SHARE, 1), (1.0, 1), (1.0, 0)):
        for apart, limit in groupings:
            for keep in range(kept, least - 1, -1):
                found = _assemble(pieces[:keep], _grouped(pieces[keep:], apart, limit, count_tokens))
                if count_tokens(_index(found.references)) > share * cap:
                    break  # keeping less makes the index no shorter
                if count_tokens(found.head) <= cap and not any(map(_is_blank, found.references.values())):
                    return found
    raise ValueError(f"a cap of {cap} tokens is too small for an index of the references; at least double it")


def whole(head: str, references: Mapping[str, str]) -> str:
    """The body that was split. A head without an index of exactly these references is returned as it is: its references
    are further texts, not parts of the body."""
    lines = lines_of(head)
    entries = [_ENTRY.fullmatch(line) for line in lines[len(lines) - len(references) :]] if references else []
    named = [entry.group(1) for entry in entries if entry is not None]
    start = len(lines) - len(named) - 1
    if not named or sorted(named) != sorted(references) or start < 0 or lines[start] != INDEX:
        return normal(head)
    if start and lines[start - 1]:
        return normal(head)  # the index that `split` writes follows a blank line, unless it is all there is
    before = lines[: max(0, start - 1)]
    moved = [line for path in named for line in references[path].removesuffix("\n").split("\n")]
    return join([*before, *moved])


def is_split(skill: Skill) -> bool:
    """Whether the skill's references are parts of one body that `split` made."""
    return whole(skill.document.body, skill.references) != skill.document.body


def _assemble(kept: Sequence[tuple[int, Piece]], groups: Sequence[Piece]) -> Split:
    references: dict[str, str] = {}
    for lines in groups:
        references[_path(lines, references)] = "\n".join(lines) + "\n"
    head = [line for _, piece in kept for line in piece]
    return Split(join([*head, *([""] if head else []), *lines_of(_index(references))]), references)


def _index(references: Mapping[str, str]) -> str:
    entries = []
    for path, text in references.items():
        lines = text.count("\n")
        title = _title(text.split("\n"))
        entries.append(f"- {path}: {title} ({lines} {'line' if lines == 1 else 'lines'})")
    return join([INDEX, *entries])


def _title(lines: Sequence[str]) -> str:
    """What a reference is about: its first heading, else its first line that says something. Letters and digits only,
    because the line is read by a model and shown to people."""
    said = [line for line in lines if _plain(line)]
    first = next((line for line in said if _HEADING.match(line)), said[0] if said else "")
    return _plain(first)[:_TITLE].strip() or "more"


def _plain(line: str) -> str:
    return " ".join(re.sub(r"[^\w ,.'-]|_", " ", single_line(line, 4 * _TITLE)).split()).strip(" -,.'")


def _path(lines: Sequence[str], taken: Mapping[str, str]) -> str:
    ascii_title = unicodedata.normalize("NFKD", _title(lines)).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_title)[:_SLUG].strip("-") or "part"
    number, path = 1, f"{REFERENCES}/{slug}.md"
    while path in taken:
        number += 1
        path = f"{REFERENCES}/{slug}-{number}.md"
    return path


def _fitting(pieces: Sequence[tuple[int, Piece]], count_tokens: CountTokens, cap: int) -> int:
    """How many pieces fit the cap at most, without an index, and never all of them."""
    lines: list[str] = []
    for number, (_, piece) in enumerate(pieces):
        lines += piece
        if count_tokens(join(lines)) > cap:
            return number
    return max(0, len(pieces) - 1)


def _grouped(pieces: Sequence[tuple[int, Piece]], apart: bool, limit: int, count_tokens: CountTokens) -> list[Piece]:
    """The texts of the references: neighbours together as long as they have at most `limit` tokens, and, where sections
    stay `apart`, belong to one section. Blank lines alone make no text: they stay with what is before or behind them."""
    groups: list[list[str]] = []
    of, size = -1, 0
    for section, piece in pieces:
        tokens = count_tokens(join(piece))
        fits = size + tokens <= limit and (section == of or not apart)
        if groups and (fits or _blank(piece) or _blank(groups[-1])):
            groups[-1] += piece
            size += tokens
        else:
            groups.append(list(piece))
            of, size = section, tokens
    return [tuple(lines) for lines in groups]


def _blank(lines: Sequence[str]) -> bool:
    return not any(line.strip() for line in lines)


def _is_blank(text: str) -> bool:
    return not text.strip()


def _pieces(lines: Sequence[str], count_tokens: CountTokens, cap: int) -> list[tuple[int, Piece]]:
    """(number of the section, lines) of everything that is moved as one."""
    out: list[tuple[int, Piece]] = []
    for number, section in enumerate(_cut(_atoms(lines), lambda atom: _HEADING.match(atom[0]) is not None)):
        for piece in _small_enough(section, count_tokens, cap):
            out.append((number, piece))
    if out:
        # What comes first may fit the cap but not beside the index: let as much of it stay as fits.
        paragraphs = _paragraphs(_atoms(out[0][1]))
        first = paragraphs if len(paragraphs) > 1 else _atoms(out[0][1])
        out = [*((0, piece) for piece in first), *out[1:]]
    return out


def _small_enough(section: Sequence[Piece], count_tokens: CountTokens, cap: int) -> Iterator[Piece]:
    """The section, or its paragraphs, or their lines: the largest that have at most `cap` tokens."""
    flat = tuple(line for atom in section for line in atom)
    if count_tokens(join(flat)) <= cap:
        yield flat
        return
    for paragraph in _paragraphs(section):
        if count_tokens(join(paragraph)) <= cap:
            yield paragraph
        else:
            yield from (atom for atom in _atoms(paragraph))


def _paragraphs(atoms: Sequence[Piece]) -> list[Piece]:
    """Runs of lines with the blank lines behind them."""
    out: list[list[str]] = []
    after_blank = False
    for atom in atoms:
        blank = _blank(atom)
        if not out or (after_blank and not blank):
            out.append([])
        out[-1] += atom
        after_blank = blank
    return [tuple(lines) for lines in out]


def _cut(atoms: Sequence[Piece], starts: Callable[[Piece], bool]) -> list[list[Piece]]:
    out: list[list[Piece]] = []
    for atom in atoms:
        if not out or starts(atom):
            out.append([])
        out[-1].append(atom)
    return out


def _atoms(lines: Sequence[str]) -> list[Piece]:
    """Single lines, except that a protected section and a fenced block are one each."""
    ends = {span.first: span.last for span in sections(lines)[0]}
    out: list[Piece] = []
    at = 0
    while at < len(lines):
        last = ends.get(at)
        if last is None:
            last = _fence_end(lines, at, min((first for first in ends if first > at), default=len(lines)))
        out.append(tuple(lines[at : last + 1]))
        at = last + 1
    return out


def _fence_end(lines: Sequence[str], at: int, before: int) -> int:
    """The last line of the fenced block that starts at `at`; `at` itself where none starts or it is never closed."""
    opened = _FENCE.match(lines[at])
    if opened is None:
        return at
    mark = opened.group(1)
    for index in range(at + 1, before):
        closing = lines[index].strip()
        if closing and set(closing) == {mark[0]} and len(closing) >= len(mark):
            return index
    return at
