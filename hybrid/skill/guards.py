"""What no document may hold, checked on every candidate body before a rollout is paid for.

- training answers copied word for word, beyond a share (`CopyGuard`);
- answers of held-out examples (`HeldOutGuard`, the same verdicts as `leakguard.leaks`, from an index);
- text of the grader's pattern (`PatternGuard`);
- hidden characters, front matter fences, broken or changed protected sections (`body_faults`).

`Guards` is the front: it reports only faults that the body before the edit did not have. Reasons are written for a
proposer. They say nothing of held-out examples, not even which line gave one away: that would let a proposer ask the guard
whether a guess is right. Everything is pure and deterministic.
Does not: judge whether an edit helps, or change a body.

    guards = Guards(train, held_out, config.copy_guard, pattern_texts(settings.grader))
    guards.check(candidate, before)  # [] or reasons
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hybrid.capability.graders.text import fold
from hybrid.capability.types import Example
from hybrid.config.schema import CopyGuardConfig, GraderConfig, PythonGrader, RegexGrader
from hybrid.skill.leakguard import LONG_ANSWER, NEAR, Leak, leaks
from hybrid.skill.slow_section import SLOW
from hybrid.skill.text import hidden, lines_of, normal, sections

SHORTEST_PATTERN, LONG_PATTERN = 12, 24
"""Characters from which on a run of the pattern can be told apart, and beyond which even plain words can."""
KEPT = 64
"""Bodies whose faults are remembered: the same incumbent is compared with many candidates."""
_FENCE = re.compile(r"(?:---|\.\.\.)[ \t]*")
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana and Han."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_RUN = re.compile(r"\w+")
_SLOT = "{reference}"
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_PATH_JOINT = re.compile(r"\w[.:_]\w")
_META = re.compile(r"[\\\[\]{}*+^$|]|\(\?|[.)]\?")
"""What patterns have and sentences have not: a point, a question mark or a bracket alone tells nothing."""
_WRAPPING = "`'\"-*>"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a body. `key` identifies the fault wherever it stands; `why` is a reason for a proposer."""

    key: tuple[str, ...]
    why: str


class Guards:
    """All guards of one optimisation. `patterns` are texts of the grader (`pattern_texts`)."""

    def __init__(
        self, train: Sequence[Example], held_out: Iterable[Example], copy: CopyGuardConfig, patterns: Sequence[str] = ()
    ) -> None:
        self._guards = (CopyGuard(train, copy), HeldOutGuard(train, held_out), PatternGuard(patterns, train))
        self._faults = lru_cache(maxsize=KEPT)(self._all)

    def check(self, body: str, before: str) -> list[str]:
        """Why `body` must not follow `before`; empty when it may. Faults that `before` had already do not count, so that a
        seed document with an old fault can be improved elsewhere; the same fault once more does."""
        old = Counter(fault.key for fault in self._faults(before))
        new = Counter(fault.key for fault in self._faults(body)) - old
        whys = [fault.why for fault in self._faults(body) if fault.key in new]
        return list(dict.fromkeys([*_protected_faults(body, before), *whys]))

    def _all(self, body: str) -> tuple[Fault, ...]:
        return (*_body_faults(body), *(fault for guard in self._guards for fault in guard.faults(body)))


