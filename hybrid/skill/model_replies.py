"""Reads what a language model replied about a skill document. Replies are hostile input: no reply raises.

A JSON object is found alone, in a Markdown fence or among prose. Its items are checked one by one, strictly: a good item
counts though its neighbour is malformed, and what could not be used is told in notes, without quoting it at length. An
edit that is well formed but cannot be applied (a protected section, the front matter) is passed on: `edits.apply`
refuses it with a reason that the next reflection is shown.
Does not: ask again (`model_proposer`), or judge an edit.

    reflection_reply('{"edits": [{"op": "append", "content": "Be brief."}]}', Shown(...))  # a Reflection
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from hybrid.skill.edits import Append, Delete, Edit, InsertAfter, Replace, apply
from hybrid.skill.evidence_editor import aggregate
from hybrid.skill.model_material import MOST_MEMORY, clean
from hybrid.skill.model_prompts import MOST_SLOW
from hybrid.skill.reflection import FailureLabel, Proposal, Reflection, Review
from hybrid.skill.text import lines_of, single_line

MOST_REPLY = 1_000_000
"""Characters of a reply that is read at all."""
MOST_TRIES = 32
"""Opening braces of a reply that are tried as the start of an object and fail."""
MOST_ITEMS = 1_000
"""Items of a list that are looked at."""
LONGEST_TEXT = 20_000
"""Characters of a target or a content; a longer one is malformed, so that no record of it grows without end."""
MOST_WHY = 300
_HALF = re.compile(r"[\ud800-\udfff]")
"""JSON can spell these, but no file can hold them."""


@dataclass(frozen=True)
class Unusable:
    """Why nothing in a reply could be used, in words that help to mend it."""

    why: str


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _WireEdit(_Wire):
    op: Literal["append", "insert_after", "replace", "delete"]
    target: str | None = None
    content: str | None = None
    support: int | None = None
    stands_for: list[int] | None = None
    why: str | None = None


class _WireLabel(_Wire):
    example: str
    kind: Literal["defect", "lapse"]
    why: str | None = None


@dataclass(frozen=True)
class _Read:
    """A well-formed edit of a reply, with what was said of it."""

    edit: Edit
    support: int
    stands_for: tuple[int, ...]
    why: str


_Items: TypeAlias = tuple[list[_Read], list[str]]


@dataclass(frozen=True)
class Shown:
    """What a reflection was asked about: ids as shown -> ids of the rollouts, the most edits wanted, the source, and the
    edits that are known to fail for the present document, each with the reason."""

    ids: Mapping[str, str]
    budget: int
    source: Literal["failure", "success"]
    known: Mapping[Edit, str]


def reflection_reply(text: str, shown: Shown) -> Reflection | Unusable:
    """The edits and labels of a reply: at most `shown.budget` edits, each once, none that is known to fail."""
    found = json_object(text, "edits")
    if isinstance(found, Unusable):
        return found
    edits = _edits(found["edits"])
    if isinstance(edits, Unusable):
        return edits
    read, notes = edits
    labels: list[FailureLabel] = []
    if shown.source == "failure":
        labels, more = _labels(found.get("failures"), shown.ids)
        notes += more
    if found["edits"] and not read and not labels:
        return Unusable(notes[0])
    proposals, more = _proposals(read, shown)
    return Reflection(proposals=tuple(proposals), labels=tuple(labels), notes=(*notes, *more))


def merge_reply(text: str, proposals: Sequence[Proposal]) -> tuple[list[Proposal], list[str]] | Unusable:
    """Merged proposals with the summed support of the parts that they stand for, and notes on what was left out.

    A number that is claimed twice counts for the first edit alone; an edit that stands for nothing is dropped.
    """
    found = json_object(text, "edits")
    if isinstance(found, Unusable):
        return found
    edits = _edits(found["edits"])
    if isinstance(edits, Unusable):
        return edits
    read, notes = edits
    free = set(range(len(proposals)))
    merged: list[Proposal] = []
    invented = 0
    for one in read:
        numbers = [n for n in dict.fromkeys(one.stands_for) if n in free]
        free -= set(numbers)
        invented += not numbers
        if numbers:
            merged.append(_joined(one, [proposals[n] for n in numbers]))
    if not merged:
        return Unusable(notes[0] if notes else "no edit stands for a proposed one")
    notes += [f"merge: {invented} edits that stand for nothing were dropped"] if invented else []
    notes += [f"merge: {len(free)} proposed edits were left out"] if free else []
    return aggregate(merged), notes


def _joined(one: _Read, parts: Sequence[Proposal]) -> Proposal:
    """One merged edit. A gain that was measured belongs to the very edit that it was measured for."""
    same = aggregate([p for p in parts if p.edit == one.edit])
    return Proposal(
        edit=one.edit,
        support=sum(p.support for p in parts),
        source="failure" if any(p.source == "failure" for p in parts) else "success",
        rationale=one.why or max(parts, key=lambda p: (p.weight, p.rationale)).rationale,
        expected_gain=same[0].expected_gain if same else None,
    )


def rank_reply(text: str, n: int) -> list[int] | Unusable:
    """The selected numbers below `n`, each once, in the order given."""
    found = json_object(text, "selected")
    if isinstance(found, Unusable):
        return found
    selected = found["selected"]
    if not isinstance(selected, list):
        return Unusable("`selected` is not a list")
    numbers = [i for i in selected[:MOST_ITEMS] if type(i) is int and 0 <= i < n]
    if selected and not numbers:
        return Unusable(f"`selected` holds no number from 0 to {n - 1}")
    return list(dict.fromkeys(numbers))


def review_reply(text: str) -> Review | Unusable:
    """The new slow text, refused with a note where it could not be part of a document, and the new notes, clipped."""
    found = json_object(text, "slow", "memory")
    if isinstance(found, Unusable):
        return found
    notes: list[str] = []
    slow, memory = found.get("slow"), found.get("memory")
    text_of_slow: str | None = None
    if isinstance(slow, str):
        text_of_slow = _slow_text(slow, notes)
    elif slow is not None:
        notes.append("review: `slow` is not text")
    text_of_memory: str | None = None
    if isinstance(memory, str):
        text_of_memory = clean(memory[: 2 * MOST_MEMORY]).strip()[:MOST_MEMORY].strip() or None
    elif memory is not None:
        notes.append("review: `memory` is not text")
    return Review(slow=text_of_slow, memory=text_of_memory, notes=tuple(notes))


def _slow_text(slow: str, notes: list[str]) -> str | None:
    """The text in normal form, or None, with a note where it was refused. Blank text leaves the section as it is."""
    if not slow.strip():
        return None
    if len(slow) > MOST_SLOW:
        notes.append(f"review: the slow text has {len(slow)} characters, at most {MOST_SLOW} are allowed")
        return None
    lines = "\n".join(lines_of(_unix(slow)))
    # What could not be appended to an empty body has no place in a section either.
    refused = apply("", [Append.model_construct(op="append", content=lines)]).refused
    if refused:
        notes.append(f"review: the slow text was refused: {refused[0][1]}")
        return None
    return lines


def json_object(text: str, *wanted: str) -> dict[str, Any] | Unusable:
    """The last complete JSON object in `text` that holds one of the `wanted` keys, wherever it stands.

    NaN and infinities count as null. Never raises: text that is too long, too deep or no JSON is Unusable.
    """
    if len(text) > MOST_REPLY:
        return Unusable(f"the reply has {len(text)} characters, at most {MOST_REPLY} are read")
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    found: dict[str, Any] | None = None
    why, seen, tries = "it holds no JSON object", False, 0
    at = text.find("{")
    while at >= 0 and tries < MOST_TRIES:
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            why = "its JSON is nested too deeply"
            break
        except ValueError as error:
            tries += 1
            why = why if seen else f"its JSON cannot be read: {single_line(str(error), 100)}"
            seen, end = True, at + 1
        else:
            # A brace is always the start of an object; one without the wanted keys was not meant as the answer.
            if any(key in value for key in wanted):
                found = value
            elif not seen:
                why, seen = f"its JSON object holds no `{wanted[0]}`", True
        at = text.find("{", end)
    return Unusable(why) if found is None else found


def _edits(items: object) -> _Items | Unusable:
    """The well-formed edits of a list, and a note for those that are not."""
    if not isinstance(items, list):
        return Unusable("`edits` is not a list")
    read: list[_Read] = []
    faults: list[str] = []
    for item in items[:MOST_ITEMS]:
        one = _edit(item)
        if isinstance(one, _Read):
            read.append(one)
        else:
            faults.append(one.why)
    return read, _counted("edits", faults, len(items))


def _edit(item: object) -> _Read | Unusable:
    try:
        wire = _WireEdit.model_validate(item)
    except ValidationError as error:
        return Unusable(_fault(error))
    target, content = (None if text is None else _unix(text) for text in (wire.target, wire.content))
    if max(len(target or ""), len(content or "")) > LONGEST_TEXT:
        return Unusable(f"a text of more than {LONGEST_TEXT} characters")
    if _HALF.search((target or "") + (content or "")):
        return Unusable("half of a surrogate pair, which is no character")
    edit: Edit
    if wire.op == "append" and content is not None:
        edit = Append(content=content)
    elif wire.op == "insert_after" and target is not None and content is not None:
        edit = InsertAfter(target=target, content=content)
    elif wire.op == "replace" and target is not None and content is not None:
        edit = Replace(target=target, content=content)
    elif wire.op == "delete" and target is not None:
        edit = Delete(target=target)
    else:
        return Unusable(f"{wire.op} without its {'content' if content is None and wire.op != 'delete' else 'target'}")
    why = single_line((wire.why or "")[: 4 * MOST_WHY], MOST_WHY)
    return _Read(edit, 1 if wire.support is None else wire.support, tuple(wire.stands_for or ()), why)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _fault(error: ValidationError) -> str:
    """The first mistake, without the value: it is foreign text."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return single_line(f"{place}: {first['msg']}" if place else first["msg"], 200)


