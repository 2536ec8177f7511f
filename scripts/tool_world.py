"""Tools, questions and calls in the tokens of the reference model, and one row rendered as granular tasks or as one umbrella.

A library is a line per tool, what it is for before what it is called: `fact Lim b39(a,c).` says that the wish `Lim` is served by
the tool `b39`, which takes `a` and `c`. A question lists values in the order of the parameters, then the wish: `4.7 Lim`.

    call 4.7 Lim               b39(a:4,c:7);                          one call
    call 4.7 Lim,5.1 Lim       b39(a:4,c:7),b39(a:5,c:1);             parallel: a tool twice
    call 4.7 Lim,6 Pot         b39(a:4,c:7),h0f(e:6);                 chaining: two tools
    call 4.(6 Pot) Lim         b39(a:4,c:h0f(e:6));                   nested: a result as a value
    call 4.7 Gol               -;                                     no tool of the library serves `Gol`

The granular tasks of Granite (2407.00121) on such a row: `call` the whole call (nested, chaining and parallel are this on rows of
that shape; a single call is a chain of one), `ask` the names, `form` the arguments given the names, `plain` the next name given
the calls made so far, `square` the answer given calls and results. The shape of a row is never in the prompt. What was left out
to keep the world learnable in a minute: types, optional arguments, values in another order, and any language.

Does not: read files, train, or know `hybrid`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reference_language import LETTERS, NAMES, VALUE_CHARACTERS

SHAPES = {"single": 0.45, "parallel": 0.1, "chaining": 0.15, "nested": 0.1, "irrelevant": 0.2}
TASKS = ("call", "name", "parameters", "next", "response")
"""Renderings of a row. `call` is the umbrella, and what nested, chaining and parallel ask on rows of their shape."""
NOTHING = "-"
LIBRARY = 3
"""Tools that a question may choose from."""


@dataclass(frozen=True)
class Tool:
    """What it is for, its name, and its parameters in order."""

    wish: str
    name: str
    parameters: tuple[str, ...]

    @property
    def line(self) -> str:
        """Its line of a library."""
        return f"fact {self.wish} {self.name}({','.join(self.parameters)})."


@dataclass(frozen=True)
class Use:
    """A tool with its values in the order of its parameters; a value may be another use."""

    tool: Tool
    values: tuple[str | Use, ...]

    @property
    def arguments(self) -> str:
        """`a:4,c:7`."""
        pairs = zip(self.tool.parameters, self.values, strict=True)
        return ",".join(f"{p}:{v.call if isinstance(v, Use) else v}" for p, v in pairs)

    @property
    def call(self) -> str:
        """`b39(a:4,c:7)`."""
        return f"{self.tool.name}({self.arguments})"

    @property
    def asked(self) -> str:
        """`4.7 Lim`."""
        values = ".".join(f"({v.asked})" if isinstance(v, Use) else v for v in self.values)
        return f"{values} {self.tool.wish}"

    @property
    def made(self) -> tuple[Use, ...]:
        """Itself after the uses inside it: the order in which they can be made."""
        return (*(u for v in self.values if isinstance(v, Use) for u in v.made), self)


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
        return tuple(u for use in self.uses for u in use.made)

    @property
    def call(self) -> str:
        """The answer to the whole question."""
        return ",".join(use.call for use in self.uses) or NOTHING


def make_tools(rng: random.Random, seen: int, unseen: int, unseen_wishes: int) -> tuple[list[Tool], list[Tool]]:
    """Tools to train on and tools to test on: no wish and no name of one is among the other's."""
    wishes = rng.sample(NAMES, len(NAMES))
    codes: set[str] = set()
    while len(codes) < seen + unseen:
        codes.add(rng.choice(LETTERS) + rng.choice(VALUE_CHARACTERS) + rng.choice(VALUE_CHARACTERS))
    names = rng.sample(sorted(codes), seen + unseen)

    def tools(names: Sequence[str], wishes: Sequence[str]) -> list[Tool]:
        return [Tool(rng.choice(wishes), n, tuple(rng.sample(LETTERS, rng.choice((1, 2))))) for n in names]

    return tools(names[:seen], wishes[unseen_wishes:]), tools(names[seen:], wishes[:unseen_wishes])


def make_libraries(rng: random.Random, tools: Sequence[Tool], count: int, questions: int) -> list[list[Row]]:
    """`count` libraries with as many different questions each. No wish stands twice in a library."""
    groups = []
    for _ in range(count):
        chosen: dict[str, Tool] = {}
        while len(chosen) <= LIBRARY:
            tool = rng.choice(tools)
            chosen.setdefault(tool.wish, tool)
        *library, other = chosen.values()
        rows: dict[str, Row] = {}
        while len(rows) < questions:
            row = _row(rng, tuple(library), other)
            rows.setdefault(row.question, row)
        groups.append(list(rows.values()))
    return groups


def without(row: Row) -> Row | None:
    """The N-1 twin whose one needed tool is gone, so that nothing serves it. None where several tools are needed, or none is."""
    needed = {u.tool.name for u in row.made}
    if len(needed) != 1:
        return None
    rest = tuple(t for t in row.library if t.name not in needed)
    return replace(row, library=rest, shape="irrelevant", uses=())


def _row(rng: random.Random, library: tuple[Tool, ...], other: Tool) -> Row:
    shape = rng.choices(list(SHAPES), weights=list(SHAPES.values()))[0]
    first, second = rng.sample(library, 2)
    uses: list[Use]
    if shape == "nested":
        outer, place = _use(rng, first), rng.randrange(len(first.parameters))
        inner = _use(rng, second)
        uses = [Use(first, tuple(inner if i == place else v for i, v in enumerate(outer.values)))]
    elif shape == "irrelevant":
        uses = [_use(rng, other)]
    else:
        uses = [_use(rng, t) for t in {"single": [first], "parallel": [first, first]}.get(shape, [first, second])]
    question = ",".join(use.asked for use in uses)
    return Row(library, shape, question, () if shape == "irrelevant" else tuple(uses), rng.randrange(2**30))


def _use(rng: random.Random, tool: Tool) -> Use:
    return Use(tool, tuple(str(rng.randint(1, 9)) for _ in tool.parameters))


def render(row: Row, task: str) -> tuple[str, str] | None:
    """(prompt below the library, answer) of one task on a row, or None where it has nothing to ask. Same input, same text."""
    rng = random.Random(f"{task} {row.seed}")
    made = row.made
    if task == "call":
        return f"call {row.question}", row.call
    if task == "name":
        return f"ask {row.question}", ",".join(u.tool.name for u in made) or NOTHING
    if task == "next":
        done = rng.randint(0, len(made))
        answer = made[done].tool.name if done < len(made) else NOTHING
        return f"plain {row.question}:{','.join(u.call for u in made[:done])}", answer
    if not made:
        return None
    if task == "parameters":
        names = ",".join(u.tool.name for u in row.uses)
        return f"form {row.question}:{names}", ",".join(f"({u.arguments})" for u in row.uses)
    results = ",".join(str(rng.randint(10, 99)) for _ in row.uses)
    return f"square {row.question}:{row.call}={results}", f"[{results}]"


def python_of(text: str) -> str:
    """A call of this language as Python, for the grader of calls: `b39(a:4)` is `b39(a=4)`; `-` is no call."""
    return re.sub(rf"([{LETTERS}]):", r"\1=", text.strip())
