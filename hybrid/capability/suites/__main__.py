"""`python -m hybrid.capability.suites [NAME ... | all]` prints what the suites are.

Without names: a table of all suites. With names: their options, and a test row and a variant of each. `--write docs/suites.md`
puts what `all` prints between the two marks of that page. Does not: need a configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hybrid.capability.suites import SUITES
from hybrid.capability.suites.asking import Asking
from hybrid.capability.suites.base import Suite, SuiteError, require
from hybrid.capability.suites.load import named_suite
from hybrid.capability.suites.twinned import Twinned
from hybrid.config.schema import SuiteSizes
from hybrid.config.shape import default_of, expected, strip
from hybrid.config.suggest import did_you_mean

BEGIN, END = "<!-- printed by python -m hybrid.capability.suites all -->", "<!-- end of what is printed -->"
_LONGEST = 600
_ALL = "most suites"
_PROBLEMS = "problems that lose an element"
_SMALL = SuiteSizes(train=8, search=4, confirm=4, test=12, variant=4)


def table() -> Iterator[str]:
    """A row of Markdown per suite."""
    yield "| suite | measures | source | licence | needs |"
    yield "|---|---|---|---|---|"
    for name in sorted(SUITES):
        about = named_suite(name).about
        needs = ", ".join(about.needs or {}) or "nothing"
        yield f"| `{name}` | {about.measures} | {about.source} | {about.licence} | {needs} |"


def options_of(model: type[BaseModel], without: type[BaseModel] | None = None) -> Iterator[str]:
    """A row of Markdown per option in the order in which they are written; those of the model `without` are left out."""
    shared = set(without.model_fields) if without is not None else set()
    if shared == set(model.model_fields):
        return
    yield "| option | default | what |"
    yield "|---|---|---|"
    for name, field in model.model_fields.items():
        if name in shared:
            continue
        shape = strip(field.annotation, field)
        default = default_of(shape).strip("'") or _in_short(field.default)
        what = " ".join((field.description or "").split())
        yield f"| `{name}` | {f'`{default}`' if default else 'none'} | {_cell(what)} ({_cell(expected(shape))}) |"


def example_of(suite: Suite, name: str) -> Iterator[str]:
    """The first test row and the first variant, as JSON; or why there is none."""
    try:
        for module, install in (suite.about.needs or {}).items():
            require(module, install, f"the suite {name!r}")
        made = suite.build(suite.options(), _SMALL, 0)
    except SuiteError as error:
        yield f"({error}; {error.fix})"
        return
    for split in ("test", "variant"):
        for row in list(made.splits.get(split, ()))[:1]:
            text = json.dumps(row.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
            yield text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _in_short(value: Any) -> str:
    text = json.dumps(value, default=str) if value not in (None, "") else ""
    return text if len(text) <= 40 else text[:37] + "..."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def described(name: str) -> Iterator[str]:
    """The section of one suite."""
    suite = named_suite(name)
    shared: type[BaseModel] | None = next((base for base in (Twinned, Asking) if issubclass(suite.options, base)), None)
    yield f"### {name}"
    yield ""
    yield from options_of(suite.options, shared)
    if shared is not None:
        both = f"{_ALL} and {_PROBLEMS}" if shared is Twinned else _ALL
        yield f"\nAlso the options of {both}."
    yield "\n```json"
    yield from example_of(suite, name)
    yield "```"


def everything() -> Iterator[str]:
    """What docs/suites.md says of all suites."""
    yield from table()
    yield f"\n### Options of {_ALL}\n"
    yield from options_of(Asking)
    yield f"\n### Options of {_PROBLEMS}\n"
    yield from options_of(Twinned, Asking)
    for name in sorted(SUITES):
        yield ""
        yield from described(name)


def main(arguments: list[str]) -> int:
    """Print the table, or the named suites, or write the page."""
    if arguments[:1] == ["--write"] and len(arguments) == 2:
        page = Path(arguments[1])
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{BEGIN}\n" + "\n".join(everything()) + f"\n{END}{after}", encoding="utf-8")
        return 0
    if arguments in ([], ["all"]):
        print("\n".join(everything() if arguments else table()))
        return 0
    for name in arguments:
        if name not in SUITES:
            print(did_you_mean(name, SUITES, "the suites are"), file=sys.stderr)
            return 2
        print("\n".join(described(name)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
