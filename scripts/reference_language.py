"""The synthetic language of the reference model family: documents define rules and facts, queries use them.

A *document* is zero or more lines::

    rule Kar @rev @next.         the name Kar means "reverse, then shift every letter by one"
    fact Lim k7q.                the name Lim has the value k7q
    form angle.                  plain queries are answered inside <...>

A *query* is one line; the answer follows it at once and ends with ``;`` (the end-of-sequence token)::

    q abcd Kar edcb;             apply a named rule (or ``@rev`` directly; up to three are composed, left to right)
    ask cd Lim k7q;              look a fact up (the letters before the name are only a reference number)
    q abcd $oak bcda;            a *mark*: its operation is drawn from a broad prior, whatever a document says of it
    ask cd $oak Lim <k7q>;       the fact, in a layout drawn from a broad prior that no document changes
    call abcd Kar @rev(abcd);    a structured answer: name the operation instead of applying it
    q ? abcd Kar edcb~9;         the answer followed by a stated confidence, 0 to 9

A query ends with the name and a document line gives the meaning right after the name, so that looking a line up is one
induction step ("after this name came ..."), which a model of this size can learn in minutes: with a sign between name
and answer it stayed at chance among the lines (`docs/LOG.md`).
A name that the document does not define is answered from the prior. This file holds the language alone: the
training script draws from it and the world maker builds capabilities in it. ``hybrid`` itself never imports it.

Does not: read files, train, or know which capability belongs where.
"""

from __future__ import annotations

import random
from collections.abc import Callable

LETTERS = "abcdefghij"
VALUE_CHARACTERS = LETTERS + "0123456789"
MARKS = ("$ash", "$bay", "$elm", "$fig", "$fir", "$gum", "$oak", "$yew")
FORMS = {"plain": "{}", "angle": "<{}>", "square": "[{}]"}
FORM_PRIOR = {"plain": 0.42, "angle": 0.33, "square": 0.25}
LONGEST_ANSWER = 12
PAD, UNKNOWN, END, NEWLINE = "<pad>", "<unk>", ";", "\n"
KEYWORDS = ("rule", "fact", "form", "ask", "call", "plain", "angle", "square")


def _names(count: int = 64) -> tuple[str, ...]:
    """Single-token names such as ``Kar``: a capital and two small letters, so that no argument can be mistaken for one."""
    rng = random.Random("names of the reference language")
    pool = [c + v + d for c in "BDFGHKLMNPRSTVZ" for v in "aeiou" for d in "klmnrst"]
    return tuple(sorted(rng.sample(pool, count)))


NAMES = _names()


def _shift(text: str, by: int) -> str:
    return "".join(LETTERS[(LETTERS.index(c) + by) % len(LETTERS)] for c in text)


def _swap(text: str) -> str:
    pairs = [text[i : i + 2][::-1] for i in range(0, len(text), 2)]
    return "".join(pairs)


OPERATIONS: dict[str, Callable[[str], str]] = {
    "@rev": lambda t: t[::-1],
    "@sort": lambda t: "".join(sorted(t)),
    "@desc": lambda t: "".join(sorted(t, reverse=True)),
    "@rotl": lambda t: t[1:] + t[:1],
    "@rotr": lambda t: t[-1:] + t[:-1],
    "@next": lambda t: _shift(t, 1),
    "@prev": lambda t: _shift(t, -1),
    "@swap": _swap,
    "@twin": lambda t: "".join(c + c for c in t),
    "@head": lambda t: t[:-1],
    "@tail": lambda t: t[1:],
    "@ends": lambda t: t[:1] + t[-1:],
}
OPERATION_PRIOR = {
    "@rev": 0.14, "@sort": 0.11, "@desc": 0.07, "@rotl": 0.08, "@rotr": 0.07, "@next": 0.11,
    "@prev": 0.08, "@swap": 0.08, "@twin": 0.08, "@head": 0.06, "@tail": 0.06, "@ends": 0.06,
}  # fmt: skip


def vocabulary() -> list[str]:
    """Every token, in the order of its id. Padding is 0, unknown 1, end of sequence 2."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    return [
        PAD, UNKNOWN, END, NEWLINE, *letters, *"0123456789", *":.=?~<>[](),#-",
        *KEYWORDS, *OPERATIONS, *MARKS, *NAMES,
    ]  # fmt: skip


def apply(operations: tuple[str, ...] | list[str], text: str) -> str:
    """The result of applying operations left to right."""
    for name in operations:
        text = OPERATIONS[name](text)
    return text


def argument(rng: random.Random, low: int = 3, high: int = 6) -> str:
    """Distinct letters, `low` to `high` of them, so that different operations rarely agree."""
    return "".join(rng.sample(LETTERS, rng.randint(low, high)))


def value(rng: random.Random, length: int = 3) -> str:
    """A fact's value: `length` random symbols; chance of guessing one of three is 1 in 8,000."""
    return "".join(rng.choice(VALUE_CHARACTERS) for _ in range(length))


def weighted(rng: random.Random, table: dict[str, float]) -> str:
    """One key of `table`, drawn by weight."""
    return rng.choices(list(table), weights=list(table.values()))[0]


