"""Decoding over prompt prefixes whose keys and values were computed once, for all rows that begin with them.

    prefix = read_prefix(model, document_ids)                        # one row, once
    rows = SharedRows([(prefix, len(suffixes))], suffixes)           # what each row says after the prefix
    decode(model, rows, max_new_tokens=8, stop_ids=(2,), choose=greedy)

The model's attention is replaced for the time of a call. Keys and values of a prefix are held once, not once per row:
the queries of all rows are stacked into one matrix product with them, and each row's own keys and values (the rest of
its prompt and its answer) are attended to beside them, under one softmax (the idea of Hydragen, Juravsky et al. 2024,
arXiv 2402.05099). Every token keeps the position it has in the whole prompt, and sliding windows are counted in these
positions, so that the result is that of the whole prompt up to rounding. Softmax and sums are in float32 (float64 for
a float64 model).

Does not: decide which rows share what (see `prefix`), check that a model may be used this way (see `prefix.check`),
render, or draw random numbers.

Legend of axis suffixes: b rows, n rows of one piece, h query heads, g key heads, r query heads per key head, q new
tokens, p prefix tokens, s own tokens, d head width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

ATTENTION = "hybrid_shared_prefix"
_HARMLESS = frozenset({"position_ids", "use_cache", "is_causal", "cache_position", "layer_idx"})
_GROWTH = 64
"""Columns by which the buffers of own keys and values grow."""
_COMPACT_SHARE = 8
"""Finished rows leave the batch as soon as they are one in this many."""
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Attention scores that are held at once, by kind of device: what fits a CPU's cache, or a fraction of a GPU."""

Choose = Callable[[torch.Tensor, Sequence[int], int], torch.Tensor]
"""(scores (b, v) in float32, the number of each row in the call, step) -> token ids (b,)."""


class UnsupportedModelError(RuntimeError):
    """The model computes attention in a way that this module does not know; the caller generates without sharing."""


@dataclass(frozen=True)
class PrefixKeys:
    """Keys and values of one prefix by layer, each (g, p, d); `length` is its number of tokens. `NO_PREFIX` has none."""

    length: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.layers.values() for t in pair)


NO_PREFIX = PrefixKeys(0, {})
"""The beginning of rows that share nothing."""


