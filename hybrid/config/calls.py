"""The section of the function-call grader.

Does not: read calls (see `hybrid.capability.graders.calls`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.section import Section


class FunctionCallGrader(Section):
    """The completion is the call (or the calls) of the reference: `f(x=1, y="a")`, several in a list or one a line.

    Arguments may come in any order. An empty reference means that no call is right, and then only no call passes.
    """

    type: Literal["function-call"]
    order: bool = False
    """Whether arguments have to come in the order of the reference."""
    tolerance: float = Field(default=1e-9, ge=0, lt=1)
    """Relative and absolute tolerance of numbers; 2 and 2.0 are equal in value, and differ in the facet `types`."""
    score: Literal["all", "share"] = "all"
    """The value of an answer: 1 when every part is right and 0 otherwise, or partial credit (.1 for being a call, .2 for the
    number of calls, .3 for names, .2 for argument names, .2 for values), which is 1 only for a right answer."""
