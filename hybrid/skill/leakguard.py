"""Keeps held-out answers out of a document: an answer key is not a skill.

An answer leaks when it is long enough to be recognised (12 characters) and occurs in the body but nowhere in the
training rows, or when the body holds a held-out prompt together with its answer, whatever their length, and no training
row has that pair. A table of facts that training rows give passes.
Does not: decide what happens to such a body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hybrid.capability.types import Example
from hybrid.skill.text import lines_of

LONG_ANSWER = 12
NEAR = 2
"""Lines after a prompt in which its answer still counts as given."""


@dataclass(frozen=True)
class Leak:
    """A line (counted from 1) of a body that gives away the answer of a held-out example."""

    line: int
    text: str
    example_id: str
    why: str


def leaks(body: str, train: Sequence[Example], held_out: Iterable[Example]) -> tuple[Leak, ...]:
    """Every leak, by line. Case and white space do not matter; answers match whole words only."""
    lines = lines_of(body)
    flat = _Flat(lines)
    known = "\n".join(_plain(text) for e in train for text in (e.prompt_text, e.reference, e.gold_completion))
    pairs = {(_plain(e.prompt_text), _plain(e.reference)) for e in train}
    found: set[tuple[int, str, str]] = set()
    for example in held_out:
        prompt = _plain(example.prompt_text)
        for answer in sorted({_plain(example.reference), _plain(example.gold_completion)} - {""}):
            if len(answer) >= LONG_ANSWER and answer not in known:
                found |= {(line, example.id, "a held-out answer") for line in flat.find(answer)}
            if prompt and (prompt, answer) not in pairs:
                found |= {(line, example.id, "a held-out prompt with its answer") for line in flat.pair(prompt, answer)}
    return tuple(Leak(line + 1, lines[line], example, why) for line, example, why in sorted(found))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _whole(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")


class _Flat:
    """A body as one line of plain text that remembers where its lines begin."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.parts = [_plain(line) for line in lines]
        self.starts: list[int] = []
        length = 0
        for part in self.parts:
            self.starts.append(length)
            length += len(part) + (1 if part else 0)
        self.text = " ".join(part for part in self.parts if part)

    def _line(self, position: int) -> int:
        """The last line that begins at or before a position and is not blank."""
        return max(i for i, start in enumerate(self.starts) if start <= position and self.parts[i])

    def find(self, answer: str) -> list[int]:
        """Lines on which whole occurrences of `answer` begin."""
        if answer not in self.text:
            return []
        return [self._line(match.start()) for match in _whole(answer).finditer(self.text)]

    def pair(self, prompt: str, answer: str) -> list[int]:
        """Lines where `prompt` begins with `answer` on its own lines or shortly after, outside the prompt."""
        found = []
        for match in _whole(prompt).finditer(self.text) if prompt in self.text else ():
            first, last = self._line(match.start()), self._line(match.end() - 1)
            after = [i for i in range(last + 1, len(self.parts)) if self.parts[i]][:NEAR]
            end = (self.starts[after[-1]] + len(self.parts[after[-1]])) if after else len(self.text)
            before, behind = self.text[self.starts[first] : match.start()], self.text[match.end() : end]
            if _whole(answer).search(before) or _whole(answer).search(behind):
                found.append(first)
        return found
