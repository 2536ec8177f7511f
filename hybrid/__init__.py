"""hybrid: decide by measurement where each capability of a language model should live, in text or in weights.

import hybrid
model = hybrid.load("runs/quickstart")     # a finished run, or an export
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid.serve.placed import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`hybrid.load` is imported when it is first asked for: `import hybrid` itself loads nothing."""
    if name == "load":
        from hybrid.serve.placed import load

        return load
    raise AttributeError(f"module 'hybrid' has no attribute {name!r}")
