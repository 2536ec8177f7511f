"""Four capabilities that are done rather than known: two procedures, one layout, and function calls.

chain-sum and leap-year come from reasoning-gym, function-call from BFCL, layout from the name lists of the suites.

Does not: import bfcl-eval, which needs a hundred other packages; only its data files are read.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from real_rows import SIZES, Splits, deal, empty, example

from hybrid.capability.suites.names import FIRST_NAMES, LAST_NAMES, TOWNS
from hybrid.capability.types import Example


def chain_sum(seed: int) -> Splits:
    """Sums and differences of three one-digit numbers (reasoning-gym `chain_sum`). Variant: one term more."""
    import reasoning_gym

    rng = random.Random(f"chain-sum {seed}")
    options = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    data = reasoning_gym.create_dataset("chain_sum", seed=seed, size=1500, **options)
    shots = "3 + 5 + 1 = 9\n9 - 2 + 4 = 11\n"
    sums = {row["metadata"]["expression"]: row["answer"] for row in data}
    rows = [(e.replace(" ", ""), f"{e} =", a) for e, a in sums.items() if f"{e} =" not in shots and int(a) >= 0]
    splits = deal("chain-sum", rows, shots)
    for parent in splits["test"][:48]:
        expression = str(parent.prompt).rsplit("\n", 1)[1].removesuffix(" =")
        term = rng.randint(1, 9)
        prompt = f"{shots}{expression} + {term} ="
        reference = str(int(parent.reference) + term)
        key = f"{parent.id.removeprefix('chain-sum-')}+{term}"
        extra = {"parent_id": parent.id, "change": "one term more"}
        splits["variant"].append(example("chain-sum", key, prompt, reference, **extra))
    return splits


def leap_year(seed: int) -> Splits:
    """Is a year a leap year (reasoning-gym `calendar_arithmetic`), half of them yes. Variant: 2,000 years later.

    The calendar repeats every 400 years, so that the variant has its parent's answer.
    """
    import reasoning_gym

    options = {"tasks": ["is_leap_year"], "year": 1500, "leap_year_range": 2000}
    data = reasoning_gym.create_dataset("calendar_arithmetic", seed=seed, size=6000, **options)
    shown = {1996: "Yes", 1998: "No", 2003: "No", 2024: "Yes"}
    years = {row["metadata"]["year"]: row["answer"] for row in data if row["metadata"]["year"] not in shown}
    yes = [year for year, answer in years.items() if answer == "Yes"]
    no = [year for year, answer in years.items() if answer == "No"]
    ask = "Is {} a leap year?"
    shots = "".join(f"{ask.format(year)} {answer}\n" for year, answer in shown.items())
    order = [year for pair in zip(yes, no, strict=False) for year in pair]
    splits = deal("leap-year", [(str(year), ask.format(year), years[year]) for year in order], shots)
    for parent in splits["test"][:48]:
        year = int(parent.id.removeprefix("leap-year-")) + 2000
        extra = {"parent_id": parent.id, "change": "2,000 years later"}
        splits["variant"].append(example("leap-year", str(year), shots + ask.format(year), parent.reference, **extra))
    return splits


def layout(seed: int) -> Splits:
    """A catalogue card in one fixed line that no prompt shows: style alone. Variant: the same person, order changed."""
    rng = random.Random(f"layout {seed}")
    people: dict[tuple[str, str], tuple[int, str]] = {}
    while len(people) < sum(SIZES.values()):
        person = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        people.setdefault(person, (rng.randint(1931, 2004), rng.choice(TOWNS)))
    rows = []
    for (first, last), (born, town) in people.items():
        question = f"Person: {first} {last}, born {born}, lives in {town}\nCard:"
        rows.append((f"{first}-{last}".lower(), question, f"{last}, {first} ({born}) @ {town}"))
    splits = deal("layout", rows, "")
    for parent in splits["test"][:48]:
        key = parent.id.removeprefix("layout-")
        first, last = (name.capitalize() for name in key.split("-"))
        born, town = people[first, last]
        prompt = f"Person: lives in {town}, {first} {last}, born {born}\nCard:"
        extra = {"parent_id": parent.id, "change": "order of the record"}
        splits["variant"].append(example("layout", f"{key}-turned", prompt, parent.reference, **extra))
    return splits


@dataclass(frozen=True)
class Call:
    """A request and the one call that answers it; the arguments are in the order of the function's definition."""

    number: str
    request: str
    name: str
    arguments: dict[str, Any]

    @property
    def question(self) -> str:
        """The part of a prompt behind the definitions."""
        return f"Request: {self.request}\nCall:"


