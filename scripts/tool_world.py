"""Tools, questions and calls in the tokens of the reference model, and one row rendered as seven granular tasks or one umbrella.

A library is a line per tool, what it is for before what it is called: `rule Lim Kar(k#,m-).` says that the wish `Lim` is served by the
tool `Kar`, which takes a number `k` and letters `m`. A question lists values, then the wish: `3.ab Lim`. Which value belongs to
which parameter follows from types, and from the order among values of one type.

    call 3.ab Lim              Kar(k:3,m:ab);                         one call
    call 3.ab Lim,5.c Lim      Kar(k:3,m:ab),Kar(k:5,m:c);            parallel: a tool twice
    call 3.ab Lim,7 Pot        Kar(k:3,m:ab),Mur(n:7);                chaining: two tools
    call 3.(7 Pot) Lim         Kar(k:3,m:Mur(n:7));                   nested: a result as a value
    call 3.ab Gol              -;                                     no tool of the library serves `Gol`

The granular tasks of Granite (2407.00121) on such a row: the whole call (its three high-level tasks nested, chaining and parallel are this
on rows of that shape, a single call being a chain of one), `ask` the names, `form` the parameters and values given the names,
`plain` the next name given the calls made so far, `square` the answer given calls and results. `shape` of a row is never in the
prompt. Does not: read files, train, or know `hybrid` beyond its example type.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reference_language import LETTERS, NAMES

PARAMETERS = "klmnopqrstuvwxyz"
TYPES = "#-"
"""`#`: a number of one or two digits. `-`: one or two letters of a to j, or a result."""
SHAPES = {"single": 0.3, "parallel": 0.15, "chaining": 0.2, "nested": 0.15, "irrelevant": 0.2}
TASKS = ("call", "name", "parameters", "next", "response")
"""Renderings of a row. `call` is the umbrella, and what nested, chaining and parallel ask on rows of their shape."""
NOTHING = "-"
LIBRARY = 4
"""Tools that a question may choose from."""


@dataclass(frozen=True)
class Tool:
    """What it is for, its name, and (letter, type) of its parameters in order."""

    wish: str
    name: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def line(self) -> str:
        """Its line of a library."""
        return f"fact {self.wish} {self.name}({','.join(p + t for p, t in self.parameters)})."


@dataclass(frozen=True)
class Use:
    """A tool with the text of every value, in the order of its parameters; a value may be another use."""

    tool: Tool
    values: tuple[str | Use, ...]

    @property
    def arguments(self) -> str:
        """`k:3,m:ab`."""
        pairs = zip(self.tool.parameters, self.values, strict=True)
        return ",".join(f"{p}:{v.call if isinstance(v, Use) else v}" for (p, _), v in pairs)

    @property
    def call(self) -> str:
        """`Kar(k:3,m:ab)`."""
        return f"{self.tool.name}({self.arguments})"

    @property
    def inner(self) -> tuple[Use, ...]:
        """Itself after the uses inside it: the order in which they can be made."""
        return (*(u for v in self.values if isinstance(v, Use) for u in v.inner), self)


@dataclass(frozen=True)
class Row:
    """One question over one library. `uses` is empty where no tool of the library serves it."""

    library: tuple[Tool, ...]
    shape: str
    question: str
    uses: tuple[Use, ...]
    seed: int

    @property
    def text(self) -> str:
        """The library as the model reads it."""
        return "".join(tool.line + "\n" for tool in self.library)

    @property
    def made(self) -> tuple[Use, ...]:
        """Every use in the order in which it can be made, inner ones first."""
        return tuple(u for use in self.uses for u in use.inner)

    @property
    def call(self) -> str:
        """The answer to the whole question."""
        return ",".join(use.call for use in self.uses) or NOTHING


def make_tools(rng: random.Random, seen: int, unseen: int) -> tuple[tuple[Tool, ...], tuple[Tool, ...]]:
    """Tools to train on and tools to test on: no wish and no name of one is in the other."""
    names = rng.sample(NAMES, 2 * (seen + unseen))
    tools = []
    for i in range(seen + unseen):
        count = rng.choices((1, 2, 3), weights=(0.3, 0.5, 0.2))[0]
        letters = rng.sample(PARAMETERS, count)
        tools.append(Tool(names[2 * i], names[2 * i + 1], tuple((p, rng.choice(TYPES)) for p in letters)))
    return tuple(tools[:seen]), tuple(tools[seen:])


def make_rows(rng: random.Random, tools: Sequence[Tool], count: int, but: set[str] | None = None) -> list[Row]:
    """Distinct rows over libraries of these tools; none whose library and question are in `but`, which learns them."""
    but = set() if but is None else but
    rows: list[Row] = []
    while len(rows) < count:
        row = _row(rng, tools)
        if row is not None and row.text + row.question not in but:
            but.add(row.text + row.question)
            rows.append(row)
    return rows


def without(row: Row) -> Row | None:
    """The twin with one needed tool less, where one wish is all the question has: then nothing serves it. Else None."""
    needed = {u.tool.name for u in row.made}
    if len(needed) != 1:
        return None
    rest = tuple(t for t in row.library if t.name not in needed)
    return Row(rest, "irrelevant", row.question, (), row.seed)


def _row(rng: random.Random, tools: Sequence[Tool]) -> Row | None:
    shape = rng.choices(list(SHAPES), weights=list(SHAPES.values()))[0]
    chosen = rng.sample(list(tools), LIBRARY + 1)
    library, other = chosen[:LIBRARY], chosen[LIBRARY]
    first, second = rng.sample(library, 2)
    if shape == "nested":
        places = [i for i, (_, kind) in enumerate(first.parameters) if kind == "-"]
        if not places:
            return None
        place, outer = rng.choice(places), _use(rng, first)
        values = tuple(_use(rng, second) if i == place else v for i, v in enumerate(outer.values))
        uses: tuple[Use, ...] = (Use(first, values),)
    elif shape == "irrelevant":
        uses = (_use(rng, other),)
    else:
        uses = tuple(_use(rng, t) for t in {"single": [first], "parallel": [first, first]}.get(shape, [first, second]))
    question = ",".join(_ask(rng, use) for use in uses)
    return Row(tuple(library), shape, question, () if shape == "irrelevant" else uses, rng.randrange(2**30))


def _use(rng: random.Random, tool: Tool) -> Use:
    return Use(tool, tuple(_value(rng, kind) for _, kind in tool.parameters))


def _value(rng: random.Random, kind: str) -> str:
    if kind == "#":
        return str(rng.randint(1, 99))
    return "".join(rng.sample(LETTERS, rng.randint(1, 2)))


def _ask(rng: random.Random, use: Use) -> str:
    """`3.ab Lim`: numbers and letters shuffled among each other, each kind in the order of the parameters."""
    kinds = [kind for _, kind in use.tool.parameters]
    rng.shuffle(kinds)
    left = {t: [v for (_, k), v in zip(use.tool.parameters, use.values, strict=True) if k == t] for t in TYPES}
    values = [left[kind].pop(0) for kind in kinds]
    return ".".join(f"({_ask(rng, v)})" if isinstance(v, Use) else v for v in values) + f" {use.tool.wish}"


def render(row: Row, task: str) -> tuple[str, str] | None:
    """(prompt, answer) of one task on a row, or None where the row has nothing to ask of it. Same row and task, same text."""
    rng = random.Random(f"{task} {row.seed}")
    made = row.made
    if task == "call":
        return f"{row.text}call {row.question}", row.call
    if task == "name":
        return f"{row.text}ask {row.question}", ",".join(u.tool.name for u in made) or NOTHING
    if task == "next":
        done = rng.randint(0, len(made))
        answer = made[done].tool.name if done < len(made) else NOTHING
        return f"{row.text}plain {row.question}:{_calls(made[:done])}", answer
    if not made:
        return None
    if task == "parameters":
        names = ",".join(u.tool.name for u in row.uses)
        return f"{row.text}form {row.question}:{names}", ",".join(f"({u.arguments})" for u in row.uses)
    results = [_value(rng, rng.choice(TYPES)) for _ in row.uses]
    return f"{row.text}square {row.question}:{row.call}={','.join(results)}", f"[{','.join(results)}]"


def _calls(uses: Sequence[Use]) -> str:
    return ",".join(u.call for u in uses)


def python_of(text: str) -> str:
    """A call of this language as Python, for the grader of calls: `Kar(k:3,m:ab)` is `Kar(k="3",m="ab")`; `-` is no call."""
    named = re.sub(rf"([{PARAMETERS}]):", r"\1=", text.strip())
    return re.sub(r"=([0-9a-j]+)(?=[,)])", r'="\1"', named)


def shares(rows: Sequence[Row]) -> Mapping[str, int]:
    """Rows by shape."""
    return {shape: sum(row.shape == shape for row in rows) for shape in SHAPES}
