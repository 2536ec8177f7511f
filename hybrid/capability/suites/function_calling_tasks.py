"""One row of function calling as granular tasks (Granite, Abdelaziz et al. 2024, arXiv 2407.00121), or as the whole call.

`render(row, task, library, salt)` is pure. What each task asks, and of which rows:

    call                  the whole call, or calls; any row
    irrelevance           the same question of rows that no function serves: the right answer is `none`
    parallel              the whole calls of rows that call one function several times
    chaining              the whole calls of rows that call different functions
    nested                a row whose one value is to be the result of another row's call (`nest` puts two rows together)
    name_detection        the names of the functions alone
    parameter_values      the arguments alone, given the names; rows in which every call has arguments
    next_best             the next function, given the calls that were made; rows with several calls
    response_generation   a sentence with the results, given request, calls and results; the results are made up here, since
                          BFCL ships none

Does not: read files, split, or grade.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from hybrid.capability.graders.call_syntax import NONE
from hybrid.capability.suites.function_calling_data import Function, Parameter, ToolRow, Wanted
from hybrid.capability.types import Example

Task: TypeAlias = Literal[
    "call", "nested", "chaining", "parallel", "name_detection", "parameter_values", "next_best", "response_generation",
    "irrelevance",
]  # fmt: skip
TASKS: tuple[Task, ...] = get_args(Task)
GRANULAR: tuple[Task, ...] = TASKS[1:8]
"""The seven of Granite."""
WHOLE: tuple[Task, ...] = ("call", "nested", "chaining", "parallel", "irrelevance")
"""Tasks that are answered with whole calls."""
_CALL = (
    f"Answer with the calls that serve the request, one a line, as name(parameter=value). If none does, answer {NONE}."
)
_ASK: dict[Task, str] = {
    **dict.fromkeys(WHOLE, _CALL),
    "name_detection": "Answer with the names of the functions to call, in order, between commas. "
    f"If none serves the request, answer {NONE}.",
    "parameter_values": "Answer with the arguments of each call alone, a line a call, as parameter=value, between commas.",
    "next_best": "Answer with the name of the function to call next.",
    "response_generation": "Answer the request in one sentence that states every result.",
}
_HEAD: dict[Task, str] = {
    **dict.fromkeys(WHOLE, "Calls"),
    "name_detection": "Functions to call",
    "parameter_values": "Arguments",
    "next_best": "Next function",
    "response_generation": "Answer",
}


@dataclass(frozen=True)
class Nesting:
    """Where the result of another row's call goes: the parameter, and that row's request and call."""

    parameter: str
    request: str
    inner: Wanted


def applies(row: ToolRow, task: Task) -> bool:
    """Whether a task has something to ask of a row. For `nested`: whether the row may be the outer one."""
    names = row.names
    match task:
        case "call":
            return bool(names)
        case "irrelevance":
            return not names
        case "parallel":
            return len(names) > 1 and len(set(names)) == 1
        case "chaining":
            return len(set(names)) > 1
        case "nested":
            return len(names) == 1 and nestable(row) != ""
        case "parameter_values":
            return bool(names) and all(call.arguments() for call in row.calls)
        case "next_best":
            return len(names) > 1
        case "name_detection" | "response_generation":
            return bool(names)


def nestable(row: ToolRow) -> str:
    """The required parameter of a single call whose value another call may give: a text or a number. Empty: there is none."""
    call = row.calls[0]
    kinds = {p.name: p.type for f in row.library if f.name == call.name for p in f.parameters if p.required}
    return next((n for n in call.arguments() if kinds.get(n) in ("string", "integer", "float", "number")), "")


def nest(outer: ToolRow, inner: ToolRow) -> tuple[ToolRow, Nesting]:
    """The outer row with the inner row's functions beside its own, and where the inner result goes."""
    parameter = nestable(outer)
    known = {f.name for f in outer.library}
    library = (*outer.library, *(f for f in inner.library if f.name not in known))
    return replace(outer, library=library), Nesting(parameter, inner.request, inner.calls[0])


def render(row: ToolRow, task: Task, salt: str, nesting: Nesting | None = None, style: str = "signatures") -> Example:
    """The example of one task on a row that it applies to. `salt` draws what is made up: prefix of calls, results."""
    rng = random.Random(f"{salt} {task} {row.id}")
    known = [f.name for f in row.library]
    meta: dict[str, Any] = {"library": known}
    body, reference, wrong = _parts(row, task, rng, nesting, meta)
    lines = ["Functions:", *(described(f, style) for f in row.library), "", f"Request: {_request(row, task, nesting)}"]
    prompt = "\n".join([*lines, *body, "", _ASK[task], f"{_HEAD[task]}:"])
    metadata = {"calls": meta, "task": task, "category": row.category, "bfcl": row.id}
    gold = reference or NONE
    return Example(
        id=f"{task}-{row.id}",
        prompt=prompt,
        reference=reference,
        gold=None if gold == reference else gold,
        metadata=metadata,
        wrong=tuple(dict.fromkeys(w for w in wrong if w != gold)),
    )


def described(function: Function, style: str) -> str:
    """A function as the model reads it: a signature with its first sentence, or the JSON that BFCL gives."""
    if style == "json":
        return function_json(function)
    shown = ", ".join(
        f"{p.name}: {p.type}{'' if p.required else ' = default'}{_choices(p)}" for p in function.parameters
    )
    return f"- {function.name}({shown}): {_sentence(function.description)}"