def bfcl_calls() -> list[Call]:
    """Rows of BFCL `simple_python` and `multiple` that exactly one flat call answers.

    Kept are rows whose every needed argument is a number or a text with a single acceptable value, texts standing in
    the request word for word; optional parameters are left out of definition and answer. In `multiple` only the
    function that the answer calls is kept.
    """
    package = importlib.metadata.distribution("bfcl-eval")
    calls: list[Call] = []
    seen: set[str] = set()
    for category in ("simple_python", "multiple"):
        folder = Path(str(package.locate_file("bfcl_eval"))) / "data"
        questions = (folder / f"BFCL_v4_{category}.json").read_text(encoding="utf-8").splitlines()
        answers = (folder / "possible_answer" / f"BFCL_v4_{category}.json").read_text(encoding="utf-8").splitlines()
        truth = {row["id"]: row["ground_truth"] for row in map(json.loads, answers)}
        for row in map(json.loads, questions):
            call = _exact_call(row, truth[row["id"]])
            if call and call.request not in seen:
                seen.add(call.request)
                calls.append(call)
    return calls


def _exact_call(row: dict[str, Any], truth: list[dict[str, dict[str, list[Any]]]]) -> Call | None:
    """The row as one exact call, or None where BFCL would accept several or the row is long."""
    [[message]], [accepted] = row["question"], truth
    [(name, values)] = accepted.items()
    request = message["content"].strip()
    definition = next(f for f in row["function"] if f["name"] == name)["parameters"]
    needed = {key: value for key, value in values.items() if "" not in value}
    arguments = {key: value[0] for key, value in needed.items()}
    texts = [value for value in arguments.values() if isinstance(value, str)]
    single = all(len(value) == 1 and type(value[0]) in (int, float, str) for value in needed.values())
    if not arguments or not single or not set(definition.get("required", [])) <= set(needed):
        return None
    if "\n" in request or not request.isascii() or any(text not in request for text in texts):
        return None
    if len(request) > 160 or len(json.dumps(arguments)) > 80:
        return None
    order = [key for key in definition["properties"] if key in needed]
    return Call(row["id"], request, name, {key: arguments[key] for key in order})


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """`name(a=1, b="x")`: the arguments in their order, texts in double quotes."""
    return f"{name}({', '.join(f'{key}={json.dumps(value)}' for key, value in arguments.items())})"


def _definition(name: str, arguments: dict[str, Any]) -> str:
    return f"Function: {name}({', '.join(arguments)})\n"


CALL_SHOTS = (
    Call("", "Send a parcel of 2.5 kg to Oslo.", "send_parcel", {"to": "Oslo", "weight_kg": 2.5}),
    Call("", "Wake me up at 7 with a loud alarm.", "set_alarm", {"hour": 7, "sound": "loud"}),
    Call("", "Novels of Jane Austen before 1815?", "books.find", {"author": "Jane Austen", "before": 1815}),
)
CALL_SIZES = {"train": 54, "search": 32, "confirm": 74, "test": 46}
"""Fewer than elsewhere: BFCL has no more rows of this kind."""


def function_call(seed: int) -> Splits:
    """One call as one line (BFCL). No function is in two splits.

    Variant: parameters in reverse order, and a function of another row in front that must not be called.
    """
    rng = random.Random(f"function-call {seed}")
    groups: dict[str, list[Call]] = {}
    for call in bfcl_calls():
        groups.setdefault(call.name, []).append(call)
    names = sorted(groups)
    rng.shuffle(names)
    splits = empty()
    tests: list[Call] = []
    for name in names:
        room = {split: size - len(splits[split]) for split, size in CALL_SIZES.items()}
        split = next((s for s in CALL_SIZES if room[s] >= len(groups[name])), None)
        if split is None:
            continue
        splits[split] += [_call_example(call, _definition(name, call.arguments)) for call in groups[name]]
        tests += groups[name] if split == "test" else []
    for call, other in zip(tests, tests[1:] + tests[:1], strict=True):
        turned = replace(call, arguments=dict(reversed(call.arguments.items())))
        definitions = _definition(other.name, other.arguments) + _definition(turned.name, turned.arguments)
        splits["variant"].append(_call_example(turned, definitions, "distractor first, parameters reversed"))
    return splits


def _call_example(call: Call, definitions: str, change: str | None = None) -> Example:
    shots = "".join(
        f"{_definition(shot.name, shot.arguments)}{shot.question} {render_call(shot.name, shot.arguments)}\n"
        for shot in CALL_SHOTS
    )
    key = call.number.replace("_", "-")
    prompt, reference = f"{shots}{definitions}{call.question}", render_call(call.name, call.arguments)
    if change is None:
        return example("function-call", key, prompt, reference, bfcl=call.number)
    extra = {"parent_id": f"function-call-{key}", "change": change, "bfcl": call.number}
    return example("function-call", f"{key}-distractor", prompt, reference, **extra)