class Attending(Protocol):
    """Who computes attention in the call in progress; `window` is the number of positions a token sees, with itself."""

    def attend(
        self,
        layer: int,
        query_bhqd: torch.Tensor,
        key_bgqd: torch.Tensor,
        value_bgqd: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """The attention's output (b, h, q, d)."""
        ...


_active: ContextVar[Attending | None] = ContextVar("hybrid_shared_prefix", default=None)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in place of its own attention; the mask is known from the state and not read."""
    state, layer = _active.get(), getattr(module, "layer_idx", None)
    odd = sorted(k for k, v in options.items() if k not in _HARMLESS and v is not None and v is not False)
    if state is None or layer is None or dropout:
        raise UnsupportedModelError("its attention was called in an unknown way")
    if odd:
        raise UnsupportedModelError(f"its attention takes {odd[0]}")
    if scaling is None:
        scaling = float(query.shape[-1]) ** -0.5
    output_bhqd = state.attend(int(layer), query, key, value, scaling, sliding_window)
    return output_bhqd.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _attention)


def attention_configs(model: Any) -> tuple[Any, ...]:
    """The configurations in which a model's parts look up how attention is computed: a walk through all of its modules."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return tuple({id(config): config for config in found if hasattr(config, "_attn_implementation")}.values())


@contextmanager
def computing(model: Any, state: Attending, configs: tuple[Any, ...] | None = None) -> Iterator[None]:
    """Inside, the model's attention is that of `state`; afterwards the model is as it was.

    `configs` are its `attention_configs`, where the caller keeps them for many passes.
    """
    before = [(c, c._attn_implementation) for c in (attention_configs(model) if configs is None else configs)]
    token = _active.set(state)
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name
        _active.reset(token)


def last_logits(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Scores (b, v) of the token after the last column."""
    output = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1)
    logits: torch.Tensor = output.logits[:, -1]
    return logits


class _Recorder:
    """Plain causal attention of one row, whose keys and values are kept."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(
        self,
        layer: int,
        query_bhqd: torch.Tensor,
        key_bgqd: torch.Tensor,
        value_bgqd: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        if layer in self.layers:
            raise UnsupportedModelError(f"its layer {layer} attends more than once")
        self.layers[layer] = (key_bgqd[0].contiguous(), value_bgqd[0].contiguous())
        repeat, length = query_bhqd.shape[1] // key_bgqd.shape[1], query_bhqd.shape[2]
        key, value = (t.repeat_interleave(repeat, dim=1) for t in (key_bgqd, value_bgqd))
        mask = None
        if window is not None and window < length:
            place = torch.arange(length, device=key.device)
            distance = place[:, None] - place[None, :]
            mask = (distance >= 0) & (distance < window)
        output: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
            query_bhqd, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
        return output


def read_prefix(model: Any, tokens: Sequence[int]) -> PrefixKeys:
    """Keys and values of `tokens` from position 0 on, in one pass over one row.

    Raises UnsupportedModelError when not every layer of the model attends exactly once.
    """
    recorder = _Recorder()
    ids = torch.tensor([list(tokens)], device=model.device)
    with computing(model, recorder):
        last_logits(model, ids, torch.arange(len(tokens), device=model.device)[None])
    layers = model.config.get_text_config().num_hidden_layers
    if sorted(recorder.layers) != list(range(layers)):
        raise UnsupportedModelError(f"{len(recorder.layers)} of its {layers} layers attend")
    return PrefixKeys(len(tokens), recorder.layers)


def extend_prefix(model: Any, prefix: PrefixKeys, suffixes: Sequence[Sequence[int]]) -> list[PrefixKeys]:
    """`prefix` continued by each of `suffixes` (one token each at least), in one pass over all of them."""
    rows = SharedRows([(prefix, len(suffixes))], suffixes)
    device = model.device
    ids = torch.tensor([[0] * (rows.width - len(s)) + list(s) for s in suffixes], device=device)
    with computing(model, rows):
        last_logits(model, ids, rows.enter(rows.width, device))
        rows.leave()
    return [rows.whole(row) for row in range(len(rows))]


class SharedRows:
    """The rows of one batch: which prefix each begins with, and the keys and values of what it says after it.

    `segments` says how many rows, in order, begin with which prefix; `suffixes` holds the remaining prompt tokens of
    every row, at least one each. Shorter suffixes are padded on the left; nothing sees the padding.
    """

    def __init__(self, segments: Sequence[tuple[PrefixKeys, int]], suffixes: Sequence[Sequence[int]]) -> None:
        if not suffixes or not all(suffixes) or sum(count for _, count in segments) != len(suffixes):
            raise ValueError("every row needs a prefix and at least one token after it")
        self.suffixes = suffixes
        self.width = max(len(suffix) for suffix in suffixes)
        self._prefixes = [prefix for prefix, count in segments for _ in range(count)]
        self._pads = [self.width - len(suffix) for suffix in suffixes]
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._seen = 0  # columns whose keys and values are held
        self._hidden: dict[int | None, torch.Tensor] = {}
        self._positions = torch.empty(0)

    def __len__(self) -> int:
        return len(self._prefixes)

    def enter(self, new: int, device: Any) -> torch.Tensor:
        """Begin a pass over `new` more columns; returns the position of each token, (b, new)."""
        columns = torch.arange(self._seen, self._seen + new)
        starts = torch.tensor([prefix.length for prefix in self._prefixes])[:, None]
        pads = torch.tensor(self._pads)[:, None]
        self._positions = starts + (columns[None] - pads).clamp(min=0)
        self._hidden = {}
        return self._positions.to(device)

    def leave(self) -> None:
        """End the pass: its columns are held from now on."""
        self._seen += self._positions.shape[1]

    def whole(self, row: int) -> PrefixKeys:
        """Keys and values of everything that a row has said so far, its prefix included, as a prefix of its own."""
        prefix, first = self._prefixes[row], self._pads[row]
        layers = {}
        for layer, (key, value) in self._own.items():
            own = key[row], value[row]
            before = prefix.layers.get(layer, (own[0][:, :0], own[1][:, :0]))
            layers[layer] = tuple(
                torch.cat([b, o[:, first : self._seen]], dim=1) for b, o in zip(before, own, strict=True)
            )
        return PrefixKeys(prefix.length + self._seen - first, {k: (pair[0], pair[1]) for k, pair in layers.items()})

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on, in this order, which must be ascending."""
        self._prefixes = [self._prefixes[i] for i in rows]
        self._pads = [self._pads[i] for i in rows]
        for layer, (key, value) in self._own.items():
            index = torch.tensor(list(rows), device=key.device)
            self._own[layer] = (key.index_select(0, index), value.index_select(0, index))

    def join(self, other: SharedRows) -> None:
        """Take over the rows of another batch behind its own, between two passes of both; `other` is used up.

        The columns of the batch that holds fewer move to the right, so that both end together: what is new on the left is
        padding, which nothing sees, and no row's positions change.
        """
        seen = max(self._seen, other._seen)
        shifts = [(rows, seen - rows._seen) for rows in (self, other)]
        for layer in self._own:
            pair = []
            for which in (0, 1):
                parts = [(rows._own[layer][which][:, :, : rows._seen], shift) for rows, shift in shifts]
                pair.append(torch.cat([torch.nn.functional.pad(t, (0, 0, shift, _GROWTH)) for t, shift in parts]))
            self._own[layer] = (pair[0], pair[1])
        self._pads = [pad + shift for rows, shift in shifts for pad in rows._pads]
        self._prefixes += other._prefixes
        self._seen = seen

    def trim(self) -> None:
        """Give up the columns on the left that are padding in every row."""
        spare = min(self._pads, default=0)
        if spare == 0 or spare > self._seen:
            return
        for layer, (key, value) in self._own.items():
            self._own[layer] = (key[:, :, spare:].contiguous(), value[:, :, spare:].contiguous())
        self._pads = [pad - spare for pad in self._pads]
        self._seen -= spare

    def attend(
        self,
        layer: int,
        query_bhqd: torch.Tensor,
        key_bgqd: torch.Tensor,
        value_bgqd: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of the pass's columns over the prefix and the row's own columns."""
        key_bgsd, value_bgsd = self._append(layer, key_bgqd, value_bgqd)
        hidden_bqs = self._hidden_own(window, query_bhqd.device)
        output = query_bhqd.new_empty((*query_bhqd.shape[:3], value_bgqd.shape[-1]))
        own_columns = key_bgsd.shape[2]
        for first, last in self._pieces(query_bhqd, own_columns):
            nothing = key_bgqd[0, :, :0], value_bgqd[0, :, :0]
            prefix_keys, prefix_values = self._prefixes[first].layers.get(layer, nothing)
            start, hidden_nqp = self._hidden_prefix(first, last, window, query_bhqd.device)
            output[first:last] = _attend_piece(
                query_bhqd[first:last],
                (prefix_keys[:, start:], prefix_values[:, start:], hidden_nqp),
                (key_bgsd[first:last], value_bgsd[first:last], hidden_bqs[first:last]),
                scaling,
            )
        return output

    def _append(
        self, layer: int, key_bgqd: torch.Tensor, value_bgqd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Own keys and values with those of this pass, written into buffers that have room for more."""
        end = self._seen + key_bgqd.shape[2]
        held = self._own.get(layer)
        if held is None or held[0].shape[2] < end:
            grown = tuple(t.new_empty((*t.shape[:2], end + _GROWTH, t.shape[3])) for t in (key_bgqd, value_bgqd))
            if held is not None:
                for new, old in zip(grown, held, strict=True):
                    new[:, :, : self._seen] = old[:, :, : self._seen]
            held = (grown[0], grown[1])
            self._own[layer] = held
        held[0][:, :, self._seen : end] = key_bgqd
        held[1][:, :, self._seen : end] = value_bgqd
        return held[0][:, :, :end], held[1][:, :, :end]

    def _hidden_own(self, window: int | None, device: Any) -> torch.Tensor:
        """True where a column of the pass must not see an own column, (b, q, s); a column always sees itself."""
        if window not in self._hidden:
            new = self._positions.shape[1]
            query = torch.arange(self._seen, self._seen + new)[None, :, None]
            key = torch.arange(self._seen + new)[None, None, :]
            seen = (key <= query) & (key >= torch.tensor(self._pads)[:, None, None])
            if window is not None:
                seen &= query - key < window
            self._hidden[window] = (~(seen | (key == query))).to(device)
        return self._hidden[window]

    def _hidden_prefix(self, first: int, last: int, window: int | None, device: Any) -> tuple[int, torch.Tensor | None]:
        """The first prefix token that a row of the piece sees, and True where one is not seen, (n, q, p) or None."""
        length = self._prefixes[first].length
        if window is None:
            return 0, None
        positions = self._positions[first:last]
        start = min(max(int(positions.min()) - window + 1, 0), length)
        if int(positions.max()) - window + 1 <= start:
            return start, None
        hidden = positions[:, :, None] - torch.arange(start, length)[None, None, :] >= window
        return start, hidden.to(device)

    def _pieces(self, query_bhqd: torch.Tensor, own_columns: int) -> Iterator[tuple[int, int]]:
        """Ranges of rows with one prefix each, small enough for the scores to be held."""
        limit = _SCORES.get(query_bhqd.device.type, _SCORES["cuda"])
        per_row = query_bhqd.shape[1] * query_bhqd.shape[2]
        first = 0
        for i in range(1, len(self._prefixes) + 1):
            prefix = self._prefixes[first]
            most = max(1, limit // (per_row * (prefix.length + own_columns)))
            if i == len(self._prefixes) or self._prefixes[i] is not prefix or i - first == most:
                yield first, i
                first = i


def _attend_piece(
    query_nhqd: torch.Tensor,
    shared: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    own: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    scaling: float,
) -> torch.Tensor:
    """Softmax attention over one prefix's (keys, values, hidden) and the rows' own; (n, h, q, d) in the query's type."""
    work = torch.float64 if query_nhqd.dtype == torch.float64 else torch.float32
    keys_gpd, values_gpd = shared[0].to(work), shared[1].to(work)
    keys_ngsd, values_ngsd = own[0].to(work), own[1].to(work)
    n, h, q, d = query_nhqd.shape
    g, p, s = keys_gpd.shape[0], keys_gpd.shape[1], keys_ngsd.shape[2]
    r = h // g
    query = (query_nhqd.to(work) * scaling).reshape(n, g, r * q, d)
    own_scores = query @ keys_ngsd.transpose(-1, -2)
    own_scores.view(n, g, r, q, s).masked_fill_(own[2][:, None, None], -torch.inf)
    # Rows beside one another: one product with the prefix for all of them.
    shared_scores = query.transpose(0, 1).reshape(g, n * r * q, d) @ keys_gpd.transpose(-1, -2)
    if shared[2] is not None:
        shared_scores.view(g, n, r, q, p).masked_fill_(shared[2][None, :, None], -torch.inf)
    scores = torch.cat([shared_scores, own_scores.transpose(0, 1).reshape(g, n * r * q, s)], dim=-1)
    weights = torch.softmax(scores, dim=-1)
    from_shared = (weights[..., :p] @ values_gpd).view(g, n, r * q, -1).transpose(0, 1)
    from_own = weights[..., p:].view(g, n, r * q, s).transpose(0, 1) @ values_ngsd
    return (from_shared + from_own).reshape(n, h, q, -1).to(query_nhqd.dtype)


def decode(
    model: Any, rows: SharedRows, *, max_new_tokens: int, stop_ids: Sequence[int], choose: Choose
) -> list[list[int]]:
    """The new token ids of every row, the stop id included; a row ends there or after `max_new_tokens`.

    `rows` is used up. Finished rows leave the batch, and nothing else depends on when the others end.
    """
    device = model.device
    answers: list[list[int]] = [[] for _ in rows.suffixes]
    going = list(range(len(answers)))  # the rows of the batch, by their number in the call
    ends = frozenset(stop_ids)
    ids = torch.tensor([[0] * (rows.width - len(s)) + list(s) for s in rows.suffixes], device=device)
    with computing(model, rows):
        for step in range(max_new_tokens):
            logits = last_logits(model, ids, rows.enter(ids.shape[1], device))
            rows.leave()
            chosen = choose(logits.to(torch.float32), going, step)
            for row, token in zip(going, chosen.tolist(), strict=True):
                if not answers[row] or answers[row][-1] not in ends:
                    answers[row].append(token)
            left = [i for i, row in enumerate(going) if answers[row][-1] not in ends]
            if not left:
                break
            if (len(going) - len(left)) * _COMPACT_SHARE >= len(going):
                rows.keep(left)
                going = [going[i] for i in left]
                chosen = chosen[torch.tensor(left, device=device)]
            ids = chosen[:, None]
    return answers
