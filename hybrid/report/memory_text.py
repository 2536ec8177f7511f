"""What a training took beside its base, in words and as a figure: predicted before it began, and measured at its highest.

Does not: predict or measure (see `hybrid.backends.memory`).
"""

from __future__ import annotations

from markupsafe import Markup

from hybrid.report import svg
from hybrid.report.schema import CapabilityReport, TrainingMemory
from hybrid.report.text import ABSENT, line


def memory_line(m: TrainingMemory) -> str:
    """One sentence; a number that is not known shows as absent."""
    found = [ABSENT if size is None else f"{size:,} MiB" for size in (m.predicted_mib, m.measured_mib)]
    return f"Memory beside the base, passes of {m.rows_per_device} rows: predicted {found[0]}, measured {found[1]}."


def memory_figure(capability: CapabilityReport, uid: str) -> Markup:
    """A bar for each number that is known, or nothing where none is."""
    memory = capability.training.memory if capability.training else None
    if memory is None:
        return Markup("")
    sizes = (("predicted", memory.predicted_mib), ("measured", memory.measured_mib))
    rows = [(name, float(size), f"{size:,} MiB") for name, size in sizes if size is not None]
    if not rows:
        return Markup("")
    title = f"Memory of the training of {line(capability.name, 80)}"
    return svg.bars(uid, rows, (title, memory_line(memory), "MiB beside the base"))