def _counted(what: str, faults: Sequence[str], given: int) -> list[str]:
    """Notes on malformed items and on those past the most that are read."""
    notes = [f"{len(faults)} of {given} {what} were malformed, the first: {faults[0]}"] if faults else []
    return notes + ([f"{what} after the first {MOST_ITEMS} of {given} were not read"] if given > MOST_ITEMS else [])


def _labels(items: object, ids: Mapping[str, str]) -> tuple[list[FailureLabel], list[str]]:
    """One label per shown failure, the first that was given."""
    if items is None:
        return [], []
    if not isinstance(items, list):
        return [], ["`failures` is not a list"]
    labels: dict[str, FailureLabel] = {}
    faults: list[str] = []
    unknown = 0
    for item in items[:MOST_ITEMS]:
        try:
            wire = _WireLabel.model_validate(item)
        except ValidationError as error:
            faults.append(_fault(error))
            continue
        example = ids.get(wire.example)
        if example is None:
            unknown += 1
        else:
            why = single_line((wire.why or "")[: 4 * MOST_WHY], MOST_WHY)
            labels.setdefault(example, FailureLabel(example_id=example, kind=wire.kind, why=why))
    notes = _counted("labels", faults, len(items))
    notes += [f"{unknown} labels were for examples that were not shown"] if unknown else []
    return list(labels.values()), notes


def _proposals(read: Collection[_Read], shown: Shown) -> tuple[list[Proposal], list[str]]:
    """Each edit once, without the known failures, cut at the budget."""
    proposals: dict[Edit, Proposal] = {}
    known: dict[Edit, str] = {}
    repeated = cut = 0
    for one in read:
        if one.edit in shown.known:
            known.setdefault(one.edit, shown.known[one.edit])
        elif one.edit in proposals:
            repeated += 1
        elif len(proposals) >= shown.budget:
            cut += 1
        else:
            proposals[one.edit] = Proposal(
                edit=one.edit,
                support=min(max(1, one.support), max(1, len(shown.ids))),
                source=shown.source,
                rationale=one.why,
                expected_gain=None,
            )
    notes = [f"an edit was proposed again: {single_line(why, 200)}" for why in list(known.values())[:3]]
    notes += [f"{repeated} edits were given more than once"] if repeated else []
    notes += [f"{cut} edits beyond the budget of {shown.budget} were cut"] if cut else []
    return list(proposals.values()), notes
