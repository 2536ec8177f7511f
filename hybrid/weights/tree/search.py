"""Search over the completions of one prompt as a tree of options. Pure: who generates and who grades is outside.

    tree = Tree(settings, cut, leaves=8, room=64)
    while branches := tree.want():
        for branch in branches:
            leaf = tree.take(branch, tokens)          # sampled after branch.prefix, to its end
            tree.leaves[leaf].score = grade(...)      # in [0, 1]

An option is the tokens up to a delimiter, the end of the completion or a number of tokens. A branch is sampled to its end and
kept whole: the options after its first one are what AlphaLLM (Tian et al. 2024, 2404.12253) calls a fast rollout, and here they
are nodes as well, so that no generated token is thrown away. Selection is UCT down to a node that may have more children; how
many it may have grows with its importance (section 4.2 of the paper). Everything is a function of what was taken.

Does not: draw random numbers, know a model, or say what training makes of the tree (see `credit`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hybrid.config.tree import TreeConfig

_RETRIES = 1
"""Samples more than children that a node may get when they merge."""

Cut = Callable[[Sequence[int]], list[int]]
"""Tokens of a whole completion -> where its options end, ascending; the last is its length."""


def cutter(is_delimiter: Callable[[int], bool], most: int) -> Cut:
    """Options end after a token that holds the delimiter, and after `most` tokens without one."""

    def cut(tokens: Sequence[int]) -> list[int]:
        ends, begin = [], 0
        for place, token in enumerate(tokens, start=1):
            if is_delimiter(token) or place - begin == most:
                ends.append(place)
                begin = place
        return ends if ends[-1:] == [len(tokens)] else [*ends, len(tokens)]

    return cut


@dataclass(frozen=True)
class Branch:
    """What to sample: a continuation of `prefix` of at most `room` tokens. `draw` numbers the samples of a tree."""

    node: int
    prefix: tuple[int, ...]
    room: int
    draw: int


@dataclass
class Node:
    """A state: the prompt and `prefix`. `draws` counts how often sampling at the parent led here; `ended` is a completion.

    `estimates` are the critics' scores in [0, 1], by name.
    """

    parent: int | None
    prefix: tuple[int, ...]
    depth: int
    ended: bool
    draws: int = 0
    children: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    estimates: dict[str, float] = field(default_factory=dict)


@dataclass
class Leaf:
    """A completion. `path` holds its nodes without the root and `ends` where their options end in `tokens`.

    `score` in [0, 1] guides the search; it is set after `take`. `judged` is whether it is a verdict of the checker.
    """

    tokens: tuple[int, ...]
    path: tuple[int, ...]
    ends: tuple[int, ...]
    score: float = 0.0
    judged: bool = False


class Tree:
    """The tree of one prompt; `room` is the most tokens of a completion. `nodes[0]` is the prompt itself.

    `spent` counts sampled tokens, `read` those of the completion that sampling had to read again, `merged` the options that
    fell into a state that was there.
    """

    def __init__(self, settings: TreeConfig, cut: Cut, leaves: int, room: int) -> None:
        self._settings, self._cut, self._most, self._room = settings, cut, leaves, room
        self.nodes = [Node(None, (), 0, False)]
        self.leaves: list[Leaf] = []
        self.spent = self.read = self.merged = 0

    def want(self) -> list[Branch]:
        """The next samples, which may be generated together; empty when the tree is full or the budget spent."""
        free = self._most - len(self.leaves)
        count = min(self._settings.wave if self.leaves else self._settings.first, free)
        pending: Counter[int] = Counter()
        found: list[Branch] = []
        owed = 0
        for _ in range(count):
            number = self._select(pending) if self.leaves else 0
            node = self.nodes[number]
            room = self._room - len(node.prefix)
            if self._settings.budget_tokens is not None and self.spent + owed + room > self._settings.budget_tokens:
                break
            owed += room
            pending[number] += 1
            found.append(Branch(number, node.prefix, room, len(self.leaves) + len(found)))
        return found

    def take(self, branch: Branch, tokens: Sequence[int]) -> int:
        """Add a sampled continuation (at least one token); the number of its leaf.

        Raises ValueError for no tokens or more than there was room for.
        """
        if not 0 < len(tokens) <= branch.room:
            raise ValueError(f"a continuation of {len(tokens)} tokens where 1 to {branch.room} were asked for")
        self.spent += len(tokens)
        self.read += len(branch.prefix)
        whole = (*branch.prefix, *tokens)
        path = self._path_to(branch.node)
        ends = [len(self.nodes[number].prefix) for number in path]
        current = branch.node
        for end in self._cut(whole):
            if end <= len(branch.prefix):
                continue
            current = self._step(current, whole[:end], ended=end == len(whole))
            path.append(current)
            ends.append(end)
        leaf = len(self.leaves)
        self.leaves.append(Leaf(whole, tuple(path), tuple(ends)))
        for number in (0, *path):
            self.nodes[number].leaves.append(leaf)
        return leaf

    def draws(self, number: int) -> int:
        """How often an option was sampled at a node."""
        return sum(self.nodes[child].draws for child in self.nodes[number].children)

    def values(self, returns: Sequence[float]) -> list[float]:
        """V of every node: the mean return of what was sampled there, `returns` by leaf.

        Each sample at a node counts once, however many leaves the search put below it: V(n) is the mean of V over children,
        weighted by how often sampling led to them. Weighing leaves alike would take the search's taste for the policy's.
        """
        found = [0.0] * len(self.nodes)
        for number in range(len(self.nodes) - 1, -1, -1):  # children come after their parents
            node = self.nodes[number]
            if node.children:
                total = math.fsum(self.nodes[child].draws * found[child] for child in node.children)
                found[number] = total / self.draws(number)
            elif node.leaves:
                found[number] = math.fsum(returns[leaf] for leaf in node.leaves) / len(node.leaves)
        return found

    def reach(self) -> list[float]:
        """The share of samples from the prompt that would come by each node, estimated from the draws: 1 at the root."""
        found = [1.0] * len(self.nodes)
        for number, node in enumerate(self.nodes):
            for child in node.children:
                found[child] = found[number] * self.nodes[child].draws / self.draws(number)
        return found

    def scores(self) -> list[float]:
        """What the search thinks of every node: the mean of V over its leaves' scores and of the critics' estimates."""
        values = self.values([leaf.score for leaf in self.leaves])
        return [
            math.fsum((value, *node.estimates.values())) / (1 + len(node.estimates))
            for value, node in zip(values, self.nodes, strict=True)
        ]

    def path_scores(self) -> list[float]:
        """By leaf, the mean score of its nodes; what a best leaf is chosen by."""
        scores = self.scores()
        return [math.fsum(scores[n] for n in leaf.path) / len(leaf.path) for leaf in self.leaves]

    @property
    def mean_depth(self) -> float:
        """Options per leaf."""
        return sum(len(leaf.path) for leaf in self.leaves) / max(len(self.leaves), 1)

    def _path_to(self, number: int) -> list[int]:
        path: list[int] = []
        while (parent := self.nodes[number].parent) is not None:
            path.append(number)
            number = parent
        return path[::-1]

    def _step(self, number: int, prefix: tuple[int, ...], ended: bool) -> int:
        """The child of a node for the option that ends `prefix`: one that is the same state, or a new one."""
        node = self.nodes[number]
        for child in node.children:
            if self._same(self.nodes[child], prefix, ended, len(node.prefix)):
                self.nodes[child].draws += 1
                self.merged += 1
                return child
        self.nodes.append(Node(number, prefix, node.depth + 1, ended, draws=1))
        node.children.append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _same(self, known: Node, prefix: tuple[int, ...], ended: bool, begin: int) -> bool:
        """Whether an option leads to a known state. A finished completion is graded, so it merges with its equal only."""
        if known.ended != ended:
            return False
        old, new = known.prefix[begin:], prefix[begin:]
        if ended or self._settings.merge == 0.0:
            return old == new
        return edit_distance(old, new) <= self._settings.merge * max(len(old), len(new))

    def _select(self, pending: Counter[int]) -> int:
        """Down by UCT to the first node that wants a child; the prompt when none does."""
        scores, number = self.scores(), 0
        while not self._wants(number, scores, pending):
            open_ones = [c for c in self.nodes[number].children if self._open(c, scores, pending)]
            if not open_ones:
                return 0
            visits = [len(self.nodes[c].leaves) + self._below(c, pending) for c in open_ones]
            total = max(len(self.nodes[number].leaves) + sum(pending.values()), 2)
            explore = self._settings.explore
            uct = [scores[c] + explore * math.sqrt(math.log(total) / n) for c, n in zip(open_ones, visits, strict=True)]
            number = open_ones[uct.index(max(uct))]
        return number

    def _wants(self, number: int, scores: Sequence[float], pending: Counter[int]) -> bool:
        node = self.nodes[number]
        if node.ended or len(node.prefix) >= self._room:
            return False
        allowed = self._allowed(number, scores)
        return (
            len(node.children) + pending[number] < allowed and self.draws(number) + pending[number] < allowed + _RETRIES
        )

    def _allowed(self, number: int, scores: Sequence[float]) -> int:
        """Children that a node may have: 1 + its importance in children, within bounds."""
        settings, node = self._settings, self.nodes[number]
        importance = max((abs(scores[child] - scores[number]) for child in node.children), default=0.0)
        root = node.parent is None
        least = settings.first if root else settings.least_children
        most = max(self._most, least) if root else settings.most_children
        return max(least, min(math.floor(settings.importance * importance) + 1, most))

    def _open(self, number: int, scores: Sequence[float], pending: Counter[int]) -> bool:
        """Whether a node or anything below it wants a child."""
        if self._wants(number, scores, pending):
            return True
        return any(self._open(child, scores, pending) for child in self.nodes[number].children)

    def _below(self, number: int, pending: Counter[int]) -> int:
        """Samples of this wave at a node or below it: they count as visits before they are there."""
        return pending[number] + sum(self._below(child, pending) for child in self.nodes[number].children)


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Least insertions, deletions and replacements that make `b` of `a` (Levenshtein 1966)."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]
