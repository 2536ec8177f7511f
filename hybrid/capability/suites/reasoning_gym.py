"""Any generator of reasoning-gym, with its own scorer.

Source: the package `reasoning-gym` (github.com/open-thought/reasoning-gym, Stojanovski et al. 2025, arXiv 2505.24760).
Licence: Apache-2.0. It measures procedures: arithmetic, algorithms, logic, games. The `variant` split is drawn from the same
generator with the harder settings of `variant`.

The package's scorers were not written for hostile text: some of them call `eval` on the completion, or parse it with sympy, which
does the same. Those see only completions of a harmless form (`FORMS`); a generator whose scorer cannot be made safe in this way,
whose rows differ from process to process, or whose gold answers its own scorer refuses is not offered (`REFUSED`).

Does not: give partial credit unless asked to. Many scorers reward an answer for merely holding the right one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from tokenize import TokenError
from typing import Any

from pydantic import Field

from hybrid.capability.graders.base import right, unreadable, wrong
from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import About, Deck, SuiteData, SuiteError, slug
from hybrid.capability.types import Example, Score
from hybrid.config.schema import SuiteSizes
from hybrid.config.suggest import did_you_mean

_NO_GOLD = "its rows hold no answer that its own scorer accepts"
_UNSTABLE = "the same seed gives other rows in another process"
REFUSED: dict[str, str] = {
    "boxnet": _NO_GOLD,
    "codeio": "it runs code that a language model wrote, to make its rows",
    "coin_flip": "its scorer accepts the beginning of an answer, such as 0 for 0.927",
    "composite": "it only mixes others; name one of those",
    "game_of_life_halting": "its scorer accepts any text for some rows",
    "graph_color": _NO_GOLD,
    "intermediate_integration": "its scorer evaluates the answer as a program, whatever the answer is",
    "isomorphic_strings": _UNSTABLE,
    "knight_swap": _UNSTABLE,
    "list_functions": _UNSTABLE,
    "polynomial_multiplication": _UNSTABLE,
    "propositional_logic": _NO_GOLD,
    "ransom_note": _UNSTABLE,
    "rubiks_cube": _NO_GOLD,
    "rush_hour": _NO_GOLD,
    "simple_integration": "its scorer evaluates the answer as a program, whatever the answer is",
    "word_ladder": _UNSTABLE,
}
"""Generator -> why it is not offered."""
_WORDS = re.compile(r"[\w\s.,'\"\[\]_-]*")
FORMS: dict[str, re.Pattern[str]] = {
    "countdown": re.compile(r"(?!.*\*\s*\*)(?!.*\d{9})[0-9+*/()\s-]{0,200}", re.DOTALL),
    "puzzle24": re.compile(r"(?!.*\*\s*\*)(?!.*\d{9})[0-9+*/()\s-]{0,200}", re.DOTALL),
    "binary_matrix": _WORDS,
    "n_queens": _WORDS,
    "spiral_matrix": _WORDS,
    "string_insertion": _WORDS,
}
"""Generators whose scorer evaluates the completion -> what may be evaluated. Without calls, and with short numbers that are
never raised to a power, it can do no harm."""
_SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
)
"""What a scorer raises on text that it did not expect."""
_NO_NUMBER = re.compile(r"\b(nan|inf|infinity)\b", re.IGNORECASE)
"""No scorer that compares distances is prepared for these: one takes `nan` for every number."""
_LONGEST = 4_000
_LONGEST_METADATA = 400


class Options(Asking):
    """Which generator, and how hard."""

    generator: str = "chain_sum"
    """Name of a reasoning-gym data set."""
    config: dict[str, Any] = Field(default={})
    """Settings of the generator."""
    variant: dict[str, Any] = Field(default={})
    """Settings of the rows of `variant`, over those of `config`; none: the split is left out."""
    partial: bool = False
    """Keep the scorer's partial credit as the value of an answer that does not pass; false makes it 0."""


