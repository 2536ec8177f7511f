"""One run of one method on one seed: what it is given, and what is kept of it.

Does not: know how any method works (`peers_skillopt`, `peers_gepa`, `arm_hybrid`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loopback_endpoint import LoopbackEndpoint

from text_bench.pool import Proposals
from text_bench.replies import Replies
from text_bench.target import Count, Target, shown
from text_bench.world import World


@dataclass
class Run:
    """A method's view of one seed, and its record.

    `handed` holds (rollouts spent, document) whenever the document that the method would hand over changes; the first entry is
    the start. `final` is the document of the search, `ships` whether the user gets it rather than the start; `ship_rollouts`
    are those of the decision to ship, which are not part of `count`. `ended` says why the search ended.
    """

    world: World
    target: Target
    count: Count
    proposals: Proposals
    url: str = ""
    handed: list[tuple[int, str]] = field(default_factory=list)
    final: str = ""
    ships: bool = False
    ship_rollouts: int = 0
    ended: str = ""

    def hand(self, document: str) -> None:
        """Note the document that the method would hand over now."""
        if not self.handed or shown(self.handed[-1][1]) != shown(document):
            self.handed.append((self.count.spent, document))

    def close(self, document: str, ended: str) -> None:
        """The search is over. Without a gate of its own, a method ships whatever differs from the start."""
        self.hand(document)
        self.final, self.ended = document, ended
        self.ships = shown(document) != shown(self.world.start)


Method = Callable[[Run], None]
"""Runs one method to its end on a prepared run."""


@contextmanager
def proposer(run: Run) -> Iterator[LoopbackEndpoint]:
    """The loopback server of one run; its address is in `run.url` meanwhile."""
    with LoopbackEndpoint(Replies(run.proposals)) as server:
        run.url = server.url
        yield server
