"""Function calling on real requests: BFCL's rows, whole or rendered as granular tasks, graded by syntax tree.

Source: Berkeley Function-Calling Leaderboard v4, as the package `bfcl_eval` ships it. Licence: Apache-2.0. The tasks are those of
Granite (arXiv 2407.00121); `function_calling_tasks` says what each asks. The same row stands in the same split whatever the
task, so that capabilities of different tasks can train one adapter.

    source:
      type: suite
      name: function_calling
      options: {task: name_detection}

    python -m hybrid.capability.suites.function_calling      # rows of every task and split, what was left out, lengths

The split `variant` is N-1: a row of `search`, `confirm` or `test` with one function less on offer. Where the function was
needed, the right answer is that none serves (`metadata.active`); where it was not, the answer stays. Does not: run a function.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from hybrid.capability.graders import build_grader
from hybrid.capability.suites import function_calling_data as data
from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import IN_ORDER, About, Deck, SuiteData
from hybrid.capability.suites.function_calling_data import Function, ToolRow
from hybrid.capability.suites.function_calling_tasks import TASKS, Task, applies, nest, render
from hybrid.capability.types import Example, Split
from hybrid.config.schema import FunctionCallGrader, SuiteSizes

EVALUATED: tuple[tuple[Split, float], ...] = (("test", 0.4), ("confirm", 0.4), ("search", 0.2))
"""Shares of what is not trained on."""
VARIED: tuple[Task, ...] = ("call", "chaining", "parallel", "name_detection", "next_best")
"""Tasks that have N-1 variants; of `chaining` and `next_best` only those whose answer stays."""


class Options(Asking):
    """Which task, on which rows."""

    task: Task = "call"
    """What is asked of every row; docs/function-calling.md says what each task is."""
    live: bool = False
    """Rows of BFCL's live categories too: longer, in several languages, and noisier."""
    unseen: bool = True
    """No function of a training row is called or on offer outside `train`. Rows that call one function stay together; a function
    that is only on offer is taken off the offer of rows on the other side."""
    distractors: int = Field(default=2, ge=0, le=16)
    """Functions of other rows of the same side that are put on offer beside a row's own; they share no word with those called."""
    irrelevant: float = Field(default=0.1, ge=0, le=0.5)
    """Share of rows of `call` and `name_detection` that no function on offer serves."""
    train_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the rows that `train` may draw from. It moves rows between splits; sizes do not."""
    library: Literal["signatures", "json"] = "signatures"
    """How functions are shown: a signature and a sentence each, or JSON with every description, 2.4 times as long."""


@dataclass(frozen=True)
class Placed:
    """All rows by split, and what was left out, by reason."""

    rows: Mapping[Split, list[ToolRow]]
    left_out: Mapping[str, int]


class FunctionCalling:
    """See the module."""

    about = About(
        measures="choosing functions and filling their arguments, whole or one granular task of it",
        source="BFCL v4 (bfcl_eval)",
        licence="Apache-2.0",
        needs={data.PACKAGE: "pip install --no-deps bfcl-eval"},
    )
    options = Options

    def build(self, options: Options, sizes: SuiteSizes, seed: int) -> SuiteData:
        """See `Suite.build`."""
        placed = place(options, seed)
        deck = Deck("function_calling")
        streams = {split: examples(placed.rows[split], options, seed) for split in IN_ORDER}
        shots = deck.take(streams["train"], options.shots, "train")
        splits: dict[Split, list[Example]] = {}
        for split in IN_ORDER:
            rows = (options.framed(row, shots) for row in streams[split])
            splits[split] = deck.take(rows, getattr(sizes, split), split)
        if sizes.variant and options.task in VARIED:
            twins = (options.framed(row, shots) for row in variants(placed.rows, splits, options, seed))
            splits["variant"] = deck.take(twins, sizes.variant, "variant")
        return SuiteData(splits, build_grader(FunctionCallGrader(type="function-call")))


def place(options: Options, seed: int) -> Placed:
    """Every usable row in its split, in seeded order, without the functions on offer that are of the other side."""
    calling = data.CALLING + (data.LIVE if options.live else ())
    none = data.IRRELEVANT if options.live else data.IRRELEVANT[:1]
    read = data.read_rows(calling + none, data.folder())
    groups = _groups(read.rows) if options.unseen else {row.id: row.id for row in read.rows}
    left_out: Counter[str] = Counter()
    for (category, reason), count in read.unusable.items():
        left_out[f"{category}: {reason}"] += count
    where = {row.id: _split(groups[row.id], options.train_share, seed) for row in read.rows}
    side = _sides(read.rows, where) if options.unseen else {}
    placed: dict[Split, list[ToolRow]] = {"train": [], "search": [], "confirm": [], "test": []}
    for row in sorted(read.rows, key=lambda r: _rank(seed, r.id)):
        kept = row
        if options.unseen:
            here = where[row.id] == "train"
            kept = replace(row, library=tuple(f for f in row.library if side[f.name] == here))
        if kept.library:
            placed[where[row.id]].append(kept)
        else:
            left_out[f"{row.category}: its functions are on the other side"] += 1
    return Placed(placed, left_out)


def examples(rows: Sequence[ToolRow], options: Options, seed: int) -> Iterator[Example]:
    """The rows that the task applies to, rendered; with the share of rows that nothing serves mixed in evenly."""
    asked = [row for row in rows if applies(row, options.task)]
    mixed = options.irrelevant if options.task in ("call", "name_detection") else 0.0
    nothing = iter([row for row in rows if not row.calls] if mixed else [])
    owed = 0.0
    for number, row in enumerate(asked):
        owed += mixed / (1 - mixed)
        if owed >= 1 and (other := next(nothing, None)) is not None:
            owed -= 1
            yield render(crowded(other, rows, options, seed), options.task, str(seed), None, options.library)
        shown, nesting = crowded(row, rows, options, seed), None
        if options.task == "nested":
            inner = next(
                (r for r in (*asked[number + 1 :], *asked[:number]) if not set(r.names) & set(row.names)), None
            )
            if inner is None:
                continue
            shown, nesting = nest(shown, inner)
        yield render(shown, options.task, str(seed), nesting, options.library)


def variants(
    rows: Mapping[Split, Sequence[ToolRow]], splits: Mapping[Split, Sequence[Example]], options: Options, seed: int
) -> Iterator[Example]:
    """N-1 twins of held-out rows: in turn one whose needed function is gone, where one is needed, and one that lost another."""
    by_id = {row.id: (row, split) for split, _ in EVALUATED for row in rows[split]}
    parents = [e for split, _ in EVALUATED for e in splits[split]]
    for number, parent in enumerate(sorted(parents, key=lambda e: _rank(seed, "variant " + e.id))):
        plain, split = by_id[parent.metadata["bfcl"]]
        row = crowded(plain, rows[split], options, seed)
        needed = number % 2 == 0 and options.task != "next_best"  # some calls are made already there
        twin = (without(row, needed=True) if needed else None) or without(row, needed=False)
        if twin is None:
            continue
        gone = next(f.name for f in row.library if f not in twin.library)
        made = render(twin, options.task, str(seed), None, options.library)
        facts = {**made.metadata, "removed": gone, "active": twin.calls != row.calls}
        yield made.model_copy(update={"id": f"{parent.id}-less", "parent_id": parent.id, "metadata": facts})


def without(row: ToolRow, needed: bool) -> ToolRow | None:
    """The row with one function less on offer: the one it calls, after which none serves it, or one that it does not call. None
    where it calls none, where nothing would be left on offer, and where one of several needed ones would be gone."""
    called = set(row.names)
    gone = next((f for f in row.library if (f.name in called) == needed), None)
    if gone is None or not called or len(row.library) < 2 or (needed and len(called) > 1):
        return None
    return replace(row, library=tuple(f for f in row.library if f is not gone), calls=() if needed else row.calls)


def _groups(rows: Sequence[ToolRow]) -> dict[str, str]:
    """Row -> its group: rows that call a function in common, directly or over others. Rows that call nothing stand alone."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    for row in rows:
        for name in row.names[1:]:
            above[root(name)] = root(row.names[0])
    return {row.id: root(row.names[0]) if row.calls else row.id for row in rows}


