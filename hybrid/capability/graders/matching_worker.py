"""The other side of `matching`: a bare interpreter that matches patterns until its input ends.

One JSON request a line, one JSON reply a line. A request that costs more processor time than it allows ends this
process by signal, which works even inside the matching engine. Run as a script on the standard library; not imported.
"""

import json
import re
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 1 << 30


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """The index of the first pattern that matches, or -1."""
    patterns = [re.compile(pattern) for pattern in request["patterns"]]
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        for index, pattern in enumerate(patterns):
            match = pattern.fullmatch if request["full"] else pattern.search
            if match(request["text"]):
                return {"first": index}
    except MemoryError:
        return {"too_costly": True}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return {"first": -1}


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
