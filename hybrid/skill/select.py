"""Which skills a prompt needs, and the text that the model then reads: progressive disclosure of a library.

    selector = Selector(library)
    chosen = selector.choose("How many cm are 3 inches?").names       # ("units",), or () where nothing fits
    compose(library, chosen, level=2).text                            # the bodies of the chosen skills

Level 1 is the list of all names and descriptions, level 2 the bodies of the chosen skills, level 3 their references
too. Retrieval is lexical: BM25 (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", sections 3.4 and
3.6) over name, description, body and references. An `Embedder` may be added; none ships.
Deterministic; ties go to the earlier name. Does not: ask a model, read files, or judge whether a skill helps.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from hybrid.skill.library import SKILL_FILE, Library, Skill
from hybrid.skill.references import whole

CountTokens: TypeAlias = Callable[[str], int]
Level: TypeAlias = Literal[1, 2, 3]
K1, B = 1.2, 0.75
"""BM25's saturation and length normalisation, at the usual values."""
NUMBER = "<number>"
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "how", "i",
    "in", "is", "it", "its", "of", "on", "or", "that", "the", "this", "to", "was",
    "what", "when", "where", "which", "who", "will", "with", "you", "your",
))  # fmt: skip
"""Words that say nothing of a topic: in a library of four skills, counts alone cannot tell."""
_TERM = re.compile(r"[@$#]?[^\W\d_]+|\d+|[^\w\s.,:;?!'\"()\[\]{}]")


class Embedder(Protocol):
    """Texts to vectors: one row of finite numbers per text, in order, all of one width. Deterministic. Not normalised."""

    def __call__(self, texts: Sequence[str], /) -> npt.NDArray[np.floating[Any]]:
        """The matrix of the texts."""
        ...


