"""`python -m hybrid` and the `hybrid` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 ok, 1 failed, 2 usage or config, 3 budget exhausted, 130 interrupted."""
    from hybrid.cli.edge import execute

    return execute(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