class CopyGuard:
    """Limits how much of the training answers a document holds word for word.

    Two shares are held below `config.most`. Of the distinct training answers (references and gold completions) of at least
    `config.words` words: those with a run of that many words that also stands in the body. Of the training rows whose
    question and answer together have at least as many words: those that stand in the body whole, the answer on the lines
    of the question or within the next two. What is shorter is a fact and never counts: a table of facts may hold all of
    them, an answer key for `train` may not. Words are compared without case, punctuation and line ends; in scripts that
    are written without spaces each character is a word.
    """

    def __init__(self, train: Sequence[Example], config: CopyGuardConfig) -> None:
        self.config = config
        answers = {_words(text) for e in train for text in (e.reference, e.gold_completion)}
        self._answers = sorted(a for a in answers if len(a) >= config.words)
        self._runs: dict[tuple[str, ...], set[int]] = {}
        for index, answer in enumerate(self._answers):
            for start in range(len(answer) - config.words + 1):
                self._runs.setdefault(answer[start : start + config.words], set()).add(index)
        rows = {
            (_words(e.prompt_text), question, _words(text))
            for e in train
            for question in _questions(e)
            for text in (e.reference, e.gold_completion)
        }
        self._rows = sorted((p, q, a) for p, q, a in rows if q and a and len(q) + len(a) >= config.words)
        self._total = len({prompt for prompt, _, _ in self._rows})
        self._index = _Index([question for _, question, _ in self._rows])

    def check(self, body: str) -> list[str]:
        """Reasons; empty when the body copies no more than it may."""
        return list(dict.fromkeys(fault.why for fault in self.faults(body)))

    def faults(self, body: str) -> list[Fault]:
        """One fault per copied answer and row, where there are too many of them."""
        text = _Words(body)
        out: list[Fault] = []
        answers, line = self._copied_answers(text)
        if len(answers) > self.config.most * len(self._answers):
            what = f"{len(answers)} of the {len(self._answers)} training answers of at least {self.config.words} words"
            fix = "state the rule or the fact behind them instead"
            why = (
                f"the document copies {what}{self._share(len(answers), len(self._answers))} from line {line} on: {fix}"
            )
            out += [Fault(("answer", " ".join(self._answers[i])), why) for i in sorted(answers)]
        rows, line = self._copied_rows(text)
        if len(rows) > self.config.most * self._total:
            what = f"{len(rows)} of {self._total} training questions with their answers"
            fix = "keep a few worked examples, and state the rule instead"
            why = f"the document lists {what}{self._share(len(rows), self._total)} from line {line} on: {fix}"
            out += [Fault(("row", " ".join(prompt)), why) for prompt in sorted(rows)]
        return out

    def _share(self, count: int, total: int) -> str:
        return f" ({100 * count / total:.3g} %, at most {100 * self.config.most:.3g} % are allowed)"

    def _copied_answers(self, text: _Words) -> tuple[set[int], int]:
        """Indices of the copied answers, and the line (from 1) of the first copy."""
        found: set[int] = set()
        first = 0
        for start in range(len(text.words) - self.config.words + 1) if self._runs else ():
            hit = self._runs.get(tuple(text.words[start : start + self.config.words]))
            if hit:
                first = first or text.lines[start] + 1
                found |= hit
        return found, first

    def _copied_rows(self, text: _Words) -> tuple[set[tuple[str, ...]], int]:
        """The prompts of rows that stand in the body with their answer, and the line (from 1) of the first."""
        possible = [self._rows[i] for i in self._index.possible(text.words)]
        lines = [(at, prompt) for prompt, question, answer in possible if (at := text.pair(question, answer))]
        return {prompt for _, prompt in lines}, min((at for at, _ in lines), default=0)


class HeldOutGuard:
    """Keeps answers of held-out examples out, as `leakguard.leaks` does, from an index that is built once.

    An example is looked at only where the body holds every word of a text that could leak; `leaks` then judges those few.
    """

    def __init__(self, train: Sequence[Example], held_out: Iterable[Example]) -> None:
        self._train = tuple(train)
        known = "\n".join(_plain(text) for e in train for text in (e.prompt_text, e.reference, e.gold_completion))
        pairs = {(_plain(e.prompt_text), _plain(e.reference)) for e in train}
        self._held_out = tuple(held_out)
        self._entries: list[tuple[int, str]] = []
        for index, example in enumerate(self._held_out):
            prompt = _plain(example.prompt_text)
            for answer in sorted({_plain(example.reference), _plain(example.gold_completion)} - {""}):
                if len(answer) >= LONG_ANSWER and answer not in known:
                    self._entries.append((index, answer))
                if prompt and (prompt, answer) not in pairs:
                    self._entries.append((index, prompt))
        self._index = _Index([_RUN.findall(text) for _, text in self._entries])

    def check(self, body: str) -> list[str]:
        """A reason when the body gives a held-out answer away. It does not say which or where; `leaks` does."""
        return list(dict.fromkeys(fault.why for fault in self.faults(body)))

    def faults(self, body: str) -> list[Fault]:
        """One fault per leak."""
        why = (
            "the document answers a question that is kept for judging, which no training row shows: "
            "write only what training rows support"
        )
        return [Fault(("held-out", leak.example_id, leak.why), why) for leak in self.leaks(body)]

    def leaks(self, body: str) -> tuple[Leak, ...]:
        """Exactly what `leakguard.leaks` finds; for people, not for proposers."""
        flat = _plain(body)
        possible = [self._entries[i] for i in self._index.possible(_RUN.findall(flat))]
        suspects = sorted({index for index, text in possible if text in flat})
        return leaks(body, self._train, [self._held_out[i] for i in suspects]) if suspects else ()


