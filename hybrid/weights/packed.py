"""One forward pass over the rows of a GRPO step without padding, every prompt in it once.

    layout = pack(prompts, completions)              # pure: token ids in, one packed row out
    if layout.ratio >= WORTH: logps, entropies = score_packed(model, base, layout, temperature, autocast)

The packed row holds beginnings that several prompts share, the rest of every distinct prompt, and behind it what each
of its completions adds: the prompt's last token and the completion without its last. Every token has the position that it
has in its own row, and sees what it would see there: attention is computed piece by piece (`backends.decode` swaps it in)
over the pieces before it, with a mask that keeps rows apart and counts sliding windows in positions. All other layers
treat tokens one by one. Log-probabilities and gradients are those of the padded pass, up to rounding.

Does not: decide whether a model may be used this way (see `engine`), or know rewards.

Legend of axis suffixes: b rows (1), h query heads, g key heads, q tokens, d head width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.backends import prefix
from hybrid.backends.decode import computing
from hybrid.weights.head import score_tokens

Tokens = tuple[int, ...]

WORTH = 1.3
"""Least ratio of padded to packed tokens at which packing is used."""
_PIECE = 512
"""Tokens of completions that attend in one piece: a piece computes scores between its rows only to hide them."""
_SHARED = -1
_REQUEST = "packed_score"


@dataclass(frozen=True)
class Piece:
    """A run of packed tokens that attends at once: `rows` has a row for each token, or _SHARED where all rows see it.

    `positions` are places in the token's own row; `sees` are earlier pieces, in order, which lie wholly before it.
    """

    positions: Tokens
    rows: Tokens
    sees: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A packed row. Token `scored[i]` of it predicts `labels[i]`, which is token `columns[i]` of completion `rows[i]`.

    `padded` is the number of tokens that the padded pass computes.
    """

    tokens: Tokens
    pieces: tuple[Piece, ...]
    scored: Tokens
    labels: Tokens
    rows: Tokens
    columns: Tokens
    padded: int

    @property
    def positions(self) -> Tokens:
        """Position of every token in its own row."""
        return tuple(place for piece in self.pieces for place in piece.positions)

    @property
    def ratio(self) -> float:
        """Padded tokens per packed token."""
        return self.padded / max(len(self.tokens), 1)


class _Packer:
    """Builds a layout, piece by piece."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.pieces: list[Piece] = []
        self.found: list[tuple[int, int, int, int]] = []  # (packed place, label, row, column)

    def shared(self, ids: Tokens, first: int, sees: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens that several rows see, at positions from `first` on; returns what their continuations see."""
        if not ids:
            return sees
        self.tokens += ids
        self.pieces.append(Piece(tuple(range(first, first + len(ids))), (_SHARED,) * len(ids), sees))
        return (*sees, len(self.pieces) - 1)

    def rows(self, prompt: Tokens, rows: Sequence[tuple[int, Tokens]], sees: tuple[int, ...]) -> None:
        """What each row adds to its prompt's beginning, in pieces of about _PIECE tokens."""
        positions: list[int] = []
        owners: list[int] = []
        for row, completion in rows:
            if positions and len(positions) + len(completion) > _PIECE:
                self.pieces.append(Piece(tuple(positions), tuple(owners), sees))
                positions, owners = [], []
            own = (prompt[-1], *completion[:-1]) if completion else ()
            for column, (token, label) in enumerate(zip(own, completion, strict=True)):
                self.found.append((len(self.tokens), label, row, column))
                self.tokens.append(token)
                positions.append(len(prompt) - 1 + column)
                owners.append(row)
        if positions:
            self.pieces.append(Piece(tuple(positions), tuple(owners), sees))