class SelectionPolicy(BaseModel):
    """When a skill is chosen. Scores lie between 0 (nothing in common) and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    most: int = Field(default=3, ge=1)
    """At most so many skills."""
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Least score; where no skill reaches it, none is chosen."""
    close: float = Field(default=0.9, ge=0, le=1)
    """A further skill needs at least this share of the best one's score."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of all chosen bodies together; a skill that does not fit is left out, and the next one is tried."""
    embedding_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the score that an embedder gets, where there is one."""


@dataclass(frozen=True)
class Selection:
    """The chosen skills, best first, every skill's score by name, and the names that only the token budget kept out."""

    names: tuple[str, ...]
    scores: dict[str, float]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What the model reads before the prompt, and what that costs."""

    text: str
    tokens: int


def words(text: str) -> int:
    """Words: the token count where no tokenizer is at hand."""
    return len(text.split())


def terms(text: str) -> list[str]:
    """The terms of a text: case-folded words without a plural s, with a sign before them if any (`@rev`); single signs that
    are no punctuation; and `<number>` for every number beside the number itself. Stop words are left out."""
    out: list[str] = []
    for term in _TERM.findall(text.casefold()):
        if term.isdigit():
            out += [term, NUMBER]
        elif term in STOP_WORDS:
            continue
        elif len(term) > 3 and term.endswith("s") and not term.endswith("ss"):
            out.append(term[:-1])
        else:
            out.append(term)
    return out


def ending(prompt: str) -> str:
    """The last line that has any term; the prompt itself where none has."""
    return next((line for line in reversed(prompt.split("\n")) if terms(line)), prompt)


class Bm25:
    """BM25 over texts of several fields, each with a weight: BM25F, where counts are weighted and made comparable by
    field length before they saturate. Scores are divided by the most that the query could reach, so they lie in [0, 1]."""

    def __init__(self, texts: Sequence[Sequence[str]], weights: Sequence[float]) -> None:
        counted = [[Counter(terms(field)) for field in text] for text in texts]
        sizes = np.array([[c.total() for c in fields] for fields in counted], dtype=np.float64).reshape(
            len(texts), len(weights)
        )
        means = np.maximum(sizes.mean(axis=0), 1.0) if len(texts) else np.ones(len(weights))
        lengths = 1 - B + B * sizes / means
        self._counts: list[dict[str, float]] = []
        for row, fields in enumerate(counted):
            pooled: dict[str, float] = {}
            for column, (weight, counter) in enumerate(zip(weights, fields, strict=True)):
                for term, count in counter.items():
                    pooled[term] = pooled.get(term, 0.0) + weight * count / lengths[row, column]
            self._counts.append(pooled)
        self._holding = Counter(term for pooled in self._counts for term in pooled)

    def scores(self, query: str) -> list[float]:
        """A score in [0, 1] per text. A term that no text holds counts against all of them; a repeated one counts once."""
        wanted = {term: self._idf(term) for term in sorted(set(terms(query)))}
        most = (K1 + 1) * math.fsum(wanted.values())
        if not most:
            return [0.0] * len(self._counts)
        return [
            math.fsum(idf * (K1 + 1) * c[term] / (K1 + c[term]) for term, idf in wanted.items() if term in c) / most
            for c in self._counts
        ]

    def _idf(self, term: str) -> float:
        n, holding = len(self._counts), self._holding[term]
        return math.log(1 + (n - holding + 0.5) / (holding + 0.5))


FIELDS = (2.0, 2.0, 1.0)
"""Weights of name, description and content."""


class Selector:
    """Chooses skills of one library. `count_tokens` is used for the token budget alone.

    Raises ValueError where the embedder returns something other than one finite row per text.
    """

    def __init__(
        self,
        library: Library,
        policy: SelectionPolicy | None = None,
        count_tokens: CountTokens = words,
        embedder: Embedder | None = None,
    ) -> None:
        self.library, self.policy = library, policy or SelectionPolicy()
        self._count, self._embed = count_tokens, embedder
        self._lexical = Bm25([_fields(skill) for skill in library], FIELDS)
        self._vectors = None if embedder is None else _rows(embedder, ["\n".join(_fields(s)) for s in library])

    def scores(self, prompt: str) -> dict[str, float]:
        """The score of every skill, by name: that of the whole prompt or that of the line it ends with, whichever is
        higher, because worked examples before the question dilute it."""
        asked = (prompt, ending(prompt))
        found = np.array([self._lexical.scores(text) for text in asked], dtype=np.float64).max(axis=0)
        if self._embed is not None and self._vectors is not None and len(self.library):
            near = np.clip(self._vectors @ _rows(self._embed, asked).T, 0.0, 1.0).max(axis=1)
            found = (1 - self.policy.embedding_weight) * found + self.policy.embedding_weight * near
        return dict(zip(self.library.names, found.tolist(), strict=True))

    def choose(self, prompt: str) -> Selection:
        """The skills for a prompt, best first; none is a possible answer."""
        scores, policy = self.scores(prompt), self.policy
        ranked = sorted(scores, key=lambda name: (-scores[name], name))
        least = max(policy.threshold, policy.close * scores[ranked[0]]) if ranked else 0.0
        names: list[str] = []
        left_out: list[str] = []
        spent = 0
        for name in ranked:
            if len(names) == policy.most or scores[name] < least or scores[name] <= 0:
                break
            cost = self._count(self.library[name].document.body) if policy.max_tokens is not None else 0
            if policy.max_tokens is not None and spent + cost > policy.max_tokens:
                left_out.append(name)
                continue
            names.append(name)
            spent += cost
        return Selection(tuple(names), scores, tuple(left_out))

    def open(self, prompt: str, name: str) -> tuple[str, ...]:
        """The references of a skill worth reading for a prompt: those its body names, the best one by BM25 for the line
        that the prompt ends with, and those close to it; none where no term of it occurs in any."""
        skill = self.library[name]
        named = skill.named()
        scores = Bm25([(skill.references[path],) for path in named], (1.0,)).scores(ending(prompt))
        best = max(scores, default=0.0)
        return tuple(p for p, s in zip(named, scores, strict=True) if s > 0 and s >= self.policy.close * best)


def available_skills(library: Library) -> str:
    """Level 1: the `<available_skills>` block of the format, with locations relative to the library."""
    lines = ["<available_skills>"]
    for skill in library:
        d = skill.document
        fields = (("name", d.name), ("description", d.description), ("location", f"{d.name}/{SKILL_FILE}"))
        lines.append("<skill>")
        for tag, value in fields:
            lines += [f"<{tag}>", html.escape(value.strip()), f"</{tag}>"]
        lines.append("</skill>")
    return "\n".join([*lines, "</available_skills>"]) + "\n"


def compose(
    library: Library,
    names: Sequence[str],
    level: Level,
    count_tokens: CountTokens = words,
    opened: Callable[[str], Iterable[str]] | None = None,
) -> Reading:
    """The text of one level for the chosen skills, with its cost in tokens.

    Levels 2 and 3 hold the chosen skills alone, without the list of level 1. One chosen skill at level 2 is its plain
    body, as it was measured; before each of several stands a line `# NAME`. `opened` gives the references to read at level
    3 by name, default all that the body names. With all of them, a body that was split is whole again, as it was measured.
    Raises KeyError for an unknown name, and ValueError for a reference that the body does not name.
    """
    if level == 1:
        return _reading(available_skills(library), count_tokens)
    skills = [library[name] for name in names]
    texts = [s.document.body if level == 2 else _opened(s, opened) for s in skills]
    if len(skills) > 1:
        texts = [f"# {skill.name}\n{text}" for skill, text in zip(skills, texts, strict=True)]
    return _reading("\n".join(texts), count_tokens)


def _opened(skill: Skill, opened: Callable[[str], Iterable[str]] | None) -> str:
    named = skill.named()
    wanted = named if opened is None else tuple(dict.fromkeys(opened(skill.name)))
    for path in wanted:
        if path not in named:
            raise ValueError(f"the body of {skill.name!r} names no reference {path[:100]!a}")
    body = skill.document.body
    if set(wanted) == set(skill.references) and (joined := whole(body, skill.references)) != body:
        return joined
    return "\n".join([body, *(f"# {path}\n{skill.references[path]}" for path in wanted)])


def _reading(text: str, count_tokens: CountTokens) -> Reading:
    return Reading(text, count_tokens(text) if text else 0)


def _fields(skill: Skill) -> tuple[str, str, str]:
    content = "\n".join([skill.document.body, *(skill.references[path] for path in skill.named())])
    return skill.name.replace("-", " "), skill.document.description, content


def _rows(embedder: Embedder, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Vectors of length 1; a zero vector stays zero."""
    if not texts:
        return np.zeros((0, 0))
    rows = np.asarray(embedder(texts), dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
        raise ValueError(f"an embedder returns one row of finite numbers per text, not {rows.shape} for {len(texts)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = rows / np.where(lengths == 0, 1.0, lengths)
    return unit