class PatternGuard:
    """Keeps the grader's pattern out: a document must not teach what the grader looks for by quoting it.

    A run of at least 12 characters of a pattern, `{reference}` aside, is a leak when it holds a sign that patterns have and
    sentences have not, or is longer than 24 characters; so is a line that is the pattern, white space aside. Words that a
    training row shows as well are its own: a layout that every gold answer has may be taught. For a dotted path, a run with
    a joint in it is enough.
    """

    def __init__(self, patterns: Sequence[str], train: Sequence[Example] = ()) -> None:
        known = [p for p in dict.fromkeys(patterns) if p.replace(_SLOT, "").strip()]
        self._pieces = [(piece, _is_path(p)) for p in known for piece in p.split(_SLOT)]
        whole = {(_bare(text), _is_path(p)) for p in known for text in (p, p.replace(_SLOT, ""))}
        self._whole = {text for text, path in whole if _telling(text, path)}
        self._shown = "\0".join(t for e in train for t in (e.prompt_text, e.reference, e.gold_completion))

    def check(self, body: str) -> list[str]:
        """Reasons, one per line that quotes a pattern."""
        return list(dict.fromkeys(fault.why for fault in self.faults(body)))

    def faults(self, body: str) -> list[Fault]:
        """One fault per quotation."""
        text = normal(body)
        places = [(m.start(), run) for run in self._quoted(text) for m in re.finditer(re.escape(run), text)]
        found = {(text.count("\n", 0, place), run) for place, run in places}
        for index, line in enumerate(lines_of(text)):
            if _bare(line) in self._whole and line.strip() not in self._shown:
                found.add((index, line.strip()))
        fix = "say in plain words what a right answer looks like"
        return [
            Fault(("pattern", run), f"line {line + 1} quotes the grader's pattern: {fix}")
            for line, run in sorted(found)
        ]

    def _quoted(self, text: str) -> set[str]:
        """The longest runs of every pattern that stand in the text and give the pattern away."""
        runs: set[str] = set()
        for piece, path in self._pieces:
            done = 0
            for start in range(len(piece) - SHORTEST_PATTERN + 1):
                end = start + SHORTEST_PATTERN
                if piece[start:end] not in text:
                    continue
                while end < len(piece) and piece[start : end + 1] in text:
                    end += 1
                run = piece[start:end]
                if end > done and _telling(run, path) and run not in self._shown:
                    runs.add(run)
                    done = end
        return runs


def pattern_texts(grader: GraderConfig | None) -> tuple[str, ...]:
    """What of a grader's settings must not stand in a document: patterns, and the path of a callable. Choices may."""
    if isinstance(grader, RegexGrader):
        return (grader.pattern,) if grader.format is None else (grader.pattern, grader.format)
    return (grader.path,) if isinstance(grader, PythonGrader) else ()


def body_faults(body: str) -> list[str]:
    """What no body may hold whatever the edits were: hidden characters, front matter fences, broken markers.

    Edits that hold any of these are refused already (`edits.apply`); this looks at the whole, however it came about.
    """
    return list(dict.fromkeys(fault.why for fault in _body_faults(body)))


