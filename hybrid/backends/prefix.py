"""Which rows of a call begin with the same tokens, and the keys and values of such beginnings, kept for the next call.

    groups = find_groups([row.ids for row in rows])           # pure: token tuples in, who shares how much out
    reason = check(model)                                     # None, or why sharing must not be used
    store.get(adapter_sha256, tokens, compute)                # the same document again costs nothing

Beginnings are found in tokens of whole prompts, so nothing depends on how a document and a query meet at their border.
Does not: decode (see `decode`), or know what a document is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hybrid.backends.decode import PrefixKeys, SharedRows, UnsupportedModelError, decode, read_prefix

Tokens = tuple[int, ...]

BLOCK = 16
"""Beginnings are cut to a multiple of this many tokens, so that calls over one document meet in one stored entry."""
SHORTEST = 2 * BLOCK
GROUP_COST = 64
"""What a group must save, in prompt tokens, before it is worth a pass of its own."""
WORTH = 4
"""A group must save at least one in this many of its prompt tokens."""

_KINDS = frozenset({"full_attention", "sliding_attention"})
_ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary encodings whose angles do not depend on how long a prompt is."""
_PROBE_SUFFIXES, _PROBE_PREFIX, _PROBE_STEPS, _LONGEST_WINDOW = (1, 5, 9), 40, 3, 1024
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}
_TOLERANCE_HALF = 0.25


@dataclass(frozen=True)
class Group:
    """Rows, by their place in the list given, that share their first `length` tokens."""

    length: int
    members: tuple[int, ...]


@dataclass
class _Node:
    """A run of sorted rows, from `first` on, that share `depth` tokens; the best that its parts can do without it."""

    depth: int
    first: int
    saved: int = 0
    groups: list[tuple[int, int, int]] = field(default_factory=list)  # (depth, first, last) of sorted rows

    def absorb(self, part: _Node) -> None:
        """Take over what a run inside this one can save."""
        self.saved += part.saved
        self.groups += part.groups


def find_groups(prompts: Sequence[Tokens]) -> list[Group]:
    """Disjoint groups of rows that are worth sharing their beginning; rows in no group are left out.

    Sorted rows form a tree of common beginnings; from the leaves up, a run becomes one group where that saves more
    prompt tokens than the groups within it. Every row keeps at least one token after its beginning. Groups come in
    the order of their longest remainder, members longest first and then by place. Deterministic.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    totals = [0]
    for i in order:
        totals.append(totals[-1] + len(prompts[i]))
    stack = [_Node(0, 0)]
    for i in range(1, len(order) + 1):
        depth = _common(prompts[order[i - 1]], prompts[order[i]]) if i < len(order) else 0
        first, part = i - 1, None
        while stack[-1].depth > depth:
            part = _close(stack.pop(), i - 1, totals)
            first = part.first
            if stack[-1].depth >= depth:
                stack[-1].absorb(part)
                part = None
        if stack[-1].depth < depth:
            stack.append(_Node(depth, first))
            if part is not None:
                stack[-1].absorb(part)
    found = []
    for depth, first, last in stack[0].groups:
        members = sorted(order[first : last + 1], key=lambda place: (-len(prompts[place]), place))
        found.append(Group(depth, tuple(members)))
    return sorted(found, key=lambda g: (g.length - len(prompts[g.members[0]]), g.members[0]))


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common beginning of two rows in whole blocks, short of the end of either."""
    low, high = 0, (min(len(a), len(b)) - 1) // BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[: middle * BLOCK] == b[: middle * BLOCK] else (low, middle - 1)
    return low * BLOCK


def _close(node: _Node, last: int, totals: Sequence[int]) -> _Node:
    """The run is complete: one group, where that is worth more than the groups within."""
    gross = node.depth * (last - node.first)
    tokens = totals[last + 1] - totals[node.first]
    if node.depth >= SHORTEST and gross - GROUP_COST > node.saved and gross * WORTH >= tokens:
        node.saved, node.groups = gross - GROUP_COST, [(node.depth, node.first, last)]
    return node


@dataclass
class PrefixUse:
    """Prompt tokens, counted: `computed` once for a shared beginning, `reused` from an earlier call, `spared` in all.

    `rows` were answered over a shared beginning; `checked` tokens went into the check of the model.
    """

    rows: int = 0
    computed: int = 0
    reused: int = 0
    spared: int = 0
    checked: int = 0