def _split(group: str, train_share: float, seed: int) -> Split:
    point = int(_rank(seed, group)[:12], 16) / 16**12
    if point >= 1 - train_share:
        return "train"
    for split, share in EVALUATED:
        point -= share * (1 - train_share)
        if point < 0:
            return split
    return "search"


def _sides(rows: Sequence[ToolRow], where: Mapping[str, Split]) -> dict[str, bool]:
    """Function -> whether it is of the training side: where it is called, or else where it is first on offer."""
    side = {name: where[row.id] == "train" for row in rows for name in row.names}
    for row in rows:
        for function in row.library:
            side.setdefault(function.name, where[row.id] == "train")
    return side


def crowded(row: ToolRow, rows: Sequence[ToolRow], options: Options, seed: int) -> ToolRow:
    """The row with distractors from `rows`, its functions in seeded order."""
    own = {f.name for f in row.library}
    words = set().union(*(_words(f) for f in row.library if f.name in row.names or not row.calls))
    rng = random.Random(f"{seed} distractors {row.id}")
    pool: dict[str, Function] = {}
    for other in rng.sample(rows, min(len(rows), 6 * options.distractors)):
        for function in other.library:
            if function.name not in own and not words & _words(function):
                pool.setdefault(function.name, function)
    library = [*row.library, *list(pool.values())[: options.distractors]]
    rng.shuffle(library)
    return replace(row, library=tuple(library))


def _words(function: Function) -> set[str]:
    """Words of the name and the description that say something: longer than three letters."""
    text = f"{function.name} {function.description}".lower()
    return {w for w in "".join(c if c.isalnum() else " " for c in text).split() if len(w) > 3} - _COMMON


_COMMON = frozenset(
    ("calculate", "find", "given", "with", "from", "this", "that", "based", "function", "specific", "using", "retrieve",
     "information", "return")
)  # fmt: skip


def _rank(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode()).hexdigest()


SUITE = FunctionCalling()


def table(options: Options, seed: int) -> str:
    """Rows of every task and split, what was left out and why, and how long prompts are, as Markdown."""
    out = [
        "| task | "
        + " | ".join(IN_ORDER)
        + " | rows it does not apply to | characters of a prompt, median | of ten, nine below |"
    ]
    out.append("|---" * 8 + "|")
    for task in TASKS:
        mine = options.model_copy(update={"task": task, "irrelevant": 0.0})
        placed = place(mine, seed)
        made = {split: list(examples(placed.rows[split], mine, seed)) for split in IN_ORDER}
        total = sum(map(len, placed.rows.values()))
        lengths = sorted(len(e.prompt_text) for split in IN_ORDER for e in made[split])
        cells = [*(len(made[split]) for split in IN_ORDER), total - len(lengths)]
        cells += [lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]]
        out.append(f"| {task} | " + " | ".join(map(str, cells)) + " |")
    for reason, count in sorted(place(options, seed).left_out.items()):
        out.append(f"\nLeft out, {count}: {reason}.")
    return "\n".join(out)


if __name__ == "__main__":
    print(table(Options(live="--live" in sys.argv[1:]), seed=0))