def _body_faults(body: str) -> list[Fault]:
    lines = lines_of(body)
    found = [(i, f"the hidden character {what} stands here") for i, what in hidden("\n".join(lines))]
    found += [(i, "this is a front matter fence") for i, line in enumerate(lines) if _FENCE.fullmatch(line)]
    found += sections(lines)[1]
    return [Fault(("body", what), f"line {i + 1}: {what}") for i, what in sorted(found)]


def _protected_faults(body: str, before: str) -> list[str]:
    """Protected sections that are not what they were. The slow section is the loop's own and may change."""
    was, now = _protected(before), _protected(body)
    names = [name for name, _ in [*(s for s in was if s not in now), *(s for s in now if s not in was)]]
    if not names and was != now:
        names = [was[0][0] if was else now[0][0]]
    return [f"the protected section {name} was changed: leave it as it is" for name in dict.fromkeys(names)]


def _protected(body: str) -> list[tuple[str, str]]:
    lines = lines_of(body)
    return [(s.name, "\n".join(lines[s.first : s.last + 1])) for s in sections(lines)[0] if s.name != SLOW]


def _plain(text: str) -> str:
    """Text as `leakguard` compares it."""
    return " ".join(text.casefold().split())


def _is_path(pattern: str) -> bool:
    return _PATH.fullmatch(pattern) is not None


def _telling(run: str, path: bool) -> bool:
    """Whether a run of a pattern cannot be ordinary words."""
    return len(run) > LONG_PATTERN or (_PATH_JOINT if path else _META).search(run) is not None


def _bare(text: str) -> str:
    """Text without white space, and without the marks around it that make it an item or a quotation."""
    return "".join(text.split()).strip(_WRAPPING)


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(fold(text)))


def _questions(example: Example) -> set[tuple[str, ...]]:
    """The prompt, and of a chat its last turn alone: that is what a worked example would show."""
    texts = {example.prompt_text}
    if not isinstance(example.prompt, str) and example.prompt:
        texts.add(example.prompt[-1].content)
    return {_words(text) for text in texts}


class _Words:
    """The words of a body, with the line of each (from 0), and the same without counting lines that hold no word."""

    def __init__(self, body: str) -> None:
        self.words: list[str] = []
        self.lines: list[int] = []
        self.places: list[int] = []
        place = 0
        for index, line in enumerate(lines_of(body)):
            words = _words(line)
            self.words += words
            self.lines += [index] * len(words)
            self.places += [place] * len(words)
            place += 1 if words else 0

    def pair(self, question: tuple[str, ...], answer: tuple[str, ...]) -> int:
        """The line (from 1) where the question stands with its answer on its own lines or shortly after; 0 for none."""
        for start in self._find(question, 0, len(self.words)):
            end = start + len(question)
            first, last = self.places[start], self.places[end - 1]
            left = next(i for i in range(start, -1, -1) if i == 0 or self.places[i - 1] < first)
            right = next((i for i in range(end, len(self.words)) if self.places[i] > last + NEAR), len(self.words))
            if any(True for span in ((left, start), (end, right)) for _ in self._find(answer, *span)):
                return self.lines[start] + 1
        return 0

    def _find(self, words: tuple[str, ...], low: int, high: int) -> Iterator[int]:
        size = len(words)
        for start in range(low, high - size + 1):
            if self.words[start] == words[0] and tuple(self.words[start : start + size]) == words:
                yield start


class _Index:
    """Which of many lists of words can stand in a text: those of which it holds every word. Found by their rarest word."""

    def __init__(self, entries: Sequence[Sequence[str]]) -> None:
        self._entries = [frozenset(entry) for entry in entries]
        counts = Counter(word for entry in self._entries for word in entry)
        self._by_word: dict[str, list[int]] = {}
        for index, entry in enumerate(self._entries):
            rarest = min(entry, key=lambda word: (counts[word], word), default="")
            self._by_word.setdefault(rarest, []).append(index)

    def possible(self, words: Iterable[str]) -> list[int]:
        """Indices in order. A list without words can stand anywhere."""
        present = {*words, ""}
        found = (i for word in present & self._by_word.keys() for i in self._by_word[word])
        return sorted(i for i in found if self._entries[i] <= present)