class PrefixStore:
    """Keys and values of the beginnings used last, at most `entries` of them and at most `limit` bytes.

    The newest one stays until `trim`, even where it alone exceeds the limit: the call that made it needs it.
    An entry is found only by the same adapter and exactly the same tokens, so it never changes a result by a bit.
    """

    def __init__(self, entries: int = 8, limit: int = 256 * 2**20) -> None:
        self._entries, self._limit = entries, limit
        self._held: dict[tuple[str, Tokens], PrefixKeys] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(keys.nbytes for keys in self._held.values())

    def get(self, adapter: str, tokens: Tokens, compute: Callable[[], PrefixKeys]) -> tuple[PrefixKeys, bool]:
        """The entry, and whether it was there already; `adapter` is its sha256, empty for the bare base."""
        keys = self._held.pop((adapter, tokens), None)
        there = keys is not None
        if keys is None:
            keys = compute()
        self._held[adapter, tokens] = keys
        self._evict(least=1)
        return keys, there

    def retain(self, adapters: Sequence[str]) -> None:
        """Drop what was computed under an adapter that is not among these."""
        wanted = {"", *adapters}
        self._held = {key: keys for key, keys in self._held.items() if key[0] in wanted}

    def trim(self) -> None:
        """Down to the limits, the newest entry included."""
        self._evict(least=0)

    def clear(self) -> None:
        """Drop everything."""
        self._held.clear()

    def _evict(self, least: int) -> None:
        while len(self._held) > least and (len(self._held) > self._entries or self.nbytes > self._limit):
            del self._held[next(iter(self._held))]


def unsupported(model: Any) -> str | None:
    """Why a model's kind rules sharing out, from its configuration alone; None where nothing does."""
    config = model.config.get_text_config()
    known = inspect.signature(model.forward).parameters
    ropes = _rope_types(getattr(config, "rope_parameters", None) or {})
    kinds = set(getattr(config, "layer_types", None) or ()) - _KINDS
    if getattr(model, "_is_stateful", False):
        return "it holds a recurrent state"
    if kinds:
        return f"it has layers of the kind {min(kinds)}"
    if model.config.is_encoder_decoder or getattr(config, "use_bidirectional_attention", False):
        return "its tokens see later tokens"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if not {"position_ids", "logits_to_keep"} <= set(known):
        return "its positions cannot be given"
    if ropes - _ROPES:
        return f"its rotary encoding is of the type {min(ropes - _ROPES)}"
    return None


def _rope_types(parameters: dict[str, Any]) -> set[str]:
    """Types named in a configuration's rotary parameters, which may be nested by kind of layer."""
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    own = {str(parameters["rope_type"])} if parameters.get("rope_type") else set()
    return own.union(*(_rope_types(value) for value in nested))


def check(model: Any) -> tuple[str | None, int]:
    """Compare sharing with the plain model on fixed tokens: (None or the reason not to share, tokens computed for it).

    Three rows of different lengths continue one shared beginning, which is longer than the model's sliding window where
    that is of up to 1,024 tokens. All three are cut from one row of given tokens, so one plain pass over that row has
    the scores that each must get. The tokens are spread over the vocabulary and depend on the model alone, so a
    resumed run comes to the same verdict. Must be called in inference mode on the bare base.
    """
    reason = unsupported(model)
    if reason is not None:
        return reason, 0
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    steps, longest = _PROBE_STEPS, max(_PROBE_SUFFIXES) + _PROBE_STEPS
    length = max(_PROBE_PREFIX, window + 8 if window <= _LONGEST_WINDOW else 0)
    length = min(length, (getattr(config, "max_position_embeddings", None) or length + longest) - longest)
    if length < 1:
        return f"it has fewer than {longest} positions", 0
    total = length + longest
    size = int(model.get_input_embeddings().weight.shape[0])
    tokens = [(i * 7919 % total) * size // total for i in range(total)]
    computed = total + length + sum(_PROBE_SUFFIXES) + (steps - 1) * len(_PROBE_SUFFIXES)
    try:
        found = _continued(model, tokens[:length], tokens[length:])
    except (UnsupportedModelError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        first = next(iter(str(error).splitlines()), "")
        return f"it failed on a trial ({type(error).__name__}: {first[:200]})", computed
    ids = torch.tensor([tokens], device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=longest).logits[0].float()
    # The scores after the last prompt token of a row and after each given token but the last.
    expected = torch.stack([logits[s - 1 : s - 1 + steps] for s in _PROBE_SUFFIXES])
    off = float((found - expected).abs().max() / expected.std().clamp(min=1e-12))
    tolerance = _TOLERANCE.get(model.dtype, _TOLERANCE_HALF)
    if not off <= tolerance:  # also where it is no number
        return f"on a trial its scores differ by {off:.2g} standard deviations from those without sharing", computed
    return None, computed


def _continued(model: Any, beginning: Sequence[int], rest: Sequence[int]) -> torch.Tensor:
    """Scores (3, steps, v) of rows that continue the beginning by the first tokens of `rest`, each by its own number."""
    keys = read_prefix(model, beginning)
    seen = []

    def given(scores: torch.Tensor, _going: Sequence[int], step: int) -> torch.Tensor:
        seen.append(scores)
        return torch.tensor([rest[s + step] for s in _PROBE_SUFFIXES], device=scores.device)

    shared = SharedRows([(keys, len(_PROBE_SUFFIXES))], [rest[:s] for s in _PROBE_SUFFIXES])
    decode(model, shared, max_new_tokens=_PROBE_STEPS, stop_ids=(), choose=given)
    return torch.stack(seen, dim=1)