def function_json(function: Function) -> str:
    """One line of JSON with every description."""
    import json

    properties = {
        p.name: {"type": p.type, "description": p.description, **({"enum": list(p.choices)} if p.choices else {})}
        for p in function.parameters
    }
    required = [p.name for p in function.parameters if p.required]
    parameters = {"type": "object", "properties": properties, "required": required}
    return json.dumps(
        {"name": function.name, "description": function.description, "parameters": parameters}, ensure_ascii=False
    )


def written(call: Wanted, instead: dict[str, str] | None = None) -> str:
    """`f(x=1, y="a")` with the first acceptable values; `instead` holds the text of values that are calls."""
    return f"{call.name}({_arguments(call, instead)})"


def _arguments(call: Wanted, instead: dict[str, str] | None = None) -> str:
    given = {name: repr(value) for name, value in call.arguments().items()} | (instead or {})
    return ", ".join(f"{name}={text}" for name, text in given.items())


def _request(row: ToolRow, task: Task, nesting: Nesting | None) -> str:
    if nesting is None:
        return row.request
    return (
        f"{row.request}\nBut for {nesting.parameter} do not use a value of this request: call a function for the following, "
        f"and write that call in its place.\n{nesting.request}"
    )


def _parts(
    row: ToolRow, task: Task, rng: random.Random, nesting: Nesting | None, meta: dict[str, Any]
) -> tuple[list[str], str, list[str]]:
    """What stands below the request, the reference, and wrong answers. Fills `meta` for the grader."""
    if task == "name_detection":
        meta |= {"asked": "names", "names": row.names}
        names = ", ".join(row.names)
        return [], names, [*_other_names(row), f"{names}, {row.names[0]}"] if names else [row.library[0].name]
    if task == "next_best":
        done = rng.randint(1, len(row.calls) - 1)
        left = list(dict.fromkeys(row.names[done:]))
        meta |= {"asked": "next", "names": left}
        made = [written(call) for call in row.calls[:done]]
        return ["Calls made:", *made], left[0], [NONE, f"{left[0]}, {left[0]}", *_other_names(row, left)]
    if task == "parameter_values":
        meta |= {"asked": "arguments", "names": row.names, "accept": _accepted(row)}
        lines = [_arguments(call) for call in row.calls]
        wrong = ["", "\n".join([*lines, lines[-1]]), _arguments(_spoiled(row.calls[0]))]
        return ["Functions to call: " + ", ".join(row.names)], "\n".join(lines), wrong
    if task == "response_generation":
        results = _results(rng, row)
        meta |= {"asked": "answer", "results": results}
        done_lines = [f"{written(call)} -> {result}" for call, result in zip(row.calls, results, strict=True)]
        reference = f"{'The results are' if len(results) > 1 else 'The result is'} {' and '.join(results)}."
        return ["Calls and results:", *done_lines], reference, [
            "", "The result is known.", written(row.calls[0]), f"{reference} It is 1234.5 in all.",
        ]  # fmt: skip
    return [], *_whole(row, nesting, meta)


def _whole(row: ToolRow, nesting: Nesting | None, meta: dict[str, Any]) -> tuple[str, list[str]]:
    """Reference and wrong answers of the tasks that ask for whole calls."""
    if not row.calls:
        return "", [f"{row.library[0].name}()", f"{row.library[0].name}(x="]
    if nesting is not None:
        outer, inner = row.calls[0], written(nesting.inner)
        call = {nesting.inner.name: _plain(nesting.inner)}
        accept = {outer.name: {**_plain(outer), nesting.parameter: [{"call": call}]}}
        meta |= {"accept": [accept], "nested": True}
        return written(outer, {nesting.parameter: inner}), [written(outer), inner, f"{inner}\n{written(outer)}"]
    meta["accept"] = _accepted(row)
    calls = [written(call) for call in row.calls]
    spoiled = [written(_spoiled(row.calls[0])), *calls[1:]]
    others = [name for name in _other_names(row) if "," not in name]
    elsewhere = [f"{others[0]}({_arguments(row.calls[0])})"] if others else []
    return "\n".join(calls), [NONE, "\n".join([*calls, calls[0]]), "\n".join(spoiled), *elsewhere]


def _accepted(row: ToolRow) -> list[dict[str, dict[str, list[Any]]]]:
    return [{call.name: _plain(call)} for call in row.calls]


def _plain(call: Wanted) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in call.accept.items()}


def _spoiled(call: Wanted) -> Wanted:
    """The call with an argument more: wrong whatever the values may be."""
    return replace(call, accept={**call.accept, "unasked": [0]})


def _other_names(row: ToolRow, but: Sequence[str] = ()) -> list[str]:
    """A function of the library that is not called, or one that does not exist."""
    names = {*row.names, *but}
    return [next((f.name for f in row.library if f.name not in names), "no_such_function")]


def _results(rng: random.Random, row: ToolRow) -> list[str]:
    """Made-up results, one a call: numbers with one decimal that the request does not hold."""
    found: list[str] = []
    while len(found) < len(row.calls):
        number = f"{rng.randint(100, 999)}.{rng.randint(1, 9)}"
        if number not in found and number not in row.request:
            found.append(number)
    return found


def _choices(parameter: Parameter) -> str:
    return f" ({'|'.join(parameter.choices)})" if parameter.choices else ""


def _sentence(text: str) -> str:
    """The first sentence of a description, at most 200 characters."""
    head = text.split(". ")[0].split("\n")[0].strip()
    return f"{head.rstrip('.')[:200]}."
