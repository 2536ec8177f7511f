"""`python -m hybrid.capability.suites [NAME ...]` prints what the suites are: docs/suites.md holds its output.

Without names: a table of all suites. With names: their options and one row of each. Does not: need a configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from hybrid.capability.suites import SUITES
from hybrid.capability.suites.base import Suite, SuiteError, require
from hybrid.capability.suites.load import named_suite
from hybrid.config.schema import SuiteSizes
from hybrid.config.shape import default_of, expected, strip

_LONGEST = 600
_SMALL = SuiteSizes(train=8, search=4, confirm=4, test=12, variant=4)


def table() -> Iterator[str]:
    """A row of Markdown per suite."""
    yield "| suite | measures | source | licence | needs |"
    yield "|---|---|---|---|---|"
    for name in sorted(SUITES):
        about = named_suite(name).about
        needs = ", ".join(about.needs or {}) or "nothing"
        yield f"| `{name}` | {about.measures} | {about.source} | {about.licence} | {needs} |"


def options_of(suite: Suite) -> Iterator[str]:
    """A row of Markdown per option, in the order in which they are written."""
    model: type[BaseModel] = suite.options
    yield "| option | default | what |"
    yield "|---|---|---|"
    for name, field in model.model_fields.items():
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


def main(names: list[str]) -> int:
    """Print the table, or the named suites."""
    if not names:
        print("\n".join(table()))
        return 0
    for name in names:
        try:
            suite = named_suite(name)
        except SuiteError as error:
            print(f"{error}; {error.fix}", file=sys.stderr)
            return 2
        print(f"### `{name}`\n")
        print("\n".join(options_of(suite)))
        print("\n```json\n" + "\n".join(example_of(suite, name)) + "\n```\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