class ReasoningGym:
    """See the module."""

    about = About(
        measures="procedures: a hundred generators of arithmetic, algorithms, logic and games",
        source="reasoning-gym (open-thought)",
        licence="Apache-2.0",
        needs={"reasoning_gym": "pip install 'hybrid-placement[demo]'"},
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`. Rows of `variant` have no parents: they are other questions, drawn harder."""
        wanted = sum(sizes.model_dump().values())
        plain = _Source(options, options.config, "config", f"{options.generator} {seed}", wanted)
        deck = Deck(options.generator)
        sources = {"plain": plain}
        stream = plain.rows("plain")
        shots = [next(stream) for _ in range(options.shots)]
        framed = (options.framed(row, shots) for row in stream)
        splits = deck.deal(framed, sizes)
        if options.variant and sizes.variant:
            harder = {**options.config, **options.variant}
            sources["harder"] = _Source(options, harder, "variant", f"{options.generator} {seed} variant", wanted)
            rows = (options.framed(row, shots) for row in sources["harder"].rows("harder"))
            splits["variant"] = deck.take(rows, sizes.variant, "variant")
        return SuiteData(splits, _Scorer(options, sources))


class _Source:
    """One data set of the package, and its entries by number."""

    def __init__(self, options: Options, config: Mapping[str, Any], key: str, text: str, wanted: int) -> None:
        self.name = options.generator
        self._size = max(10_000, 20 * wanted)
        self.seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) // 2
        self._data = _create(self.name, config, f"options.{key}", self.seed, self._size)
        self._entries: dict[int, dict[str, Any]] = {}

    def rows(self, which: str) -> Iterator[Example]:
        """Example rows in the order of the generator, without a frame."""
        for number in range(self._size):
            entry = self.entry(number)
            answer = str(entry["answer"])
            identity = slug(self.name, "harder" if which == "harder" else "", number)
            kept = {key: value for key, value in entry["metadata"].items() if _plain(value)}
            facts = {**kept, "generator": self.name, "source": which, "number": number}
            row = Example(id=identity, prompt=entry["question"], reference=answer, metadata=facts)
            yield row.model_copy(update={"wrong": never_right(answer)})

    def entry(self, number: int) -> dict[str, Any]:
        """The package's entry, made once."""
        if number not in self._entries:
            with _quiet():
                self._entries[number] = self._data[number]
        return self._entries[number]

    def score(self, answer: str, number: int) -> float:
        """The package's own score of an answer."""
        entry = self.entry(number)
        with _quiet():
            return float(self._data.score_answer(answer, entry=entry))


class _Scorer:
    """A grader by the generator's own scorer. Rows say which entry they are."""

    def __init__(self, options: Options, sources: Mapping[str, _Source]) -> None:
        self._options, self._sources = options, sources
        self._form = FORMS.get(options.generator)

    def grade(self, completion: str, example: Example) -> Score:
        """See `Grader.grade`."""
        said, reference = completion.strip(), example.reference
        if not said:
            return unreadable(reference, completion, "the answer is empty")
        if len(said) > _LONGEST + 2 * len(reference):
            return unreadable(reference, completion, "the answer is too long")
        if _NO_NUMBER.search(said) and not _NO_NUMBER.search(reference):
            return unreadable(reference, completion, "the answer is no number")
        if self._form is not None and not self._form.fullmatch(said):
            return unreadable(reference, completion, "the answer does not have the form of one")
        try:
            value = self._sources[example.metadata["source"]].score(said, example.metadata["number"])
        except _SCORER_ERRORS:
            return unreadable(reference, completion, "the answer cannot be read")
        if value >= 1.0:
            return right()
        found = wrong(reference, completion)
        return dataclasses.replace(found, value=max(0.0, value)) if self._options.partial else found

    def fingerprint(self) -> str:
        """See `Grader.fingerprint`."""
        seeds = {name: source.seed for name, source in self._sources.items()}
        content = {"suite": "reasoning_gym", "options": self._options.model_dump(mode="json"), "seeds": seeds}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _create(name: str, config: Mapping[str, Any], key: str, seed: int, size: int) -> Any:
    """The package's data set. Raises `SuiteError` for a name or a setting that it does not know."""
    from reasoning_gym.factory import DATASETS

    if name in REFUSED:
        raise SuiteError("options.generator", f"{name!r} is not offered: {REFUSED[name]}", "choose another generator")
    if name not in DATASETS:
        fix = did_you_mean(name, set(DATASETS) - set(REFUSED), "the generators are")
        raise SuiteError("options.generator", f"reasoning-gym has no generator {name!r}", fix)
    kind, settings = DATASETS[name]
    legal = {field.name for field in dataclasses.fields(settings)} - {"seed", "size"}
    for setting in config:
        if setting not in legal:
            fix = did_you_mean(setting, sorted(legal), "its settings are")
            raise SuiteError(f"{key}.{setting}", f"{name} has no setting {setting!r}", fix)
    try:
        made = settings(**{**config, "seed": seed, "size": size})
        return kind(made)
    except (AssertionError, TypeError, ValueError) as error:
        raise SuiteError(key, f"{name} refuses these settings: {error}", "correct them") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that the package prints, or that Python says about the text it evaluates, reaches the terminal or `--json`."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def never_right(answer: str) -> tuple[str, ...]:
    """Texts that are no answer, and for a number its neighbour and its first digit: what a lenient scorer may let pass."""
    found = ["", "I do not know", "nan", "inf"]
    if re.fullmatch(r"-?\d{1,12}(\.\d{1,12})?", answer):
        digit = answer.lstrip("-")[0]
        found += [digit] if abs(float(digit) - float(answer)) > 0.1 else []
        found += [str(int(answer) + 1)] if "." not in answer else []
    return tuple(dict.fromkeys(found))


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_METADATA
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53)


SUITE = ReasoningGym()
