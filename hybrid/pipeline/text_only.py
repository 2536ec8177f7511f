"""What a run over a model without reachable weights does in place of training: documents alone, and it says so.

Does not: know why there are none (see `Config.trains`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hybrid.router.place import ArmName
from hybrid.router.route import Route


def text_route(route: Route) -> Route:
    """The route with every attempt at weights replaced by one at a document, with the reason."""
    if route.placement not in ("weights", "both"):
        return replace(route, fallback=None)
    said = f"the probes say {route.placement}, but this model's weights cannot be trained: a document alone is tried"
    return replace(route, placement="skill", fallback=None, reasons=(*route.reasons, said))


def text_arms(arms: Sequence[ArmName]) -> tuple[ArmName, ...]:
    """The arms that need no weights."""
    return tuple(arm for arm in arms if arm == "skill")