def pack(prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Layout:
    """The packed row of these rows; a prompt has at least one token, a completion may have none and then costs nothing."""
    members: dict[Tokens, list[tuple[int, Tokens]]] = {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        members.setdefault(prompt, []).append((row, completion))
    distinct = list(members)
    packer = _Packer()
    grouped: set[Tokens] = set()
    for group in prefix.find_groups(distinct):
        first = distinct[group.members[0]][: group.length]
        sees = packer.shared(first, 0, ())
        for ids in (distinct[i] for i in group.members):
            grouped.add(ids)
            packer.rows(ids, members[ids], packer.shared(ids[group.length : -1], group.length, sees))
    for ids in distinct:
        if ids not in grouped:
            packer.rows(ids, members[ids], packer.shared(ids[:-1], 0, ()))
    widest = max(map(len, prompts), default=0) + max(map(len, completions), default=0)
    scored, labels, rows, columns = zip(*packer.found, strict=True) if packer.found else ((), (), (), ())
    return Layout(
        tokens=tuple(packer.tokens),
        pieces=tuple(packer.pieces),
        scored=scored,
        labels=labels,
        rows=rows,
        columns=columns,
        padded=len(prompts) * widest,
    )


class PackedRow:
    """Attention over one packed row, piece by piece, for `decode.computing`. Masks are made once per kind of layer."""

    def __init__(self, layout: Layout, device: Any) -> None:
        self._pieces, self._device = layout.pieces, device
        self._sizes = [len(piece.positions) for piece in layout.pieces]
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(
        self,
        layer: int,
        query_bhqd: torch.Tensor,
        key_bgqd: torch.Tensor,
        value_bgqd: torch.Tensor,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention (1, h, q, d) of every token over the tokens that it sees."""
        repeat = query_bhqd.shape[1] // key_bgqd.shape[1]
        if repeat > 1:
            key_bgqd, value_bgqd = (t.repeat_interleave(repeat, dim=1) for t in (key_bgqd, value_bgqd))
        queries, keys, values = (t.split(self._sizes, dim=2) for t in (query_bhqd, key_bgqd, value_bgqd))
        outputs = []
        for i, piece in enumerate(self._pieces):
            seen = (*piece.sees, i)
            mask = self._mask(i, window)
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    queries[i],
                    torch.cat([keys[j] for j in seen], dim=2),
                    torch.cat([values[j] for j in seen], dim=2),
                    attn_mask=mask,
                    is_causal=mask is None,
                    scale=scaling,
                )
            )
        return torch.cat(outputs, dim=2)

    def _mask(self, number: int, window: int | None) -> torch.Tensor | None:
        """True where a token of the piece sees a token (q, k); None where it is plainly causal."""
        if (number, window) not in self._masks:
            self._masks[number, window] = visible(self._pieces, number, window, self._device)
        return self._masks[number, window]


def visible(pieces: Sequence[Piece], number: int, window: int | None, device: Any = None) -> torch.Tensor | None:
    """The mask of one piece over the pieces that it sees and itself; None: causal within itself and nothing before."""
    piece = pieces[number]
    if not piece.sees and piece.rows[0] == _SHARED and (window is None or window >= len(piece.positions)):
        return None
    before = [pieces[i] for i in (*piece.sees, number)]
    place_q = torch.tensor(piece.positions, device=device)[:, None]
    row_q = torch.tensor(piece.rows, device=device)[:, None]
    place_k = torch.tensor([p for other in before for p in other.positions], device=device)[None]
    row_k = torch.tensor([r for other in before for r in other.rows], device=device)[None]
    seen = ((row_k == _SHARED) | (row_k == row_q)) & (place_k <= place_q)
    return seen if window is None else seen & (place_q - place_k < window)


def answer_packed(base: torch.nn.Module) -> None:
    """Teach a causal model's forward to score a packed row itself (see `head`). `base` is the model under the adapter.

    For a CPU, where TRL's head scores prompts too and computes every score three times. Other calls are left alone.
    """
    forward = base.forward

    @functools.wraps(forward)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        request = options.pop(_REQUEST, None)
        if request is None:
            return forward(*arguments, **options)
        scored, labels, temperature = request
        hidden = base.base_model(
            input_ids=options["input_ids"], position_ids=options["position_ids"], use_cache=False
        ).last_hidden_state[0]
        weight = base.get_output_embeddings().weight
        logps, entropies = score_tokens(hidden.index_select(0, scored), weight, labels, temperature)
        return {"log_probs": logps, "entropy": entropies}

    base.forward = wrapped


def score_packed(
    model: Any,
    layout: Layout,
    temperature: float,
    autocast: AbstractContextManager[Any],
    own_head: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of `layout.labels`, in that order; the first carry the gradient.

    `model` is the (wrapped) policy; `own_head`: its base was taught by `answer_packed`, else it has TRL's fused head, which
    knows its temperature itself.
    Raises `decode.UnsupportedModelError`.
    """
    device = next(model.parameters()).device
    ids, positions = (torch.tensor([row], device=device) for row in (layout.tokens, layout.positions))
    scored, labels = (torch.tensor(row, device=device) for row in (layout.scored, layout.labels))
    with autocast, computing(model, PackedRow(layout, device)):
        if own_head:
            request = {_REQUEST: (scored, labels, temperature)}
            output = model(input_ids=ids, position_ids=positions, **request)
            return output["log_probs"], output["entropy"]
        aligned = torch.full_like(ids, -100)
        aligned[0, scored] = labels
        output = model(input_ids=ids, position_ids=positions, shift_labels=aligned, fused_lm_head=True)
        return output.log_probs[0, scored], output.entropy[0, scored]
