"""The edge of the process: runs one command line, turns every deliberate error into sentences and an exit code.

Exit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 budget exhausted, 130 interrupted. Does not: know any
verb. An error that is none of hybrid's own is a bug and keeps its traceback.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from typer.exceptions import Abort, TyperException

from hybrid.cli.output import Output, open_output
from hybrid.errors import BudgetExhausted, HybridError, ProblemsError, UsageError

FAILED, USAGE, BUDGET, INTERRUPTED = 1, 2, 3, 130
_CONTINUES = "interrupted; what was done is kept, and the same command continues from there"


def execute(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return the exit code. Prints; raises only for bugs."""
    with open_output(as_json=_wants_json(argv)) as output:
        try:
            return _guarded(argv, output)
        except BrokenPipeError:
            output.abandon()
            return FAILED
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            output.error("OSError", f"{where}{(error.strerror or str(error)).lower()}", FAILED)
            return FAILED
        except Exception as error:
            if output.as_json:  # whoever reads stdout gets a document even for a bug; the traceback goes to stderr
                output.error(type(error).__name__, f"a bug in hybrid: {error}", FAILED)
            raise


def exit_code(error: HybridError) -> int:
    """The exit code that belongs to a deliberate error."""
    if isinstance(error, ProblemsError | UsageError):
        return USAGE
    return BUDGET if isinstance(error, BudgetExhausted) else FAILED


def _guarded(argv: Sequence[str], output: Output) -> int:
    from hybrid.cli.app import invoke

    try:
        with _terminable():
            return invoke(list(argv), output)
    except HybridError as error:
        return _show(error, output)
    except TyperException as error:
        output.error("UsageError", _usage(error), USAGE)
        return USAGE
    except (KeyboardInterrupt, Abort):
        output.error("Interrupted", _CONTINUES, INTERRUPTED)
        return INTERRUPTED


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM (of a scheduler, say) ends the command like Ctrl-C: locks are let go, and the exit code is 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(error: HybridError, output: Output) -> int:
    code = exit_code(error)
    message = str(error)
    problems = error.problems if isinstance(error, ProblemsError) else ()
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        summary = f"{count}; nothing was run"
        message = summary if output.as_json else f"{message}\n{summary}"
    output.error(type(error).__name__, message, code, [asdict(p) for p in problems])
    return code


def _usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    sentence = error.format_message()
    if context is None:
        return sentence
    return f"{sentence}\n{context.get_usage()}\nSee `{context.command_path} --help`."


def _wants_json(argv: Sequence[str]) -> bool:
    before = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    return "--json" in before