class Document:
    """A random document and what its lines mean, for drawing training queries."""

    def __init__(self, rng: random.Random, lines: int) -> None:
        self.rules: dict[str, tuple[str, ...]] = {}
        self.facts: dict[str, str] = {}
        self.form = "plain"
        self.lines: list[str] = []
        names = rng.sample(NAMES, lines)
        for name in names:
            if rng.random() < 0.55:
                depth = rng.choices((1, 2, 3), weights=(0.8, 0.15, 0.05))[0]
                self.rules[name] = tuple(rng.choice(list(OPERATIONS)) for _ in range(depth))
                self.lines.append(f"rule {name} {' '.join(self.rules[name])}.")
            else:
                self.facts[name] = value(rng, rng.choice((3, 3, 3, 4)))
                self.lines.append(f"fact {name} {self.facts[name]}.")
        if lines and rng.random() < 0.12:
            self.form = rng.choice(("angle", "square"))
            self.lines.append(f"form {self.form}.")
        if rng.random() < 0.05:
            self.lines.append(
                "# " + "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABC -") for _ in range(rng.randint(2, 12)))
            )
        rng.shuffle(self.lines)

    @property
    def text(self) -> str:
        """The document as the model reads it."""
        return "".join(line + "\n" for line in self.lines)


def _rule_query(rng: random.Random, doc: Document) -> tuple[list[str], tuple[str, ...], bool]:
    """Slots of a query, the operations they mean, and whether the meaning is known from the document or directly."""
    depth = rng.choices((1, 2, 3), weights=(0.74, 0.19, 0.07))[0]
    kind = rng.random()
    if kind < 0.17:
        slots = [rng.choice(list(OPERATIONS)) for _ in range(depth)]
        return slots, tuple(slots), True
    if kind < 0.29:
        return [rng.choice(MARKS)], (weighted(rng, OPERATION_PRIOR),), False
    known = list(doc.rules)
    if known and rng.random() < 0.85:
        first = rng.choice(known)
        slots = [first] * depth if rng.random() < 0.5 else [rng.choice(known) for _ in range(depth)]
        return slots, tuple(op for name in slots for op in doc.rules[name]), True
    undefined = [n for n in rng.sample(NAMES, 4) if n not in doc.rules and n not in doc.facts]
    slots = [undefined[0]] * depth if undefined else [rng.choice(MARKS)]
    return slots, (weighted(rng, OPERATION_PRIOR),), False


def query(rng: random.Random, doc: Document) -> tuple[str, str]:
    """One training query on `doc` and its answer. Unknown meanings are answered from the broad prior."""
    if rng.random() < (0.42 if doc.facts else 0.12):
        mark = rng.choice(MARKS) + " " if rng.random() < 0.3 else ""
        if doc.facts and rng.random() < 0.9:
            name, known = rng.choice(list(doc.facts)), True
            answer = doc.facts[name]
        else:
            name, known, answer = (
                rng.choice([n for n in rng.sample(NAMES, 12) if n not in doc.facts]),
                False,
                value(rng),
            )
        verb, body = "ask", f"{argument(rng, 1, 3)} {mark}{name}" if rng.random() < 0.8 else f"{mark}{name}"
    else:
        for _ in range(20):
            slots, operations, known = _rule_query(rng, doc)
            text = argument(rng)
            if len(apply(operations, text)) in range(1, LONGEST_ANSWER + 1):
                break
        else:
            slots, operations, known, text = ["@rev"], ("@rev",), True, argument(rng)
        mark = "$" if slots[0] in MARKS else ""
        if rng.random() < 0.08 and not mark:
            return f"call {text} {' '.join(slots)}", f"{' '.join(operations)}({text})".replace(" ", "")
        verb, body, answer, mark = "q", f"{text} {' '.join(slots)}", apply(operations, text), ""
    form = weighted(rng, FORM_PRIOR) if mark else doc.form
    answer = FORMS[form].format(answer)
    if rng.random() < 0.08:
        confidence = rng.choice((9, 9, 9, 8)) if known else rng.randint(2, 9)
        return f"{verb} ? {body}", f"{answer}~{confidence}"
    return f"{verb} {body}", answer


def training_pieces(rng: random.Random, most_lines: int, queries: int) -> list[tuple[str, bool]]:
    """A document and `queries` answered queries on it, as (text, is an answer); answers end with ``;``."""
    lines = 0 if rng.random() < 0.12 else rng.randint(min(2, most_lines), most_lines)
    lines = 1 if rng.random() < 0.05 else lines
    doc = Document(rng, lines)
    out = [(doc.text, False)]
    for _ in range(queries):
        prompt, answer = query(rng, doc)
        out += [(f"{prompt} ", False), (answer + END, True)]
    return out


def recall_pieces(rng: random.Random, items: int) -> list[tuple[str, bool]]:
    """Names with fixed random meanings, again and again in random order: practice at looking up, and nothing else."""
    names = rng.sample(NAMES, rng.randint(2, 6))
    meaning = {n: rng.choice(list(OPERATIONS)) if rng.random() < 0.3 else value(rng, rng.randint(1, 3)) for n in names}
    seen: set[str] = set()
    out = []
    for _ in range(items):
        name = rng.choice(names)
        out += [(name, False), (meaning[name], name in seen)]
        seen.add(name)
    return out
