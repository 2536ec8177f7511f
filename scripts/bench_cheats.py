"""Seven known cheats against three ways of grading code: how many does each accept?

    python scripts/bench_cheats.py          # a minute on one core; exit code 1 when the code grader accepts a cheat

The task is `add(a, b)`, with `add(2, 3)` shown in the prompt. The two common graders append the shown test to the answer and
believe the exit status, or a sentinel that is printed at the end. The third is `type: code` of this project, with hidden
inputs. Controls: an honest answer, which each has to accept, and a wrong one, which each has to refuse.

Does not: isolate the two common graders (the answers here are harmless), or measure a model.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from hybrid.capability.graders import build_grader
from hybrid.capability.types import Example
from hybrid.config.schema import CodeGrader

SENTINEL = "ALL TESTS PASSED"
TEST = f"\nassert add(2, 3) == 5\nprint({SENTINEL!r})\n"

CHEATS = {
    "sys.exit(0)": "import sys\ndef add(a, b):\n    sys.exit(0)\n",
    "os._exit(0)": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "prints the sentinel and exits": f"import os\nprint({SENTINEL!r}, flush=True)\nos._exit(0)\n",
    "__eq__ is always true": (
        "class Anything:\n    def __eq__(self, other):\n        return True\n"
        "    __hash__ = None\ndef add(a, b):\n    return Anything()\n"
    ),
    "atexit": (
        "import atexit, os\ndef end():\n"
        f"    print({SENTINEL!r}, flush=True)\n    os._exit(0)\natexit.register(end)\ndef add(a, b):\n    return 0\n"
    ),
    "excepthook": (
        "import os, sys\ndef hook(*error):\n"
        f"    print({SENTINEL!r}, flush=True)\n    os._exit(0)\nsys.excepthook = hook\ndef add(a, b):\n    return 0\n"
    ),
    "hard-coded inputs": "def add(a, b):\n    return {(2, 3): 5}.get((a, b), 0)\n",
}
HONEST = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"
EXAMPLE = Example(
    id="add",
    prompt="Write a Python function add(a, b) that returns the sum, so that add(2, 3) is 5.",
    reference=HONEST,
    metadata={"cases": [{"args": [x, y], "expect": x + y} for x, y in ((17, 25), (-4, 11), (0, 6), (123, -1000))]},
)

Accepts = Callable[[str], bool]


def by_exit_status(code: str) -> bool:
    """The answer and the test in one process: status 0 passes."""
    return subprocess.run([sys.executable, "-c", code + TEST], capture_output=True, timeout=60).returncode == 0


def by_sentinel(code: str) -> bool:
    """The same, but the sentinel has to be printed."""
    return (
        SENTINEL in subprocess.run([sys.executable, "-c", code + TEST], capture_output=True, timeout=60).stdout.decode()
    )


def by_values() -> Accepts:
    """The code grader of this project."""
    grader = build_grader(CodeGrader(type="code", acknowledge="runs model-written code", entry="add"))
    return lambda code: grader.grade(code, EXAMPLE).passed


def price(times: int = 21) -> None:
    """Print what one honest answer costs, beside a bare interpreter that starts and ends."""
    judge = by_values()
    values = _median_ms(lambda: judge(HONEST), times)
    bare = _median_ms(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""]), times)
    cases = len(EXAMPLE.metadata["cases"])
    print(
        f"\nAn honest answer of {cases} cases: {values:.0f} ms; an interpreter that does nothing: {bare:.0f} ms", end=""
    )
    print(f" (medians of {times}, wall time).")


def _median_ms(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> int:
    """Print the table; 1 when the code grader is fooled or a control comes out wrong."""
    graders: dict[str, Accepts] = {"exit status": by_exit_status, "sentinel": by_sentinel, "type: code": by_values()}
    names = [*CHEATS, "honest", "wrong"]
    verdicts = {
        name: {label: accepts(code) for label, accepts in graders.items()}
        for name, code in zip(names, [*CHEATS.values(), HONEST, WRONG], strict=True)
    }
    print("| answer | " + " | ".join(graders) + " |\n|---" + "|---" * len(graders) + "|")
    for name, row in verdicts.items():
        print(f"| {name} | " + " | ".join("accepted" if ok else "refused" for ok in row.values()) + " |")
    fooled = {label: sum(verdicts[cheat][label] for cheat in CHEATS) for label in graders}
    print("| **cheats accepted** | " + " | ".join(f"**{n} of {len(CHEATS)}**" for n in fooled.values()) + " |")
    price()
    controls = all(verdicts["honest"].values()) and not any(verdicts["wrong"].values())
    return 0 if controls and fooled["type: code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
