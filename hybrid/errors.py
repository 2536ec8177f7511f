"""Every error that hybrid raises on purpose, and what it does to the run.

A user's mistake prints as `FILE:LINE: key.path: what is wrong; what to do` and never as a traceback. Plain Python
errors that reach the command line are bugs in hybrid. Does not: log, print or decide exit codes (see `cli`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HybridError(Exception):
    """Root of all deliberate errors. The run stops; everything already paid for stays in the run folder."""


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in one place. `line` is 1-based; 0 means that the place has no line. `key` may be empty."""

    file: str
    line: int
    key: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} {self.message}" + (f"; {self.fix}" if self.fix else "")


class ProblemsError(HybridError):
    """Several mistakes, all found in one pass. Nothing was run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(p) for p in self.problems))


class ConfigError(ProblemsError):
    """The configuration cannot be used (exit code 2). Nothing was run."""


class DataError(ProblemsError):
    """A data file or skill document cannot be used (exit code 2). Nothing was run."""


class UsageError(HybridError):
    """The command cannot do what was asked with these arguments (exit code 2). Nothing was run."""


class BackendError(HybridError):
    """The model could not be reached or loaded, or cannot run on the asked device. The run stops and can be resumed."""


class PromptError(BackendError):
    """One prompt cannot be answered by the model: it holds nothing, or leaves no room for an answer. Others can."""


class EndpointError(BackendError):
    """A model behind an endpoint gave no reply: unreachable, refused, or out of retries. The run stops and can be resumed;
    replies that were paid for are kept."""


class AdapterError(HybridError):
    """An adapter does not belong to this base, matches no module, or holds non-finite weights. It is never used."""


class BudgetExhausted(HybridError):  # noqa: N818  # a limit that did its work, not a fault
    """A hard limit was reached (exit code 3). What was paid is kept; a larger budget and the same command go on."""


class RunFolderError(HybridError):
    """The run folder is damaged, locked by another process, or belongs to another configuration. Nothing is changed."""


class TrainingError(HybridError):
    """Training produced a non-finite loss or reward, or has no signal to learn from. The capability keeps its last state."""
