"""Does the function-call grader agree with BFCL's own checker? On right answers to BFCL's rows, and on spoiled ones.

    python scripts/check_calls_grader.py          # the counts that docs/function-calling.md holds; ten seconds

Every usable single-turn Python row of BFCL is asked whole. Its gold answer, the same with the last acceptable value of every
parameter, with the calls in reverse order, and answers spoiled in one place go to both judges. BFCL's checker imports the clients
of every vendor for a table of models of which it needs one flag: that table is replaced here by an empty one.

Does not: sample from a model. Needs bfcl_eval.
"""

from __future__ import annotations

import collections
import json
import random
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

from hybrid.capability.graders import build_grader
from hybrid.capability.graders.call_syntax import calls_of
from hybrid.capability.suites import function_calling_data as data
from hybrid.capability.suites.function_calling import Options, place
from hybrid.capability.suites.function_calling_data import ToolRow, Wanted
from hybrid.capability.suites.function_calling_tasks import render
from hybrid.config.schema import FunctionCallGrader


def their_checker() -> Any:
    """BFCL's `ast_checker`, without the table that it looks one flag up in."""
    table: Any = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = collections.defaultdict(lambda: SimpleNamespace(underscore_to_dot=False))
    sys.modules[table.__name__] = table
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(functions: Any, said: Any, gold: Any, category: str) -> bool:
        return bool(ast_checker(functions, said, gold, Language.PYTHON, category, "any")["valid"])

    return check


def answers(row: ToolRow, rng: random.Random) -> Iterator[tuple[str, list[Wanted]]]:
    """(how it was made, calls): two right ones, and spoiled ones. The values of a call are its first acceptable ones."""
    yield "gold", list(row.calls)
    yield "gold, calls reversed", list(reversed(row.calls))
    last = [Wanted(c.name, {k: [v[-1]] for k, v in c.accept.items() if v[-1] != ""}) for c in row.calls]
    yield "last acceptable values", last
    place = rng.randrange(len(row.calls))
    call = row.calls[place]
    given = call.arguments()
    if given:
        name = rng.choice(sorted(given))
        value = given[name]
        spoiled = {
            "another value": _other(value),
            "a value of another type": str(value) if not isinstance(value, str) else [value],
            "a value put into a list": [value],
        }
        for how, wrong in spoiled.items():
            yield how, _with(row, place, Wanted(call.name, {**{k: [v] for k, v in given.items()}, name: [wrong]}))
        yield "an argument less", _with(row, place, Wanted(call.name, {k: [v] for k, v in given.items() if k != name}))
    yield "an argument more", _with(row, place, Wanted(call.name, {**call.accept, "unasked": [1]}))
    yield "a call more", [*row.calls, call]


def _with(row: ToolRow, place: int, call: Wanted) -> list[Wanted]:
    return [call if i == place else c for i, c in enumerate(row.calls)]


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}, or so" if isinstance(value, str) else [*value, 1] if isinstance(value, list) else {}


def said_of(calls: list[Wanted]) -> str:
    """The answer as text."""
    return "\n".join(f"{c.name}({', '.join(f'{k}={v!r}' for k, v in c.arguments().items())})" for c in calls)


def main() -> None:
    """Counts of agreement, and the first disagreements in full."""
    check, folder = their_checker(), data.folder()
    grader = build_grader(FunctionCallGrader(type="function-call"))
    options = Options(unseen=False, distractors=0, irrelevant=0.0)
    functions, gold = {}, {}
    for category in data.CALLING:
        for file, kept, key in (("", functions, "function"), ("possible_answer/", gold, "ground_truth")):
            for line in (folder / f"{file}BFCL_v4_{category}.json").read_text("utf-8").splitlines():
                kept[json.loads(line)["id"]] = json.loads(line)[key]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    shown = 0
    for row in (row for rows in place(options, 0).rows.values() for row in rows if row.calls):
        example = render(row, "call", "0")
        for how, calls in answers(row, random.Random(row.id)):
            text = said_of(calls)
            read = [{c.name: dict(c.arguments)} for c in calls_of(text) or []]
            ours, theirs = (
                grader.grade(text, example).passed,
                check(functions[row.id], read, gold[row.id], row.category),
            )
            counts[how][f"{'right' if ours else 'wrong'}/{'right' if theirs else 'wrong'}"] += 1
            if ours != theirs and shown < 8:
                shown += 1
                print(
                    f"{how}: ours {ours}, theirs {theirs}: {text} for {json.dumps(gold[row.id], ensure_ascii=False)}\n"
                )
    columns = ("right/right", "wrong/wrong", "right/wrong", "wrong/right")
    print("| answer | both right | both wrong | only here right | only theirs right |\n|---|---|---|---|---|")
    for how, found in counts.items():
        print(f"| {how} | " + " | ".join(str(found[c]) for c in columns) + " |")


if __name__ == "__main__":
    main()
